"""Exports without the programs that read them: what is written, refused, and left behind."""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_core import files
from gpt_core.api import Model, load
from gpt_core.bridges import gguf_export, gguf_model, hf_export, self_check, web_page
from gpt_core.bridges.export import FORMATS, export_model
from gpt_core.bridges.hf_tokenizer import LONG_WORD, JsonTokenizer, boundary_patterns, long_word_pattern, tokenizer_json
from gpt_core.bridges.model_card import model_card
from gpt_core.bridges.self_check import check_weights
from gpt_core.config.settings import ModelShape
from gpt_core.errors import ConfigError, ExportError, GptError, SaveError
from gpt_core.formats import gguf, safetensors
from gpt_core.model.parameters import initial_parameters
from gpt_core.tokenizers.pieces import PieceTokenizer
from tests.bridges.samples import model, needs_tokenizers, texts
from tests.core.training_samples import LATEST, finished_trainer, tiny_settings

FORMAT_NAMES = ("hf", "gguf", "html")


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("format_name", "tokenizer"),
    [
        *((name, "pieces") for name in FORMAT_NAMES), ("hf", "ascii"), ("html", "ascii"),
        *(pytest.param(name, "bpe", marks=needs_tokenizers) for name in ("hf", "gguf")),
    ],
)  # fmt: skip
def test_an_export_in_float32_reads_back_as_the_same_model(format_name: str, tokenizer: str, tmp_path: Path) -> None:
    result = export_model(model(tokenizer), format_name, tmp_path / "out")
    assert result.check.largest_difference == 0.0
    assert result.check.ids > 500
    assert result.notes == ()
    files_of = list((tmp_path / "out").iterdir()) if format_name == "hf" else [tmp_path / "out"]
    assert result.bytes == sum(path.stat().st_size for path in files_of)
    assert contents(tmp_path)[0] == "out"
    assert not [name for name in contents(tmp_path) if ".new" in name]


@pytest.mark.parametrize(("number_type", "bits"), [("f16", 16), ("bf16", 16), ("q8_0", 8.5)])
def test_a_gguf_file_of_fewer_bits_is_smaller_and_close(number_type: str, bits: float, tmp_path: Path) -> None:
    full = export_model(model(), "gguf", tmp_path / "full")
    result = export_model(model(), "gguf", tmp_path / "small", number_type=number_type)
    matrices = sum(
        tensor.size for name, tensor in model().parameters.tensors.items() if tensor.ndim == 2 and "wpe" not in name
    )
    saved = matrices * (32 - bits) / 8
    assert full.bytes - result.bytes == pytest.approx(saved, rel=0.01)
    assert 0.0 < result.check.largest_difference < 2.0


def test_widths_that_are_no_multiple_of_32_fall_back_to_float16_with_a_note(tmp_path: Path) -> None:
    result = export_model(model(hidden_size=100), "gguf", tmp_path / "out", number_type="q8_0")
    assert result.notes == ("2 matrices are f16, because their width is no multiple of 32",)
    with files.open_regular(tmp_path / "out") as file:
        tensors = gguf.read_header(file).tensors
    assert tensors["blk.0.ffn_down.weight"].number_type == "f16"
    assert tensors["blk.0.ffn_up.weight"].number_type == "q8_0"
    assert tensors["position_embd.weight"].number_type == "f32"


