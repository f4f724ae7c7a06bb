"""Byte-pair encoding: lossless for any bytes, documents without `<bos>`, and what is refused."""

from __future__ import annotations

import json
import pickle
import random
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpt_core import tokenizers
from gpt_core.config.settings import Settings
from gpt_core.errors import MissingPackageError, TokenizerError
from gpt_core.formats.checkpoint import read_checkpoint
from gpt_core.generation.generator import Generator
from gpt_core.generation.sampler import Sampling
from gpt_core.kernels import threads
from gpt_core.text import token_file, token_stream
from gpt_core.text.first_words import first_words
from gpt_core.text.overfit_data import OverfitLoader
from gpt_core.text.source import text_source
from gpt_core.text.token_cache import load_or_train_tokenizer, load_tokens, open_tokenizer_cache
from gpt_core.text.token_stream import encode_parts, split_held_out, tokens_of_documents
from gpt_core.tokenizers import byte_level, storage
from gpt_core.tokenizers.byte_pairs import END_OF_TEXT, Body, BytePairTokenizer, bytes_of
from gpt_core.tokenizers.pieces import PieceTokenizer
from tests.core.text_samples import ENDS, LINES, PROSE, WORLD
from tests.core.training_samples import LATEST, losses, tiny_settings, train

pytest.importorskip("tokenizers")

TOKENIZER = BytePairTokenizer.train([PROSE, WORLD, b"It was a truth, and she waited."], 400)
EOS = TOKENIZER.EOS


def body(**changes: object) -> bytes:
    """Return the body of the tokenizer with some fields changed."""
    return msgspec.json.encode(msgspec.structs.replace(msgspec.json.decode(TOKENIZER.body(), type=Body), **changes))


@pytest.mark.parametrize("text", [PROSE, WORLD, LINES, b"", b"\xff", b"a\xc3", bytes(range(256)) * 3, b"\0 \r\n\t  "])
def test_decoding_returns_exactly_the_bytes_that_were_encoded(text: bytes) -> None:
    ids = TOKENIZER.encode(text)
    assert ids.dtype == np.int32
    assert TOKENIZER.decode(ids.tolist()) == text


def test_random_bytes_survive_and_valid_parts_of_them_have_the_ids_that_they_have_alone() -> None:
    draw = random.Random(3)
    for _ in range(200):
        data = draw.randbytes(draw.randrange(40)) + draw.choice([b"the fox", "déjà".encode(), b""])
        assert TOKENIZER.decode(TOKENIZER.encode(data).tolist()) == data
    alone = [TOKENIZER.encode(part).tolist() for part in (b"the fox", b" and")]
    assert TOKENIZER.encode(b"the fox\xff and").tolist() == [*alone[0], *TOKENIZER.encode(b"\xff").tolist(), *alone[1]]


def test_a_special_token_in_a_text_is_encoded_as_text() -> None:
    ids = TOKENIZER.encode(END_OF_TEXT.encode()).tolist()
    assert EOS not in ids
    assert TOKENIZER.decode(ids) == END_OF_TEXT.encode()
    assert TOKENIZER.decode([EOS]) == b""


def test_the_most_frequent_pairs_are_merged_first() -> None:
    trained = BytePairTokenizer.train([b"abab abab abab xy"], 260)
    assert trained.merges[0] == ("a", "b")
    assert trained.vocabulary[256:259] == [b"ab", b"abab", b" abab"]
    assert trained.encode(b"abab abab").tolist() == [257, 258]


def test_training_is_deterministic_and_leaves_ids_unused_that_a_short_text_does_not_need() -> None:
    first, second = (BytePairTokenizer.train([b"It was.\n", WORLD], 2000) for _ in range(2))
    assert first.to_bytes() == second.to_bytes()
    assert first.vocab_size == 2000
    assert first.EOS == len(first.vocabulary) - 1 < 1999
    assert first.describe(1999) == "<unused>"
    assert first.describe(first.EOS) == END_OF_TEXT
    assert first.token_lengths.tolist() == [len(first.token_bytes(token)) for token in range(2000)]


