from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from gpt_core.errors import CorpusError
from gpt_core.text import data_loader, shuffled_documents
from gpt_core.text.data_loader import DataLoader, epoch_keys, sequential_windows, shuffled
from gpt_core.text.shuffled_documents import document_starts, in_order
from gpt_core.text.token_stream import MemorySource, TokenStream, tokens_of_documents
from gpt_core.tokenizers import BOS
from gpt_core.tokenizers.pieces import PieceTokenizer

LENGTHS = np.ones(1000, dtype=np.uint8)


def counted(count):
    """Return a text whose token at each position is the number of the position + 10."""
    ids = np.arange(10, 10 + count, dtype=np.int32)
    return TokenStream(MemorySource(ids), 0, count, count, LENGTHS, "", "", 0)


def full_order(size, seed=0, epoch=0):
    return shuffled(np.arange(size, dtype=np.int64), size, epoch_keys(seed, epoch))


@pytest.mark.parametrize("size", [*range(1, 70), 127, 128, 129, 1000, 1023, 4095, 4096, 4097, 10_007])
def test_the_order_of_an_epoch_is_a_bijection(size):
    for seed, epoch in [(0, 0), (0, 1), (1, 0), ((1 << 63) - 1, 1_000_000)]:
        assert sorted(full_order(size, seed, epoch)) == list(range(size))


def test_the_order_of_an_enormous_text_needs_no_memory():
    size = (1 << 45) + 7
    positions = np.concatenate([np.arange(50_000), size - 1 - np.arange(50_000)])
    found = shuffled(positions, size, epoch_keys(3, 4))
    assert len(np.unique(found)) == len(positions)
    assert found.min() >= 0
    assert found.max() < size
    assert abs(found.mean() / size - 0.5) < 0.01


def test_orders_differ_by_seed_and_epoch_and_are_reproducible():
    orders = [tuple(full_order(100, seed, epoch)) for seed in range(5) for epoch in range(5)]
    assert len(set(orders)) == 25
    assert orders == [tuple(full_order(100, seed, epoch)) for seed in range(5) for epoch in range(5)]


def test_every_order_of_three_windows_occurs():
    seen = [tuple(full_order(3, 0, epoch)) for epoch in range(600)]
    counts = [seen.count(order) for order in set(seen)]
    assert len(counts) == 6
    assert min(counts) > 60


def test_shuffling_separates_neighbors_and_moves_windows():
    size = 10_007
    order = full_order(size)
    assert np.count_nonzero(np.abs(np.diff(order)) == 1) < 20  # of a random order: about 2
    assert np.count_nonzero(order == np.arange(size)) < 10  # about 1
    assert abs(np.abs(order - np.arange(size)).mean() / (size / 3) - 1) < 0.05
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05


@pytest.mark.parametrize("seq_len", [2, 3, 8])
@pytest.mark.parametrize("count", [2, 3, 4, 7, 8, 9, 10, 16, 17, 18, 100])
def test_every_token_except_the_first_is_a_target_once_per_epoch(seq_len, count):
    text = counted(count)
    windows = DataLoader(text, seq_len, seed=1)
    for epoch in range(3):
        seen = []
        for first in range(0, windows.windows_per_epoch, 4):
            tokens, targets = windows.read(epoch, first, 4)
            assert tokens.shape == targets.shape == (4, seq_len)
            assert tokens.dtype == targets.dtype == np.int32
            real = targets >= 0
            assert np.all(tokens[real] + 1 == targets[real]), "a target is the token after its input"
            assert np.all(tokens[~real] == 0)
            assert all(not b > a for row in real for a, b in pairwise(row)), "padding is at the end of a window"
            seen += targets[real].tolist()
        assert sorted(seen) == list(range(11, 10 + count))


def test_every_end_of_a_document_is_a_target():
    tokenizer = PieceTokenizer([], 260)
    text = tokens_of_documents([b"one", b"two", b"three"], tokenizer)
    windows = DataLoader(text, 4, seed=0)
    _, targets = windows.read(0, 0, windows.windows_per_epoch)
    assert np.count_nonzero(targets == tokenizer.EOS) == 3
    assert np.count_nonzero(targets == tokenizer.BOS) == 2


def test_windows_past_the_end_of_an_epoch_are_padding():
    windows = DataLoader(counted(9), 4, seed=0)
    assert windows.windows_per_epoch == 2
    for first, count in [(2, 3), (100, 2)]:
        tokens, targets = windows.read(0, first, count)
        assert np.all(tokens == 0)
        assert np.all(targets == -1)
    _, targets = windows.read(0, 1, 3)
    assert (targets >= 0).any(axis=1).tolist() == [True, False, False]


def test_windows_do_not_depend_on_the_number_read_together(monkeypatch):
    monkeypatch.setattr(data_loader, "BLOCK_WINDOWS", 4)
    text = counted(103)
    expected = DataLoader(text, 5, seed=2).read(7, 0, 30)
    for step in (1, 2, 3, 7):
        windows = DataLoader(text, 5, seed=2)
        parts = [windows.read(7, first, min(step, 30 - first)) for first in range(0, 30, step)]
        for index in (0, 1):
            assert np.array_equal(np.concatenate([part[index] for part in parts]), expected[index])


