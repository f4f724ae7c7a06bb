"""`gpt-tui import` of Hugging Face folders: what is read, and what is refused with nothing written."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import gpt_core
from gpt_core.bridges.export import export_model
from gpt_core.bridges.hf_tokenizer import tokenizer_json
from gpt_core.bridges.importing import import_checkpoint
from gpt_core.errors import GptError
from gpt_core.formats.bundle import load_bundle
from gpt_core.formats.checkpoint import verify_checkpoint
from gpt_core.generation.generator import sampled_ids
from gpt_core.model.bundle import ModelBundle
from gpt_core.tokenizers.byte_pairs import END_OF_TEXT
from gpt_tui.cli import main as cli
from gpt_tui.tabs.checkpoints import presenter
from gpt_tui.tabs.checkpoints.files import CheckpointFile, Stamp
from tests.bridges import samples
from tests.bridges.hf_samples import (
    SHAPE,
    TEXTS,
    add_token,
    bfloat16,
    byte_pairs,
    change_json,
    tensors_of,
    write_folder,
    write_json,
    write_safetensors,
)

pytest.importorskip("tokenizers")

HEAD, WTE = "lm_head.weight", "transformer.wte.weight"


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def imported(folder: Path) -> ModelBundle:
    """Import a folder and load the checkpoint, after all of it was verified."""
    path = import_checkpoint(folder, Path("out.safetensors")).path
    verify_checkpoint(path)
    bundle = load_bundle(path)
    path.unlink()
    return bundle


def same(bundle: ModelBundle, tensors: dict[str, np.ndarray]) -> bool:
    """Return whether the weights of a model are those tensors."""
    own = bundle.parameters.tensors
    names = {name: tensors.get(f"transformer.{name}", tensors.get(name)) for name in own}
    return all(np.array_equal(own[name], tensor) for name, tensor in names.items())


# what is read


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tokenizer_json", [True, False])
def test_weights_shape_and_tokenizer_are_those_of_the_folder(shards: int, tokenizer_json: bool) -> None:
    tensors = write_folder(Path("gpt2"), shards=shards, tokenizer_json=tokenizer_json)
    bundle = imported(Path("gpt2"))
    assert same(bundle, tensors)
    assert bundle.settings.shape == SHAPE
    assert bundle.settings.tokenizer == "bpe"
    expected = byte_pairs()
    for text in TEXTS.values():
        assert bundle.tokenizer.encode(text.encode()).tolist() == expected.encode(text.encode()).tolist()
    assert bundle.tokenizer.EOS == expected.EOS
    assert bundle.tokenizer.describe(expected.EOS) == "<|endoftext|>"


def test_names_without_a_prefix_masks_and_a_stored_tied_head_are_read() -> None:
    tensors = {name.removeprefix("transformer."): array for name, array in tensors_of(SHAPE).items()}
    masks = {f"h.{n}.attn.bias": np.ones((1, 1, 32, 32), bool) for n in range(2)}
    masks |= {f"h.{n}.attn.masked_bias": np.float32(-1e4).reshape(()) for n in range(2)}
    write_folder(Path("gpt2"), tensors={**masks, **tensors, HEAD: tensors["wte.weight"]})
    assert same(imported(Path("gpt2")), tensors)


def test_a_head_of_its_own_is_read() -> None:
    write_folder(Path("gpt2"), tensors=untied(), config={"tie_word_embeddings": False})
    found = imported(Path("gpt2"))
    assert not found.settings.tied_head
    assert np.array_equal(found.parameters[HEAD], untied()[HEAD])
    assert same(found, untied())


def test_half_precision_is_widened_exactly() -> None:
    exact = tensors_of(SHAPE)
    halves = {name: array.astype(np.float16) for name, array in exact.items()}
    write_folder(Path("f16"), tensors={**halves})
    assert same(imported(Path("f16")), {name: array.astype(np.float32) for name, array in halves.items()})
    bits = {name: bfloat16(array) for name, array in exact.items()}
    write_folder(Path("bf16"), tensors={**bits})
    widened = {name: (array.astype(np.uint32) << 16).view(np.float32) for name, array in bits.items()}
    assert same(imported(Path("bf16")), widened)


def test_tensors_longer_than_a_chunk_are_read_completely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_core.formats.safetensors.CHUNK_BYTES", 64)
    tensors = write_folder(Path("gpt2"))
    write_folder(Path("tied"), tensors={**tensors, HEAD: tensors[WTE]})
    assert same(imported(Path("gpt2")), tensors)
    assert same(imported(Path("tied")), tensors)


def test_the_width_of_the_mlp_may_be_left_out_and_the_weights_be_named() -> None:
    tensors = write_folder(
        Path("gpt2"), config={"n_inner": None, "unknown": {"a": 1}, "activation_function": "gelu_fast"}
    )
    assert same(imported(Path("gpt2/model.safetensors")), tensors)


def test_rows_of_the_embedding_after_the_tokens_are_unused_ids() -> None:
    wte = tensors_of(SHAPE)[WTE]
    rows = np.zeros((48, SHAPE.d_model), np.float32)
    tensors = write_folder(
        Path("gpt2"), tensors=tensors_of(SHAPE) | {WTE: np.concatenate([wte, rows])}, config={"vocab_size": 448}
    )
    found = imported(Path("gpt2"))
    assert same(found, tensors)
    assert (found.tokenizer.vocab_size, found.tokenizer.tokens) == (448, byte_pairs().tokens)
    assert np.flatnonzero(sampled_ids(found.tokenizer)).tolist() == list(range(400))


def test_the_end_of_text_is_that_of_the_tokenizer_rather_than_an_id_of_another_vocabulary() -> None:
    write_folder(Path("gpt2"), config={"eos_token_id": 300, "bos_token_id": 50256})
    expected = byte_pairs().EOS, byte_pairs().EOS
    found = imported(Path("gpt2")).tokenizer
    assert expected == (found.BOS, found.EOS)
    write_json(Path("gpt2/tokenizer_config.json"), {"eos_token": {"content": "<|endoftext|>"}, "bos_token": "<s>"})
    found = imported(Path("gpt2")).tokenizer
    assert expected == (found.BOS, found.EOS)


# the command


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Return exit code, output and errors of the program."""
    code = cli.main(arguments)
    return code, *capsys.readouterr()


