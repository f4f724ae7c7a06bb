"""What `export` wrote is imported again: the same weights, the same tokenizer, the same text."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import numpy as np
import pytest

import gpt_core
from gpt_core import tokenizers
from gpt_core.bridges.export import export_model
from gpt_core.bridges.gguf_model import ADDED
from gpt_core.bridges.importing import import_checkpoint
from gpt_core.errors import ModelImportError
from gpt_core.formats import gguf
from gpt_core.formats.bundle import load_bundle
from gpt_core.formats.checkpoint import verify_checkpoint
from gpt_core.model.bundle import ModelBundle
from tests.bridges.samples import LAYERS, model, needs_tokenizers, random_bytes, texts

Values = dict[str, gguf.Value]
TYPES = "tokenizer.ggml.token_type"
BYTE_PAIRS: Values = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["a b"]}


def imported(source: Path) -> ModelBundle:
    """Return the model of a source, imported beside it."""
    path = import_checkpoint(source, source.with_name("imported.safetensors")).path
    verify_checkpoint(path)
    return load_bundle(path)


@pytest.mark.parametrize(
    ("kind", "tokenizer"),
    [
        ("hf", "pieces"), ("hf", "ascii"), ("gguf", "pieces"),
        *(pytest.param(kind, "bpe", marks=needs_tokenizers) for kind in ("hf", "gguf")),
    ],
)  # fmt: skip
def test_weights_tokenizer_and_text_of_an_export_come_back(kind: str, tokenizer: str, tmp_path: Path) -> None:
    exported = model(tokenizer)
    export_model(exported, kind, tmp_path / f"model{'.gguf' * (kind == 'gguf')}")
    found = imported(next(tmp_path.iterdir()))
    assert found.settings.shape == exported.settings.shape
    assert all(np.array_equal(found.parameters[name], tensor) for name, tensor in exported.parameters.tensors.items())
    assert found.tokenizer.to_bytes() == exported.tokenizer.to_bytes()
    for text in (*texts().values(),):
        assert found.tokenizer.encode(text.encode()).tolist() == exported.tokenizer.encode(text.encode()).tolist()
    assert found.tokenizer.encode(random_bytes()).tolist() == exported.tokenizer.encode(random_bytes()).tolist()
    greedy = [gpt_core.Model(each).generate("It was", max_tokens=20, temperature=0.0) for each in (found, exported)]
    assert greedy[0] == greedy[1]


@needs_tokenizers
@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_ids_that_no_token_has_come_back_unused(kind: str, tmp_path: Path) -> None:
    exported = model("bpe", vocab_size=5000)
    assert len(exported.tokenizer.vocabulary) < 5000
    export_model(exported, kind, tmp_path / f"model{'.gguf' * (kind == 'gguf')}")
    assert imported(next(tmp_path.iterdir())).tokenizer.to_bytes() == exported.tokenizer.to_bytes()


@needs_tokenizers
@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_a_token_before_each_text_comes_back(kind: str, tmp_path: Path) -> None:
    plain = model("bpe")
    tokenizer = tokenizers.from_bytes(plain.tokenizer.to_bytes())
    tokenizer.adds_bos = True
    exported = dataclasses.replace(plain, tokenizer=tokenizer)
    export_model(exported, kind, tmp_path / f"model{'.gguf' * (kind == 'gguf')}")
    found = imported(next(tmp_path.iterdir())).tokenizer
    assert found.adds_bos
    assert found.to_bytes() == exported.tokenizer.to_bytes()


@pytest.mark.parametrize("layers", ["gpt2", "qwen3"])
@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_an_import_is_evaluated_on_the_documents_of_the_run(kind: str, layers: str, tmp_path: Path) -> None:
    exported = model(document="line", **LAYERS[layers])
    export_model(exported, kind, tmp_path / f"model{'.gguf' * (kind == 'gguf')}")
    found = gpt_core.Model(imported(next(tmp_path.iterdir())))
    (tmp_path / "text.txt").write_text("The cat sat.\nThe dog ran.\n\nA bird flew.\n")
    assert found.evaluate(tmp_path / "text.txt") == gpt_core.Model(exported).evaluate(tmp_path / "text.txt")
    tokens = [found.evaluate(tmp_path / "text.txt", document=document).tokens for document in ("line", "paragraph")]
    assert found.evaluate(tmp_path / "text.txt").tokens == tokens[0] > tokens[1]


@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_an_unknown_kind_of_document_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{'.gguf' * (kind == 'gguf')}"
    export_model(model(), kind, path)
    described = path if kind == "gguf" else path / "config.json"
    described.write_bytes(described.read_bytes().replace(b"paragraph", b"paragrape"))
    with pytest.raises(ModelImportError, match="document"):
        imported(path)


@pytest.mark.parametrize("number_type", ["f16", "bf16", "q8_0"])
def test_gguf_files_of_fewer_bits_are_widened(number_type: str, tmp_path: Path) -> None:
    exported = model()
    export_model(exported, "gguf", tmp_path / "model.gguf", number_type=number_type)
    found = imported(tmp_path / "model.gguf")
    for name, tensor in exported.parameters.tensors.items():
        bound = {"f16": 2.0**-10, "bf16": 2.0**-7, "q8_0": 0.01}[number_type] * np.abs(tensor).max()
        assert np.abs(found.parameters[name] - tensor).max() <= bound, name


def test_a_word_piece_tokenizer_of_another_program_is_refused(tmp_path: Path) -> None:
    export_model(model(), "hf", tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    contents = json.loads(path.read_bytes())
    for change in (
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": contents["pre_tokenizer"]["pretokenizers"][1:]}},
        {"normalizer": {"type": "Lowercase"}},
        {"model": contents["model"] | {"vocab": {"<pad>": 0, "a": 1}}},
        {"model": contents["model"] | {"vocab": contents["model"]["vocab"] | {"日": 999}}},
    ):
        path.write_text(json.dumps(contents | change))
        with pytest.raises(ModelImportError, match="not as an export of this program writes it"):
            imported(tmp_path / "model")
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


# GGUF files that are refused


def rewritten(path: Path, values: Values, *, without: str = "", tensors: dict[str, np.ndarray] | None = None) -> None:
    """Write a GGUF file again with some values and tensors changed, and one tensor left out."""
    with open(path, "rb", buffering=0) as file:
        header = gguf.read_header(file)
        stored = {name: np.concatenate(list(gguf.tensor_rows(file, header, name))) for name in header.tensors}
    shaped = {name: array.reshape(header.tensors[name].shape) for name, array in stored.items() if name != without}
    kept = [gguf.Tensor(name, array, "f32") for name, array in (shaped | (tensors or {})).items()]
    present = {key: value for key, value in (header.values | values).items() if value is not None}
    path.write_bytes(b"".join(map(bytes, gguf.encode(present, kept))))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A GGUF file as an export writes it."""
    export_model(model(), "gguf", tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"general.architecture": "llama"}, "architecture: got 'llama', expected 'gpt2'"),
        ({"gpt2.attention.layer_norm_epsilon": 1e-6}, "layer_norm_epsilon: got 9.9"),
        ({"gpt2.attention.head_count": 5}, "num_heads: got 5, expected a divisor"),
        ({"gpt2.block_count": 3}, "12 tensors are missing, the first blk.2.attn_norm.weight"),
        ({"gpt2.block_count": 1}, "unexpected tensor blk.1."),
        ({"gpt2.block_count": 1 << 31}, "the model is not supported: layers: got 2147483648, expected a whole number"),
        ({"gpt2.context_length": 128}, "position_embd.weight: got shape (64, 64), expected (128, 64)"),
        ({"gpt2.embedding_length": "wide"}, "'gpt2.embedding_length' is missing or of another type"),
        ({"gpt2.embedding_length": np.inf}, "'gpt2.embedding_length' is missing or of another type"),
        ({"tokenizer.ggml.model": "llama"}, "got the model 'llama', expected gpt2 or rwkv"),
        ({"tokenizer.ggml.model": "gpt2"}, "tokenizer.ggml.merges"),
        (BYTE_PAIRS | {"tokenizer.ggml.merges": [1]}, "'tokenizer.ggml.merges' is missing or of another type"),
        (BYTE_PAIRS | {"tokenizer.ggml.eos_token_id": np.inf}, "eos_token_id' is missing or of another type"),
        (BYTE_PAIRS | {"tokenizer.ggml.add_eos_token": True}, "got add_eos_token, which ends each prompt"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "'tokenizer.ggml.tokens' is missing or of another type"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "not supported: vocab_size: got 2, expected a whole number"),
        ({"tokenizer.ggml.token_type": [1] * 1000}, "its tokenizer is not supported"),
        ({"tokenizer.ggml.token_type": [1] * 5}, "got 5 types of tokens, expected one for each of the 1,000 tokens"),
        ({"tokenizer.ggml.token_type": 1}, "'tokenizer.ggml.token_type' is missing or of another type"),
    ],
)
def test_a_gguf_file_that_is_not_such_a_model_is_refused(values: Values, expected: str, file: Path) -> None:
    rewritten(file, values)
    with pytest.raises(ModelImportError) as caught:
        imported(file)
    assert expected in str(caught.value)
    assert [path.name for path in file.parent.iterdir()] == ["model.gguf"]


