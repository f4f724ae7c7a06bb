"""Exported GGUF files in llama.cpp: ids, logits and greedy text equal those of the program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_core.api import Model
from gpt_core.generation.generator import Generator
from tests.bridges.samples import GREEDY, PROMPTS, model, needs_tokenizers, random_bytes, texts, trained_model

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.slow

TOKENIZERS = ("pieces", pytest.param("bpe", marks=needs_tokenizers))
PACKAGE_TOKEN_BYTES = 32  # llama-cpp-python leaves out longer tokens when it decodes; llama.cpp does not
TYPES = {"f32": 2e-3, "f16": 0.1, "bf16": 0.8, "q8_0": 0.8}
"""Largest difference of the logits, by number type: llama.cpp rounds activations, too"""


Load = Callable[..., Any]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Return a function that exports the model of a tokenizer with a number type, and loads the file in llama.cpp."""
    folder, known = tmp_path_factory.mktemp("gguf"), dict[Path, Any]()

    def load(tokenizer: str, number_type: str = "f32") -> Any:
        path = folder / f"{tokenizer}-{number_type}.gguf"
        if path not in known:
            Model(model(tokenizer)).export("gguf", path, type=number_type)
            known[path] = llama(path)
        return known[path]

    return load


def llama(path: Path) -> Any:
    return llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", texts())
def test_ids_are_equal(name: str, tokenizer: str, loaded: Load) -> None:
    own, text = model(tokenizer).tokenizer, texts()[name].encode()
    ids = own.encode(text).tolist()
    assert loaded(tokenizer).tokenize(text, add_bos=False, special=False) == ids
    if max((len(own.token_bytes(token)) for token in ids), default=0) <= PACKAGE_TOKEN_BYTES:
        assert loaded(tokenizer).detokenize(ids) == text


@pytest.mark.parametrize("name", texts())
def test_special_names_in_a_text_are_text_even_where_special_ids_are_parsed(name: str, loaded: Load) -> None:
    text = texts()[name].encode()
    assert loaded("pieces").tokenize(text, add_bos=False, special=True) == model().tokenizer.encode(text).tolist()


def test_ids_are_equal_on_any_bytes(loaded: Load) -> None:
    ids = model().tokenizer.encode(random_bytes()).tolist()
    assert loaded("pieces").tokenize(random_bytes(), add_bos=False, special=False) == ids
    assert loaded("pieces").detokenize(ids) == random_bytes()


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_special_ids_and_context_are_those_of_the_model(tokenizer: str, loaded: Load) -> None:
    found, own = loaded(tokenizer), model(tokenizer).tokenizer
    assert (found.token_bos(), found.token_eos(), found._model.add_bos_token()) == (own.BOS, own.EOS, own.adds_bos)
    assert found.metadata["gpt2.context_length"] == "64"
    assert found.n_vocab() == 1000


@pytest.mark.parametrize("number_type", TYPES)
def test_logits_are_close(number_type: str, loaded: Load, record_property: Callable[[str, object], None]) -> None:
    found, ids = loaded("pieces", number_type), model().tokenizer.encode(texts()["English"].encode())[:64]
    found.reset()
    found.eval(ids.tolist())
    largest = float(np.abs(found.scores[: len(ids)] - Model(model()).logits(ids)).max())
    record_property("seen", f"{number_type}: largest difference {largest:.1e}")
    assert largest < TYPES[number_type]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_greedy_text_is_equal(tokenizer: str, loaded: Load) -> None:
    own = model(tokenizer)
    generator = Generator(own.parameters, own.tokenizer)
    for prompt in PROMPTS:
        opening = [own.tokenizer.BOS] if own.tokenizer.adds_bos else []
        ids = [*opening, *own.tokenizer.encode(prompt.encode()).tolist()]
        expected = own.tokenizer.decode(generator.tokens(ids, GREEDY)).decode("utf-8", "ignore")
        reply = loaded(tokenizer).create_completion(prompt, max_tokens=GREEDY.max_tokens, temperature=0.0)
        assert reply["choices"][0]["text"].replace("\ufffd", "") == expected.replace("\ufffd", "")


def test_greedy_text_of_a_trained_model_is_that_of_generate(tmp_path: Path) -> None:
    own = trained_model(tmp_path)
    own.export("gguf", tmp_path / "exported.gguf")
    found = llama(tmp_path / "exported.gguf")
    for prompt in PROMPTS:
        reply = found.create_completion(prompt, max_tokens=30, temperature=0.0)["choices"][0]["text"]
        text = own.generate(prompt, temperature=0, max_tokens=30)
        assert len(set(text)) > 5
        assert reply == text


@pytest.mark.parametrize("spelling", [rb"\xff\xff<bos>", b"\xff\xff<bos>"])
def test_a_special_id_can_be_written_in_a_prompt(spelling: bytes, loaded: Load) -> None:
    """llama-completion turns the first spelling into the second one, other programs do not."""
    ids = [1, *model().tokenizer.encode(b"It was").tolist()]
    assert loaded("pieces").tokenize(spelling + b"It was", add_bos=False, special=True) == ids


def test_a_width_of_the_mlp_other_than_four_times_the_models_loads(tmp_path: Path) -> None:
    Model(model(hidden_size=100)).export("gguf", tmp_path / "odd.gguf", type="q8_0")
    found, ids = llama(tmp_path / "odd.gguf"), model().tokenizer.encode(b"It was the best of times")
    found.eval(ids.tolist())
    assert np.abs(found.scores[: len(ids)] - Model(model(hidden_size=100)).logits(ids)).max() < TYPES["q8_0"]


def test_a_head_of_its_own_is_loaded_and_used(tmp_path: Path) -> None:
    own = model(tied_head=False)
    Model(own).export("gguf", tmp_path / "own.gguf")
    found, ids = llama(tmp_path / "own.gguf"), own.tokenizer.encode(b"It was the best of times")
    found.eval(ids.tolist())
    assert np.abs(found.scores[: len(ids)] - Model(own).logits(ids)).max() < TYPES["f32"]
