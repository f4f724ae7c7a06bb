"""A small checkpoint with edge-case values, and helpers to forge others."""

import hashlib
import json

import numpy as np

from gpt_core.config.settings import Settings
from gpt_core.formats.checkpoint import Checkpoint, TrainingState
from gpt_core.formats.safetensors import MAX_HEADER_BYTES
from gpt_core.model.parameters import Parameters

SETTINGS = Settings(d_model=8, hidden_size=12, vocab_size=260, num_heads=2, seq_len=4, layers=2, train_file="é.en")
EDGE_VALUES = np.array([-0.0, 1e-45, 3.4e38, -3.4e38, 1.1754944e-38], np.float32)


def random_parameters(shape, seed):
    parameters = Parameters(shape)
    random = np.random.default_rng(seed)
    for tensor in parameters.tensors.values():
        tensor[...] = random.standard_normal(tensor.shape, np.float32)
        tensor.reshape(-1)[: EDGE_VALUES.size] = EDGE_VALUES[: tensor.size]
    return parameters


def sample(settings=SETTINGS, *, optimizer_state=True, seed=0, tokenizer=b"some pieces", **state):
    values = {"run_id": "run-a", "step": 7, "epoch": 1, "loss_sum": 0.1 + 0.2, "elapsed_s": 1 / 3} | state
    weights = random_parameters(settings.shape, seed)
    tensors = {name: random_parameters(settings.shape, seed + i) for i, name in enumerate(("adam_m", "adam_v"), 1)}
    state = tensors if optimizer_state else None
    return Checkpoint(settings, "custom", TrainingState(**values), tokenizer, "0123abcd", weights, state)


def all_tensors(checkpoint):
    """Every tensor set of a checkpoint by its prefix."""
    return {"": checkpoint.parameters} | {f"{name}.": p for name, p in (checkpoint.optimizer_state or {}).items()}


def same_bits(left, right):
    return all(np.array_equal(left[name].view(np.uint32), right[name].view(np.uint32)) for name in left.tensors)


def split(data):
    """Return the header of a checkpoint as a dictionary, and the bytes after it."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def forged(header, tail, *, sealed=True):
    """Return a file with this header, with a valid checksum if `sealed`."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    head = bytearray(len(text).to_bytes(8, "little") + text)
    start = head.find(b'"header_sha256":"') + len(b'"header_sha256":"')
    if sealed and len(head) <= MAX_HEADER_BYTES + 8:
        head[start : start + 64] = b"0" * 64
        head[start : start + 64] = hashlib.sha256(head).hexdigest().encode()
    return bytes(head) + tail
