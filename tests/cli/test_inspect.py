"""`gpt-tui inspect`: the views of a model and a text, in colors, plain and as JSON."""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.cells import cell_len

import gpt_core
from gpt_core import interpret
from gpt_core.errors import ConfigError
from gpt_core.tokenizers.pieces import AsciiTokenizer
from gpt_tui.cli.inspect import json_of
from gpt_tui.cli.main import INSPECT_VIEWS
from gpt_tui.headless.inside.page import page, png
from gpt_tui.headless.inside.terminal import table_lines
from gpt_tui.session.inside.subject import subject_of
from gpt_tui.session.inside.view import Cell, Column, Table, View
from gpt_tui.session.inside.views import VIEWS, ViewOptions
from gpt_tui.shared.ramp import shade
from tests.bridges.samples import model as bridge_model
from tests.bridges.samples import needs_tokenizers
from tests.cli.conftest import Result
from tests.program import Terminal
from tests.tui.inside_samples import small_subject

TEXT = "The cat sat"
ANSI = re.compile(r"\x1b\[[0-9;]*m")
MODEL = Path("models/best_model.safetensors")
LATEST = "ckpt_latest.safetensors"


@pytest.fixture
def model(trained: Path) -> gpt_core.Model:
    return gpt_core.load(trained / MODEL)


@pytest.fixture
def data(program: Callable[..., Result]) -> Callable[..., dict[str, Any]]:
    """Run the command with `--json` and return what it printed."""

    def run(view: str, *options: str, text: str = TEXT) -> dict[str, Any]:
        done = program("inspect", text, "--view", view, "--json", *options)
        assert (done.returncode, done.stderr) == (0, "")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


def ids_of(model: gpt_core.Model, text: str = TEXT) -> np.ndarray:
    return np.array([[model.tokenizer.BOS, *model.tokenizer.encode(text.encode())]], np.int32)


def test_the_command_line_and_the_views_have_the_same_names() -> None:
    assert tuple(VIEWS) == tuple(INSPECT_VIEWS)


@pytest.mark.parametrize("view", INSPECT_VIEWS)
def test_every_view_prints_plain_text_to_a_pipe_and_json_with_the_model(
    view: str, program: Callable[..., Result], data: Callable[..., dict[str, Any]]
) -> None:
    plain = program("inspect", TEXT, "--view", view)
    assert (plain.returncode, plain.stderr) == (0, "")
    assert plain.stdout.startswith(f"{MODEL}, step 6\n{view}")
    assert "\x1b" not in plain.stdout
    assert max(len(line) for line in plain.stdout.splitlines()[:3]) <= 110
    found = data(view)
    assert (found["model"], found["step"], found["view"]) == (str(MODEL), 6, view)


def test_a_long_token_is_cut_on_a_terminal_only() -> None:
    token = "·" * 60
    table = Table([Column("token", is_label=True), Column("bits", True)], [[Cell(token), Cell("1.00")]])
    assert [line.plain for line in table_lines(table, None, True)] == [f"{'token':<60}  bits", f"{token}  1.00"]
    assert [line.plain for line in table_lines(table, 40, True)][1] == f"{token[:23]}…  1.00"


def test_tokens_are_printed_with_their_surprise_rank_and_alternatives(
    program: Callable[..., Result], data: Callable[..., dict[str, Any]], model: gpt_core.Model
) -> None:
    found, losses = data("tokens"), model.token_losses(TEXT)
    assert [token["id"] for token in found["tokens"]] == ids_of(model)[0].tolist()
    assert "bits" not in found["tokens"][0]  # nothing predicts <bos>
    assert [token["bits"] for token in found["tokens"][1:]] == pytest.approx(losses.losses / math.log(2), rel=1e-5)
    assert len(found["next"]["most_probable"]) == 8
    printed = program("inspect", TEXT).stdout
    assert "<bos>|" + "|".join(map(model.tokenizer.describe, losses.ids)) in printed
    mean = losses.losses.mean() / math.log(2)
    assert f"{len(losses.ids)} tokens, {mean:.2f} bits per token" in printed
    for token in found["tokens"][1:]:
        best = token["most_probable"][0]
        row = rf"^ +{token['position']}  {re.escape(token['text'])} +{token['bits']:.2f} +{token['rank']} .*"
        assert re.search(row + re.escape(f"  {best['text']} {best['probability']:.0%}"), printed, re.MULTILINE)
    assert re.search(rf"^ +{len(found['tokens'])}  \(next\) ", printed, re.MULTILINE)


