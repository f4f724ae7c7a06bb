import errno
import gc
import os
import random
import time
import tracemalloc
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest

import gpt_core
from gpt_core import files
from gpt_core.errors import CorpusError, TokenizerError
from gpt_core.text import cache_files, corpus, token_cache, token_file
from gpt_core.text import documents as documents_module
from gpt_core.text.cache_files import cache_folders, new_cache_file
from gpt_core.text.reader import TextReader, documents, text_sha256
from gpt_core.text.source import TextSource, text_source
from gpt_core.text.token_cache import load_or_train_tokenizer, load_tokens
from gpt_core.text.token_file import HEADER_BYTES, Header
from gpt_core.tokenizers import blocks
from gpt_core.tokenizers.pieces import AsciiTokenizer, PieceTokenizer
from tests.core.text_samples import LINES, PIECES


def any_bytes(path) -> TextSource:
    return text_source(path, allow_binary=True)


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "gpt-tui"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "texts" / "train.en"
    path.parent.mkdir()
    path.write_bytes(LINES)
    return path


def expected(path, tokenizer=PIECES, document="paragraph"):
    return [
        token for part in documents(any_bytes(path), document) for token in [1, *tokenizer.encode(part).tolist(), 2]
    ]


def tokens_of(text):
    return text.read(0, len(text)).tolist()


def caches(folder, kind="tokens"):
    return sorted(folder.glob(f"train.en.{kind}-*"))


def no_encoding(*_arguments):
    raise AssertionError("the text was encoded again")


def refusal(function, *arguments, **named):
    with pytest.raises(CorpusError) as caught:
        function(*arguments, **named)
    assert str(caught.value).isprintable(), "an error is one line"
    return str(caught.value)


# tokens


@pytest.mark.parametrize("document", ["paragraph", "line", "file"])
def test_loaded_tokens_equal_the_encoded_documents(text, document):
    loaded = load_tokens(any_bytes(text), PIECES, document)
    assert tokens_of(loaded) == expected(text, PIECES, document)
    assert loaded.bytes == len(LINES)
    assert loaded.sha256 == text_sha256(any_bytes(text))
    assert loaded.name == str(text)
    assert loaded.documents == tokens_of(loaded).count(1)
    assert loaded.token_lengths[tokens_of(loaded)].sum() <= len(LINES)


def test_a_cached_text_is_not_encoded_again(text, monkeypatch):
    first = load_tokens(any_bytes(text), PIECES, "paragraph")
    monkeypatch.setattr(PieceTokenizer, "encode_documents", no_encoding)
    second = load_tokens(any_bytes(text), PIECES, "paragraph")
    assert tokens_of(second) == tokens_of(first)
    assert (second.bytes, second.sha256, second.name) == (first.bytes, first.sha256, first.name)
    assert [path.name[:-12] for path in caches(text.parent)] == ["train.en.tokens-"]


