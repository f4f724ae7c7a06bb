"""Registry of tokenizers: what is registered is trained, cached, stored, resumed and generated with as if built in."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from gpt_core import tokenizers
from gpt_core.config.resolve import read_overrides
from gpt_core.config.settings import Settings
from gpt_core.config.validation import fields
from gpt_core.errors import ConfigError, TokenizerError
from gpt_core.formats.checkpoint import Checkpoint, TrainingState, read_checkpoint, write_checkpoint
from gpt_core.generation.generator import Generator
from gpt_core.generation.sampler import Sampling
from gpt_core.model.parameters import initial_parameters
from gpt_core.text.source import text_source
from gpt_core.text.token_cache import load_or_train_tokenizer, load_tokens
from gpt_core.text.token_estimate import estimate_size
from gpt_core.tokenizers import storage
from gpt_core.tokenizers.base import BaseTokenizer
from gpt_core.tokenizers.pieces import AsciiTokenizer
from gpt_core.tokenizers.protocol import FIRST_BYTE
from gpt_core.tokenizers.registry import TOKENIZERS
from tests.core.checkpoint_samples import forged, split
from tests.core.training_samples import losses, tiny_settings, train


class ByteTokenizer(BaseTokenizer):
    """One token per byte."""

    name = "bytes"

    @classmethod
    def train(cls, chunks: Iterable[bytes], vocab_size: int) -> "ByteTokenizer":
        return cls([], vocab_size)

    @classmethod
    def from_body(cls, body: bytes, vocab_size: int) -> "ByteTokenizer":
        return cls([], vocab_size)

    def encode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, dtype=np.uint8).astype(np.int32) + FIRST_BYTE


@pytest.fixture
def bytes_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TOKENIZERS, "_implementations", dict(TOKENIZERS._implementations))
    tokenizers.register("bytes", ByteTokenizer)


@pytest.mark.usefixtures("bytes_registered")
def test_the_setting_accepts_and_lists_a_registered_tokenizer() -> None:
    assert read_overrides(assignments=["tokenizer=bytes"]).apply_to().settings.tokenizer == "bytes"
    assert fields()["tokenizer"].choices() == ("pieces", "ascii", "bpe", "bytes")
    with pytest.raises(ConfigError, match=r"'byts', expected one of pieces, ascii, bpe, bytes; did you mean bytes\?"):
        read_overrides(assignments=["tokenizer=byts"]).apply_to()


def test_the_setting_rejects_a_tokenizer_that_is_not_registered() -> None:
    with pytest.raises(ConfigError, match="tokenizer: got 'bytes', expected one of pieces, ascii"):
        read_overrides(assignments=["tokenizer=bytes"]).apply_to()


@pytest.mark.usefixtures("bytes_registered")
def test_a_registered_tokenizer_is_cached_and_its_tokens_too(tmp_path: Path) -> None:
    text = tmp_path / "train.en"
    text.write_bytes("One é.\n\nTwo.\n".encode())
    for _ in range(2):
        tokenizer = load_or_train_tokenizer(text_source(text), 300, "bytes")
        assert isinstance(tokenizer, ByteTokenizer)
        tokens = load_tokens(text_source(text), tokenizer, "paragraph")
        ids = tokens.read(0, len(tokens)).tolist()
        assert ids == [1, *(b + 4 for b in "One é.".encode()), 2, 1, *(b + 4 for b in b"Two."), 2]
    assert estimate_size(text_source(text), 300, "bytes", "paragraph")[:2] == (len(ids), True)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.usefixtures("bytes_registered")
def test_a_run_with_a_registered_tokenizer_trains_resumes_and_generates(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, tokenizer="bytes", max_steps=8)
    uninterrupted = losses(train(settings))
    first = tiny_settings(tmp_path, tokenizer="bytes", max_steps=5, models_dir=str(tmp_path / "again"))
    train(first)
    latest = tmp_path / "again" / "ckpt_latest.safetensors"
    second = tiny_settings(tmp_path, tokenizer="bytes", max_steps=8, models_dir=str(tmp_path / "again"))
    assert losses(train(second, resume=latest)) == uninterrupted[5:]
    checkpoint = read_checkpoint(latest)
    tokenizer = tokenizers.from_bytes(checkpoint.tokenizer)
    assert isinstance(tokenizer, ByteTokenizer)
    generator = Generator(checkpoint.parameters, tokenizer, seed=1)
    sampling = Sampling.from_settings(Settings(max_tokens=20, temperature=1.0, top_p=1.0))
    assert len("".join(generator.generate("It was", sampling)).encode(errors="replace")) > 0
    assert generator.figures.prompt_tokens == 1 + len(b"It was"), "no byte of the prompt is left to the model"


@pytest.mark.usefixtures("bytes_registered")
def test_a_stored_tokenizer_is_read_by_the_class_of_its_name() -> None:
    for name in tokenizers.tokenizer_names():
        stored = tokenizers.train(name, [b"abab abab"], 300)
        read = tokenizers.from_bytes(stored.to_bytes())
        assert type(read) is tokenizers.tokenizer_type(name)
        assert read.name == name
        assert read.sha256 == stored.sha256


@pytest.mark.usefixtures("bytes_registered")
def test_a_tokenizer_is_registered_under_its_own_name_alone() -> None:
    with pytest.raises(TokenizerError, match="got 'mine' for a class whose name is 'bytes', expected the same name"):
        tokenizers.register("mine", ByteTokenizer)
    assert "mine" not in tokenizers.tokenizer_names()


@pytest.mark.usefixtures("bytes_registered")
def test_a_tokenizer_whose_ids_are_not_in_its_vocabulary_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByteTokenizer, "encode", lambda _, data: np.frombuffer(data, np.uint8).astype(np.int32) + 260)
    text = tmp_path / "train.en"
    text.write_bytes(b"One.\n\nTwo.\n")
    expected = "the tokenizer bytes encodes to ids from 1 to 379, expected 0 to 299; correct its `encode`"
    with pytest.raises(TokenizerError, match=expected):
        load_tokens(text_source(text), ByteTokenizer([], 300), "paragraph")
    assert list(tmp_path.iterdir()) == [text]


def test_training_takes_a_size_of_numpy_and_bytes_alone() -> None:
    trained = tokenizers.train("pieces", (chunk for chunk in [b"abab", b"ab"]), np.int64(300))  # type: ignore[arg-type]
    assert tokenizers.from_bytes(trained.to_bytes()).vocab_size == 300
    with pytest.raises(TokenizerError, match=r"vocab_size: got 300\.0, expected a whole number"):
        tokenizers.train("pieces", [b"abab"], 300.0)  # type: ignore[arg-type]
    for chunks, got in ((["abab"], "'abab'"), (b"abab", "97")):
        with pytest.raises(TokenizerError, match=f"chunks: got {got}, expected bytes; encode text first"):
            tokenizers.train("pieces", chunks, 300)  # type: ignore[arg-type]


def test_an_unknown_tokenizer_is_answered_with_the_closest_name() -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer: got 'piece', which is not registered: did you mean pieces\?"):
        tokenizers.train("piece", [b"abc"], 300)
    with pytest.raises(TokenizerError, match="tokenizer: got 'words', which is not registered: expected one of pieces"):
        tokenizers.from_bytes(storage.pack("words", 300, b""))


# former names


def test_a_config_file_with_the_former_name_of_ascii_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('tokenizer = "seed"\n')
    assert read_overrides(config_file=tmp_path / "run.toml").apply_to().settings.tokenizer == "ascii"


def test_a_checkpoint_with_the_former_name_of_ascii_is_read_as_ascii(tmp_path: Path) -> None:
    pieces = AsciiTokenizer([b"ab", b"abc"], 260 + 2)
    former = storage.pack("seed", pieces.vocab_size, pieces.body())
    settings = Settings(d_model=8, hidden_size=8, vocab_size=262, num_heads=2, seq_len=4, layers=1, tokenizer="ascii")
    path = tmp_path / "ckpt_latest.safetensors"
    state = TrainingState(run_id="run-a")
    write_checkpoint(path, Checkpoint(settings, "", state, former, "", initial_parameters(settings.shape, 0), None))
    header, tail = split(path.read_bytes())
    header["__metadata__"]["settings"] = header["__metadata__"]["settings"].replace('"ascii"', '"seed"')
    path.write_bytes(forged(header, tail))
    checkpoint = read_checkpoint(path)
    assert checkpoint.settings.tokenizer == "ascii"
    tokenizer = tokenizers.from_bytes(checkpoint.tokenizer)
    assert tokenizer.name == "ascii"
    assert tokenizer.encode(b"ABC ab").tolist() == [261, 260]
    assert tokenizer.sha256 == hashlib.sha256(pieces.to_bytes()).hexdigest()
