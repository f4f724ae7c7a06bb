"""Cache of the tokenizer and the tokens of a text, so that each is computed once.

The name of a cache file contains a hash of everything that its contents depend on, including every byte of the text. A
cache is therefore never stale: another text, tokenizer or kind of document has another file. Damaged and foreign files
are replaced. When a cache has been written beside a text, those of earlier versions of the text are removed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import stat
from pathlib import Path
from typing import get_args

from gpt_core import tokenizers
from gpt_core.errors import CorpusError, MissingPackageError, TokenizerError
from gpt_core.progress import Progress, ignore_progress
from gpt_core.text.baselines import read_baseline_file
from gpt_core.text.cache_files import cache_folders, new_cache_file, remove_stale
from gpt_core.text.documents import DocumentKind
from gpt_core.text.reader import sample_texts, text_sha256
from gpt_core.text.source import TextSource
from gpt_core.text.token_file import VERSION, Header, open_token_file, read_header, write_token_file
from gpt_core.text.token_stream import TokenStream
from gpt_core.tokenizers import Tokenizer, tokenizer_type
from gpt_core.tokenizers.protocol import SAMPLE_BYTES
from gpt_core.tokenizers.storage import MAX_STORED_BYTES


def load_tokens(
    source: TextSource,
    tokenizer: Tokenizer,
    document: DocumentKind,
    *,
    cache_dir: Path | None = None,
    progress: Progress = ignore_progress,
) -> TokenStream:
    """Return the tokens of a text, from its cache if there is one, else encoded into a new cache.

    Memory is bounded for a text of any size. If the text changes while it is read, the bytes that were read are cached.

    Args:
        source: The text.
        tokenizer: Encodes the text.
        document: Kind of document: a paragraph, a line or the file.
        cache_dir: Folder of the cache; None for the folder of the text, else the user's cache folder.
        progress: Receives the activity and its completed fraction.

    Raises:
        CorpusError: The text cannot be read or has no tokens, or no cache can be written.
        TokenizerError: An id is not in the vocabulary.
    """
    folders = cache_folders(source.cache_path, cache_dir)
    for folder in folders:
        remove_stale(folder)
    sha256 = text_sha256(source, progress)
    for folder in folders:
        name = token_cache_name(source.cache_path, sha256, tokenizer.sha256, document)
        if (text := open_token_file(folder / name, source, sha256, tokenizer, document, progress)) is not None:
            return text
    failures = []
    for folder in folders:
        try:
            return _encode_into(folder, source, tokenizer, document, progress)
        except OSError as error:
            failures.append(f"{folder}: {error.strerror}")
    why = "; ".join(failures) or "there is no home folder for it"
    raise CorpusError(f"cannot write a token cache ({why}); free some space, or set XDG_CACHE_HOME")


def load_or_train_tokenizer(
    source: TextSource,
    vocab_size: int,
    name: str = "pieces",
    document: DocumentKind = "paragraph",
    *,
    cache_dir: Path | None = None,
    progress: Progress = ignore_progress,
) -> Tokenizer:
    """Return the tokenizer trained on a text, from its cache if there is one. Deterministic.

    Of a text of more than 32 MiB, samples at regular intervals are used (`gpt_core.text.reader.sample_texts`). If no
    cache can be written, the tokenizer is trained each time.

    Args:
        source: The text.
        vocab_size: Number of ids (V).
        name: Registered name of the tokenizer.
        document: Kind of document: a paragraph, a line or the file.
        cache_dir: Folder of the cache; None for the folder of the text, else the user's cache folder.
        progress: Receives the activity and its completed fraction.

    Raises:
        CorpusError: The text cannot be read.
        TokenizerError: `vocab_size` is out of range, or the name is not registered.
    """
    sha256 = text_sha256(source, progress)
    if (cached := cached_tokenizer(source.cache_path, sha256, vocab_size, name, document, cache_dir)) is not None:
        return cached
    texts = sample_texts(source, document, SAMPLE_BYTES, activity="training the tokenizer on", progress=progress)
    tokenizer = tokenizers.train(name, texts, vocab_size)
    for folder in cache_folders(source.cache_path, cache_dir):
        with contextlib.suppress(OSError), new_cache_file(folder) as cache:
            cache.file.write(tokenizer.to_bytes())
            cache.publish(tokenizer_cache_name(source.cache_path, sha256, vocab_size, name, document))
            _remove_outdated(folder, source, sha256)
            break
    return tokenizer


def cached_tokenizer(
    path: Path, sha256: str, vocab_size: int, name: str, document: DocumentKind, cache_dir: Path | None = None
) -> Tokenizer | None:
    """Return the tokenizer trained on a text with this digest if it is cached.

    Args:
        path: Path that the caches of the text are named after.
        sha256: Digest of the text.
        vocab_size: Number of ids (V).
        name: Registered name of the tokenizer.
        document: Kind of document: a paragraph, a line or the file.
        cache_dir: Folder of the cache; None for the default folders.
    """
    cache_name = tokenizer_cache_name(path, sha256, vocab_size, name, document)
    for folder in cache_folders(path, cache_dir):
        tokenizer = open_tokenizer_cache(folder / cache_name)
        if tokenizer is not None and (tokenizer.vocab_size, tokenizer.name) == (vocab_size, name):
            return tokenizer
    return None


def cached_header(path: Path, sha256: str, tokenizer_sha256: str, document: DocumentKind) -> Header | None:
    """Return the header of the tokens of a text with this digest if they are cached, without checking the ids.

    Args:
        path: Path that the caches of the text are named after.
        sha256: Digest of the text.
        tokenizer_sha256: Digest of the tokenizer.
        document: Kind of document: a paragraph, a line or the file.
    """
    cache_name = token_cache_name(path, sha256, tokenizer_sha256, document)
    headers = (read_header(folder / cache_name) for folder in cache_folders(path))
    return next((header for header in headers if header is not None), None)


def token_cache_name(path: Path, sha256: str, tokenizer_sha256: str, document: DocumentKind) -> str:
    """Return the file name of the token cache of a text with this digest, for a tokenizer with that digest."""
    return f"{path.name}.tokens-{_short_hash(f'{VERSION} {sha256} {tokenizer_sha256} {document}')}"


def tokenizer_cache_name(path: Path, sha256: str, vocab_size: int, name: str, document: DocumentKind) -> str:
    """Return the file name of the cache of the tokenizer `name` trained on a text with this SHA-256."""
    training_version = tokenizer_type(name).training_version
    return f"{path.name}.pieces-{_short_hash(f'{VERSION} {training_version} {sha256} {vocab_size} {name} {document}')}"


def open_tokenizer_cache(cache: Path) -> Tokenizer | None:
    """Return the tokenizer in a cache file; None if the file is missing, damaged or not a tokenizer."""
    try:
        found = cache.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_STORED_BYTES:
            return None
        return tokenizers.from_bytes(cache.read_bytes())
    except (OSError, TokenizerError, MissingPackageError):
        return None


def _encode_into(
    folder: Path, source: TextSource, tokenizer: Tokenizer, document: DocumentKind, progress: Progress
) -> TokenStream:
    """Encode the text into a new cache in `folder`, and open it.

    Raises:
        CorpusError: The text cannot be read or has no tokens.
        TokenizerError: An id is not in the vocabulary.
        OSError: The cache cannot be written.
    """
    with new_cache_file(folder) as cache:
        sha256 = write_token_file(cache.file, source, tokenizer, document, progress).text_sha256
        name = token_cache_name(source.cache_path, sha256, tokenizer.sha256, document)
        cache.publish(name)
    text = open_token_file(folder / name, source, sha256, tokenizer, document, progress)
    if text is None:
        raise OSError(errno.EIO, "the token cache could not be read back after writing")
    _remove_outdated(folder, source, sha256)
    return text


def _remove_outdated(folder: Path, source: TextSource, sha256: str) -> None:
    """Remove the caches of earlier versions of a text, if `folder` is the folder of the text.

    Other folders may hold caches of other texts of this name. Only files whose contents show that this program made
    them, for a text with another SHA-256, are removed; of several files also those of any text whose name, such as
    `a.txt+2`, is one that only earlier versions of this program gave.
    """
    path = source.cache_path
    if path.is_symlink() or folder.resolve() != path.resolve().parent:
        return
    kept_sha256 = {re.escape(path.name): sha256}
    if len(source.files) > 1:
        kept_sha256[re.escape(source.files[0].name) + r"\+[0-9]{1,7}"] = ""
    for cache in list(folder.glob("*")):  # nothing in a folder that cannot be listed, where iterdir raises
        for name, kept in kept_sha256.items():
            match = re.fullmatch(name + r"\.(tokens|pieces|baselines)-[0-9a-f]{12}", cache.name)
            with contextlib.suppress(OSError):
                if match and _is_outdated(cache, match[1], path, kept):
                    cache.unlink()


def _is_outdated(cache: Path, kind: str, path: Path, sha256: str) -> bool:
    """Return True for a cache of this program that is of another version of the text than the one with this SHA-256."""
    if cache.is_symlink():
        return False
    if kind == "tokens":
        header = read_header(cache)
        return header is not None and header.text_sha256 != sha256
    if kind == "baselines":
        stored = read_baseline_file(cache)
        return stored is not None and stored.text_sha256 != sha256
    if (tokenizer := open_tokenizer_cache(cache)) is None:
        return False
    names = (
        tokenizer_cache_name(path, sha256, tokenizer.vocab_size, tokenizer.name, document)
        for document in get_args(DocumentKind)
    )
    return cache.name not in names


def _short_hash(words: str) -> str:
    """Return the 12 hex digits that end the name of a cache file."""
    return hashlib.sha256(words.encode()).hexdigest()[:12]