def test_tokens_of_more_than_255_bytes_have_their_length() -> None:
    names = [*byte_level.CHARACTERS, *("a" * (1 << power) for power in range(1, 10)), END_OF_TEXT]
    merges = [(name, name) for name in ("a" * (1 << power) for power in range(9))]
    tokenizer = BytePairTokenizer(names, merges, [len(names) - 1], len(names) - 1)
    assert tokenizer.token_lengths.max() == 512
    assert tokenizer.encode(b"a" * 1024).tolist() == [264, 264]


def test_the_alphabet_is_that_of_gpt2() -> None:
    alphabet = byte_level.CHARACTERS
    assert len(set(alphabet)) == 256
    assert (alphabet[ord(" ")], alphabet[ord("\n")], alphabet[ord("A")], alphabet[0xAD]) == ("Ġ", "Ċ", "A", "Ń")
    assert bytes_of("Ġthe") == b" the"


def test_a_stored_or_pickled_tokenizer_encodes_as_the_original() -> None:
    for again in (tokenizers.from_bytes(TOKENIZER.to_bytes()), pickle.loads(pickle.dumps(TOKENIZER))):
        assert isinstance(again, BytePairTokenizer)
        assert again.encode(WORLD).tolist() == TOKENIZER.encode(WORLD).tolist()
        assert (again.sha256, again.EOS, again.BOS, again.special) == (TOKENIZER.sha256, EOS, EOS, TOKENIZER.special)


# documents


def test_documents_end_with_the_end_of_text_and_have_no_beginning() -> None:
    text = b"It was." + b"the fox" + b"an open one"
    ends = np.array([7, 14], np.int64)
    ids, is_open = TOKENIZER.encode_documents(text, ends)
    expected = [
        *TOKENIZER.encode(b"It was."),
        EOS,
        *TOKENIZER.encode(b"the fox"),
        EOS,
        *TOKENIZER.encode(b"an open one"),
    ]
    assert ids.tolist() == expected
    assert is_open
    ids, is_open = TOKENIZER.encode_documents(b" ends", np.array([5], np.int64), is_open)
    assert ids.tolist() == [*TOKENIZER.encode(b" ends"), EOS]
    assert not is_open
    assert TOKENIZER.encode_documents(b"", np.array([0], np.int64), True)[0].tolist() == [EOS]
    assert TOKENIZER.encode_documents(b"on", ENDS, True)[1]


WITH_BOS = BytePairTokenizer((*TOKENIZER.tokens, "<s>"), TOKENIZER.merges, [EOS, EOS + 1], EOS, EOS + 1, adds_bos=True)


def test_documents_begin_with_the_token_that_an_imported_tokenizer_adds() -> None:
    for tokenizer in (WITH_BOS, tokenizers.from_bytes(WITH_BOS.to_bytes())):
        bos, words = tokenizer.BOS, tokenizer.encode(b"It was.").tolist()
        assert tokenizer.adds_bos
        ids, is_open = tokenizer.encode_documents(b"It was.It was.", np.array([7], np.int64))
        assert (ids.tolist(), is_open) == ([bos, *words, EOS, bos, *words], True)
        ids, is_open = tokenizer.encode_documents(b"It was.", np.array([7], np.int64), is_open)
        assert (ids.tolist(), is_open) == ([*words, EOS], False)
        assert tokenizer.encode_documents(b"", ENDS[:0], True)[0].tolist() == []


def test_documents_are_counted_and_found_where_one_id_begins_and_ends_them(tmp_path: Path) -> None:
    both = BytePairTokenizer(TOKENIZER.tokens, TOKENIZER.merges, [EOS], EOS, adds_bos=True)
    path = tmp_path / "three.txt"
    path.write_text("It was.\n\nthe fox\n\nIt was the fox.\n")
    for _ in range(2):  # the second time from the cache
        found = load_tokens(text_source(path), both, "paragraph")
        ids = found.read(0, len(found)).tolist()
        marks = [at for at, token in enumerate(ids) if token == EOS]
        assert found.documents == 3
        assert found.document_starts(0, len(found)).tolist() == marks[::2]
    assert found.document_starts(1, len(found)).tolist() == marks[2::2]


