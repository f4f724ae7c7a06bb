"""Views Knock-out and Neighbors of the Inside tab, and the removed parts: computed values and lines."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpt_core import interpret
from gpt_core.errors import CheckpointError, ConfigError
from gpt_core.interpret import Part
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters, initial_parameters
from gpt_core.model.stored_weights import StoredWeights
from gpt_core.progress import ignore_progress
from gpt_core.text.token_stream import TokenStream, tokens_of_documents
from gpt_core.tokenizers import Tokenizer, byte_level
from gpt_core.tokenizers.byte_pairs import BytePairTokenizer
from gpt_core.tokenizers.pieces import AsciiTokenizer, PieceTokenizer
from gpt_tui.session.checkpoint_history import CheckpointHistories
from gpt_tui.session.models import LiveRun, ModelLoader
from gpt_tui.session.removed_parts import RemovedParts, without
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.formatting import part_name
from gpt_tui.shared.spans import Line, width_of
from gpt_tui.tabs.inside.presenter import removed_note
from gpt_tui.tabs.inside.subjects import Held, SubjectSource
from gpt_tui.tabs.inside.views.attention import AttentionView
from gpt_tui.tabs.inside.views.knock_out import KnockOutView, cursor_at, index_at
from gpt_tui.tabs.inside.views.neighbors import NeighborsView, map_lines, most_used
from gpt_tui.tabs.inside.views.tokens import TokensView
from gpt_tui.tabs.inside.views.view import Cursor, Extent, Frame, Origin, Removal, Size, Task
from gpt_tui.tabs.inside.worker import PROBE
from tests.bridges.samples import needs_tokenizers
from tests.tui.inside_samples import fixed_attention, fixed_knock_out, fixed_neighbors, fixed_tokens, save_model
from tests.tui.inside_samples import small_subject as subject_of_samples

KNOCK_OUT, NEIGHBORS = KnockOutView(), NeighborsView()
EXTENT = Extent(60, 4, 4)
SIZES = [Size(76, 16), Size(196, 52), Size(20, 4)]


def frame(size: Size = SIZES[0], **cursor: int) -> Frame:
    return Frame(Cursor(**cursor), size, EXTENT, RunState())


def task(**changes: object) -> Task:
    subject = dataclasses.replace(subject_of_samples(), **changes)  # type: ignore[arg-type]
    return Task(subject, Cursor(), SIZES[0], RunState(), Origin(), CheckpointHistories(), [])


def text_of(lines: list[Line] | tuple[Line, ...]) -> str:
    return "\n".join("".join(span.text for span in line) for line in lines)


# -- Knock-out


def test_knock_out_yields_the_effects_one_after_another_over_more_of_the_eval_text():
    ids = np.tile(subject_of_samples().ids, 5)
    given = task(eval_ids=ids)
    results = list(KNOCK_OUT.compute(given))
    inputs, targets = given.subject.eval_inputs_and_targets()
    expected = list(interpret.ablations(given.subject.gpt, inputs, targets))
    assert [len(result.effects) for result in results] == list(range(len(expected) + 1))
    assert list(results[-1].effects) == expected
    assert results[-1].tokens == targets.size > 2 * given.subject.gpt.shape.seq_len
    assert math.isclose(results[-1].loss, expected[0].loss - expected[0].change)


@pytest.mark.parametrize("known", [5, None])
def test_knock_out_continues_after_the_parts_that_are_known(known: int | None):
    expected = list(KNOCK_OUT.compute(task()))[-1].effects
    given = task()._replace(effects=list(expected[:known]))
    results = list(KNOCK_OUT.compute(given))
    assert [len(result.effects) for result in results] == list(range(known or len(expected), len(expected) + 1))
    assert results[-1].effects == expected
    assert tuple(given.effects) == expected
    assert results[0].loss == expected[0].loss - expected[0].change


def test_knock_out_is_given_up_where_a_newer_request_waits():
    calls = []

    def progress(_words: str, fraction: float) -> None:
        calls.append(fraction)
        if len(calls) == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(KNOCK_OUT.compute(task(progress=progress)))


def test_a_text_of_one_token_has_no_loss_to_measure():
    with pytest.raises(ConfigError, match="at least 2"):
        list(KNOCK_OUT.compute(task(ids=np.array([1], np.int32))))


def test_the_windows_of_the_eval_text_hold_each_token_once_and_what_follows_it():
    ids = np.arange(100, dtype=np.int32)
    inputs, targets = task(eval_ids=ids).subject.eval_inputs_and_targets()
    assert inputs.shape == (2, 48)
    assert inputs.reshape(-1).tolist() == list(range(96))
    assert (targets == inputs + 1).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("done", [0, 5, None])
def test_the_lines_of_knock_out_fit_and_hold_the_cursor(size: Size, done: int | None):
    result = fixed_knock_out(done=done)
    for number in range(len(result.parts)):
        cursor = cursor_at(result.parts, number, Cursor())
        lines = KNOCK_OUT.lines(result, Frame(cursor, size, EXTENT, RunState()))
        assert len(lines) <= size.height
        assert size.width < 60 or all(width_of(line) <= size.width for line in lines)
        assert text_of(list(lines)).count("▸") == 1


def test_bars_are_relative_to_the_largest_of_their_kind_and_numbers_have_a_sign():
    text = text_of(list(KNOCK_OUT.lines(fixed_knock_out(), frame(Size(196, 52)))))
    assert "eval loss 3.200 intact, 4,032 tokens" in text
    other = fixed_knock_out()._replace(is_eval_text=False)
    text_of_other = text_of(list(KNOCK_OUT.lines(other, frame(Size(196, 52)))))
    assert "loss of this text 3.200 intact" in text_of_other
    assert "eval loss" not in text_of_other
    assert "layer 0 head 0    -0.011" in text
    bars = [len(part.split()[-1]) for part in text.split("layer")[1:] if "█" in part]
    assert sum(length == max(bars) for length in bars) >= 3


def test_the_cursor_moves_over_parts_and_layers_and_keeps_the_head_of_the_other_views():
    result = fixed_knock_out()
    cursor = Cursor(layer=1, head=2)
    assert result.parts[index_at(result.parts, cursor)] == Part("head", 1, 2)
    for move, part in (
        ("down", Part("head", 1, 3)), ("down", Part("mlp", 1)), ("right", Part("mlp", 2)), ("up", Part("head", 2, 3)),
        ("left", Part("head", 1, 3)), ("end", Part("block", 3)), ("down", Part("block", 3)),
        ("home", Part("head", 0, 0)), ("page_down", Part("mlp", 1)),
    ):  # fmt: skip
        cursor = KNOCK_OUT.moved(result, Frame(cursor, SIZES[0], EXTENT, RunState()), move)  # type: ignore[arg-type]
        assert result.parts[index_at(result.parts, cursor)] == part
        assert cursor.layer == part.layer
    assert cursor.head == 0


def test_the_header_names_the_key_that_leaves_a_part_out():
    result, at = fixed_knock_out(), Frame(Cursor(), Size(120, 30), EXTENT, RunState())
    for keymap, key in (({}, "x"), ({"inside.remove": "ctrl+d,y"}, "^d")):
        shown = "".join(span.text for span in KNOCK_OUT.lines(result, at._replace(keymap=keymap))[1])
        assert f"({key}: leave it out in Chat)" in shown


def test_x_removes_the_part_at_the_cursor_or_the_head_of_a_view_that_shows_one():
    result = fixed_knock_out()
    at = Frame(cursor_at(result.parts, 4, Cursor()), SIZES[0], EXTENT, RunState())
    assert KNOCK_OUT.act(result, at, "remove") == Removal(Part("mlp", 0))
    assert KNOCK_OUT.act(result, at, "enter") is None
    assert AttentionView().act(fixed_attention(), frame(layer=2, head=1), "remove") == Removal(Part("head", 2, 1))
    assert TokensView().act(fixed_tokens(), frame(), "remove") is None


# -- removed parts


def test_a_part_is_removed_and_put_back():
    removed = RemovedParts()
    removed.toggle(Part("head", 1, 2))
    removed.toggle(Part("mlp", 0))
    assert without(removed.parts) == "without layer 1 head 2, layer 0 MLP"
    removed.toggle(Part("head", 1, 2))
    assert removed.parts == (Part("mlp", 0),)
    removed.toggle(Part("mlp", 0))
    assert without(removed.parts) == removed_note(removed.parts, None) == ""
    assert [part_name(Part(kind, 3)) for kind in ("attn", "block")] == ["layer 3 attention", "layer 3 block"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, "is being measured"),
        (0.25, "eval loss +0.250"),
        (-0.5, "eval loss -0.500"),
        ("no probe: x", "no probe: x"),
    ],
)
def test_the_note_of_a_removed_part_has_the_change_of_the_loss(change: float | str | None, words: str):
    note = removed_note((Part("block", 1),), change)
    assert note.startswith("Chat without layer 1 block: ")
    assert words in note
    assert note.endswith("({inside.remove}: put back)")
    assert "put back" not in removed_note((Part("block", 1),), change, has_key=False)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_loaded_model_is_without_the_removed_parts_in_any_format(tmp_path: Path, weights: str):
    path = save_model(tmp_path)
    loader = ModelLoader(None, str(tmp_path))  # type: ignore[arg-type]
    intact = loader.load(str(path))
    assert isinstance(intact.weights, Parameters)
    before = intact.weights.flat.copy()
    parts = (Part("head", 1, 0), Part("block", 2))
    found = loader.load(str(path), weights=weights, removed=parts)  # type: ignore[arg-type]
    expected = interpret.ablate(intact.weights, parts)
    assert found.name.startswith("ckpt_latest, step 103, without layer 1 head 0, layer 2 block")
    if isinstance(found.weights, StoredWeights):
        np.testing.assert_array_equal(found.weights.expanded().flat, StoredWeights(expected, "int8").expanded().flat)
    else:
        np.testing.assert_array_equal(found.weights.flat, expected.flat)
    np.testing.assert_array_equal(intact.weights.flat, before)


@pytest.mark.parametrize(
    ("train_file", "reason"), [("", "records no training text"), ("missing.txt", "cannot read the text missing.txt: ")]
)
def test_the_reason_for_a_missing_probe_names_no_option(tmp_path: Path, train_file: str, reason: str):
    source = SubjectSource(ModelLoader(None, str(tmp_path)))  # type: ignore[arg-type]
    held = source.load(str(save_model(tmp_path)), 0, None, ignore_progress)
    settings = msgspec.structs.replace(held.bundle.settings, train_file=train_file)
    bundle = dataclasses.replace(
        held.bundle, settings=settings, corpus_sha256=held.bundle.corpus_sha256 * bool(train_file)
    )
    with pytest.raises(ConfigError, match=rf"no probe: .*{reason}.*; choose another text") as raised:
        source.subject(held._replace(bundle=bundle), PROBE, None, ignore_progress)
    assert "--" not in str(raised.value)


DOCUMENTS = [b"It was calm.", b"and the sea", "Ü".encode()]


def bytes_tokenizer(bos: int = 1, *, adds_bos: bool = False) -> BytePairTokenizer:
    """Return a tokenizer of single bytes with the `<eos>` 1."""
    names = ["<s>", "</s>", *byte_level.CHARACTERS]
    return BytePairTokenizer(names, [], [0, 1], 1, bos, 300, adds_bos=adds_bos)


def read_beside(folder: Path, tokenizer: Tokenizer, text: TokenStream, other: Tokenizer) -> list[int]:
    """Return the ids of a probe that a model with the `other` tokenizer reads beside the model whose probe it is."""
    source = SubjectSource(ModelLoader(None, str(folder)))  # type: ignore[arg-type]
    held = source.load(str(save_model(folder)), 0, None, ignore_progress)

    def with_tokenizer(tokenizer: Tokenizer) -> Held:
        return held._replace(bundle=dataclasses.replace(held.bundle, tokenizer=tokenizer))

    first = with_tokenizer(tokenizer)._replace(live=LiveRun("a", text))
    found: list[int] = source.subject(with_tokenizer(other), PROBE, first, ignore_progress).eval_ids.tolist()
    return found


@needs_tokenizers
def test_a_model_with_another_tokenizer_reads_the_documents_of_the_probe(tmp_path: Path):
    with_bos = [bytes_tokenizer(0, adds_bos=True), bytes_tokenizer(1, adds_bos=True), PieceTokenizer([b"sea"], 300)]
    for tokenizer in (bytes_tokenizer(), *with_bos, PieceTokenizer([b"the"], 300)):
        text = tokens_of_documents(DOCUMENTS, tokenizer)
        for other in (bytes_tokenizer(), *with_bos, AsciiTokenizer([b"sea"], 300)):
            expected = tokens_of_documents(DOCUMENTS, other)
            found = read_beside(tmp_path, tokenizer, text, other)
            assert found == expected.read(0, len(expected)).tolist()
            cut = dataclasses.replace(text, count=len(text) - 2)  # without `<eos>` and the last byte
            assert read_beside(tmp_path, tokenizer, cut, other)[: len(found) - 3] == found[:-3]
            assert read_beside(tmp_path, tokenizer, cut, other)[-1] != other.EOS


@needs_tokenizers
def test_a_probe_that_begins_inside_a_document_does_not_begin_one_with_another_tokenizer(tmp_path: Path):
    pieces = PieceTokenizer([b"sea"], 300)
    for tokenizer in (bytes_tokenizer(), bytes_tokenizer(0, adds_bos=True)):
        text = tokens_of_documents(DOCUMENTS, tokenizer)
        rest = dataclasses.replace(text, start=tokenizer.adds_bos + 3, count=len(text) - tokenizer.adds_bos - 3)
        expected = tokens_of_documents([b"was calm.", *DOCUMENTS[1:]], pieces)
        assert read_beside(tmp_path, tokenizer, rest, pieces) == expected.read(1, len(expected)).tolist()


def test_a_probe_in_tokens_of_a_lossy_tokenizer_is_refused_with_another_one(tmp_path: Path):
    tokenizer = AsciiTokenizer([b"sea"], 300)
    text = tokens_of_documents(DOCUMENTS, tokenizer)
    assert read_beside(tmp_path, tokenizer, text, tokenizer) == text.read(0, len(text)).tolist()
    with pytest.raises(ConfigError, match=r"tokenizer ascii alone, which is lossy; choose another text"):
        read_beside(tmp_path, tokenizer, text, PieceTokenizer([b"sea"], 300))


def test_a_model_without_such_a_part_is_one_line(tmp_path: Path):
    path = save_model(tmp_path)
    loader = ModelLoader(None, str(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"without layer 7 MLP: .*put the part back in Inside"):
        loader.load(str(path), removed=(Part("mlp", 7),))


# -- Neighbors


def test_neighbors_are_those_of_the_library_and_the_map_holds_the_most_used_tokens():
    given = task()
    [result] = NEIGHBORS.compute(given)
    subject = given.subject
    found = interpret.neighbors(subject.gpt.parameters, np.array([subject.ids[3]]), 10, subject.used_ids())
    assert [near.id for near in result.nearest[int(subject.ids[3])]] == found.ids[0].tolist()
    used = subject.used_ids()
    counts = np.bincount(subject.ids, minlength=used.max() + 1)[used]
    assert result.map[0].id == used[counts.argmax()]
    assert all(0 <= token.x <= 1 and 0 <= token.y <= 1 for token in result.map)
    assert 0 < result.explained <= 1


def test_a_model_of_one_channel_has_no_map():
    shape = msgspec.structs.replace(subject_of_samples().gpt.shape, d_model=1, num_heads=1)
    given = task(gpt=GPT(initial_parameters(shape, 0)))
    with pytest.raises(ConfigError, match="needs a model with at least two channels"):
        list(NEIGHBORS.compute(given))


def test_the_most_used_tokens_come_first_and_unused_ones_fill_the_map():
    assert most_used(np.array([5, 5, 3, 0], np.int32), np.array([2, 3, 5])).tolist() == [5, 3, 2]


@pytest.mark.parametrize("size", SIZES)
def test_the_lines_of_neighbors_fit(size: Size):
    result = fixed_neighbors()
    for token in (0, 5, 59):
        lines = NEIGHBORS.lines(result, frame(size, token=token))
        assert len(lines) <= size.height
        assert size.width < 60 or all(width_of(line) <= size.width for line in lines)


def test_the_map_shows_the_token_at_the_cursor_its_neighbors_and_dots_for_the_crowded():
    result = fixed_neighbors()
    lines = map_lines(result, Cursor(token=3), 60, 14)
    looks = {span.style for line in lines for span in line}
    assert {"cursor", "mark"} <= looks
    assert "·" in text_of(lines)
    assert "map of the 60 most used tokens (21.4% of the variance)" in text_of(lines)
    assert map_lines(result, Cursor(), 60, 2) == []


def test_a_click_on_a_token_of_the_map_goes_to_its_place_in_the_text():
    result = fixed_neighbors()
    targets = {span.at for line in map_lines(result, Cursor(token=3), 120, 30) for span in line if span.at is not None}
    assert all(isinstance(at, Cursor) and at.token < 60 for at in targets)
    assert targets
