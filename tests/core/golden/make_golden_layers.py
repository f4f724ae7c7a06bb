"""Write golden_layers.npz: results of PyTorch in float64 for models with other layers than GPT-2's. See README.md.

    python tests/core/golden/make_golden_layers.py [FILE]

Needs torch and numpy, and no code of this project, so that it cannot share an error with the code under test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

C, F, V, H, T, L = 8, 11, 23, 2, 12, 3  # channels, hidden, vocabulary, heads, positions, layers
D = C // H
BATCH, TIME = 3, 11
MODELS: dict[str, dict[str, object]] = {
    "qwen3": {"norm": "rms_norm", "qk_norm": True, "positions": "rope", "mlp": "swiglu", "bias": False,
              "tied_head": False, "x0_shortcut": False},
    "others": {"norm": "layer_norm", "qk_norm": False, "positions": "learned", "mlp": "relu_squared", "bias": False,
               "tied_head": True, "x0_shortcut": True},
}  # fmt: skip

Model = dict[str, object]
Weights = dict[str, torch.Tensor]


def names_and_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Return the parameters; linear weights are (in, out), gates are before the hidden units."""
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (V, C)}
    if model["positions"] == "learned":
        shapes["wpe.weight"] = (T, C)
    if not model["tied_head"]:
        shapes["lm_head.weight"] = (V, C)
    wide = 2 * F if model["mlp"] == "swiglu" else F
    for layer in range(L):
        block = {"ln_1": (C,), "attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C), "ln_2": (C,),
                 "mlp.c_fc": (C, wide), "mlp.c_proj": (F, C)}  # fmt: skip
        block |= {"attn.q_norm": (D,), "attn.k_norm": (D,)} if model["qk_norm"] else {}
        shapes |= {f"h.{layer}.{name}.weight": size for name, size in block.items()}
        if model["x0_shortcut"] and layer:
            shapes[f"h.{layer}.x0_scale"] = (1,)
    return shapes | {"ln_f.weight": (C,)}


def make_weights(model: Model, random: np.random.Generator) -> Weights:
    """Return random weights, none 0 or 1, so that every term counts; float32 values, exact in both precisions."""
    weights = {}
    for name, shape in names_and_shapes(model).items():
        center = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        values = random.normal(center, 0.3, shape).astype(np.float32)
        weights[name] = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    return weights


def rotated(x: torch.Tensor) -> torch.Tensor:
    """Rotate channels i and i + D/2 (B, H, T, D) as complex numbers, by the angle t 10000^(-2i / D)."""
    frequencies = 10_000.0 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    angles = torch.outer(torch.arange(x.shape[2], dtype=torch.float64), frequencies)
    turned = torch.complex(x[..., : D // 2], x[..., D // 2 :]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def logits_of(w: Weights, model: Model, tokens: torch.Tensor) -> torch.Tensor:
    """Return the logits (B, T, V) of tokens (B, T)."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        if model["norm"] == "rms_norm":
            return functional.rms_norm(x, (C,), w[f"{name}.weight"], eps=1e-6)
        return functional.layer_norm(x, (C,), w[f"{name}.weight"], None, eps=1e-5)

    def heads(x: torch.Tensor, name: str) -> torch.Tensor:
        x = x.view(batch, time, H, D).transpose(1, 2)
        if model["qk_norm"]:
            x = functional.rms_norm(x, (D,), w[f"{name}.weight"], eps=1e-6)
        return rotated(x) if model["positions"] == "rope" else x

    batch, time = tokens.shape
    x = functional.embedding(tokens, w["wte.weight"])
    x = x if model["positions"] == "rope" else x + w["wpe.weight"][:time]
    x0 = x
    for layer in range(L):
        block = f"h.{layer}"
        if f"{block}.x0_scale" in w:
            x = x + w[f"{block}.x0_scale"] * x0
        q, k, v = (norm(x, f"{block}.ln_1") @ w[f"{block}.attn.c_attn.weight"]).split(C, dim=-1)
        q, k = heads(q, f"{block}.attn.q_norm"), heads(k, f"{block}.attn.k_norm")
        v = v.view(batch, time, H, D).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + mixed.transpose(1, 2).reshape(batch, time, C) @ w[f"{block}.attn.c_proj.weight"]
        hidden = norm(x, f"{block}.ln_2") @ w[f"{block}.mlp.c_fc.weight"]
        if model["mlp"] == "swiglu":
            gate, up = hidden.split(F, dim=-1)
            hidden = functional.silu(gate) * up
        else:
            hidden = functional.relu(hidden).square()
        x = x + hidden @ w[f"{block}.mlp.c_proj.weight"]
    return functional.linear(norm(x, "ln_f"), w["wte.weight" if model["tied_head"] else "lm_head.weight"])


def main() -> None:
    torch.set_num_threads(1)
    random = np.random.default_rng(20250514)
    saved: dict[str, np.ndarray] = {}
    for name, model in MODELS.items():
        weights = make_weights(model, random)
        tokens = random.integers(0, V - 3, (BATCH, TIME), dtype=np.int32)
        targets = random.integers(0, V, (BATCH, TIME), dtype=np.int32)
        targets[random.random(targets.shape) < 0.15] = -1
        logits = logits_of(weights, model, torch.tensor(tokens, dtype=torch.int64))
        flat = torch.tensor(targets.reshape(-1), dtype=torch.int64)
        loss = functional.cross_entropy(logits.reshape(-1, V), flat, ignore_index=-1)
        gradients = torch.autograd.grad(loss, list(weights.values()))
        found = {"tokens": tokens, "targets": targets, "logits": logits.detach().numpy(), "loss": loss.detach().numpy()}
        found |= {f"weight/{key}": tensor.detach().numpy().astype(np.float32) for key, tensor in weights.items()}
        found |= {f"gradient/{key}": value.numpy() for key, value in zip(weights, gradients, strict=True)}
        shape = {"d_model": C, "hidden_size": F, "vocab_size": V, "num_heads": H, "seq_len": T, "layers": L}
        found |= {f"shape/{key}": np.array(value) for key, value in {**shape, **model}.items()}
        saved |= {f"{name}/{key}": value for key, value in found.items()}
        print(f"{name}: loss {float(loss.detach()):.6f}")
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("golden_layers.npz")
    np.savez_compressed(path, **saved)
    print(f"{path}: {path.stat().st_size} bytes, torch {torch.__version__}")


if __name__ == "__main__":
    main()