def test_the_lens_ends_with_the_prediction_of_the_model(data: Callable[..., dict[str, Any]]) -> None:
    last = data("lens")["positions"][-1]
    assert list(last["places"]) == ["embedding", "h.0.resid_mid", "h.0.out"]
    expected = data("tokens")["next"]["most_probable"][:3]
    assert [token["id"] for token in last["places"]["h.0.out"]] == [token["id"] for token in expected]


def test_attention_of_all_heads_of_a_layer_and_of_one_head(
    program: Callable[..., Result], data: Callable[..., dict[str, Any]], model: gpt_core.Model
) -> None:
    P = interpret.attention(model.bundle.gpt(), ids_of(model))[0, 0]
    every = data("attention")["heads"]
    assert [(head["layer"], head["head"]) for head in every] == [(0, 0), (0, 1)]
    np.testing.assert_allclose([head["from_last"] for head in every], P[:, -1], atol=1e-6)
    assert "probabilities" not in every[0]
    np.testing.assert_allclose(
        [head["probabilities"] for head in data("attention", "--layer", "0")["heads"]], P, atol=1e-6
    )
    one = data("attention", "--layer", "0", "--head", "1")["heads"]
    np.testing.assert_allclose(one[0]["probabilities"], P[1], atol=1e-6)
    printed = program("inspect", TEXT, "--view", "attention", "--layer", "0", "--head", "1").stdout
    assert f"{P[1, 1, 0]:.0%}" in next(line for line in printed.splitlines() if line.startswith("       1"))


def test_heads_and_health_have_a_row_per_head_and_tensor(
    program: Callable[..., Result], data: Callable[..., dict[str, Any]], model: gpt_core.Model
) -> None:
    heads = data("heads")["heads"]
    assert [(head["layer"], head["head"]) for head in heads] == [(0, 0), (0, 1)]
    assert all(0 <= head[name] <= 1 for head in heads for name in ("previous_token", "first_token", "induction"))
    assert f"{heads[1]['induction']:.1%}" in program("inspect", TEXT, "--view", "heads").stdout
    health = data("health")
    assert [row["name"] for row in health["tensors"]] == list(model.parameters.tensors)
    assert all(row["gradient_norm"] > 0 for row in health["tensors"])
    assert len(health["dead_units"]) == 1


def test_ablation_is_sorted_by_the_change_of_loss(data: Callable[..., dict[str, Any]], model: gpt_core.Model) -> None:
    found = data("ablation")
    assert found["loss"] == pytest.approx(model.token_losses(TEXT).losses.mean(), rel=1e-5)
    assert sorted(part["part"] for part in found["parts"]) == ["h.0", "h.0.attn.head.0", "h.0.attn.head.1", "h.0.mlp"]
    changes = [part["change"] for part in found["parts"]]
    assert changes == sorted(changes, reverse=True)
    mean = data("ablation", "--mean")
    assert mean["ablation"] == "mean"
    assert [part["change"] for part in mean["parts"]] != changes


def test_neighbors_name_each_token_once(data: Callable[..., dict[str, Any]], model: gpt_core.Model) -> None:
    tokens = data("neighbors", text="at at at")["tokens"]
    assert [token["id"] for token in tokens] == list(dict.fromkeys(ids_of(model, "at at at")[0].tolist()))
    for token in tokens:
        assert len(token["neighbors"]) == 8
        assert token["id"] not in [near["id"] for near in token["neighbors"]]
        assert all(near["text"] not in ("<unused>", "<pad>", "<eos>") for near in token["neighbors"])


def test_attribution_is_of_the_most_probable_or_the_named_token(
    program: Callable[..., Result], data: Callable[..., dict[str, Any]], model: gpt_core.Model
) -> None:
    found = data("attribution")
    best = data("tokens")["next"]["most_probable"][0]
    assert found["next"]["id"] == best["id"]
    assert found["next"]["probability"] == pytest.approx(best["probability"], rel=1e-4)
    named = data("attribution", "--next", "hat")
    token = int(model.tokenizer.encode(b"hat")[0])
    assert named["next"]["id"] == token
    scores = interpret.attribution(model.bundle.gpt(), ids_of(model), np.array([token], np.int32))[0]
    assert [row["attribution"] for row in named["tokens"]] == pytest.approx(scores, rel=1e-4)
    printed = program("inspect", TEXT, "--view", "attribution", "--next", "hat").stdout
    assert all(f"{score:+.3f}" in printed for score in scores)


