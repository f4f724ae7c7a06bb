"""Exported folders in Hugging Face's transformers: ids, logits and greedy text equal those of the program."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gpt_core import tokenizers
from gpt_core.api import Model
from gpt_core.config.settings import QWEN3
from gpt_core.generation.generator import Generator
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.parameters import initial_parameters
from tests.bridges.samples import GREEDY, MORE, PROMPTS, SHAPE, model, texts, trained_model

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

Record = Callable[[str, object], None]
NAMES = ("pieces", "ascii", "bpe")


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Name of a tokenizer, and an exported folder with it."""
    path = tmp_path_factory.mktemp(request.param) / "exported"
    Model(model(request.param)).export("hf", path)
    return request.param, path


@pytest.fixture(scope="module")
def tokenizer(folder: tuple[str, Path]) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder[1])


@pytest.fixture(scope="module")
def network(folder: tuple[str, Path]) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder[1]).eval()


def test_the_model_loads_with_every_weight_and_no_other(folder: tuple[str, Path]) -> None:
    network, loading = transformers.AutoModelForCausalLM.from_pretrained(folder[1], output_loading_info=True)
    assert type(network).__name__ == "GPT2LMHeadModel"
    assert not any(loading.values())
    assert network.num_parameters() == sum(tensor.size for tensor in model().parameters.tensors.values())


def test_a_head_of_its_own_is_loaded_and_used(tmp_path: Path) -> None:
    own = model(tied_head=False)
    Model(own).export("hf", tmp_path / "exported")
    found, loading = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported", output_loading_info=True)
    assert not any(loading.values())
    ids = own.tokenizer.encode(texts()["English"].encode())[: own.settings.seq_len]
    with torch.no_grad():
        logits = found.eval()(torch.tensor(ids[None], dtype=torch.int64)).logits[0].numpy()
    assert np.abs(logits - Model(own).logits(ids)).max() < 1e-4


@pytest.mark.parametrize("name", texts())
def test_ids_are_equal(name: str, folder: tuple[str, Path], tokenizer: Any) -> None:
    own = model(folder[0]).tokenizer
    ids = own.encode(texts()[name].encode()).tolist()
    assert tokenizer(texts()[name], add_special_tokens=False)["input_ids"] == ids
    assert set(tokenizer(texts()[name])) == {"input_ids", "attention_mask"}
    opening = [own.BOS] if own.adds_bos else []
    assert tokenizer(texts()[name])["input_ids"] == [*opening, *ids]
    assert tokenizer.decode(ids) == own.decode(ids).decode()
    assert tokenizer.decode([own.BOS, *ids, own.EOS], skip_special_tokens=True) == own.decode(ids).decode()


def test_ids_are_equal_on_random_strings(folder: tuple[str, Path], tokenizer: Any) -> None:
    own, chosen = model(folder[0]).tokenizer, random.Random(5)
    alphabet = [*map(chr, range(256)), *MORE, *texts()["English"][:3000], *texts()["Chinese"]]
    for _ in range(2000):
        text = "".join(chosen.choices(alphabet, k=chosen.randrange(40)))
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == own.encode(text.encode()).tolist(), repr(text)


def test_logits_are_within_1e_4(folder: tuple[str, Path], network: Any, record_property: Record) -> None:
    own, largest = model(folder[0]), 0.0
    for name in ("English", "German", "code", "random"):
        ids = own.tokenizer.encode(texts()[name].encode())[: own.settings.seq_len]
        with torch.no_grad():
            logits = network(torch.tensor(ids[None], dtype=torch.int64)).logits[0].numpy()
        largest = max(largest, float(np.abs(logits - Model(own).logits(ids)).max()))
    record_property("seen", f"{folder[0]}: largest difference {largest:.1e}")
    assert largest < 1e-4


def test_greedy_text_is_equal(folder: tuple[str, Path], network: Any, tokenizer: Any) -> None:
    own = model(folder[0])
    generator = Generator(own.parameters, own.tokenizer)
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        ids = inputs["input_ids"][0].tolist()
        generated = network.generate(**inputs, do_sample=False, max_new_tokens=GREEDY.max_tokens)[0].tolist()
        expected = list(generator.tokens(ids, GREEDY))
        assert [token for token in generated[len(ids) :] if token != own.tokenizer.EOS] == expected
        assert tokenizer.decode(expected) == own.tokenizer.decode(expected).decode("utf-8", "replace")


def test_greedy_text_of_a_trained_model_is_that_of_generate(tmp_path: Path) -> None:
    own = trained_model(tmp_path)
    own.export("hf", tmp_path / "exported")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        reply = network.generate(**inputs, do_sample=False, max_new_tokens=30)[0, inputs["input_ids"].shape[1] :]
        text = own.generate(prompt, temperature=0, max_tokens=30)
        assert len(set(text)) > 5
        assert tokenizer.decode(reply, skip_special_tokens=True) == text


def test_byte_pair_encoding_with_unused_ids_is_exact(tmp_path: Path) -> None:
    own = tokenizers.train("bpe", [b"the cat sat on the mat; the cat"], 400)
    assert len(own.vocabulary) < 300
    shape = msgspec.structs.replace(SHAPE, vocab_size=400, tokenizer="bpe")
    bundle = ModelBundle(shape, initial_parameters(shape.shape, 1), own)
    Model(bundle).export("hf", tmp_path / "exported")
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert len(found) == 400
    for text in (*texts().values(), "the cat <unused 399>"):
        assert found(text)["input_ids"] == own.encode(text.encode()).tolist()


def test_the_generation_config_is_that_of_the_run(folder: tuple[str, Path], network: Any) -> None:
    own, config = model(folder[0]), network.generation_config
    assert (config.do_sample, config.temperature, config.top_p) == (True, 0.8, 0.95)
    special = own.tokenizer.BOS, own.tokenizer.EOS, own.tokenizer.PAD
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == special
    without_bytes = {token for token in range(own.settings.vocab_size) if not own.tokenizer.token_bytes(token)}
    assert set(config.suppress_tokens) == without_bytes - {own.tokenizer.EOS}


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"seq_len": 8, "sample_prompt": "It was the best"}, {"sample_prompt": "It was the best of times. " * 9},
        {"sample_prompt": "It was the best of times, it was", "max_tokens": 40}, {"seq_len": 512}, QWEN3,
    ],
)  # fmt: skip
def test_the_example_of_the_model_card_works(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Model(model(**settings)).export("hf", tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert example is not None
    exec(example[1].replace("PATH", str(tmp_path / "exported")), {})
    assert capsys.readouterr().out.strip()


def test_a_pipeline_stops_at_the_context(folder: tuple[str, Path]) -> None:
    pipeline = transformers.pipeline("text-generation", str(folder[1]))
    for _ in range(3):
        (reply,) = pipeline("It was the best of times", return_tensors=True)
        assert len(reply["generated_token_ids"]) <= 64


def test_a_pipeline_and_a_batch_of_prompts_work(folder: tuple[str, Path]) -> None:
    pipeline = transformers.pipeline("text-generation", str(folder[1]))
    replies = pipeline(["It was ", "The longer prompt was "], max_new_tokens=5, batch_size=2)
    assert [reply[0]["generated_text"] != "" for reply in replies] == [True, True]