@pytest.mark.parametrize(
    "tokenizer", [TOKENIZER, WITH_BOS, PieceTokenizer([b"the ", b"It "], 300)], ids=["bpe", "bpe with bos", "pieces"]
)
def test_blocks_that_are_encoded_at_once_have_the_ids_of_one_after_the_other(
    tokenizer: tokenizers.Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt_core.tokenizers.blocks.BLOCK_BYTES", 40)
    parts = [(f"part {n} of the text".encode(), n % 3 != 0) for n in range(200)]
    expected = [(ids.tolist(), ended) for ids, ended in encode_parts(parts, tokenizer)]
    assert len(expected) > 50
    for count in (2, 5):
        assert [(ids.tolist(), ended) for ids, ended in encode_parts(parts, tokenizer, count)] == expected


def test_a_text_file_is_encoded_by_the_threads_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def spy(*arguments: object) -> object:
        used.append(arguments[2])  # type: ignore[arg-type]
        return encode_parts(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(token_file, "encode_parts", spy)
    path = tmp_path / "text.txt"
    path.write_bytes(LINES)
    source = text_source(path, allow_binary=True)
    threads.set_threads(2)
    text = load_tokens(source, TOKENIZER, "paragraph")
    assert used == [2]
    assert load_tokens(source, TOKENIZER, "paragraph").read(0, 50).tolist() == text.read(0, 50).tolist()
    assert used == [2], "the second time it is read from the cache"
    assert TOKENIZER.decode(text.read(0, len(text)).tolist()).count(b"The first paragraph") == 40


def test_documents_are_found_by_the_end_of_text_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_stream, "SEARCH_TOKENS", 5)
    text = tokens_of_documents([b"one fox", b"two foxes", b"three lazy dogs"], TOKENIZER)
    ids = text.read(0, len(text)).tolist()
    starts = [0, *(at + 1 for at, token in enumerate(ids[:-1]) if token == EOS)]
    assert text.document_starts(0, len(text)).tolist() == starts
    assert text.document_starts(1, len(text) + 9).tolist() == starts[1:]
    assert text.document_starts(starts[2], starts[2] + 1).tolist() == [starts[2]]
    assert text.document_starts(5, 5).tolist() == []
    kept, held_out = split_held_out(text, 0.3)
    assert TOKENIZER.decode(held_out.read(0, len(held_out)).tolist()) == b"three lazy dogs"
    assert kept.read(0, len(kept)).tolist()[-1] == EOS
    assert held_out.document_starts(0, len(held_out)).tolist() == [0]
    assert first_words(held_out, TOKENIZER) == "three"


def test_a_held_out_part_that_begins_inside_a_document_does_not_begin_one() -> None:
    text = tokens_of_documents([b"the lazy dog and the quick brown fox " * 4], TOKENIZER)
    held_out = split_held_out(text, 0.4)[1]
    assert held_out.start > 0
    assert held_out.document_starts(0, len(held_out)).tolist() == []


def test_each_line_of_the_self_test_begins_its_own_window() -> None:
    lines = [b"one fox", b"two foxes", b"three lazy dogs"]
    loader = OverfitLoader(tokens_of_documents(lines, TOKENIZER), 16, 0)
    assert loader.windows_per_epoch == 3
    for number, line in enumerate(lines):
        ids, given = loader.line(number)
        assert ids.tolist() == [*TOKENIZER.encode(line).tolist(), EOS]
        assert 1 <= given < len(ids)


# runs


def test_a_run_trains_resumes_to_the_bit_and_generates(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, tokenizer="bpe", max_steps=8)
    uninterrupted = losses(train(settings))
    train(tiny_settings(tmp_path, tokenizer="bpe", max_steps=5, models_dir=str(tmp_path / "again")))
    second = tiny_settings(tmp_path, tokenizer="bpe", max_steps=8, models_dir=str(tmp_path / "again"))
    assert losses(train(second, resume=tmp_path / "again" / LATEST.name)) == uninterrupted[5:]
    checkpoint = read_checkpoint(tmp_path / LATEST)
    stored = tokenizers.from_bytes(checkpoint.tokenizer)
    assert isinstance(stored, BytePairTokenizer)
    generator = Generator(checkpoint.parameters, stored, seed=1)
    sampling = msgspec.structs.replace(Sampling.from_settings(settings), max_tokens=20, temperature=1.0)
    assert len("".join(generator.generate("It was", sampling))) > 0
    assert generator.figures.prompt_tokens == len(stored.encode(b"It was")), "no <bos> before a prompt"
    list(generator.generate("", sampling))
    assert generator.figures.prompt_tokens == 1, "an empty prompt is an end of text"


class Scripted:
    """Stand-in for a decoder, which makes the next id of a script the most probable one."""

    capacity, length = 64, 0

    def __init__(self, script: list[int]) -> None:
        self.script = script

    def reset(self) -> None:
        pass

    def prefill(self, tokens: object) -> np.ndarray:
        logits = np.zeros(TOKENIZER.vocab_size, np.float32)
        logits[self.script.pop(0)] = 9
        return logits

    def decode(self, token: int) -> np.ndarray:
        return self.prefill(token)


def test_a_character_split_over_tokens_is_streamed_with_the_last_of_them() -> None:
    script = [*(TOKENIZER.encode(bytes([byte]))[0] for byte in "日é".encode()), EOS]
    generator = Generator(None, TOKENIZER, decoder=Scripted(script))  # type: ignore[arg-type]
    sampling = msgspec.structs.replace(Sampling.from_settings(Settings()), temperature=0.0, max_tokens=20)
    assert list(generator.generate("x", sampling)) == ["日", "é"]
    assert generator.figures.ended_by == "eos"


# what is refused


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"{", "damaged"),
        (b"\xff", "damaged"),
        (body(tokens=["a"]), "special ids"),
        (body(eos=5), "special ids"),
        (body(special_ids=[400]), "special ids"),
        (body(special_ids=[-1, 399]), "damaged"),
        (body(tokens=[*TOKENIZER.tokens[:-1], "a"]), "same token twice"),
        (body(tokens=["日", *TOKENIZER.tokens[1:]]), "invalid token: got '日'"),
        (body(tokens=["", *TOKENIZER.tokens[1:]]), "invalid token: got ''"),
        (body(tokens=["ab", *TOKENIZER.tokens[1:]], merges=[]), "255 of the 256 single bytes"),
        (body(tokens=[*TOKENIZER.tokens, *("q" * count for count in range(9, 200))]), "do not fit"),
        (body(merges=["a"]), "invalid merge"),
        (body(merges=["a b c"]), "invalid merge"),
        (body(merges=["a " + "q" * 99]), "invalid merge"),
        (body(merges=[END_OF_TEXT + " a"]), "not in the vocabulary"),
    ],
)
def test_a_damaged_body_is_refused(data: bytes, expected: str) -> None:
    with pytest.raises(TokenizerError, match=expected):
        tokenizers.from_bytes(storage.pack("bpe", 400, data))


def test_without_the_package_it_is_refused_and_its_cache_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(PROSE)
    load_or_train_tokenizer(text_source(text), 300, "bpe")
    cache = next(tmp_path.glob("*.pieces-*"))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert open_tokenizer_cache(cache) is None
    with pytest.raises(MissingPackageError, match=r"run `pip install '\.\[bpe\]'` in the clone"):
        load_or_train_tokenizer(text_source(text), 300, "bpe")
    assert load_or_train_tokenizer(text_source(text), 300, "pieces").name == "pieces"


def test_the_body_is_json_with_the_names_of_the_tokens() -> None:
    stored = json.loads(TOKENIZER.body())
    assert stored["tokens"][EOS] == END_OF_TEXT
    assert stored["special_ids"] == [EOS]
    assert stored["merges"][0] == " ".join(TOKENIZER.merges[0])