def test_a_text_longer_than_the_context_is_cut_with_one_line(program: Callable[..., Result]) -> None:
    text = "The cat sat on the mat. " * 20
    for options in ([], ["--json"]):
        run = program("inspect", text, *options)
        assert run.returncode == 0
        match = re.fullmatch(r"gpt-tui: the model reads only the first 16 of the text's (\d+) tokens\n", run.stderr)
        assert match
    found = json.loads(run.stdout)
    assert (found["read_tokens"], found["text_tokens"]) == (16, int(match[1]))


def test_the_text_is_read_from_standard_input(program: Callable[..., Result]) -> None:
    expected = program("inspect", TEXT)
    assert program("inspect", "-", input=f"{TEXT}\n") == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "TEXT: got an empty text, expected at least one character"),
        (["", "--view", "attention"], "TEXT: got an empty text, expected at least one character"),
        (["a", "--view", "attention", "--layer", "1"], "--layer: got 1, expected a whole number from 0 to 0"),
        (["a", "--view", "attention", "--layer", "-1"], "--layer: got '-1', expected a whole number from 0"),
        (["a", "--view", "attention", "--layer", "0", "--head", "2"], "--head: got 2, expected a whole number from 0"),
        (["a", "--view", "attention", "--head", "0"], "got --head without --layer, expected both for one head"),
        (["a", "--view", "attribution", "--next", ""], "--next: got no text, expected text that begins with"),
        (["a", "--mean"], "--mean has no effect on the view tokens; add --view ablation"),
        (["a", "--view", "lens", "--layer", "0"], "--layer has no effect on the view lens; add --view attention"),
        (["a", "--view", "neurons"], "argument --view: invalid choice: 'neurons'"),
        (["a", "--model", "nowhere.safetensors"], "nowhere.safetensors"),
        ([], "the following arguments are required: TEXT"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, program: Callable[..., Result]
) -> None:
    run = program("inspect", *arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("gpt-tui: ")
    assert message in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["\x1b[31mred\x07", "Käse 東京 \U0001f600", "a\nb\r\n\tc", "\u202eright", "a\x00b"])
def test_no_text_reaches_the_terminal_as_a_control_character(text: str, program: Callable[..., Result]) -> None:
    for view in ("tokens", "lens", "neighbors"):
        run = program("inspect", text, "--view", view)
        assert run.returncode == 0
        assert all(character == "\n" or character.isprintable() for character in run.stdout)