def test_reading_can_resume_at_any_position_of_any_epoch():
    text = counted(500)
    first = DataLoader(text, 5, seed=2)
    positions = [(epoch, window) for epoch in range(3) for window in range(0, first.windows_per_epoch, 8)]
    straight = [first.read(*position, 8)[1].tolist() for position in positions]
    for number, position in enumerate(positions):
        assert DataLoader(text, 5, seed=2).read(*position, 8)[1].tolist() == straight[number]


def test_sequential_windows_contain_every_target_once_in_order():
    for count in (2, 5, 6, 17, 40, 41, 42):
        read = list(sequential_windows(counted(count), 5, 3))
        assert all(tokens.shape == targets.shape == (3, 5) for tokens, targets in read)
        targets = np.concatenate([targets.ravel() for _, targets in read])
        tokens = np.concatenate([tokens.ravel() for tokens, _ in read])
        assert targets[targets >= 0].tolist() == list(range(11, 10 + count))
        assert np.all(tokens[targets >= 0] + 1 == targets[targets >= 0])


def test_a_text_without_a_target_is_rejected():
    for count in (0, 1):
        with pytest.raises(CorpusError, match="at least 2"):
            DataLoader(counted(count), 4, seed=0)
        with pytest.raises(CorpusError, match="at least 2"):
            list(sequential_windows(counted(count), 4, 2))


def test_a_text_shorter_than_one_window_is_padded():
    tokens, targets = DataLoader(counted(3), 8, seed=0).read(0, 0, 1)
    assert tokens.tolist() == [[10, 11, 0, 0, 0, 0, 0, 0]]
    assert targets.tolist() == [[11, 12, -1, -1, -1, -1, -1, -1]]


# ---- shuffled documents


def documents_of(lengths, seed=0):
    """Return a text of documents with these numbers of tokens, `<bos>` included, and the ids of each document."""
    random = np.random.default_rng(seed)
    ids = [np.concatenate([[BOS], random.integers(10, 1000, length - 1)]).astype(np.int32) for length in lengths]
    stream = np.concatenate(ids)
    return TokenStream(MemorySource(stream), 0, len(stream), len(stream), LENGTHS, "", "", len(ids)), ids


def test_a_text_in_another_order_is_its_documents_one_after_another():
    text, documents = documents_of([1, 5, 2, 9, 1, 3])
    order = np.array([3, 0, 5, 1, 4, 2])
    found = in_order(text, document_starts(text), order)
    expected = np.concatenate([documents[number] for number in order])
    assert len(found) == len(text)
    for start in range(len(text) + 1):
        for count in (0, 1, 2, 7, 100):
            assert np.array_equal(found.read(start, count), expected[start : start + count])


def test_a_text_that_begins_within_a_document_keeps_all_of_its_tokens():
    text, documents = documents_of([4, 3, 6])
    rest = replace(text, start=2, count=text.count - 2)
    starts = document_starts(rest)
    assert starts.tolist() == [0, 2, 5]
    moved = in_order(rest, starts, np.array([2, 0, 1])).read(0, 100)
    assert np.array_equal(moved, np.concatenate([documents[2], documents[0][2:], documents[1]]))


def test_starts_of_documents_are_found_in_parts(monkeypatch):
    text, documents = documents_of([4, 3, 6, 1, 1, 9])
    expected = document_starts(text)
    assert expected.tolist() == np.cumsum([0, *map(len, documents[:-1])]).tolist()
    monkeypatch.setattr(shuffled_documents, "SCANNED", 3)
    assert document_starts(text).tolist() == expected.tolist()


def test_each_epoch_has_all_documents_in_an_order_of_its_own():
    text, documents = documents_of([3 + number % 5 for number in range(40)])
    loader = DataLoader(text, 8, seed=3, documents=True)
    seen = []
    for epoch in range(3):
        stream = loader.text_of(epoch).read(0, len(text))
        starts = np.flatnonzero(stream == BOS)
        cut = [part.tobytes() for part in np.split(stream, starts[1:])]
        assert sorted(cut) == sorted(document.tobytes() for document in documents)
        seen.append(tuple(cut))
    assert len(set(seen)) == 3
    again = DataLoader(text, 8, seed=3, documents=True)
    assert np.array_equal(again.read(2, 3, 2)[0], loader.read(2, 3, 2)[0])
    assert not np.array_equal(DataLoader(text, 8, seed=4, documents=True).read(2, 3, 2)[0], loader.read(2, 3, 2)[0])


def test_windows_of_shuffled_documents_have_every_token_but_the_first_as_a_target():
    text, _ = documents_of([3 + number % 5 for number in range(40)])
    loader = DataLoader(text, 8, seed=1, documents=True)
    for epoch in range(2):
        targets = loader.read(epoch, 0, loader.windows_per_epoch)[1]
        expected = loader.text_of(epoch).read(1, len(text))
        assert sorted(targets[targets >= 0]) == sorted(expected)