def test_the_folder_holds_no_optimizer_state_and_no_path(tmp_path: Path) -> None:
    Model(model()).export("hf", tmp_path / "out")
    assert contents(tmp_path / "out") == [
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    with files.open_regular(tmp_path / "out" / "model.safetensors") as file:
        head = safetensors.read_header(file)
    assert json.loads(head[8:])["__metadata__"] == {"format": "pt"}
    assert {f"transformer.{name}" for name in model().parameters.tensors} == safetensors.decode_layout(head).keys()
    written = "".join(
        path.read_text(encoding="utf-8") for path in (tmp_path / "out").glob("*.*") if path.suffix != ".safetensors"
    )
    assert "/home/me" not in written


def test_the_configuration_names_the_context_as_transformers_and_llama_cpp_read_it(tmp_path: Path) -> None:
    Model(model()).export("hf", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["n_positions"] == config["n_ctx"] == model().settings.seq_len


def test_the_model_card_has_the_figures_of_the_run_and_no_license(tmp_path: Path) -> None:
    Model(model()).export("hf", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for figure in ("1,200", "2.5000 nats per token", "40.00%", "1.9000", "My \\| text.txt", "ab" * 32):
        assert figure in card
    assert "1 layer, width 64, 1 head," in model_card(model(layers=1, d_model=64, num_heads=1))
    assert "tokenizer('Ich weiß', return_tensors=" in model_card(model(sample_prompt="Ich weiß"))
    assert "tokenizer('PROMPT', return_tensors=" in model_card(model(sample_prompt=""))
    header = card.split("---")[1]
    assert not [line for line in header.splitlines() if line.startswith("license")]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"seq_len": 64}, {"max_length": 64}),
        ({"seq_len": 256}, {"max_length": 256}),
        ({"seq_len": 256, "max_tokens": 128}, {"max_new_tokens": 128}),
        ({"seq_len": 256, "max_tokens": 128, "sample_prompt": " the" * 150}, {"max_length": 256}),
        ({"seq_len": 400}, {"max_new_tokens": 200}),
    ],
)
def test_the_generation_config_leaves_room_for_a_prompt_in_the_context(
    settings: dict[str, Any], expected: dict[str, int]
) -> None:
    config = hf_export.generation_config(model(**settings))
    assert {key: config[key] for key in ("max_length", "max_new_tokens") if key in config} == expected


def test_the_example_of_the_model_card_has_no_prompt_that_fills_the_context() -> None:
    assert "tokenizer('PROMPT', return_tensors=" in model_card(model(sample_prompt="It was the best of times. " * 9))


def test_the_model_card_has_every_setting_of_the_optimizer() -> None:
    card = model_card(model(optimizer="muon", muon_beta=0.9, dropout=0.1))
    for row in ("| `optimizer` | muon |", "| `muon_beta` | 0.9 |", "| `dropout` | 0.1 |", "| `ema` | 0.0 |"):
        assert row in card