class Page(HTMLParser):
    """Names of the elements of a page, their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_holds_every_view_without_a_script_or_an_address(
    program: Callable[..., Result], tmp_path: Path, model: gpt_core.Model
) -> None:
    text = '<b>&lt; "cat"'
    run = program("inspect", text, "--html", str(tmp_path / "page.html"))
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == f"{tmp_path / 'page.html'}: {', '.join(INSPECT_VIEWS)}\n"
    written = (tmp_path / "page.html").read_text(encoding="utf-8")
    parsed = Page(written)
    assert parsed.open == []
    names = [name for name, _ in parsed.elements]
    assert names.count("section") == len(INSPECT_VIEWS)
    assert not {"script", "link", "b"} & set(names)
    assert not re.search(r"https?:|//[a-z]", written)
    addresses = [values["src"] or "" for name, values in parsed.elements if name == "img"]
    assert len(addresses) == 2  # the attention of the two heads
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    for loss in model.token_losses(text).losses:
        assert f"{loss / math.log(2):.2f}" in parsed.text
    assert "".join(map(model.tokenizer.describe, model.token_losses(text).ids)) in parsed.text
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_token_from_right_to_left_keeps_its_number_on_a_page() -> None:
    cells = [Cell("\u05d6\u05d4\u2423 98%  a< 2%"), Cell("\u0642\u0627\u0644@7 14%")]
    view = View("lens", [], cells, tables=[Table([Column("3 \u05d6\u05d4"), Column("a")], [cells])])
    written = "".join(page("m", [view]))
    assert Page(written).open == []
    shown = ["<bdi>\u05d6\u05d4\u2423</bdi> 98%  a&lt; 2%", "<bdi>\u0642\u0627\u0644</bdi>@7 14%"]
    for part in (*(f"<{name}>{text}</{name}>" for name in ("span", "td") for text in shown),
                 "<th>3 <bdi>\u05d6\u05d4</bdi></th>", ".text span { unicode-bidi: isolate;"):  # fmt: skip
        assert part in written


def test_a_page_of_one_view_holds_that_view(program: Callable[..., Result], tmp_path: Path) -> None:
    options = ("--view", "attention", "--layer", "0", "--head", "1")
    run = program("inspect", TEXT, *options, "--html", str(tmp_path / "new" / "page.html"))
    assert (run.returncode, run.stderr) == (0, "")
    parsed = Page((tmp_path / "new" / "page.html").read_text(encoding="utf-8"))
    assert [name for name, _ in parsed.elements].count("section") == 1
    assert "attention of layer 0, head 1" in parsed.text


def test_a_page_of_a_model_with_a_short_context_is_without_the_view_that_needs_a_longer_one(
    program: Callable[..., Result], tmp_path: Path
) -> None:
    sizes = {"d_model": 1, "hidden_size": 1, "vocab_size": 260, "num_heads": 1, "seq_len": 2, "layers": 1}
    (tmp_path / "text.en").write_text(f"{TEXT} on the mat.\n" * 40)
    settings = {**sizes, "batch_size": 1, "max_steps": 1, "hold_out": True, "models_dir": tmp_path}
    gpt_core.train(tmp_path / "text.en", **settings).result()
    options = ("inspect", TEXT, "--model", str(tmp_path / LATEST), "--html", str(tmp_path / "page.html"))
    run = program(*options)
    needed = "the view heads needs a model with a context of at least 4 tokens"
    assert run.returncode == 0
    assert f"gpt-tui: not in the page: {needed}\n" in run.stderr
    others = [name for name in INSPECT_VIEWS if name != "heads"]
    assert run.stdout == f"{tmp_path / 'page.html'}: {', '.join(others)}\n"
    parsed = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert [name for name, _ in parsed.elements].count("section") == len(others)
    one = program(*options[:-1], str(tmp_path / "heads.html"), "--view", "heads")
    assert (one.returncode, one.stderr) == (2, f"gpt-tui: {needed}\n")


def test_a_page_that_cannot_be_written_is_one_line_and_replaces_nothing(
    program: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "there.html").write_text("mine")
    for name, message in (
        ("there.html", r"there\.html exists already; name a new file"),
        ("there.html/page.html", "was not written: Not a directory; choose another path"),
        ("", "got '', expected a path"),
    ):
        run = program("inspect", TEXT, "--html", str(tmp_path / name) if name else "")
        assert (run.returncode, run.stdout) == (2, "")
        assert re.fullmatch(rf"gpt-tui: --html: .*{message}\n", run.stderr), run.stderr
    assert (tmp_path / "there.html").read_text() == "mine"
    both = program("inspect", TEXT, "--json", "--html", "page.html")
    assert (both.returncode, both.stderr) == (2, "gpt-tui: got --json and --html, expected one of them\n")


def test_a_picture_has_the_color_of_the_ramp_for_each_level() -> None:
    data = png(np.array([[1.0, 0.0, np.nan], [0.5, 2.0, 0.25]], np.float32))
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(data[at + 4 : at + 8] + body)
        chunks[data[at + 4 : at + 8]] = body
        at += length + 12
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (3, 2, 8, 3, 0, 0, 0)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(2, 4)[:, 1:]
    colors = [[chunks[b"PLTE"][3 * i : 3 * i + 3].hex() for i in row] for row in rows.tolist()]

    def color(level: float) -> str:
        found = shade(level, dark=False)
        return found.background[1:] if found else "ffffff"

    assert colors == [[color(1), "ffffff", "ffffff"], [color(0.5), color(1), color(0.25)]]


@pytest.mark.parametrize("view", INSPECT_VIEWS)
def test_weights_that_are_not_finite_are_shown_and_are_null_in_json(view: str, model: gpt_core.Model) -> None:
    broken = model.parameters.copy()
    broken.flat.fill(np.nan)
    bundle = replace(model.bundle, parameters=broken)
    subject = subject_of(bundle, TEXT)
    found = VIEWS[view](subject, ViewOptions(with_pictures=True))
    printed = msgspec.json.encode(json_of(bundle, subject, view, found))
    assert json.dumps(json.loads(printed), allow_nan=False)
    assert "</html>" in "".join(page("title", [found]))


@pytest.mark.parametrize("view", ["heads", "ablation"])
def test_views_that_compare_tokens_need_two_of_them(view: str, model: gpt_core.Model) -> None:
    with pytest.raises(ConfigError, match=f"TEXT: got 1 token, expected at least 2 for the view {view}"):
        VIEWS[view](subject_of(model.bundle, ""), ViewOptions())


def test_a_single_token_has_no_prediction(model: gpt_core.Model) -> None:
    assert "no token with a prediction" in VIEWS["tokens"](subject_of(model.bundle, ""), ViewOptions()).lines[0]


@needs_tokenizers
def test_the_first_token_has_no_surprise_where_the_tokenizer_adds_no_bos() -> None:
    bundle = bridge_model("bpe")
    subject = subject_of(bundle, "It was a truth")
    ids = bundle.tokenizer.encode(b"It was a truth").tolist()
    assert subject.ids.tolist() == ids
    tokens: Any = VIEWS["tokens"](subject, ViewOptions()).data["tokens"]
    assert ["bits" in token for token in tokens] == [False] + [True] * (len(ids) - 1)
    assert subject_of(bundle, "").ids.tolist() == [bundle.tokenizer.BOS]


def test_a_last_token_that_a_space_would_change_is_named() -> None:
    note = "with a space after it, the text would end with sea␣ instead of s|e|a; add it to see what follows"
    cut = small_subject("and the sea")
    for view in ("tokens", "lens"):
        assert VIEWS[view](cut, ViewOptions()).lines[-1] == f"note: {note}"
        assert not VIEWS[view](small_subject("and the sea "), ViewOptions()).lines[-1].startswith("note: ")
    assert replace(cut, total=cut.total + 1).end_note() == ""  # more of the text did not fit
    assert replace(cut, eval_ids=np.append(cut.ids, cut.ids[-1])).end_note() == ""  # more of an eval text


def test_ids_that_are_not_those_of_their_decoded_text_have_no_note_on_its_end() -> None:
    subject = small_subject("and the sea")
    ascii_tokenizer = AsciiTokenizer([b"and", b"the", b"sea"], subject.tokenizer.vocab_size)
    words = ascii_tokenizer.encode(b"and the sea").tolist()
    assert ascii_tokenizer.encode(ascii_tokenizer.decode(words)).tolist() != words
    for tokenizer, ids in (
        (ascii_tokenizer, [ascii_tokenizer.BOS, *words]),
        (subject.tokenizer, [*subject.ids, subject.tokenizer.EOS]),  # a complete document
        (subject.tokenizer, subject.ids[1:]),  # the rest of a document
    ):
        cut = replace(subject, tokenizer=tokenizer, ids=np.array(ids, np.int32), total=len(ids))
        assert cut.end_note() == ""


@needs_tokenizers
def test_a_space_that_would_begin_the_next_token_is_named() -> None:
    bundle = bridge_model("bpe")
    assert subject_of(bundle, "It was").end_note() == ""
    assert subject_of(bundle, "It was ").end_note().startswith("the space at the end would be the beginning of")


@pytest.mark.parametrize(
    "options", [*((view,) for view in INSPECT_VIEWS), ("attention", "--layer", "0", "--head", "1")]
)
@pytest.mark.parametrize("columns", [40, 80])
def test_no_line_on_a_terminal_is_wider_than_it_and_every_number_is_there(
    options: tuple[str, ...], columns: int, program: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = program("inspect", "The cat sat 東京", "--view", *options).stdout
    for name, value in (("FORCE_COLOR", "1"), ("COLORTERM", "truecolor"), ("COLUMNS", str(columns))):
        monkeypatch.setenv(name, value)
    shown = program("inspect", "The cat sat 東京", "--view", *options).stdout
    if options[0] in ("tokens", "heads"):
        assert "48;2;" in shown
    lines = ANSI.sub("", shown).splitlines()
    assert max(map(cell_len, lines[1:])) <= columns  # the first line is the path of the model
    numbers = [number for line in plain.splitlines()[3:] for number in re.findall(r"\d+\.\d+|\d+%", line)]
    if options[0] not in ("tokens", "attention", "neighbors") or "--head" in options:  # they have lists, which are cut
        assert set(numbers) <= set(re.findall(r"\d+\.\d+|\d+%", "\n".join(lines)))


def test_no_color_leaves_the_numbers(program: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = program("inspect", TEXT).stdout
    for name, value in (("FORCE_COLOR", "1"), ("NO_COLOR", "1"), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)
    shown = program("inspect", TEXT).stdout
    assert "48;" not in shown
    lines = ANSI.sub("", shown).splitlines()
    assert [line.rstrip() for line in lines if not line.startswith("colors: ")] == plain.splitlines()


@pytest.mark.slow
def test_a_terminal_shows_colors_with_a_legend(trained: Path) -> None:
    terminal = Terminal("inspect", "The cat sat on the mat", cwd=trained, COLORTERM="truecolor")
    terminal.end()
    assert "48;2;" in terminal.shown
    assert "colors: " in terminal.shown