def test_each_text_tokenizer_and_kind_of_document_has_its_own_cache(text):
    load_tokens(any_bytes(text), PIECES, "paragraph")
    load_tokens(any_bytes(text), PIECES, "line")
    load_tokens(any_bytes(text), PieceTokenizer([b"The "], 300), "paragraph")
    before = text.stat()
    text.write_bytes(LINES.replace(b"second", b"2econd"))  # same size and, below, same time
    os.utime(text, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(caches(text.parent)) == 3
    loaded = load_tokens(any_bytes(text), PIECES, "paragraph")
    assert len(caches(text.parent)) == 1, "those of the earlier text are removed"
    assert tokens_of(loaded) == expected(text)
    assert b"2econd" in PIECES.decode(tokens_of(loaded))


def test_caches_of_earlier_versions_of_a_text_are_removed_and_nothing_else(text):
    folder = text.parent
    first = load_or_train_tokenizer(any_bytes(text), 270)
    load_or_train_tokenizer(any_bytes(text), 271, document="line")
    load_tokens(any_bytes(text), first, "paragraph")
    load_tokens(any_bytes(text), PIECES, "line")
    assert (len(caches(folder)), len(caches(folder, "pieces"))) == (2, 2), "one version may have several"
    foreign = [folder / name for name in (
        "train.en.tokens-0123456789ab", "train.en.pieces-0123456789ab", "train.en.tokens-0123456789ab.txt",
        "train.en.tokens-mine", "other.en.tokens-0123456789ab",
    )]  # fmt: skip
    for path in foreign:
        path.write_bytes(b"mine")
    (folder / "train.en.tokens-ba9876543210").mkdir()
    other = text.with_name("other.en")
    other.write_bytes(LINES * 2)
    load_tokens(any_bytes(other), PIECES, "line")
    text.write_bytes(LINES.replace(b"second", b"2econd"))
    second = load_or_train_tokenizer(any_bytes(text), 270)
    pieces = [path for path in caches(folder, "pieces") if path not in foreign]
    assert len(pieces) == 1
    load_tokens(any_bytes(text), second, "paragraph")
    tokens = [path for path in caches(folder) if path not in foreign and path.is_file()]
    assert len(tokens) == 1
    assert {path.name for path in foreign} <= {path.name for path in folder.iterdir()}
    assert len(list(folder.glob("other.en.tokens-*"))) == 2
    assert (folder / "train.en.tokens-ba9876543210").is_dir()


def test_caches_of_a_pattern_are_replaced_when_it_matches_more_files(tmp_path):
    def caches_of(*names):
        source = text_source([tmp_path / name for name in names], allow_binary=True)
        tokenizer = load_or_train_tokenizer(source, 300)
        load_tokens(source, tokenizer, "paragraph")
        return {path.name for path in tmp_path.iterdir() if ".tokens-" in path.name or ".pieces-" in path.name}

    for name in ("b1.txt", "b2.txt", "c1.txt"):
        (tmp_path / name).write_bytes(LINES)
    others = caches_of("b1.txt", "c1.txt") | caches_of("*1.txt")  # they begin with the same file
    first = caches_of("b*.txt") - others
    assert (len(others), len(first)) == (4, 2)
    for name in ("b3.txt", "b0.txt"):  # after the other files, and before them
        (tmp_path / name).write_bytes(LINES)
        first, before = caches_of("b*.txt") - others, first
        assert len(first) == 2
        assert not first & before
    assert caches_of("b1.txt", "c1.txt") == others | first


def test_caches_of_several_files_under_the_names_of_earlier_versions_are_removed(tmp_path):
    for name in ("b1.txt", "b2.txt", "b3.txt"):
        (tmp_path / name).write_bytes(LINES)
    source = text_source([tmp_path / "b*.txt"], allow_binary=True)
    load_tokens(source, load_or_train_tokenizer(source, 300), "paragraph")
    for cache in list(tmp_path.glob(f"{source.cache_path.name}.*")):
        cache.rename(cache.with_name(cache.name.replace(source.cache_path.name, "b1.txt+2")))
    by_others = tmp_path / "b1.txt+2.tokens-0123456789ab"
    by_others.write_text("not a cache")
    assert len(list(tmp_path.glob("b1.txt+2.*"))) == 3
    load_tokens(source, load_or_train_tokenizer(source, 300), "paragraph")
    assert list(tmp_path.glob("b1.txt+2.*")) == [by_others]
    assert len(list(tmp_path.glob(f"{source.cache_path.name}.*"))) == 2


def test_a_tokenizer_is_cached_once_where_its_folder_cannot_be_listed(text, own_cache_folder, monkeypatch):
    for name in ("listdir", "scandir"):
        original = getattr(os, name)

        def list_folder(path=".", original=original):
            if os.fspath(path) == str(text.parent):
                raise PermissionError(13, "Permission denied", str(path))
            return original(path)

        monkeypatch.setattr(os, name, list_folder)
    load_or_train_tokenizer(any_bytes(text), 270)
    monkeypatch.undo()
    assert len(caches(text.parent, "pieces")) == 1
    assert not own_cache_folder.exists()


def test_caches_in_a_shared_folder_are_kept_as_they_may_be_of_another_text(text, tmp_path):
    shared = tmp_path / "shared"
    load_tokens(any_bytes(text), PIECES, "line", cache_dir=shared)
    text.write_bytes(LINES * 2)
    load_tokens(any_bytes(text), PIECES, "line", cache_dir=shared)
    assert len(caches(shared)) == 2


@pytest.mark.slow
def test_a_truncated_cache_is_rebuilt(text):
    tokens = tokens_of(load_tokens(any_bytes(text), PIECES, "paragraph"))
    (cache,) = caches(text.parent)
    data = cache.read_bytes()
    for size in [*range(0, HEADER_BYTES + 8), *range(HEADER_BYTES + 8, len(data), 97), len(data) - 1]:
        cache.write_bytes(data[:size])
        assert tokens_of(load_tokens(any_bytes(text), PIECES, "paragraph")) == tokens
        assert cache.read_bytes() == data
    cache.write_bytes(data + b"\0\0")
    assert tokens_of(load_tokens(any_bytes(text), PIECES, "paragraph")) == tokens
    assert cache.read_bytes() == data


def test_a_cache_with_a_flipped_bit_is_rebuilt(text):
    tokens = tokens_of(load_tokens(any_bytes(text), PIECES, "paragraph"))
    (cache,) = caches(text.parent)
    data = cache.read_bytes()
    rng = random.Random(1)
    for _ in range(300):
        damaged = bytearray(data)
        place = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(len(data[:HEADER_BYTES].rstrip()))
        damaged[place] ^= 1 << rng.randrange(8)
        cache.write_bytes(damaged)
        loaded = load_tokens(any_bytes(text), PIECES, "paragraph")
        assert tokens_of(loaded) == tokens
        assert loaded.bytes == len(LINES)


def test_a_foreign_file_of_the_same_name_is_replaced(text):
    tokens = tokens_of(load_tokens(any_bytes(text), PIECES, "paragraph"))
    (cache,) = caches(text.parent)
    for foreign in (b"", b"{}", b"\xff" * 5000, b"[" * 5000, bytes(5000)):
        cache.write_bytes(foreign)
        assert tokens_of(load_tokens(any_bytes(text), PIECES, "paragraph")) == tokens


def rewritten(cache, ids, **changes):
    """Overwrite a cache by a consistent one with other ids or another header."""
    header = msgspec.json.decode(cache.read_bytes()[:HEADER_BYTES], type=Header)
    data = np.array(ids, dtype="<u2").tobytes()
    header = msgspec.structs.replace(header, **({"count": len(ids), "crc32": 0} | changes))
    header.crc32 = zlib.crc32(msgspec.json.encode(header), zlib.crc32(data))
    cache.write_bytes(msgspec.json.encode(header).ljust(HEADER_BYTES - 1) + b"\n" + data)


def test_a_forged_cache_is_rebuilt(text, monkeypatch):
    tokens = tokens_of(load_tokens(any_bytes(text), PIECES, "paragraph"))
    (cache,) = caches(text.parent)
    hostile = [
        ([1, 300, 2], {}), ([1, 65535, 2], {}), (tokens, {"text_sha256": "0" * 64}), (tokens, {"document": "line"}),
        (tokens, {"tokenizer_sha256": "0" * 64}), (tokens, {"count": len(tokens) - 1}), (tokens, {"count": -1}),
        (tokens, {"count": 1 << 62}), (tokens, {"token_bytes": 4}), (tokens, {"token_bytes": 0}),
        (tokens, {"version": 9}), (tokens, {"text_bytes": -1}), (tokens, {"format": "x"}), ([], {}),
    ]  # fmt: skip
    for ids, changes in hostile:
        rewritten(cache, ids, **changes)
        loaded = load_tokens(any_bytes(text), PIECES, "paragraph")
        assert (tokens_of(loaded), loaded.bytes) == (tokens, len(LINES)), changes
    rewritten(cache, tokens)
    monkeypatch.setattr(PieceTokenizer, "encode_documents", no_encoding)
    assert tokens_of(load_tokens(any_bytes(text), PIECES, "paragraph")) == tokens, (
        "a cache with the right contents is used"
    )


def test_links_fifos_and_folders_in_place_of_a_cache_do_no_harm(text, tmp_path, own_cache_folder):
    tokens = tokens_of(load_tokens(any_bytes(text), PIECES, "paragraph"))
    (cache,) = caches(text.parent)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    cache.unlink()
    cache.symlink_to(victim)
    assert tokens_of(load_tokens(any_bytes(text), PIECES, "paragraph")) == tokens
    assert victim.read_bytes() == b"precious"
    assert not cache.is_symlink()
    cache.unlink()
    os.mkfifo(cache)
    assert tokens_of(load_tokens(any_bytes(text), PIECES, "paragraph")) == tokens
    cache.unlink()
    cache.mkdir()
    assert tokens_of(load_tokens(any_bytes(text), PIECES, "paragraph")) == tokens
    assert (own_cache_folder / cache.name).is_file()


def failing_in(folder, code):
    """Return `new_cache_file` of a machine on which `folder` cannot be written."""

    def new_file(place):
        if place == folder:
            raise OSError(code, os.strerror(code))
        return new_cache_file(place)

    return new_file


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_the_users_cache_folder_is_used_where_the_folder_of_the_text_is_read_only(
    text, own_cache_folder, monkeypatch, code
):
    monkeypatch.setattr(token_cache, "new_cache_file", failing_in(text.parent, code))
    assert tokens_of(load_tokens(any_bytes(text), PIECES, "paragraph")) == expected(text)
    assert load_or_train_tokenizer(any_bytes(text), 300).vocabulary
    assert len(caches(own_cache_folder)) == len(caches(own_cache_folder, "pieces")) == 1
    assert list(text.parent.iterdir()) == [text]
    monkeypatch.setattr(PieceTokenizer, "encode_documents", no_encoding)
    assert tokens_of(load_tokens(any_bytes(text), PIECES, "paragraph")) == expected(text)


def test_the_error_names_each_folder_where_no_cache_can_be_written(text, own_cache_folder):
    own_cache_folder.parent.mkdir()
    own_cache_folder.write_bytes(b"a file where the folder should be")
    (text.parent / token_cache.token_cache_name(text, text_sha256(any_bytes(text)), PIECES.sha256, "paragraph")).mkdir()
    message = refusal(load_tokens, any_bytes(text), PIECES, "paragraph")
    assert str(own_cache_folder) in message
    assert "XDG_CACHE_HOME" in message
    assert [path for path in text.parent.iterdir() if path.is_file()] == [text]


def test_cache_dir_replaces_the_default_folders(text, tmp_path):
    loaded = load_tokens(any_bytes(text), PIECES, "paragraph", cache_dir=tmp_path / "a" / "b")
    tokenizer = load_or_train_tokenizer(any_bytes(text), 300, cache_dir=tmp_path / "a" / "b")
    assert tokens_of(loaded) == expected(text)
    assert tokenizer.vocab_size == 300
    assert len(list((tmp_path / "a" / "b").iterdir())) == 2
    assert list(text.parent.iterdir()) == [text]


def test_nothing_is_written_into_an_installed_package(own_cache_folder, monkeypatch):
    inside = Path(gpt_core.__file__).parent / "data" / "raw" / "train.en"
    assert cache_folders(inside) == [own_cache_folder]
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folders(inside) == [Path.home() / ".cache" / "gpt-tui"]


def test_a_truncated_open_cache_raises_and_a_deleted_one_stays_readable(text):
    loaded = load_tokens(any_bytes(text), PIECES, "paragraph")
    tokens = tokens_of(loaded)
    (cache,) = caches(text.parent)
    cache.unlink()
    text.unlink()
    assert tokens_of(loaded) == tokens
    text.write_bytes(LINES)
    loaded = load_tokens(any_bytes(text), PIECES, "paragraph")
    os.truncate(cache, HEADER_BYTES + 10)
    assert loaded.read(0, 5).tolist() == tokens[:5]
    assert "cut short" in refusal(loaded.read, 0, 6)


def test_unused_caches_are_closed(text):
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        load_tokens(any_bytes(text), PIECES, "paragraph").read(0, 3)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_ids_above_65535_are_stored_exactly(text):
    pieces = [first + second for first in map(chr, range(0x100, 0x200)) for second in map(chr, range(0x300, 0x402))]
    tokenizer = PieceTokenizer([piece.encode() for piece in pieces], 70_000)
    text.write_text(pieces[-1] + pieces[0] + pieces[65_600])
    loaded = load_tokens(any_bytes(text), tokenizer, "file")
    assert tokens_of(loaded) == [1, 260 + len(pieces) - 1, 260, 260 + 65_600, 2]


def test_a_text_that_changes_while_it_is_read_is_cached_as_it_was_read(text, monkeypatch):
    real = token_cache.text_sha256

    def hashed_just_before_a_change(source, progress=None):
        digest = real(source, progress)
        text.write_bytes(b"Another text of another length.\n")
        return digest

    monkeypatch.setattr(token_cache, "text_sha256", hashed_just_before_a_change)
    loaded = load_tokens(any_bytes(text), PIECES, "paragraph")
    assert tokens_of(loaded) == expected(text)
    assert loaded.sha256 == real(any_bytes(text))
    assert loaded.bytes == 32


@pytest.mark.parametrize("data", [b"", b" \n\n \r\n", b"\xef\xbb\xbf"])
def test_an_empty_text_is_rejected_and_leaves_no_cache(text, data):
    text.write_bytes(data)
    assert "empty" in refusal(load_tokens, any_bytes(text), PIECES, "paragraph")
    assert list(text.parent.iterdir()) == [text]


def test_a_text_that_ascii_folding_reduces_to_nothing_is_rejected(text):
    text.write_text("你好\n")
    message = refusal(load_tokens, any_bytes(text), AsciiTokenizer([], 260), "paragraph")
    assert "no tokens with tokenizer = ascii" in message
    assert "set tokenizer = pieces" in message
    assert len(load_tokens(any_bytes(text), PIECES, "paragraph")) == 8


def test_the_bytes_of_a_text_are_those_that_a_lossy_tokenizer_keeps(text):
    text.write_text("Hello, Wörld!\n\nIt was late.\n")
    tokens = load_tokens(any_bytes(text), AsciiTokenizer([], 260), "paragraph")
    assert tokens.bytes == tokens.target_bytes == len("hello,wrld!itwaslate.")
    assert load_tokens(any_bytes(text), PIECES, "paragraph").bytes == len(text.read_bytes())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_not_part_of_the_text(text, encoding):
    words = "Hello, Wörld!\n\nIt was late.\n"
    text.write_text(words, encoding)
    tokens = load_tokens(text_source(text), PIECES, "paragraph")
    assert tokens.bytes == len(words.encode())
    assert b"".join(TextReader(text_source(text)).contents()) == words.encode()


def test_memory_is_bounded_while_a_text_is_encoded(text, monkeypatch):
    for module in (blocks, corpus, token_file):
        monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr(documents_module, "PART_BYTES", 1 << 14)
    text.write_bytes(b"word " * 800_000)
    tracemalloc.start()
    try:
        loaded = load_tokens(any_bytes(text), PIECES, "paragraph")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(loaded) == 4_000_002
    assert peak < 1_000_000


def test_progress_is_reported_from_0_to_1(text):
    reports = []
    load_tokens(
        any_bytes(text), PIECES, "paragraph", progress=lambda activity, fraction: reports.append((activity, fraction))
    )
    assert {activity for activity, _ in reports} == {"reading train.en", "encoding train.en"}
    assert all(0 <= fraction <= 1 for _, fraction in reports)


def temporary_files(folder, *names):
    """Create files under temporary names of the cache, one byte each."""
    paths = [folder / f"{cache_files.TEMPORARY}{name}" for name in names]
    for path in paths:
        path.write_bytes(b"x")
    return paths


@pytest.mark.parametrize("is_cached", [False, True])
def test_the_temporary_files_of_killed_processes_are_removed_also_if_the_text_is_cached(text, is_cached):
    if is_cached:
        load_tokens(any_bytes(text), PIECES, "paragraph")
    names = ("12-0123456789ab", "12-ba9876543210", "12-ab0123456789", "of-the-user")
    unlocked, locked, empty, users = temporary_files(text.parent, *names)
    empty.write_bytes(b"")  # one that was created a moment ago
    with open(locked, "r+b") as file:
        assert files.try_lock(file)
        load_tokens(any_bytes(text), PIECES, "paragraph")
    assert not unlocked.exists()
    assert locked.exists()
    assert empty.exists()
    assert users.exists()


def test_without_locks_only_old_temporary_files_are_removed(text, monkeypatch):
    monkeypatch.setattr(files, "try_lock", lambda _file: None)
    old, new, users = temporary_files(text.parent, "12-0123456789ab", "12-ba9876543210", "of-the-user")
    for path in (old, users):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    load_tokens(any_bytes(text), PIECES, "paragraph")
    assert not old.exists()
    assert new.exists()
    assert users.exists()


def test_the_space_of_stale_files_is_free_before_a_new_one_is_written(tmp_path):
    (stale,) = temporary_files(tmp_path, "12-0123456789ab")
    with new_cache_file(tmp_path):
        assert not stale.exists()


def test_a_file_that_is_being_written_is_not_stale(tmp_path):
    with new_cache_file(tmp_path) as cache:
        cache.file.write(bytes(1 << 20))
        cache_files.remove_stale(tmp_path)
        cache.publish("done")
    assert (tmp_path / "done").stat().st_size == 1 << 20


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    def fail():
        with new_cache_file(tmp_path / "new") as cache:
            cache.file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert list((tmp_path / "new").iterdir()) == []


# tokenizer cache


def test_a_cached_tokenizer_is_not_trained_again(text, monkeypatch):
    first = load_or_train_tokenizer(any_bytes(text), 400)
    assert len(first.vocabulary) > 270
    assert load_or_train_tokenizer(any_bytes(text), 401).vocab_size == 401
    assert load_or_train_tokenizer(any_bytes(text), 400, "ascii").name == "ascii"
    monkeypatch.setattr(PieceTokenizer, "train", None)
    assert load_or_train_tokenizer(any_bytes(text), 400).sha256 == first.sha256


def test_a_damaged_tokenizer_cache_is_rebuilt(text):
    first = load_or_train_tokenizer(any_bytes(text), 400)
    (cache,) = caches(text.parent, "pieces")
    data = cache.read_bytes()
    other = PieceTokenizer([b"ab"], 300).to_bytes()
    for damaged in (b"", data[:-1], data[:100], data + b"x", data.replace(b"The", b"Teh"), other, bytes(100)):
        cache.write_bytes(damaged)
        assert load_or_train_tokenizer(any_bytes(text), 400).sha256 == first.sha256
        assert cache.read_bytes() == data


def test_a_tokenizer_is_trained_where_it_cannot_be_cached(text, monkeypatch):
    def full(_folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    expected = load_or_train_tokenizer(any_bytes(text), 400).sha256
    caches(text.parent, "pieces")[0].unlink()
    monkeypatch.setattr(token_cache, "new_cache_file", full)
    assert load_or_train_tokenizer(any_bytes(text), 400).sha256 == expected


def test_invalid_arguments_of_tokenizer_training_are_named(text, tmp_path):
    assert "No such file" in refusal(text_source, tmp_path / "missing")
    source = any_bytes(text)
    text.unlink()
    assert "No such file" in refusal(load_or_train_tokenizer, source, 400, progress=lambda *_: None)
    text.write_bytes(LINES)
    with pytest.raises(TokenizerError, match="vocab_size"):
        load_or_train_tokenizer(any_bytes(text), 100)
