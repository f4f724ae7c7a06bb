import copy
import hashlib
import pickle
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpt_core import tokenizers
from gpt_core.errors import TokenizerError
from gpt_core.text.corpus import find_training_text
from gpt_core.tokenizers.pieces import AsciiTokenizer, PieceTokenizer
from gpt_core.tokenizers.protocol import FIRST_PIECE
from gpt_core.tokenizers.trie import PieceTrie
from tests.core.text_samples import ENDS, PROSE, WORLD, trained


def random_bytes(rng, size):
    return rng.randbytes(size)


def random_characters(rng, size):
    """Return valid UTF-8 with characters of every length, including NULs and control characters."""
    ranges = [(0, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]
    return "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(size)).encode()


def torn_characters(rng, size):
    text = bytearray(random_characters(rng, size))
    for _ in range(max(1, len(text) // 5)):
        if text:
            del text[rng.randrange(len(text))]
    return bytes(text)


@pytest.fixture(scope="module")
def samples():
    rng = random.Random(1)
    return [
        trained(PROSE),
        trained(WORLD),
        trained("\U0001f600\U0001f601\U0001f602\U0001f603".encode() * 10),
        trained(rng.randbytes(2000) * 2),
        PieceTokenizer([], FIRST_PIECE),
    ]


@pytest.mark.parametrize("make", [random_bytes, random_characters, torn_characters])
def test_decoding_returns_the_encoded_bytes(samples, make):
    rng = random.Random(2)
    for tokenizer in samples:
        for size in [*range(1, 12), 100, 5000]:
            data = make(rng, size)
            assert tokenizer.decode(tokenizer.encode(data).tolist()) == data


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\0\0\0\0\0", bytes(range(256)), b"<eos><pad>", PROSE, WORLD, WORLD[1:-1], b"\xef\xbb\xbf\r\n\r"],
)
def test_decoding_returns_the_encoded_bytes_of_boundary_cases(samples, data):
    for tokenizer in samples:
        ids = tokenizer.encode(data)
        assert ids.dtype == np.int32
        assert tokenizer.decode(ids.tolist()) == data


def test_encoding_produces_no_special_or_unused_id(samples):
    rng = random.Random(3)
    for tokenizer in samples:
        ids = tokenizer.encode(b"<pad><bos><eos><unk>" + PROSE + WORLD + rng.randbytes(1000))
        assert ids.min() >= 4
        assert ids.max() < len(tokenizer.vocabulary) <= tokenizer.vocab_size


def test_encoding_takes_the_longest_match_at_each_position():
    rng = random.Random(4)
    alphabet = ["a", "b", "é", "\u4f60", "\0"]
    for _ in range(30):
        chosen = {"".join(rng.choices(alphabet, k=rng.randint(1, 4))).encode() for _ in range(40)}
        tokenizer = PieceTokenizer(sorted(piece for piece in chosen if len(piece) > 1), 400)
        number_of = {piece: token for token, piece in enumerate(tokenizer.vocabulary) if piece}
        text = "".join(rng.choices(alphabet, k=200)).encode()[rng.randint(0, 2) :]
        expected, at = [], 0
        while at < len(text):
            size = max(size for size in range(1, 17) if text[at : at + size] in number_of and at + size <= len(text))
            expected.append(number_of[text[at : at + size]])
            at += size
        assert tokenizer.encode(text).tolist() == expected


def test_pieces_are_distinct_and_one_to_four_characters_long(samples):
    for tokenizer in samples:
        chosen = tokenizer.vocabulary[FIRST_PIECE:]
        assert len(set(chosen)) == len(chosen)
        assert all(1 <= len(piece.decode()) <= 4 and 2 <= len(piece) <= 16 for piece in chosen)
    assert len(samples[0].vocabulary) > FIRST_PIECE + 20
    assert any(len(piece.decode()) == 4 and len(piece) == 16 for piece in samples[2].vocabulary[FIRST_PIECE:])


def test_a_small_text_leaves_ids_unused_and_they_decode_to_nothing():
    tokenizer = trained(b"abcabc", 2048)
    assert len(tokenizer.vocabulary) < 2048
    assert tokenizer.decode([2047]) == b""
    assert tokenizer.describe(2047) == "<unused>"
    assert trained(b"", 300).vocabulary == PieceTokenizer([], 300).vocabulary


def test_special_ids_decode_to_nothing_and_ids_out_of_range_raise():
    tokenizer = trained(PROSE)
    assert tokenizer.decode([0, 1, 2, 3, 4 + ord("a"), 2]) == b"a"
    for token in (-1, 400):
        with pytest.raises(ValueError, match="0 to 399"):
            tokenizer.decode([token])


def test_descriptions_are_printable():
    tokenizer = PieceTokenizer([b" a\n", "é\u202e".encode(), b"\x1b[1m"], 300)
    assert [tokenizer.describe(token) for token in (0, 1, 2, 3)] == ["<pad>", "<bos>", "<eos>", "<unk>"]
    assert tokenizer.describe(260) == "␣a\\n"
    assert tokenizer.describe(261) == "é\\u202e"
    assert tokenizer.describe(262) == "\\x1b[1m"
    assert tokenizer.describe(4 + 0xFF) == "\\xff"
    assert all(tokenizer.describe(token).isprintable() for token in range(300))


def test_token_lengths_equal_the_lengths_of_the_token_bytes():
    tokenizer = trained(WORLD)
    assert tokenizer.token_lengths.tolist() == [len(tokenizer.token_bytes(token)) for token in range(400)]


@pytest.mark.parametrize("vocab_size", [-1, 0, 259, (1 << 20) + 1])
def test_a_vocabulary_size_out_of_range_is_rejected(vocab_size):
    with pytest.raises(TokenizerError, match="vocab_size"):
        trained(PROSE, vocab_size)


@pytest.mark.parametrize("piece", [b"", b"a", b"abcde", "ééééé".encode(), b"\xff\xff", b"a\xc3"])
def test_invalid_pieces_are_rejected(piece):
    with pytest.raises(TokenizerError, match="1 to 4 characters"):
        PieceTokenizer([piece], 300)


# documents


@pytest.mark.parametrize("name", ["pieces", "ascii"])
def test_documents_encode_to_bos_tokens_eos_across_blocks(name):
    tokenizer = trained(PROSE, name=name)
    texts = [b"The fox", b"", b"the dog", b"a", PROSE[:150]]
    expected = [token for text in texts for token in [1, *tokenizer.encode(text).tolist(), 2]]
    ends = np.cumsum([len(text) for text in texts])
    ids, is_open = tokenizer.encode_documents(b"".join(texts), ends)
    assert ids.tolist() == expected
    assert not is_open
    first, is_open = tokenizer.encode_documents(b"The fox the", np.array([3]))
    assert is_open
    rest, is_open = tokenizer.encode_documents(b"dog", np.array([3]), is_open)
    both = [1, *tokenizer.encode(b"The"), 2, 1, *tokenizer.encode(b" fox the"), *tokenizer.encode(b"dog"), 2]
    assert [*first, *rest] == both
    assert not is_open


def test_ends_outside_the_text_are_rejected():
    matcher = PieceTrie([b"ab"], 260)
    room = np.empty(100, dtype=np.int32)
    for ends in ([5], [-1], [3, 2]):
        with pytest.raises(ValueError, match="ascending"):
            matcher.encode_documents(b"abab", np.array(ends, dtype=np.int64), False, room)
    with pytest.raises(ValueError, match="room"):
        matcher.encode(b"abab", ENDS, room[:3])


# ascii


def folded(data):
    """Return the slices into which the Go project folds a text."""
    words = bytes(byte for byte in data if byte < 128).lower().split()
    return [word[at : at + 4] for word in words for at in range(0, len(word), 4)]


def test_ascii_folds_to_lower_case_and_drops_white_space():
    tokenizer = trained(PROSE, name="ascii")
    assert tokenizer.decode(tokenizer.encode(b"The Quick\r\n  br\xc3\xa9own").tolist()) == b"thequickbrown"


def test_ascii_cuts_words_into_slices_of_four_bytes_as_the_go_project_does():
    rng = random.Random(5)
    tokenizer = trained(PROSE, name="ascii")
    texts = [PROSE, WORLD, b"", b" ", b"\x00 \x1f\x1c", *(rng.randbytes(rng.randint(1, 300)) for _ in range(50))]
    for text in texts:
        expected = [token for part in folded(text) for token in PieceTokenizer.encode(tokenizer, part).tolist()]
        assert tokenizer.encode(text).tolist() == expected
        assert tokenizer.decode(expected) == b"".join(folded(text))


def test_ascii_pieces_are_slices_of_words():
    pieces = trained(PROSE, name="ascii").vocabulary[FIRST_PIECE:]
    assert set(pieces) <= {part[:end] for part in folded(PROSE) for end in range(2, 5)} | set(folded(PROSE))
    assert b"quic" in pieces


# storage


def small():
    return AsciiTokenizer([b"ab", "\u4f60é".encode(), b" \n"], 300)


def signed(header, pieces=b"\x02ab"):
    """Return a stored tokenizer of any content, with the right checksum."""
    data = (header if isinstance(header, bytes) else msgspec.json.encode(header)) + b"\n" + pieces
    return data + hashlib.sha256(data).digest()


def header(**changes):
    return {"format": "gpt-tui tokenizer", "version": 1, "mode": "pieces", "vocab_size": 300} | changes


@pytest.mark.parametrize(
    "twin_of",
    [
        lambda tokenizer: tokenizers.from_bytes(tokenizer.to_bytes()),
        lambda tokenizer: pickle.loads(pickle.dumps(tokenizer)),
        copy.deepcopy,
    ],
)
def test_a_stored_or_copied_tokenizer_is_read_back_equal(twin_of):
    for tokenizer in (small(), trained(WORLD), PieceTokenizer([], 260)):
        again = twin_of(tokenizer)
        assert (again.vocabulary, again.vocab_size, type(again)) == (
            tokenizer.vocabulary,
            tokenizer.vocab_size,
            type(tokenizer),
        )
        assert again.sha256 == tokenizer.sha256
        assert again.encode(WORLD).tolist() == tokenizer.encode(WORLD).tolist()


def test_every_truncation_and_every_flipped_bit_is_rejected():
    data = small().to_bytes()
    for size in range(len(data)):
        with pytest.raises(TokenizerError):
            tokenizers.from_bytes(data[:size])
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TokenizerError):
            tokenizers.from_bytes(bytes(damaged))
    with pytest.raises(TokenizerError):
        tokenizers.from_bytes(data + b"\0")


def test_the_helper_of_the_hostile_cases_makes_a_valid_tokenizer():
    assert tokenizers.from_bytes(signed(header())).vocabulary[260:] == [b"ab"]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n", b"{}\n", b"null\n", b"[" * 255 + b"\n", b"x" * 100_000, b'{"format":"\xff"}\n',
        signed(header(format="other")), signed(header(version=2)), signed(header(version="1")),
        signed(header(mode="bpe")), signed(header(mode=None)), signed(header(extra=1)), signed(header(vocab_size=259)),
        signed(header(vocab_size=-1)), signed(header(vocab_size=1 << 70)), signed(header(vocab_size=1e30)),
        signed(header(vocab_size=260)), signed(header(), b"\x02ab\x02ab"), signed(header(), b"\x01a"),
        signed(header(), b"\x05abcde"), signed(header(), b"\x02\xff\xfe"), signed(header(), b"\x02a"),
        signed(header(), b"\x00"), signed(header(), b"\x11" + b"a" * 17), signed(b" " * 300 + b"{}"),
    ],
)  # fmt: skip
def test_hostile_tokenizers_are_rejected(data):
    with pytest.raises(TokenizerError) as caught:
        tokenizers.from_bytes(data)
    assert str(caught.value).isprintable()


def test_the_shipped_text_is_found():
    assert find_training_text(Path("/nonexistent")).name == "train.en"
