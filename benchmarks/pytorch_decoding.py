"""Prompt processing and decoding with the same model in PyTorch on the CPU: eager float32, preallocated KV cache.

Run by `benchmarks/decoding.py`, in a separate environment with torch; prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from pytorch_peer import Block, PeerGPT
from torch.nn import functional

ROUNDS = 5  # after one warm-up round


def read_block(block: Block, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, start: int) -> torch.Tensor:
    """Run `Block.forward` for tokens x (1, T, C) from position `start` on; keys and values (1, H, positions, D)."""
    _, time_, channels = x.shape
    end = start + time_
    q, k, v = (
        part.view(1, time_, block.heads, -1).transpose(1, 2)
        for part in block.c_attn(block.norm_1(x)).split(channels, dim=2)
    )
    keys[:, :, start:end], values[:, :, start:end] = k, v
    attended = functional.scaled_dot_product_attention(q, keys[:, :, :end], values[:, :, :end], is_causal=time_ > 1)
    x = x + block.attn_proj(attended.transpose(1, 2).reshape(1, time_, channels))
    return x + block.mlp_proj(functional.gelu(block.c_fc(block.norm_2(x)), approximate="tanh"))


def read(model: PeerGPT, tokens: torch.Tensor, cache: list[tuple[torch.Tensor, torch.Tensor]], start: int) -> None:
    """Process tokens (1, T) and return the logits of the last one."""
    x = model.wte(tokens) + model.wpe.weight[start : start + tokens.shape[1]]
    for block, (keys, values) in zip(model.blocks, cache, strict=True):
        x = read_block(block, x, keys, values, start)
    functional.linear(model.norm_f(x[:, -1:]), model.wte.weight)


@torch.inference_mode()
def main() -> None:
    """Measure a few rounds of prompt processing and decoding, and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in (
        "d_model",
        "hidden_size",
        "vocab_size",
        "num_heads",
        "seq_len",
        "layers",
        "prompt",
        "decoded",
        "threads",
    ):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = PeerGPT(options)
    size = (1, options.num_heads, options.seq_len, options.d_model // options.num_heads)
    cache = [(torch.zeros(size), torch.zeros(size)) for _ in model.blocks]
    tokens = torch.randint(options.vocab_size, (1, options.prompt + options.decoded))
    prompts: list[float] = []
    decoded: list[float] = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        read(model, tokens[:, : options.prompt], cache, 0)
        prompts.append(time.perf_counter() - started)
        for position in range(options.prompt, tokens.shape[1]):
            started = time.perf_counter()
            read(model, tokens[:, position : position + 1], cache, position)
            decoded.append(time.perf_counter() - started)
    print(
        json.dumps(
            {
                "prompt_s": statistics.median(prompts[1:]),
                "token_s": statistics.median(decoded[options.decoded :]),
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