@needs_tokenizers
def test_a_gguf_file_with_an_added_token_that_is_not_special_is_refused_as_a_folder_is(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    export_model(exported := model("bpe"), "gguf", path)
    with open(path, "rb", buffering=0) as file:
        values = gguf.read_header(file).values
    types, merges, end = values[TYPES], values["tokenizer.ggml.merges"], exported.tokenizer.EOS
    last = values["tokenizer.ggml.tokens"].index(merges[-1].replace(" ", ""))
    rewritten(path, {TYPES: [ADDED if token == last else kind for token, kind in enumerate(types)],
                     "tokenizer.ggml.merges": merges[:-1]})  # fmt: skip
    with pytest.raises(ModelImportError, match=r"got the added token '\S+', which is not special"):
        imported(path)
    rewritten(path, {TYPES: [ADDED if token == end else kind for token, kind in enumerate(types)],
                     "tokenizer.ggml.merges": merges})  # fmt: skip
    assert imported(path).tokenizer.to_bytes() == exported.tokenizer.to_bytes()


def test_missing_and_wrong_tensors_of_a_gguf_file_are_refused(file: Path) -> None:
    intact = file.read_bytes()
    embedding = np.concatenate(list(_embedding(file)))
    for options, expected in (
        ({"without": "output_norm.bias"}, "output_norm.bias is missing"),
        ({"tensors": {"output_norm.bias": np.zeros(32, np.float32)}}, r"got shape \(32,\), expected \(64,\)"),
        ({"tensors": {"output.weight": embedding[1:]}}, r"output.weight: got shape \(999, 64\), expected \(1000, 64\)"),
        ({"tensors": {"cls.weight": embedding}}, "unexpected tensor cls.weight"),
    ):
        rewritten(file, {}, **options)  # type: ignore[arg-type]
        with pytest.raises(ModelImportError, match=expected):
            imported(file)
        file.write_bytes(intact)
    rewritten(file, {}, tensors={"output.weight": embedding})
    found = imported(file)
    assert found.settings.tied_head
    assert np.array_equal(found.parameters["wte.weight"], embedding)


@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_a_head_of_its_own_comes_back(kind: str, tmp_path: Path) -> None:
    exported = model(tied_head=False)
    export_model(exported, kind, tmp_path / f"model{'.gguf' * (kind == 'gguf')}")
    found = imported(next(tmp_path.iterdir()))
    assert found.settings.shape == exported.settings.shape
    assert np.array_equal(found.parameters["lm_head.weight"], exported.parameters["lm_head.weight"])
    assert not np.array_equal(found.parameters["lm_head.weight"], found.parameters["wte.weight"])


def _embedding(path: Path) -> list[np.ndarray]:
    with open(path, "rb", buffering=0) as file:
        return list(gguf.tensor_rows(file, gguf.read_header(file), "token_embd.weight"))


def test_damaged_gguf_files_are_refused(file: Path) -> None:
    intact = file.read_bytes()
    for damaged in (
        b"",
        b"GGUF",
        b"GGML" + intact[4:],
        intact[:-1],
        intact[:500],
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1),
    ):
        file.write_bytes(damaged)
        with pytest.raises(ModelImportError, match="is damaged or not supported"):
            imported(file)
    assert [path.name for path in file.parent.iterdir()] == ["model.gguf"]
