"""Models that transformers wrote compute the same here: logits, token ids, greedy text.

Needs the extra `bridges`: transformers and torch.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt_core
from gpt_core.bridges.export import export_model
from gpt_core.errors import ModelImportError
from gpt_core.generation.generator import with_bos
from tests.bridges import samples
from tests.bridges.hf_samples import SHAPE, TEXTS, byte_pairs, write_folder, write_json

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
CONFIGS = {
    "small": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "odd": {"n_embd": 39, "n_layer": 3, "n_head": 3, "n_positions": 50, "n_inner": 70},
    "deep": {"n_embd": 16, "n_layer": 9, "n_head": 1, "n_positions": 33, "activation_function": "gelu_pytorch_tanh"},
    "wide": {"n_embd": 192, "n_layer": 1, "n_head": 12, "n_positions": 96, "activation_function": "gelu_fast"},
    "own head": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "tie_word_embeddings": False},
}


def saved(folder: Path, *, base: bool = False, dtype: Any = None, shard: str = "5GB", **config: Any) -> Any:
    """Save a random model with its tokenizer, and return the model in float32."""
    own = byte_pairs()
    torch.manual_seed(1)
    ids = {"vocab_size": SHAPE.vocab_size, "bos_token_id": own.EOS, "eos_token_id": own.EOS}
    made = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{"initializer_range": 0.2, **ids, **config})).eval()
    with torch.no_grad():
        for weight in made.parameters():
            if weight.dim() == 1:
                weight.add_(0.2 * torch.randn_like(weight))
    model = made.to(dtype or torch.float32)
    (model.transformer if base else model).save_pretrained(folder, max_shard_size=shard)
    vocabulary = {name: token for token, name in enumerate(own.tokens)}
    transformers.GPT2Tokenizer(vocabulary, list(own.merges)).save_pretrained(folder)
    return model.to(torch.float32)


def difference(model: Any, ours: gpt_core.Model) -> float:
    """Return the largest difference of the logits on random ids of a full context."""
    ids = np.random.default_rng(2).integers(0, SHAPE.vocab_size, ours.settings.seq_len)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids[None])).logits[0].numpy()
    return float(np.abs(ours.logits(ids) - expected).max())


def imported(folder: Path) -> gpt_core.Model:
    return gpt_core.load(gpt_core.import_model(folder, folder.parent / "imported.safetensors"))


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path / "gpt2", **CONFIGS[name])
    assert difference(theirs, imported(tmp_path / "gpt2")) < TOLERANCE


def test_shards_and_names_without_a_prefix_give_the_same_logits(tmp_path: Path) -> None:
    theirs = saved(tmp_path / "sharded", shard="30KB", **CONFIGS["small"])
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    assert difference(theirs, imported(tmp_path / "sharded")) < TOLERANCE
    (tmp_path / "imported.safetensors").unlink()
    saved(tmp_path / "base", base=True, **CONFIGS["small"])
    assert difference(theirs, imported(tmp_path / "base")) < TOLERANCE


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_the_logits_of_the_widened_weights(dtype: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path / "gpt2", dtype=getattr(torch, dtype), **CONFIGS["small"])
    assert difference(theirs, imported(tmp_path / "gpt2")) < TOLERANCE


def random_text(draw: random.Random) -> str:
    """Return characters of all planes, without surrogates."""
    planes = (range(0x80), range(0x250), range(0x370, 0xA00), range(0x2000, 0x9FFF), range(0x1F300, 0x1FAFF))
    return "".join(chr(draw.choice(draw.choice(planes))) for _ in range(draw.randrange(60)))


def test_ids_equal_those_of_transformers_in_every_script(tmp_path: Path) -> None:
    saved(tmp_path / "gpt2", **CONFIGS["small"])
    own = imported(tmp_path / "gpt2").tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    draw = random.Random(4)
    for text in (*TEXTS.values(), *(random_text(draw) for _ in range(500))):
        expected = theirs(text, add_special_tokens=False).input_ids
        assert own.encode(text.encode()).tolist() == expected, text
        assert own.decode(expected) == text.encode()
    assert theirs.eos_token_id == own.EOS


@pytest.mark.parametrize("has_tokenizer_json", [True, False])
@pytest.mark.parametrize("config", [{}, {"add_bos_token": True}, {"add_bos_token": False}])
def test_the_token_before_each_text_is_that_of_transformers(
    config: dict[str, bool], has_tokenizer_json: bool, tmp_path: Path
) -> None:
    write_folder(tmp_path / "gpt2", tokenizer_json=has_tokenizer_json)
    write_json(tmp_path / "gpt2" / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", **config})
    own = imported(tmp_path / "gpt2").tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    assert with_bos(own, own.encode(b"It was").tolist()) == theirs("It was").input_ids


def test_greedy_text_equals_that_of_transformers(tmp_path: Path) -> None:
    trained = saved(tmp_path / "gpt2", **CONFIGS["odd"])
    own = imported(tmp_path / "gpt2")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    for prompt in ("It was", "def f(x):\n", "你好", " "):
        ids = theirs(prompt, return_tensors="pt")
        made = trained.generate(**ids, do_sample=False, max_new_tokens=24, pad_token_id=own.tokenizer.EOS)[0]
        expected = theirs.decode(made[ids.input_ids.shape[1] :], skip_special_tokens=True)
        text = own.generate(prompt, max_tokens=24, temperature=0.0, repetition_penalty=1.0)
        assert text.rstrip("\ufffd") == expected.rstrip("\ufffd")


def test_an_imported_folder_that_is_exported_again_is_the_same_model_in_transformers(tmp_path: Path) -> None:
    first = saved(tmp_path / "gpt2", **CONFIGS["odd"])
    imported(tmp_path / "gpt2").export("hf", tmp_path / "again")
    second = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    weights = first.state_dict()
    assert weights.keys() == second.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in second.state_dict().items())
    before, after = (transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("gpt2", "again"))
    for text in TEXTS.values():
        assert after(text).input_ids == before(text).input_ids
    assert (after.bos_token, after.eos_token, len(after)) == (before.bos_token, before.eos_token, len(before))


@pytest.mark.parametrize("name", ["Llama", "GPTNeoX"])
def test_models_of_other_architectures_are_refused(name: str, tmp_path: Path) -> None:
    sizes = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = getattr(transformers, f"{name}Config")(**sizes, intermediate_size=32)
    getattr(transformers, f"{name}ForCausalLM")(config).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelImportError, match=r'model_type: got "(llama|gpt_neox)"'):
        gpt_core.import_model(tmp_path / "model", tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_classifier_on_gpt2_is_refused(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=SHAPE.vocab_size, **CONFIGS["small"])
    saved(tmp_path / "gpt2", **CONFIGS["small"])
    transformers.GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ModelImportError, match=r"unexpected tensor score\.weight"):
        gpt_core.import_model(tmp_path / "gpt2", tmp_path / "out.safetensors")


@pytest.mark.parametrize("tokenizer", ["pieces", "ascii"])
def test_an_export_that_transformers_saved_again_comes_back_with_its_tokenizer(tokenizer: str, tmp_path: Path) -> None:
    exported = samples.model(tokenizer)
    export_model(exported, "hf", tmp_path / "exported")
    for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer):
        kind.from_pretrained(tmp_path / "exported").save_pretrained(tmp_path / "again")
    found = imported(tmp_path / "again")
    assert found.tokenizer.to_bytes() == exported.tokenizer.to_bytes()
    assert all(np.array_equal(found.parameters[name], own) for name, own in exported.parameters.tensors.items())
