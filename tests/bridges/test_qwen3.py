"""Models with the layers of Qwen3: exported as `qwen3`, imported again; other choices of layers are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpt_core
from gpt_core.api import Model
from gpt_core.bridges.export import export_model
from gpt_core.config.settings import QWEN3
from gpt_core.errors import ExportError, ModelImportError
from gpt_core.formats import gguf
from gpt_core.generation.generator import Generator
from gpt_core.model.bundle import ModelBundle
from tests.bridges.hf_samples import byte_pairs, change_json, tokenizer_file, write_json
from tests.bridges.samples import GREEDY, PROMPTS, model, needs_tokenizers, texts
from tests.bridges.test_own_exports import imported, rewritten

Array = NDArray[Any]
HEADS = pytest.mark.parametrize("tied_head", [True, False], ids=["tied head", "own head"])
KINDS = pytest.mark.parametrize("kind", ["hf", "gguf"])


def qwen3(tied_head: bool = True, tokenizer: str = "pieces") -> ModelBundle:
    return model(tokenizer, tied_head=tied_head, **QWEN3)


def exported(kind: str, folder: Path, tied_head: bool = True) -> Path:
    path = folder / f"model{'.gguf' * (kind == 'gguf')}"
    export_model(qwen3(tied_head), kind, path)
    return path


@HEADS
@KINDS
def test_weights_tokenizer_and_text_of_an_export_come_back(kind: str, tied_head: bool, tmp_path: Path) -> None:
    own, found = qwen3(tied_head), imported(exported(kind, tmp_path, tied_head))
    assert found.settings.shape == own.settings.shape
    assert all(np.array_equal(found.parameters[name], tensor) for name, tensor in own.parameters.tensors.items())
    greedy = [gpt_core.Model(each).generate("It was", max_tokens=20, temperature=0.0) for each in (found, own)]
    assert greedy[0] == greedy[1]


def test_tensors_of_a_folder_that_are_longer_than_a_chunk_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt_core.formats.safetensors.CHUNK_BYTES", 64)
    own, found = qwen3(), imported(exported("hf", tmp_path))
    assert all(np.array_equal(found.parameters[name], tensor) for name, tensor in own.parameters.tensors.items())


def test_a_folder_is_of_qwen3_with_its_own_names_and_layouts(tmp_path: Path) -> None:
    path = exported("hf", tmp_path)
    config = json.loads((path / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("qwen3", ["Qwen3ForCausalLM"])
    assert config["rope_theta"] == 10_000
    assert "- qwen3" in (path / "README.md").read_text()
    header = (path / "model.safetensors").read_bytes()
    tensors = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    assert tensors["model.layers.1.self_attn.k_proj.weight"]["shape"] == [64, 64]
    assert tensors["model.layers.0.mlp.gate_proj.weight"]["shape"] == [96, 64]
    assert tensors["model.layers.0.mlp.down_proj.weight"]["shape"] == [64, 96]
    assert "lm_head.weight" not in tensors


@HEADS
def test_a_gguf_file_has_a_matrix_of_the_logits_only_if_the_model_has_one(tied_head: bool, tmp_path: Path) -> None:
    with open(exported("gguf", tmp_path, tied_head), "rb", buffering=0) as file:
        header = gguf.read_header(file)
    assert header.values["general.architecture"] == "qwen3"
    assert ("output.weight" in header.tensors) is not tied_head
    assert "blk.1.attn_k_norm.weight" in header.tensors


NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
"""Names in transformers of the tensors of a layer, by their names in llama.cpp"""


def stored_tensors(path: Path) -> dict[str, Array]:
    """Return the tensors of an export by their names in transformers."""
    if path.is_dir():
        data = (path / "model.safetensors").read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        entries = json.loads(data[8:start])
        return {
            name: np.frombuffer(data[start:], np.float32)[slice(*(offset // 4 for offset in entry["data_offsets"]))]
            .reshape(entry["shape"])
            for name, entry in entries.items() if name != "__metadata__"
        }  # fmt: skip
    found = {}
    with open(path, "rb", buffering=0) as file:
        header = gguf.read_header(file)
        for name, tensor in header.tensors.items():
            found[name] = np.empty(tensor.shape, np.float32)
            gguf.read_tensor(file, header, name, found[name])
    others = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    layers = {f"blk.{n}.{name}": f"model.layers.{n}.{NAMES[name]}" for n in range(2) for name in NAMES}
    return {f"{(others | layers)[name.removesuffix('.weight')]}.weight": tensor for name, tensor in found.items()}


def logits_by_definition(tensors: dict[str, Array], ids: Array, heads: int) -> Array:
    """Return the logits (T, V) of Qwen3 as its report defines them, from tensors by their names in transformers."""
    w = {name.removesuffix(".weight"): tensor.astype(np.float64) for name, tensor in tensors.items()}
    half = w["model.layers.0.self_attn.q_norm"].size // 2
    angles = np.outer(np.arange(len(ids)), 10_000.0 ** (-np.arange(half) / half))[:, None]

    def norm(x: Array, name: str) -> Array:
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * w[name]  # type: ignore[no-any-return]

    def rotated(x: Array) -> Array:
        first, second = x[..., :half], x[..., half:]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)

    x = w["model.embed_tokens"][ids]
    for layer in (f"model.layers.{n}" for n in range(2)):
        attn, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        h = norm(x, f"{layer}.input_layernorm")
        q, k, v = ((h @ w[f"{attn}.{part}_proj"].T).reshape(len(ids), heads, -1) for part in "qkv")
        q, k = rotated(norm(q, f"{attn}.q_norm")), rotated(norm(k, f"{attn}.k_norm"))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(2 * half)
        scores[:, ~np.tri(len(ids), dtype=bool)] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", weights, v).reshape(x.shape) @ w[f"{attn}.o_proj"].T
        h = norm(x, f"{layer}.post_attention_layernorm")
        gate, up = (h @ w[f"{mlp}.{part}_proj"].T for part in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{mlp}.down_proj"].T
    return norm(x, "model.norm") @ w.get("lm_head", w["model.embed_tokens"]).T  # type: ignore[no-any-return]


@HEADS
@KINDS
def test_the_stored_tensors_give_the_logits_of_the_model_by_the_definition_of_qwen3(
    kind: str, tied_head: bool, tmp_path: Path
) -> None:
    own, ids = qwen3(tied_head), np.random.default_rng(0).integers(0, 1000, 40)
    found = logits_by_definition(stored_tensors(exported(kind, tmp_path, tied_head)), ids, own.settings.num_heads)
    assert np.abs(found - Model(own).logits(ids)).max() < 1e-4


@KINDS
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm": "rms_norm"}, "norm rms_norm has no counterpart"),
        ({"mlp": "relu_squared", "qk_norm": True}, "qk_norm true, mlp relu_squared has no counterpart"),
        ({**QWEN3, "mlp": "relu_squared"}, "expected mlp swiglu for qwen3"),
        ({**QWEN3, "bias": True}, "bias true has no counterpart"),
        ({"tied_head": False, "bias": False}, "a model with bias false has no counterpart"),
    ],
)
def test_other_layers_are_refused_with_the_setting_that_has_no_counterpart(
    kind: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError) as caught:
        export_model(model(**changes), kind, tmp_path / "model")
    assert words in str(caught.value)
    assert "a page of `gpt-tui export html` holds any layers" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_key_value_heads", 2),
        ("head_dim", 32),
        ("hidden_act", "gelu"),
        ("rms_norm_eps", 1e-5),
        ("attention_bias", True),
        ("use_sliding_window", True),
        ("rope_scaling", {"type": "yarn"}),
        ("rope_parameters", {"rope_theta": 1e6, "rope_type": "default"}),
    ],
)
def test_a_folder_of_a_model_that_computes_something_else_is_refused(key: str, value: object, tmp_path: Path) -> None:
    path = exported("hf", tmp_path)
    change_json(path / "config.json", key, to=value)
    name = "rope_theta" if key == "rope_parameters" else key
    with pytest.raises(ModelImportError, match=f"{name}: got .*: only models whose layers gpt-tui has can be"):
        imported(path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"qwen3.rope.freq_base": 1e6}, "qwen3.rope.freq_base: got 1000000.0, expected 10000.0"),
        ({"qwen3.attention.head_count_kv": 2}, "head_count_kv: got 2, expected 4"),
        ({"qwen3.attention.layer_norm_rms_epsilon": 1e-5}, "layer_norm_rms_epsilon: got 9.99"),
        ({"qwen3.attention.layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon: got None"),
        ({"qwen3.rope.scaling.type": "yarn"}, "rope.scaling.type: got yarn, expected none"),
        ({"qwen3.rope.scaling.type": 1.0}, "rope.scaling.type: got 1.0, expected none"),
        ({"qwen3.rope.scaling.factor": 4.0}, "rope.scaling.factor: got 4.0, expected 1.0"),
        ({"qwen3.rope.scale_linear": 4.0}, "rope.scale_linear: got 4.0, expected 1.0"),
        ({"qwen3.rope.dimension_count": 8}, "rope.dimension_count: got 8, expected 16"),
        ({"qwen3.rope.freq_base": "1e4"}, "rope.freq_base: got 1e4, expected 10000.0"),
        ({"qwen3.attention.head_count": 0}, "the model is not supported: "),
        ({"qwen3.block_count": "two"}, "'qwen3.block_count' is missing or of another type"),
    ],
)
def test_a_gguf_file_of_a_model_that_computes_something_else_is_refused(
    values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = exported("gguf", tmp_path)
    rewritten(path, values)
    with pytest.raises(ModelImportError) as caught:
        imported(path)
    assert words in str(caught.value)


# ---- other programs


@pytest.mark.slow
@HEADS
def test_transformers_computes_the_same_logits_and_text(
    tied_head: bool, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    own, path = qwen3(tied_head), exported("hf", tmp_path, tied_head)
    network, loading = transformers.AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert type(network).__name__ == "Qwen3ForCausalLM"
    assert not any(loading.values())
    ids = own.tokenizer.encode(texts()["English"].encode())[: own.settings.seq_len]
    with torch.no_grad():
        logits = network.eval()(torch.tensor(ids[None], dtype=torch.int64)).logits[0].numpy()
    largest = float(np.abs(logits - Model(own).logits(ids)).max())
    record_property("seen", f"largest difference {largest:.1e}")
    assert largest < 1e-4
    tokenizer, generator = transformers.AutoTokenizer.from_pretrained(path), Generator(own.parameters, own.tokenizer)
    for prompt in PROMPTS:
        encoded = tokenizer(prompt, return_tensors="pt")
        found = network.generate(**encoded, max_new_tokens=GREEDY.max_tokens, do_sample=False, repetition_penalty=1.0)
        start = encoded["input_ids"].shape[1]
        expected = list(generator.tokens(encoded["input_ids"][0].tolist(), GREEDY))
        assert [token for token in found[0, start:].tolist() if token != own.tokenizer.EOS] == expected


@pytest.mark.slow
@needs_tokenizers
@HEADS
@pytest.mark.parametrize("shard", ["5GB", "500KB"])
def test_a_folder_that_transformers_wrote_gives_its_logits(tied_head: bool, shard: str, tmp_path: Path) -> None:
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    torch.manual_seed(1)
    config = transformers.Qwen3Config(
        vocab_size=400, hidden_size=256, intermediate_size=1500, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, head_dim=64, max_position_embeddings=64, tie_word_embeddings=tied_head,
    )  # fmt: skip
    network = transformers.Qwen3ForCausalLM(config).eval()
    network.save_pretrained(tmp_path / "qwen3", max_shard_size=shard)
    write_json(tmp_path / "qwen3" / "tokenizer.json", tokenizer_file(byte_pairs()))
    ids = np.random.default_rng(0).integers(0, 400, 64)
    with torch.no_grad():
        expected = network(torch.from_numpy(ids[None])).logits[0].numpy()
    assert np.abs(Model(imported(tmp_path / "qwen3")).logits(ids) - expected).max() < 1e-4


@pytest.mark.slow
@needs_tokenizers
@HEADS
def test_llama_cpp_computes_the_same_logits_and_text(
    tied_head: bool, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    own, path = qwen3(tied_head), exported("gguf", tmp_path, tied_head)
    found = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)
    ids = own.tokenizer.encode(texts()["English"].encode())[:64]
    found.eval(ids.tolist())
    largest = float(np.abs(found.scores[: len(ids)] - Model(own).logits(ids)).max())
    record_property("seen", f"largest difference {largest:.1e}")
    assert largest < 2e-3
