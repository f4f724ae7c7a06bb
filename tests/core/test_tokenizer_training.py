import random
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from gpt_core.text.corpus import find_training_text
from gpt_core.text.reader import documents
from gpt_core.text.source import text_source
from gpt_core.tokenizers import training
from gpt_core.tokenizers.ngrams import NgramCounter
from gpt_core.tokenizers.pieces import PieceTokenizer
from gpt_core.tokenizers.protocol import FIRST_PIECE
from gpt_core.tokenizers.training import sample_blocks
from tests.core.text_samples import ENDS, PROSE, WORLD, trained


def test_pieces_stay_inside_one_word():
    for tokenizer in (trained(PROSE), trained(WORLD)):
        for piece in tokenizer.vocabulary[FIRST_PIECE:]:
            assert not re.search(
                r"\s\w|[^\W\d_][^\w\s]|[^\w\s][^\W\d_]", re.sub(r"[\u0900-\u097f]", "a", piece.decode())
            )


def test_pieces_contain_upper_case_spaces_and_line_breaks():
    pieces = trained(PROSE).vocabulary[FIRST_PIECE:]
    assert b"The " in pieces
    assert b"the " in pieces
    assert any(b"\n" in piece for piece in pieces)


def test_training_is_deterministic():
    assert trained(PROSE).sha256 == trained(PROSE).sha256
    assert trained(PROSE).sha256 != trained(PROSE, 401).sha256
    assert trained(PROSE).sha256 != trained(PROSE, name="ascii").sha256


def test_pieces_are_sorted_by_use():
    text = b"".join(documents(text_source(find_training_text()), "file"))[:300_000]
    tokenizer = trained(text, 1000)
    uses = np.bincount(tokenizer.encode(text), minlength=1000)[FIRST_PIECE : len(tokenizer.vocabulary)]
    assert len(uses) == 1000 - FIRST_PIECE
    assert np.all(np.diff(uses) <= 0)
    assert uses[-1] > 0


def test_pieces_chosen_by_use_need_fewer_tokens_than_the_most_frequent_n_grams():
    text = b"".join(documents(text_source(find_training_text()), "file"))[:300_000]
    most_frequent = training.frequent_ngrams([(text, ENDS)], 1000 - FIRST_PIECE)
    by_count = PieceTokenizer(most_frequent, 1000).encode(text).size
    assert trained(text, 1000).encode(text).size < 0.97 * by_count


@pytest.mark.slow
def test_the_shipped_text_has_more_than_2_75_bytes_per_token():
    path = find_training_text()
    texts = list(documents(text_source(path), "paragraph"))
    tokenizer = PieceTokenizer.train(texts, 2048)
    tokens = sum(tokenizer.encode(text).size for text in texts)
    assert sum(map(len, texts)) / tokens > 2.75


def test_n_gram_counts_are_exact_while_the_table_has_room():
    text = WORLD[:200] + b"\xff\xfe" + PROSE[:100] + b"\xf0\x9f"
    counter = NgramCounter(16)
    counter.add(text, np.array([50, 50, 120]))
    expected = Counter()
    for part in (text[:50], text[50:120], text[120:]):
        for run in re.split("[\udc80-\udcff]+", part.decode("utf-8", "surrogateescape")):
            for size in range(1, 5):
                grams = [run[at : at + size] for at in range(len(run) - size + 1)]
                expected.update(gram.encode() for gram in grams if len(gram.encode()) > 1)
    keys, counts = counter.items()
    found = {counter.text_of(int(key)): int(count) for key, count in zip(keys, counts, strict=True)}
    assert found == dict(expected)
    assert counter.dropped_below == 0


def test_counting_is_bounded_and_retains_frequent_n_grams():
    rng = random.Random(6)
    counter = NgramCounter(10)
    for _ in range(200):
        counter.add(b"frequent" + bytes(rng.choices(range(128), k=200)), ENDS)
    keys, counts = counter.items()
    assert len(keys) <= 1 << 10
    assert counter.dropped_below > 0
    found = {counter.text_of(int(key)): int(count) for key, count in zip(keys, counts, strict=True)}
    assert 200 - 50 <= found[b"freq"] <= 201


def test_training_uses_a_bounded_sample_from_the_entire_text(monkeypatch):
    monkeypatch.setattr(training, "SAMPLE_BYTES", 4 << 20)
    chunks = (bytes([ord("a") + megabyte]) * (1 << 18) for megabyte in range(26) for _ in range(4))
    kept = [text[0] - ord("a") for text, _ in sample_blocks(chunks)]
    assert 2 <= len(kept) <= 4
    assert {b - a for a, b in pairwise(kept)} == {kept[1] - kept[0]}
    assert kept[0] == 0
    assert kept[-1] >= 16
