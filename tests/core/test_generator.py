"""Generation: prefill, end of a reply, streaming of text; with a scripted decoder, then with the real one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gpt_core.config.settings import ModelShape
from gpt_core.generation.generator import Generator, prompt_bytes, readable, sampled_ids
from gpt_core.generation.prompt import spelling, split_prompt
from gpt_core.generation.sampler import Sampling
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters, initial_parameters
from gpt_core.tokenizers import BOS, EOS, PAD, UNK, Tokenizer
from gpt_core.tokenizers.pieces import PieceTokenizer

SHAPE = ModelShape(d_model=32, hidden_size=48, vocab_size=300, num_heads=4, seq_len=24, layers=2)
TEXT = "the cat sat on the mat; the bat sat on the hat. Ünïcode — 東京 \U0001f600 too.\n"
GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=8)
WARM = Sampling(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=40)


class ScriptedDecoder:
    """Decoder whose logits make the reply `script`; records the tokens that it receives."""

    def __init__(self, script: Sequence[int], capacity: int, vocab_size: int) -> None:
        self.script, self.capacity, self.vocab_size = list(script), capacity, vocab_size
        self.length = 0
        self.reads: list[list[int]] = []
        self.answers = 0

    def reset(self) -> None:
        self.length = 0

    def decode(self, token: int) -> np.ndarray:
        return self.prefill([token])

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        if self.length + len(tokens) > self.capacity:
            raise ValueError("read past the end of the context")
        self.length += len(tokens)
        self.reads.append(list(tokens))
        logits = np.zeros(self.vocab_size, dtype=np.float32)
        logits[self.script[self.answers % len(self.script)]] = 50.0
        self.answers += 1
        return logits


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return PieceTokenizer.train([TEXT.encode() * 20], SHAPE.vocab_size)


@pytest.fixture(scope="module")
def weights() -> Parameters:
    """Return random weights, large enough for confident and varied predictions."""
    weights = initial_parameters(SHAPE, seed=1)
    weights.flat *= 8.0
    return weights


def scripted(
    tokenizer: Tokenizer, weights: Parameters, script: Sequence[int], capacity: int = 100
) -> tuple[Generator, ScriptedDecoder]:
    decoder = ScriptedDecoder(script, capacity, tokenizer.vocab_size)
    return Generator(weights, tokenizer, decoder=decoder), decoder


def byte_ids(data: bytes) -> list[int]:
    return [4 + byte for byte in data]


def test_the_model_reads_bos_and_the_prompt_and_then_each_new_token(tokenizer: Tokenizer, weights: Parameters) -> None:
    settled, unread = split_prompt(tokenizer, b"the cat")
    script = byte_ids(unread + b"abc")
    generator, decoder = scripted(tokenizer, weights, script)
    sampling = Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=len(b"abc"))
    assert "".join(generator.generate("the cat", sampling)) == "abc"
    assert decoder.reads == [[BOS, *settled], *([token] for token in script[:-1])]


def test_a_reply_ends_at_eos_without_showing_it(tokenizer: Tokenizer, weights: Parameters) -> None:
    generator, _ = scripted(tokenizer, weights, [*byte_ids(b"hi"), EOS])
    assert "".join(generator.generate("", WARM)) == "hi"
    assert (generator.figures.tokens, generator.figures.ended_by) == (2, "eos")


def test_a_reply_ends_after_max_tokens(tokenizer: Tokenizer, weights: Parameters) -> None:
    generator, _ = scripted(tokenizer, weights, byte_ids(b"x"))
    assert "".join(generator.generate("", GREEDY)) == "x" * GREEDY.max_tokens
    assert (generator.figures.tokens, generator.figures.ended_by) == (GREEDY.max_tokens, "max_tokens")


@pytest.mark.parametrize("prompt", ["the cat", "It was", "东京", "né"])
def test_tokens_that_only_spell_the_end_of_the_prompt_are_not_new(
    tokenizer: Tokenizer, weights: Parameters, prompt: str
) -> None:
    settled, unread = split_prompt(tokenizer, prompt.encode())
    generator, _ = scripted(tokenizer, weights, byte_ids(unread + b"xyz"))
    sampling = Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=1)
    assert "".join(generator.generate(prompt, sampling)) == "x"
    figures = generator.figures
    assert (figures.tokens, figures.prompt_tokens) == (1, 1 + len(settled) + len(unread))
    assert (figures.tokens_s, figures.tokens_per_s) == (0.0, 0.0), "the only new token comes with the prompt"
    generator, _ = scripted(tokenizer, weights, [*byte_ids(unread), EOS])
    assert "".join(generator.generate(prompt, sampling)) == ""
    assert (generator.figures.tokens, generator.figures.ended_by) == (0, "eos")


def test_a_character_cut_by_max_tokens_is_left_out(tokenizer: Tokenizer, weights: Parameters) -> None:
    for max_tokens, expected in ((1, "a"), (2, "a"), (3, "aé"), (5, "aé"), (6, "aé€")):
        generator, _ = scripted(tokenizer, weights, byte_ids("aé€".encode()))
        sampling = Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=max_tokens)
        assert "".join(generator.generate("", sampling)) == expected


def test_a_character_split_over_tokens_is_yielded_once_complete(tokenizer: Tokenizer, weights: Parameters) -> None:
    generator, _ = scripted(tokenizer, weights, [*byte_ids("né€\U0001f600!".encode()), EOS])
    assert list(generator.generate("", WARM)) == ["n", "é", "€", "\U0001f600", "!"]


def test_bytes_that_are_not_utf8_become_replacement_characters(tokenizer: Tokenizer, weights: Parameters) -> None:
    generator, _ = scripted(tokenizer, weights, [*byte_ids(b"a\xffb\xe2\x82"), EOS])
    assert "".join(generator.generate("", WARM)) == "a�b�"


@pytest.mark.parametrize("data", [b"a\xffb", b"\xe2\x82", b"n\xc3\xa9\xed\xa0\x80", bytes(range(256))])
@pytest.mark.parametrize("ends", [True, False], ids=["eos", "max_tokens"])
def test_kept_bytes_make_a_reply_a_prompt_again(
    tokenizer: Tokenizer, weights: Parameters, data: bytes, ends: bool
) -> None:
    generator, _ = scripted(tokenizer, weights, byte_ids(data) + [EOS] * ends, capacity=1000)
    sampling = Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=len(data) + ends)
    assert prompt_bytes("".join(generator.generate("", sampling, keep_bytes=True))) == data


@pytest.mark.parametrize("tokens", range(1, 7))
def test_a_stopped_reply_keeps_the_bytes_of_an_incomplete_character(
    tokenizer: Tokenizer, weights: Parameters, tokens: int
) -> None:
    generator, _ = scripted(tokenizer, weights, byte_ids("aé€".encode()))
    pieces = generator.generate("", WARM, keep_bytes=True, is_stopped=lambda: generator.figures.tokens == tokens)
    assert prompt_bytes("".join(pieces)) == "aé€".encode()[:tokens]
    assert generator.figures.tokens == tokens


def test_a_readable_text_has_no_escaped_bytes_and_no_incomplete_character_at_its_end() -> None:
    assert readable("né \udcffb\udce2\udc82") == "né \N{REPLACEMENT CHARACTER}b"
    assert readable("\udcc3\udca9") == "é", "bytes of one character, from two replies"


def test_a_prompt_may_hold_any_bytes(tokenizer: Tokenizer, weights: Parameters) -> None:
    raw = bytes(range(256))
    _, unread = split_prompt(tokenizer, raw)
    generator, decoder = scripted(tokenizer, weights, [*byte_ids(unread), EOS], capacity=1000)
    assert list(generator.generate(raw.decode("utf-8", "surrogateescape"), WARM)) == []
    assert tokenizer.decode(decoder.reads[0]) + unread == raw
    ids, unread = split_prompt(tokenizer, b"? alone")
    generator, decoder = scripted(tokenizer, weights, [*byte_ids(unread), EOS])
    assert list(generator.generate("\ud800 alone", WARM)) == []
    assert decoder.reads[0] == [BOS, *ids]


def test_a_full_context_keeps_its_last_half(tokenizer: Tokenizer, weights: Parameters) -> None:
    script = byte_ids(b"abcdefgh")
    generator, decoder = scripted(tokenizer, weights, script, capacity=6)
    assert list(generator.tokens([BOS, 4], GREEDY)) == script
    # 2 read, then a to d fill the 6 places; e has none, so the last three, c d e, are read again
    assert decoder.reads == [[BOS, 4], *([i] for i in script[:4]), script[2:5], [script[5]], [script[6]]]


@pytest.mark.parametrize("capacity", [2, 3, 5])
def test_generation_continues_past_a_tiny_context(tokenizer: Tokenizer, weights: Parameters, capacity: int) -> None:
    generator, _ = scripted(tokenizer, weights, byte_ids(b"xyz"), capacity=capacity)
    assert len(list(generator.tokens([BOS], WARM))) == WARM.max_tokens


def test_a_prompt_longer_than_the_context_is_cut_from_the_left(tokenizer: Tokenizer, weights: Parameters) -> None:
    generator, decoder = scripted(tokenizer, weights, [EOS], capacity=4)
    assert list(generator.tokens(list(range(10, 20)), WARM)) == []
    assert decoder.reads == [[16, 17, 18, 19]]
    assert (generator.figures.prompt_tokens, generator.figures.skipped_tokens) == (4, 6)


@pytest.mark.parametrize("capacity", [4, 5, 9, 11])
@pytest.mark.parametrize("spelling_tokens", [1, 3])
def test_of_a_long_prompt_as_many_tokens_are_read_as_leave_room_for_its_end(
    tokenizer: Tokenizer, weights: Parameters, spelling_tokens: int, capacity: int
) -> None:
    settled, unread = split_prompt(tokenizer, b"the cat sat on the mat; the mat")
    spelled = tokenizer.encode(unread).tolist() if spelling_tokens == 1 else byte_ids(unread)
    assert len(spelled) == spelling_tokens
    generator, decoder = scripted(tokenizer, weights, [*spelled, *byte_ids(b"x")], capacity)
    sampling = Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=1)
    assert "".join(generator.generate("the cat sat on the mat; the mat", sampling)) == "x"
    figures = generator.figures
    assert figures.prompt_tokens == decoder.length == capacity - len(unread) + len(spelled)
    assert figures.skipped_tokens == 1 + len(settled) + len(spelled) - figures.prompt_tokens


def test_special_and_unused_ids_are_never_generated(weights: Parameters) -> None:
    small = PieceTokenizer.train([b"ab"], SHAPE.vocab_size)
    allowed = sampled_ids(small)
    unused = [i for i in range(SHAPE.vocab_size) if small.token_bytes(i) == b"" and i != EOS]
    assert {PAD, BOS, UNK} < set(unused)
    assert allowed.tolist() == [i not in unused for i in range(SHAPE.vocab_size)]
    for unwanted in unused:
        generator, _ = scripted(small, weights, [unwanted])
        sampling = Sampling(temperature=1.0, top_k=1, top_p=1.0, repetition_penalty=1.0, max_tokens=2)
        assert not set(generator.tokens([BOS], sampling)) & set(unused)


def test_a_prompt_without_ids_is_refused(tokenizer: Tokenizer, weights: Parameters) -> None:
    with pytest.raises(ValueError, match="at least <bos>"):
        next(Generator(weights, tokenizer).tokens([], GREEDY))


def test_greedy_generation_equals_the_full_forward(tokenizer: Tokenizer, weights: Parameters) -> None:
    prompt = [BOS, *tokenizer.encode(b"the cat").tolist()]
    sampling = Sampling(
        temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=SHAPE.seq_len - len(prompt)
    )
    found = list(Generator(weights, tokenizer).tokens(prompt, sampling))
    model, allowed, expected = GPT(weights), sampled_ids(tokenizer), list(prompt)
    while len(expected) < SHAPE.seq_len:
        padded = np.full((1, SHAPE.seq_len), PAD, dtype=np.int32)
        padded[0, : len(expected)] = expected
        logits = model.logits(padded)[0, len(expected) - 1]
        token = int(np.where(allowed, logits, -np.inf).argmax())
        if token == EOS:
            break
        expected.append(token)
    assert found == expected[len(prompt) :]
    assert len(set(found)) > 2  # weights that always say the same would show nothing


def test_the_same_seed_gives_the_same_replies_and_another_seed_others(
    tokenizer: Tokenizer, weights: Parameters
) -> None:
    def replies(seed: int) -> list[str]:
        generator = Generator(weights, tokenizer, seed=seed)
        return ["".join(generator.generate(prompt, WARM)) for prompt in ("the", "the", "a cat")]

    assert replies(3) == replies(3)
    assert replies(3) != replies(4)


def test_a_reply_does_not_depend_on_earlier_replies(tokenizer: Tokenizer, weights: Parameters) -> None:
    generator = Generator(weights, tokenizer)
    first = list(generator.generate("the cat", GREEDY))
    for _ in generator.generate("東京", WARM):
        break
    assert list(generator.generate("the cat", GREEDY)) == first


@pytest.mark.parametrize("prompt", ["the cat", "the ca", "a", "", "the cat sat", "né à", "東京"])
def test_the_final_ids_of_a_prompt_do_not_depend_on_what_follows(tokenizer: Tokenizer, prompt: str) -> None:
    data = prompt.encode()
    settled, unread = split_prompt(tokenizer, data)
    assert tokenizer.decode(settled) + unread == data
    for more in ("s", " sat on", "東", "\n\nthe"):
        assert tokenizer.encode(data + more.encode())[: len(settled)].tolist() == settled


def test_only_tokens_that_spell_the_rest_of_a_prompt_are_allowed(tokenizer: Tokenizer) -> None:
    allowed = np.ones(tokenizer.vocab_size, dtype=np.bool_)
    fits = {tokenizer.token_bytes(token) for token in np.flatnonzero(spelling(tokenizer.vocabulary, b"th", allowed))}
    assert {b"t", b"the "} <= fits
    assert all(piece.startswith(b"th") or b"th".startswith(piece) for piece in fits)


def test_a_reply_continues_the_word_in_which_the_prompt_ends(tokenizer: Tokenizer, weights: Parameters) -> None:
    _, unread = split_prompt(tokenizer, b"the c")
    longest = next(piece for piece in tokenizer.vocabulary if len(piece) > len(unread) and piece.startswith(unread))
    generator, _ = scripted(tokenizer, weights, [tokenizer.vocabulary.index(longest), EOS])
    assert "".join(generator.generate("the c", WARM)) == longest[len(unread) :].decode()
