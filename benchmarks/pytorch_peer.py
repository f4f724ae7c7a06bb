"""The same model in PyTorch on the CPU, for comparison: GPT-2 architecture, AdamW, gradient clipping.

With `--precision bfloat16` the forward pass runs under `torch.autocast`, as PyTorch's documentation recommends.

Run by `benchmarks/training.py`, in a separate environment with torch; prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """x + proj(attention(norm(x))), then x + proj(gelu(fc(norm(x))))."""

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.c_attn, self.attn_proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.c_fc, self.mlp_proj = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the residual stream (B, T, C) after the block for x (B, T, C)."""
        batch, time_, channels = x.shape
        heads = [
            part.view(batch, time_, self.heads, -1).transpose(1, 2)
            for part in self.c_attn(self.norm_1(x)).split(channels, dim=2)
        ]
        attended = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.attn_proj(attended.transpose(1, 2).reshape(batch, time_, channels))
        return x + self.mlp_proj(functional.gelu(self.c_fc(self.norm_2(x)), approximate="tanh"))


class PeerGPT(nn.Module):
    """GPT-2: tied embeddings, learned positions, pre-norm blocks, final norm."""

    def __init__(self, shape: argparse.Namespace) -> None:
        super().__init__()
        self.wte = nn.Embedding(shape.vocab_size, shape.d_model)
        self.wpe = nn.Embedding(shape.seq_len, shape.d_model)
        self.blocks = nn.ModuleList(
            Block(shape.d_model, shape.num_heads, shape.hidden_size) for _ in range(shape.layers)
        )
        self.norm_f = nn.LayerNorm(shape.d_model)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of tokens (B, T) with targets (B, T)."""
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm_f(x), self.wte.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main() -> None:
    """Time complete steps and print {"seconds": [...], "peak_bytes", "loss"}; the first step is a warmup."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("d_model", "hidden_size", "vocab_size", "num_heads", "seq_len", "layers", "batch", "steps", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--processor_time", action="store_true", help="measure processor time instead of elapsed time")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    now = time.process_time if options.processor_time else time.perf_counter
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = PeerGPT(options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    step = torch.compile(model) if options.compile else model
    tokens, targets = torch.randint(options.vocab_size, (2, options.batch, options.seq_len))
    seconds = []
    for _ in range(options.steps + 1):
        started = now()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bfloat16"):
            loss = step(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(now() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds[1:], "peak_bytes": peak, "loss": loss.item(), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
