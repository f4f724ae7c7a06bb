"""Write golden.npz: results of PyTorch in float64 for one small GPT-2 model. See README.md.

    python tests/core/golden/make_golden.py [FILE]

Needs torch and numpy, and no code of this project, so that it cannot share an error with the code under test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

C, F, V, H, T, L = 10, 23, 37, 2, 12, 2  # channels, hidden, vocabulary, heads, positions, layers
BATCH, TIME = 5, 11
STEPS = 10
ADAMW = {"beta1": 0.9, "beta2": 0.98, "eps": 1e-8, "weight_decay": 0.1}
CLIP = 1.0
GROUP_LR = {"attn": 3e-3, "mlp": 5e-3, "norm": 7e-3, "pos": 1.1e-2, "unembed": 1.3e-2}


def names_and_shapes() -> dict[str, tuple[int, ...]]:
    """Return the parameters of Hugging Face's GPT2LMHeadModel; linear weights are (in, out)."""
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (V, C), "wpe.weight": (T, C)}
    for layer in range(L):
        linears = {"attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C), "mlp.c_fc": (C, F), "mlp.c_proj": (F, C)}
        for name, size in linears.items():
            shapes[f"h.{layer}.{name}.weight"] = size
            shapes[f"h.{layer}.{name}.bias"] = size[1:]
        for name in ("ln_1", "ln_2"):
            shapes[f"h.{layer}.{name}.weight"] = shapes[f"h.{layer}.{name}.bias"] = (C,)
    shapes["ln_f.weight"] = shapes["ln_f.bias"] = (C,)
    return shapes


def make_weights(random: np.random.Generator) -> dict[str, torch.Tensor]:
    """Return random weights, none 0 or 1, so that every term counts; float32 values, exact in both precisions."""
    weights = {}
    for name, shape in names_and_shapes().items():
        center = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        values = random.normal(center, 0.2, shape).astype(np.float32)
        weights[name] = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    return weights


def logits_of(w: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """Return the logits (B, T, V) of tokens (B, T)."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, (C,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, w[f"{name}.weight"].T, w[f"{name}.bias"])

    batch, time = tokens.shape
    x = functional.embedding(tokens, w["wte.weight"]) + w["wpe.weight"][:time]
    for block in (f"h.{layer}" for layer in range(L)):
        q, k, v = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").split(C, dim=-1)
        q, k, v = (part.view(batch, time, H, C // H).transpose(1, 2) for part in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(mixed.transpose(1, 2).reshape(batch, time, C), f"{block}.attn.c_proj")
        hidden = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        x = x + linear(functional.gelu(hidden, approximate="tanh"), f"{block}.mlp.c_proj")
    return functional.linear(norm(x, "ln_f"), w["wte.weight"])


def loss_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean loss over the targets that are not -1."""
    return functional.cross_entropy(logits.reshape(-1, V), targets.reshape(-1), ignore_index=-1)


def lr_group(name: str) -> str:
    """Return the learning-rate group of a parameter."""
    if "ln_" in name:
        return "norm"
    return {"wte": "unembed", "wpe": "pos"}.get(name.split(".")[0]) or name.split(".")[2]


def adamw_groups(w: dict[str, torch.Tensor]) -> list[dict[str, object]]:
    """Return one group per parameter, with its learning rate; matrices decay, position embeddings do not."""
    groups: list[dict[str, object]] = []
    for name, tensor in w.items():
        group = lr_group(name)
        decay = ADAMW["weight_decay"] if tensor.dim() == 2 and group != "pos" else 0.0
        groups.append({"params": [tensor], "lr": GROUP_LR[group], "weight_decay": decay})
    return groups


def train(w: dict[str, torch.Tensor], tokens: torch.Tensor, targets: torch.Tensor) -> tuple[list[float], list[float]]:
    """Run STEPS updates, one batch each; return the loss before each update and the gradient norm before clipping."""
    optimizer = torch.optim.AdamW(adamw_groups(w), betas=(ADAMW["beta1"], ADAMW["beta2"]), eps=ADAMW["eps"])
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(logits_of(w, tokens[step]), targets[step])
        loss.backward()
        norm = float(torch.nn.utils.get_total_norm([tensor.grad for tensor in w.values()]))
        # not clip_grad_norm_, which divides by norm + 1e-6
        for tensor in w.values():
            tensor.grad *= min(1.0, CLIP / norm)
        optimizer.step()
        losses.append(float(loss.detach()))
        norms.append(norm)
    return losses, norms


def main() -> None:
    torch.set_num_threads(1)
    random = np.random.default_rng(20190214)
    weights = make_weights(random)
    tokens = random.integers(0, V - 5, (STEPS, BATCH, TIME), dtype=np.int32)  # the last five ids are never read
    targets = random.integers(0, V, (STEPS, BATCH, TIME), dtype=np.int32)
    targets[random.random(targets.shape) < 0.15] = -1
    targets[:, -1, TIME // 2 :] = -1  # one sequence ends early

    saved: dict[str, np.ndarray] = {"tokens": tokens, "targets": targets}
    saved |= {f"weight/{name}": tensor.detach().numpy().copy() for name, tensor in weights.items()}
    long = torch.tensor(tokens, dtype=torch.int64), torch.tensor(targets, dtype=torch.int64)
    logits = logits_of(weights, long[0][0])
    loss = loss_of(logits, long[1][0])
    gradients = torch.autograd.grad(loss, list(weights.values()))
    saved |= {"logits": logits.detach().numpy(), "loss": np.float64(loss.detach())}
    saved |= {f"gradient/{name}": gradient.numpy() for name, gradient in zip(weights, gradients, strict=True)}

    losses, norms = train(weights, *long)
    saved |= {"adamw_losses": np.array(losses), "adamw_gradient_norms": np.array(norms)}
    saved |= {f"trained/{name}": tensor.detach().numpy() for name, tensor in weights.items()}
    shape = {"d_model": C, "hidden_size": F, "vocab_size": V, "num_heads": H, "seq_len": T, "layers": L}
    saved |= {f"shape/{name}": np.int64(value) for name, value in shape.items()}
    saved |= {f"adamw/{name}": np.float64(value) for name, value in {**ADAMW, "clip": CLIP}.items()}
    saved |= {f"lr/{name}": np.float64(value) for name, value in GROUP_LR.items()}

    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("golden.npz")
    np.savez_compressed(path, **saved)
    print(f"{path}: {path.stat().st_size} bytes, torch {torch.__version__}, loss {saved['loss']:.6f}")
    print("losses", *(f"{value:.4f}" for value in losses))
    print("norms ", *(f"{value:.4f}" for value in norms))


if __name__ == "__main__":
    main()