def test_the_model_card_of_weights_that_were_not_trained_here_names_no_run(tmp_path: Path) -> None:
    Model(replace(model(), step=0, scores=None)).export("hf", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "none with gpt-tui" in card
    assert not [words for words in ("Training settings", "steps", "trained on", "text.txt") if words in card]


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
@pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
def test_a_path_that_exists_is_refused_and_unchanged(kind: str, format_name: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ExportError, match=r"out exists already; remove it, or export to another path") as refused:
        export_model(model(), format_name, path)
    assert refused.value.exit_code == 2
    assert contents(tmp_path) == ["out"]
    assert kind != "file" or path.read_text() == "mine"


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
def test_a_path_that_appears_during_the_export_is_not_replaced(
    format_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    check = self_check.check_export

    def interfered(*arguments: object) -> object:
        path.write_text("mine")
        return check(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("gpt_core.bridges.export.check_export", interfered)
    with pytest.raises(ExportError, match="exists already"):
        export_model(model(), format_name, path)
    assert contents(tmp_path) == ["out"]
    assert path.read_text() == "mine"


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
def test_a_missing_folder_is_created_and_removed_again_if_the_export_fails(
    format_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "folder" / "out"

    def interrupted(*_: object) -> None:
        assert path.parent.is_dir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gpt_core.bridges.export.check_export", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_model(model(), format_name, path)
    assert contents(tmp_path) == []
    assert export_model(model(), format_name, path).path == path
    assert path.exists()


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
def test_a_path_that_cannot_be_created_is_refused_in_one_line(format_name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="expected the name of a new file"):
        export_model(model(), format_name, Path("/"))
    (tmp_path / "a file").write_text("mine")
    with pytest.raises(ExportError, match=r"was not written: Not a directory; choose another path"):
        export_model(model(), format_name, tmp_path / "a file" / "out")
    assert contents(tmp_path) == ["a file"]


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
@pytest.mark.parametrize("after", [0, 20_000, 200_000])
def test_a_full_disk_leaves_nothing(
    after: int, format_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = os.write, 0

    def limited(descriptor: int, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", limited)
    with pytest.raises(SaveError, match=r"was not written: No space left on device; free some disk space"):
        export_model(model(), format_name, tmp_path / "out")
    assert contents(tmp_path) == []


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
def test_an_interrupted_export_leaves_nothing(format_name: str, tmp_path: Path) -> None:
    def interrupt(_activity: str, fraction: float) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_model(model(), format_name, tmp_path / "out", progress=interrupt)
    assert contents(tmp_path) == []


@pytest.mark.parametrize(("format_name", "module"), [("hf", hf_export), ("gguf", gguf_export), ("html", web_page)])
@pytest.mark.parametrize("damage", ["weight", "ids"])
def test_the_self_check_finds_a_wrong_weight_and_wrong_ids(
    damage: str, format_name: str, module: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_back = module.read_back  # type: ignore[attr-defined]

    def damaged(path: Path) -> self_check.Exported:
        exported = read_back(path)
        if damage == "ids":
            return exported._replace(encode=lambda data: [*exported.encode(data)[:-1], 5])
        exported.parameters["h.1.mlp.c_fc.bias"][3] += 1e-3
        return exported

    monkeypatch.setattr(module, "read_back", damaged)
    expected = {"ids": "token ids of the probe differ", "weight": r"h.1.mlp.c_fc.bias differs by 0.001"}[damage]
    with pytest.raises(GptError, match=expected):
        export_model(model(), format_name, tmp_path / "out")
    assert contents(tmp_path) == []


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="'ascii' cannot be exported to gguf; train with pieces or bpe"):
        export_model(model("ascii"), "gguf", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"type: got 'q8_0', expected f32 for hf"):
        export_model(model(), "hf", tmp_path / "out", number_type="q8_0")
    with pytest.raises(ConfigError, match=r"type: got 'q4_k', expected f32, f16, bf16 or q8_0 for gguf"):
        export_model(model(), "gguf", tmp_path / "out", number_type="q4_k")
    with pytest.raises(ConfigError, match="export format: got 'onnx', expected one of hf, gguf, html"):
        export_model(model(), "onnx", tmp_path / "out")
    with pytest.raises(ConfigError, match="export format: got a list, expected one of hf, gguf, html"):
        export_model(model(), ["hf"], tmp_path / "out")  # type: ignore[arg-type]
    huge = replace(model(), parameters=model().parameters.copy())
    huge.parameters["h.0.attn.c_attn.weight"][0, 0] = 1e5
    refusal = r"c_attn.weight: got a weight of magnitude 100000, expected at most 65,504 for f16; use type f32 or bf16"
    with pytest.raises(ExportError, match=refusal):
        export_model(huge, "gguf", tmp_path / "out", number_type="f16")
    huge.parameters["h.0.attn.c_attn.weight"][0, 0] = -1e7
    with pytest.raises(ExportError, match=r"got a weight of magnitude 1e\+07, expected at most 8,319,008 for q8_0"):
        export_model(huge, "gguf", tmp_path / "out", number_type="q8_0")
    assert contents(tmp_path) == []


def test_q8_0_holds_weights_up_to_127_times_the_largest_float16(tmp_path: Path) -> None:
    huge = replace(model(), parameters=model().parameters.copy())
    huge.parameters["h.0.attn.c_attn.weight"][0, 0] = 127 * 65504.0
    export_model(huge, "gguf", tmp_path / "out", number_type="q8_0")  # checks itself
    with files.open_regular(tmp_path / "out") as file:
        assert gguf.read_header(file).tensors["blk.0.attn_qkv.weight"].number_type == "q8_0"


@pytest.mark.parametrize("format_name", FORMATS)
def test_progress_rises_to_the_self_check(format_name: str, tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    export_model(model(), format_name, tmp_path / "out", progress=lambda *call: seen.append(call))
    writing = [fraction for activity, fraction in seen if activity.startswith("writing")]
    assert len(writing) > 3
    assert writing == sorted(writing)
    assert seen[-1][0] == "checking out"


@pytest.mark.parametrize("tokenizer", ["pieces", "ascii"])
@pytest.mark.parametrize("name", texts())
def test_the_written_tokenizer_gives_the_same_ids(name: str, tokenizer: str) -> None:
    own = model(tokenizer).tokenizer
    written = JsonTokenizer(json.dumps(tokenizer_json(own)).encode())
    assert list(written.encode(texts()[name].encode())) == own.encode(texts()[name].encode()).tolist()


def test_a_text_is_split_only_where_no_piece_crosses() -> None:
    assert boundary_patterns([]) != boundary_patterns([b"a "]) != boundary_patterns([b"a ", b" a"])
    every = ["a ", " a", "a.", ".a", " .", ". "]
    assert boundary_patterns([piece.encode() for piece in every]) == []


def test_a_long_word_is_split_into_its_pieces() -> None:
    own = PieceTokenizer([b"abc", b"ab", "日本".encode(), "日本語學".encode(), "é".encode(), b"-]"], 300)
    pattern = re.compile(long_word_pattern(own.vocabulary[260:]))
    text = "abcabdab日本語日本語學é-]]\\" + "z" * LONG_WORD
    split = [part for part in re.split(f"({pattern.pattern})", text) if part]
    assert split == ["abc", "ab", "d", "ab", "日本", "語", "日本語學", "é", "-]", "]", "\\", "z", "z" * (LONG_WORD - 1)]
    assert [part for part in re.split(f"({pattern.pattern})", text[: LONG_WORD - 1]) if part] == [text[: LONG_WORD - 1]]


def test_token_texts_are_unique_printable_and_reversible() -> None:
    vocabulary = [b"", b"", b"", b"", *(bytes([byte]) for byte in range(256)), b"a\\n\n\r\t\\x41", "é学".encode()]
    written, types = gguf_model.token_texts(vocabulary, 270)
    assert len(set(written)) == 270
    assert all(text.isascii() and text.isprintable() for text in written)
    assert [gguf_model.unescaped(text) for text in written][4:262] == vocabulary[4:]
    assert types == [3] * 4 + [1] * 258 + [5] * 8


def test_each_tensor_has_a_name_of_its_own() -> None:
    names = [gguf_model.tensor_name(name) for name in model().parameters.tensors]
    assert len(set(names)) == len(names)
    assert {"token_embd.weight", "position_embd.weight", "output_norm.bias", "blk.1.attn_output.weight"} <= set(names)


def test_linear_weights_are_transposed() -> None:
    parameters = model().parameters
    views = {place.parameter: place.view(parameters[place.parameter]) for place in gguf_model.places(parameters.shape)}
    for name in ("h.0.attn.c_attn.weight", "h.1.mlp.c_proj.weight"):
        assert np.array_equal(views[name], parameters[name].T)
    assert views["wte.weight"] is parameters["wte.weight"]


@pytest.mark.parametrize("number_type", ["f16", "bf16", "q8_0"])
def test_the_self_check_accepts_the_largest_rounding_error_of_a_type_and_no_larger_one(number_type: str) -> None:
    """The scales of 4,096 blocks of Q8_0 are rounded, too; the second largest value is halfway between two integers."""
    shape = ModelShape(d_model=32, hidden_size=64, vocab_size=4096, num_heads=1, seq_len=4, layers=1)
    weights = initial_parameters(shape, 0)
    rows = weights["wte.weight"]
    scales = np.linspace(1.0, 2.0, len(rows), dtype=np.float32)
    rows[:, 0], rows[:, 1] = 127 * scales, np.float32(126.5) * scales
    weights["h.0.mlp.c_fc.weight"][:] *= np.float32(1e-3)  # scales below the normal range of float16
    stored = weights.copy()
    for name in ("wte.weight", "h.0.mlp.c_fc.weight"):
        data = b"".join(bytes(part) for part in gguf.encode_values(weights[name], number_type))
        stored[name][:] = gguf._DECODERS[number_type](bytearray(data)).reshape(weights[name].shape)
    check_weights(weights, stored, number_type)
    row = np.abs(stored["wte.weight"] - rows).max(axis=1).argmax()
    stored["wte.weight"][row] += 2 * (stored["wte.weight"][row] - rows[row])
    with pytest.raises(GptError, match=r"wte\.weight differs by"):
        check_weights(weights, stored, number_type)


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
def test_a_model_trained_with_muon_dropout_and_an_average_is_an_ordinary_model(
    format_name: str, tmp_path: Path
) -> None:
    settings = tiny_settings(
        tmp_path, max_steps=3, optimizer="muon", dropout=0.2, ema=0.9, init_projections="zero", sample_tokens=0
    )
    trainer, _ = finished_trainer(settings)
    bundle = load(tmp_path / LATEST).bundle
    result = export_model(bundle, format_name, tmp_path / "out")
    assert result.check.largest_difference == 0.0
    assert bundle.parameters.flat.tobytes() == trainer.run.evaluated.flat.tobytes()
    assert bundle.parameters.flat.tobytes() != trainer.parameters.flat.tobytes()