def test_an_imported_model_generates_evaluates_and_verifies(capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(Path("gpt2"))
    code, out, err = run(capsys, "import", "gpt2")
    assert (code, err) == (0, "")
    assert out.startswith("models/gpt2.safetensors: 13.5k parameters, ")
    assert "vocabulary 400 (bpe)" in out
    assert "gpt-tui --init-from models/gpt2.safetensors --train-file FILE" in out
    assert run(capsys, "verify", "models/gpt2.safetensors")[0] == 0
    code, out, err = run(capsys, "generate", "It was", "--max-tokens", "8", "--seed", "1")
    assert (code, err) == (0, "")
    assert out.startswith("It was")
    Path("own.txt").write_text(TEXTS["German"], encoding="utf-8")
    code, out, err = run(capsys, "evaluate", "--eval-file", "own.txt", "--json", "--model", "models/gpt2.safetensors")
    assert (code, err) == (0, "")
    assert 0 < json.loads(out)["bits_per_byte"] < 20
    code, out, err = run(capsys, "evaluate", "--eval-file", "own.txt", "--model", "models/gpt2.safetensors")
    assert (code, err, out.count("\n")) == (0, "", 2)
    assert "its run" not in out
    code, out, err = run(capsys, "tokenize", "own.txt", "--model", "models/gpt2.safetensors")
    assert (code, err) == (0, "")
    assert "round trip: identical" in out


def test_evaluate_without_a_text_says_that_imported_weights_have_none(capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(Path("gpt2"))
    run(capsys, "import", "gpt2")
    code, out, err = run(capsys, "evaluate")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--eval-file" in err


def test_a_resume_of_imported_weights_points_to_init_from(capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(Path("gpt2"))
    run(capsys, "import", "gpt2")
    code, out, err = run(capsys, "--train-only", "--resume", "models/gpt2.safetensors")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "weights only" in err
    assert "add --init-from=models/gpt2.safetensors" in err
    assert [path.name for path in Path("models").iterdir()] == ["gpt2.safetensors"]


def test_the_library_imports_and_loads(tmp_path: Path) -> None:
    tensors = write_folder(Path("gpt2"))
    path = gpt_core.import_model("gpt2", "own/model.safetensors")
    assert path == Path("own/model.safetensors")
    model = gpt_core.load(path)
    assert np.array_equal(model.parameters["wte.weight"], tensors[WTE])
    assert len(model.generate("It was", max_tokens=4, seed=1)) > 0


def test_the_default_name_is_not_one_of_the_checkpoints_of_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("best_model", "epoch_001"):
        write_folder(Path(name))
        assert run(capsys, "import", name)[0] == 0
        assert Path("models", f"imported_{name}.safetensors").exists()


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_the_default_name_of_a_model_in_the_cache_of_the_hub_is_that_of_the_model(file: str) -> None:
    snapshot = Path("models--me--tiny-gpt2/snapshots/0123abcd")
    write_folder(snapshot)
    (Path("models--me--tiny-gpt2") / "blobs").mkdir()
    link_to_digest(snapshot / "model.safetensors", snapshot.parents[1] / "blobs/89ef")
    assert import_checkpoint(snapshot / file).path == Path("models/tiny-gpt2.safetensors")


def test_the_default_name_of_a_link_is_that_of_the_link() -> None:
    export_model(samples.model("pieces"), "gguf", Path("tiny.gguf"))
    link_to_digest(Path("tiny.gguf"), Path("89ef"))
    assert import_checkpoint(Path("tiny.gguf")).path == Path("models/tiny.safetensors")


def link_to_digest(path: Path, target: Path) -> None:
    """Move a file, and put a link in its place, as in the cache of the hub."""
    path.rename(target)
    path.symlink_to(target.absolute())


# what is refused


def untied() -> dict[str, np.ndarray]:
    tensors = tensors_of(SHAPE)
    return {**tensors, HEAD: tensors[WTE] + np.float32(1)}


def changed(**keys: object) -> Callable[[Path], None]:
    """Return a change of `config.json`."""

    def change(folder: Path) -> None:
        for key, value in keys.items():
            change_json(folder / "config.json", key, to=value)

    return change


def without(name: str) -> Callable[[Path], None]:
    """Return a removal of a file."""
    return lambda folder: (folder / name).unlink()


def tensors(change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Callable[[Path], None]:
    """Return a change of the tensors."""
    return lambda folder: write_safetensors(folder / "model.safetensors", change(tensors_of(SHAPE)))


def tokenizer(*keys: str, to: object) -> Callable[[Path], None]:
    """Return a change of `tokenizer.json`."""
    return lambda folder: change_json(folder / "tokenizer.json", *keys, to=to)


def vocabulary(**config: object) -> Callable[[Path], None]:
    """Return a change to `vocab.json` and `merges.txt` with a `tokenizer_config.json`."""

    def change(folder: Path) -> None:
        shutil.rmtree(folder)
        write_folder(folder, tokenizer_json=False)
        write_json(folder / "tokenizer_config.json", config)

    return change


def cut(name: str, size: int) -> Callable[[Path], None]:
    """Return a truncation of a file by some bytes."""
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - size)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def not_finite(all_tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    all_tensors["transformer.h.1.mlp.c_fc.bias"][3] = np.inf
    return all_tensors


def template(begin: str, end: str = "") -> dict[str, object]:
    """Return a post-processor that adds tokens to each text."""
    parts = [{"SpecialToken": {"id": name, "type_id": 0}} for name in (begin, end) if name]
    single = [parts[0], {"Sequence": {"id": "A", "type_id": 0}}, *parts[1:]]
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": {}}


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "llama": (changed(model_type="llama"), 'model_type: got "llama", expected "gpt2" or "qwen3"'),
    "gpt_neox": (changed(model_type="gpt_neox"), 'model_type: got "gpt_neox"'),
    "no model type": (changed(model_type=""), 'model_type: got ""'),
    "relu": (changed(activation_function="relu"), 'activation_function: got "relu", expected "gelu_new"'),
    "exact gelu": (changed(activation_function="gelu"), 'activation_function: got "gelu"'),
    "another epsilon": (changed(layer_norm_epsilon=1e-6), "layer_norm_epsilon: got 1e-6, expected 0.00001"),
    "no head of its own": (changed(tie_word_embeddings=False), "lm_head.weight is missing: config.json and the"),
    "unscaled": (changed(scale_attn_weights=False), "scale_attn_weights: got false"),
    "scaled by layer": (changed(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
    "cross attention": (changed(add_cross_attention=True), "add_cross_attention"),
    "heads that do not divide": (changed(n_head=3), "num_heads: got 3, expected a divisor of d_model"),
    "no layers": (changed(n_layer=0), "the model is not supported: layers: got 0, expected a whole number of"),
    "vast": (changed(n_embd=1 << 40), "the model is not supported: d_model: got 1099511627776, expected a whole"),
    "text for a number": (
        changed(n_embd="16"),
        "config.json is not valid: Expected `int`, got `str` - at `$.n_embd`; save or download it again",
    ),
    "config of another width": (changed(n_embd=32, n_inner=64), "got shape (400, 16), expected (400, 32)"),
    "config of more layers": (changed(n_layer=3), "12 tensors are missing, the first h.2.ln_1.weight: config"),
    "config of fewer layers": (changed(n_layer=1), "unexpected tensor h.1."),
    "config of a smaller vocabulary": (changed(vocab_size=399), "has 400 tokens, but the embedding has 399 rows"),
    "config of a larger vocabulary": (changed(vocab_size=401), "wte.weight: got shape (400, 16), expected (401, 16)"),
    "no config": (without("config.json"), "has no config.json"),
    "a config that is cut": (
        lambda f: (f / "config.json").write_text("{"),
        "not valid: Input data was truncated; save or",
    ),
    "a config that is no JSON": (
        lambda f: (f / "config.json").write_text("{a"),
        "not valid: JSON is malformed: object keys",
    ),
    "a config that is not UTF-8": (
        lambda f: (f / "config.json").write_bytes(b'{"a": 1, "model_type": "\xff"}'),
        "config.json is not valid: ",
    ),
    "a config that is nested": (
        lambda f: (f / "config.json").write_text('{"a":' + "[" * 10**5),
        "maximum recursion depth",
    ),
    "a list for a config": (
        lambda f: (f / "config.json").write_text("[]"),
        "not valid: Expected `object`, got `array`; save",
    ),
    "no weights": (without("model.safetensors"), "has no weights: expected model.safetensors"),
    "no tokenizer": (without("tokenizer.json"), "has no tokenizer"),
    "pickled": (pickled, "safe_serialization=True"),
    "a missing tensor": (
        tensors(lambda t: {name: array for name, array in t.items() if "ln_f.bias" not in name}),
        "ln_f.bias is missing",
    ),
    "a wrong shape": (tensors(lambda t: {**t, WTE: t[WTE][:-1]}), "wte.weight: got shape (399, 16)"),
    "transposed": (
        tensors(lambda t: {**t, "transformer.h.0.mlp.c_fc.weight": t["transformer.h.0.mlp.c_fc.weight"].T.copy()}),
        "h.0.mlp.c_fc.weight: got shape (64, 16), expected (16, 64)",
    ),
    "a head of its own": (
        lambda f: write_safetensors(f / "model.safetensors", untied()),
        "lm_head.weight differs from wte.weight, but config.json says that they are one matrix",
    ),
    "another head": (
        tensors(lambda t: {**t, "score.weight": np.ones((2, 16), np.float32)}),
        "unexpected tensor score.weight",
    ),
    "the same tensor twice": (tensors(lambda t: {**t, "wte.weight": t[WTE]}), "occurs twice"),
    "another type": (tensors(lambda t: {**t, WTE: t[WTE].astype(np.float64)}), "wte.weight: got F64, expected F32"),
    "a type of 8 bits": (
        tensors(lambda t: {**t, WTE: t[WTE].astype(np.uint8)}),
        "model.safetensors: wte.weight: got F8_E4M3, expected F32",
    ),
    "not finite": (tensors(not_finite), "h.1.mlp.c_fc.bias holds values that are not finite"),
    "truncated": (cut("model.safetensors", 1), "is damaged: got"),
    "a truncated header": (lambda f: os.truncate(f / "model.safetensors", 100), "is damaged"),
    "empty": (lambda f: os.truncate(f / "model.safetensors", 0), "is damaged"),
    "a Git LFS pointer": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "run `git lfs pull`",
    ),
    "WordPiece": (
        tokenizer("model", "type", to="WordPiece"),
        "got the model WordPiece, not as an export of this program",
    ),
    "a normalizer": (tokenizer("normalizer", to={"type": "NFC"}), "a normalizer"),
    "another pre-tokenizer": (tokenizer("pre_tokenizer", "type", to="Metaspace"), "the pre-tokenizer Metaspace"),
    "a prefix space": (tokenizer("pre_tokenizer", "add_prefix_space", to=True), "add_prefix_space"),
    "a prefix space in the config": (
        lambda f: write_json(f / "tokenizer_config.json", {"add_prefix_space": True}),
        "tokenizer_config.json is not supported: got add_prefix_space",
    ),
    "a prefix space beside a vocabulary": (
        vocabulary(add_prefix_space=True),
        "tokenizer_config.json is not supported: got add_prefix_space",
    ),
    "an end of each text beside a vocabulary": (
        vocabulary(add_eos_token=True),
        "tokenizer_config.json is not supported: got add_eos_token, which ends each text",
    ),
    "an added token that is not special": (
        lambda f: (vocabulary(added_tokens_decoder={"398": {"content": "<a>"}})(f), add_token(f, "<a>")),
        "added_tokens.json is not supported: got the added token '<a>', which is not special",
    ),
    "a post-processor of another kind": (
        tokenizer("post_processor", to={"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}),
        "a post-processor (RobertaProcessing) that adds more than one token before each text, or any after",
    ),
    "an end after each text": (
        tokenizer("post_processor", to=template(END_OF_TEXT, end=END_OF_TEXT)),
        "a post-processor (TemplateProcessing) that adds more than one token before each text, or any after",
    ),
    "a beginning that is no token": (
        tokenizer("post_processor", to=template("<s>")),
        "the post-processor adds '<s>', which is no token",
    ),
    "byte fallback": (tokenizer("model", "byte_fallback", to=True), "byte_fallback"),
    "an unknown merge": (tokenizer("model", "merges", to=[["Ġ", "日本"]]), "invalid merge 'Ġ 日本'"),
    "a merge of one token": (tokenizer("model", "merges", to=["Ġ"]), "invalid merge: got 'Ġ'"),
    "not byte-level": (tokenizer("model", "vocab", to={"日": 0}), "no token has the id 1; expected one for each"),
    "a tokenizer that is cut": (cut("tokenizer.json", 1), "tokenizer.json is not valid: Input data was truncated"),
    "a tokenizer without a model": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        "missing required field `model`",
    ),
    "an id that is text": (
        tokenizer("model", "vocab", to={"a": "b"}),
        "not valid: Expected `int`, got `str` - at `$.model.vocab[...]`; save or download it again",
    ),
    "a merge that is a number": (
        tokenizer("model", "merges", to=[1]),
        "not valid: Expected `str | array`, got `int` - at `$.model.merges[0]`; save",
    ),
}


@pytest.mark.parametrize("in_sequence", [False, True])
def test_the_token_that_a_post_processor_puts_first_begins_each_text(tmp_path: Path, in_sequence: bool) -> None:
    write_folder(tmp_path / "gpt2")
    step = template(END_OF_TEXT)
    if in_sequence:
        step = {"type": "Sequence", "processors": [{"type": "ByteLevel", "trim_offsets": True}, step]}
    plain = imported(tmp_path / "gpt2").tokenizer
    tokenizer("post_processor", to=step)(tmp_path / "gpt2")
    found = imported(tmp_path / "gpt2").tokenizer
    assert (plain.adds_bos, found.adds_bos) == (False, True)
    ids, _ = found.encode_documents(b"It was.", np.array([7], np.int64))
    assert ids.tolist() == [found.BOS, *plain.encode(b"It was."), found.EOS]
    assert tokenizer_json(found)["post_processor"]["single"] == template(END_OF_TEXT)["single"]


def test_add_bos_token_beside_a_vocabulary_puts_the_token_before_each_text(tmp_path: Path) -> None:
    write_folder(tmp_path / "gpt2", tokenizer_json=False)
    for config, adds_bos in (({"add_bos_token": False}, False), ({"add_bos_token": True}, True)):
        write_json(tmp_path / "gpt2" / "tokenizer_config.json", config)
        found = imported(tmp_path / "gpt2").tokenizer
        assert (found.adds_bos, found.BOS) == (adds_bos, byte_pairs().EOS)


@pytest.mark.parametrize(
    ("file", "contents"),
    [
        ("tokenizer_config.json", {"bos_token": "<a>"}),
        ("tokenizer_config.json", {"pad_token": {"content": "<a>", "lstrip": False}}),
        ("tokenizer_config.json", {"additional_special_tokens": ["<b>", "<a>"]}),
        ("tokenizer_config.json", {"extra_special_tokens": {"image_token": "<a>"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"398": {"content": "<a>", "special": True}}}),
        ("special_tokens_map.json", {"additional_special_tokens": [{"content": "<a>"}]}),
    ],
)
def test_an_added_token_that_a_file_names_as_special_has_no_bytes(
    file: str, contents: dict[str, object], tmp_path: Path
) -> None:
    write_folder(tmp_path / "gpt2", tokenizer_json=False)
    token = add_token(tmp_path / "gpt2", "<a>")
    write_json(tmp_path / "gpt2" / file, contents)
    found = imported(tmp_path / "gpt2").tokenizer
    assert (found.special[token], found.token_bytes(token)) == ("<a>", b"")


def test_the_end_of_text_may_be_an_added_token(tmp_path: Path) -> None:
    write_folder(tmp_path / "gpt2", tokenizer_json=False)
    ids = json.loads((tmp_path / "gpt2" / "vocab.json").read_text(encoding="utf-8"))
    write_json(tmp_path / "gpt2" / "added_tokens.json", {END_OF_TEXT: ids.pop(END_OF_TEXT)})
    write_json(tmp_path / "gpt2" / "vocab.json", ids)
    assert imported(tmp_path / "gpt2").tokenizer.EOS == byte_pairs().EOS


def test_settings_that_are_null_and_steps_that_add_nothing_are_none(tmp_path: Path) -> None:
    write_folder(tmp_path / "gpt2")
    nothing = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}]}
    steps = [{"type": "ByteLevel", "processors": None}, template(END_OF_TEXT), nothing]
    tokenizer("post_processor", to={"type": "Sequence", "processors": steps})(tmp_path / "gpt2")
    write_json(tmp_path / "gpt2/tokenizer_config.json", {"added_tokens_decoder": None})
    assert imported(tmp_path / "gpt2").tokenizer.adds_bos


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Folder of a model, in a working directory with nothing else."""
    write_folder(tmp_path / "gpt2")
    yield tmp_path / "gpt2"
    assert [path.name for path in tmp_path.iterdir()] == ["gpt2"], "something was written"


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_folder_is_refused_in_one_line(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, expected = FAULTS[name]
    change(folder)
    code, out, err = run(capsys, "import", "gpt2")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert expected in err
    assert "UTF-8" not in name or "utf-8" in err.lower()
    assert len(err) < 400


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "", "missing.safetensors"])
def test_a_shard_outside_the_folder_or_missing_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "gpt2", shards=2)
    change_json(tmp_path / "gpt2/model.safetensors.index.json", "weight_map", WTE, to=name)
    code, out, err = run(capsys, "import", "gpt2")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["gpt2"]


def test_a_truncated_shard_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "gpt2", shards=2)
    cut("model-00002-of-00002.safetensors", 5)(tmp_path / "gpt2")
    code, out, err = run(capsys, "import", "gpt2")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "model-00002-of-00002.safetensors is damaged" in err


def test_an_output_that_exists_or_has_another_suffix_is_refused_and_unchanged(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(b"mine")
    for output, expected in (("own.safetensors", "exists already"), ("own.bin", "ends in .safetensors")):
        code, out, err = run(capsys, "import", "gpt2", "--output", output)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert expected in err
    assert own.read_bytes() == b"mine"
    own.unlink()


def test_a_missing_folder_of_the_output_is_created_and_removed_again_if_the_import_fails(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gpt2" / "file").write_text("mine")
    code, out, err = run(capsys, "import", "gpt2", "--output", "gpt2/file/own.safetensors")
    refused = "gpt-tui: gpt2/file/own.safetensors was not written: Not a directory; choose another path\n"
    assert (code, out, err) == (2, "", refused)
    assert run(capsys, "import", "gpt2", "--output", "gpt2/new/folder/own.safetensors")[0] == 0
    assert (tmp_path / "gpt2/new/folder/own.safetensors").is_file()
    tensors(not_finite)(folder)
    assert run(capsys, "import", "gpt2", "--output", "gpt2/other/own.safetensors")[0] == 2
    assert not (tmp_path / "gpt2/other").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pytorch_model.bin", "safe_serialization=True"),
        ("model.pt", "safe_serialization=True"),
        ("model.gob", "Go project"),
        ("model.safetensors", "name the folder"),
        ("notes.txt", "is not a model that can be imported"),
    ],
)
def test_a_file_that_is_no_model_is_refused_with_the_way_on(
    name: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02}q\x00.")
    code, out, err = run(capsys, "import", name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert expected in err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_missing_source_and_a_checkpoint_of_this_program_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "import", "nowhere")
    assert code == 2
    assert "nowhere does not exist" in err
    run(capsys, "import", "gpt2")
    code, _, err = run(capsys, "import", "models/gpt2.safetensors")
    assert code == 2
    assert "is a checkpoint of this program already" in err
    shutil.rmtree("models")


def test_without_the_package_the_line_names_the_extra(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    code, out, err = run(capsys, "import", "gpt2")
    assert (code, out) == (1, "")
    assert err == "gpt-tui: tokenizers is not installed; run `pip install '.[bpe]'` in the clone of gpt-tui\n"


def test_a_weight_that_changes_while_it_is_read_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def report(activity: str, share: float) -> None:
        if share > 0.5:
            os.truncate(folder / "model.safetensors", 2000)

    with pytest.raises(GptError, match="truncated while it was read"):
        import_checkpoint(folder, progress=report)


def test_the_details_of_an_imported_model_claim_no_run(tmp_path: Path) -> None:
    write_folder(tmp_path / "gpt2")
    info = import_checkpoint(tmp_path / "gpt2")
    rows = dict(presenter.imported_rows(info))
    assert rows["trained"] == "not here: imported weights"
    assert rows.keys() == {"trained", "model", "tokenizer"}
    assert "400 tokens" in rows["tokenizer"]
    shown = presenter.details(
        CheckpointFile(Stamp(info.path, info.size, 0), info.path.name, info), presenter.Verification("valid"), 0.0
    )
    assert ("trained", rows["trained"]) in shown
