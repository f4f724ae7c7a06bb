"""The page of a model: what the file holds, and which models it refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpt_core import tokenizers
from gpt_core.api import Model
from gpt_core.bridges import web_page
from gpt_core.bridges.export import export_model
from gpt_core.bridges.model_card import model_card
from gpt_core.bridges.run_text import training_text
from gpt_core.config.presets import preset
from gpt_core.config.settings import Settings
from gpt_core.errors import ExportError
from gpt_core.generation.generator import Generator
from gpt_core.generation.sampler import Sampling
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.parameters import initial_parameters
from gpt_core.model.scores import EvalScores
from gpt_core.model.stored_weights import StoredWeights
from tests.bridges.samples import LAYERS, model, needs_tokenizers
from tests.program import TEXT, TIMEOUT_S

CHOICES = [
    name if name in ("gpt2", "qwen3") else pytest.param(name, marks=pytest.mark.slow) for name in LAYERS
]  # fmt: skip
SMALL = Settings(
    d_model=24, hidden_size=40, vocab_size=300, num_heads=3, seq_len=16, layers=2, train_file="texts/Märchen <3.txt",
    sample_prompt="</script><b>It & 'was'",
)  # fmt: skip


def small_bundle(**settings: object) -> ModelBundle:
    """Return a small model with random weights, after 1,234 steps."""
    changed = msgspec.structs.replace(SMALL, **settings)
    tokenizer = tokenizers.train(changed.tokenizer, [TEXT.encode()], changed.vocab_size)
    scores = EvalScores(1234, 3.0, 0.25, 2.345)
    return ModelBundle(changed, initial_parameters(changed.shape, 1), tokenizer, 1234, "custom", scores)


@pytest.mark.parametrize("layers", CHOICES)
@pytest.mark.parametrize("number_type", ["f32", "bf16", "int8"])
def test_a_page_holds_the_stored_weights_and_the_tokenizer(tmp_path: Path, number_type: str, layers: str) -> None:
    bundle = small_bundle(**LAYERS[layers])
    result = export_model(bundle, "html", tmp_path / "page.html", number_type=number_type)
    stored = StoredWeights(bundle.parameters, web_page.FORMATS[number_type]).expanded()
    read = web_page.read_back(result.path)
    for name, tensor in stored.tensors.items():
        np.testing.assert_array_equal(read.parameters[name], tensor, err_msg=name)
    assert (result.check.largest_difference == 0) == (number_type == "f32")
    assert list(read.encode(b"It was\xff")) == bundle.tokenizer.encode(b"It was\xff").tolist()


LOGITS_PROGRAM = """
const { shape, tensors, chunks } = JSON.parse(require("fs").readFileSync(0));
for (const name in tensors) {
  tensors[name] = new Float32Array(Uint8Array.from(Buffer.from(tensors[name], "base64")).buffer);
}
const transformer = new Transformer(shape, tensors);
const logits = [];
for (const chunk of chunks) {
  transformer.append(chunk);
  logits.push(Array.from(transformer.lastLogits()));
}
process.stdout.write(JSON.stringify(logits));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
@pytest.mark.parametrize("layers", CHOICES)
def test_the_program_of_a_page_computes_the_logits_of_the_model(layers: str) -> None:
    own = model(**LAYERS[layers])
    ids = np.random.default_rng(0).integers(0, 1000, 24).tolist()
    chunks = [ids[:8], ids[8:15], *([one] for one in ids[15:])]
    tensors = {name: base64.b64encode(tensor.tobytes()).decode() for name, tensor in own.parameters.tensors.items()}
    shape = msgspec.to_builtins(own.settings.shape)
    sent = {"shape": shape, "tensors": tensors, "chunks": chunks}
    program = web_page.page_file("transformer.js") + LOGITS_PROGRAM
    done = subprocess.run(
        ["node", "-e", program], input=json.dumps(sent).encode(), capture_output=True, timeout=TIMEOUT_S, check=True
    )
    expected = Model(own).logits(np.array(ids))[[7, *range(14, 24)]]
    np.testing.assert_allclose(json.loads(done.stdout), expected, rtol=0, atol=1e-4)


WORKER_PROGRAM = """
const sent = JSON.parse(require("fs").readFileSync(0));
const bytes = (text) => Uint8Array.from(Buffer.from(text, "base64"));
for (const name in sent.tensors) sent.tensors[name] = new Float32Array(bytes(sent.tensors[name]).buffer);
generator = new Generator(new Tokenizer(bytes(sent.tokenizer)), new Transformer(sent.shape, sent.tensors));
const added = [];
globalThis.postMessage = (message) => {
  if (message.type === "token") added.push(...message.bytes);
  if (message.type !== "done") return;
  const text = Buffer.from(added).toString("base64");
  process.stdout.write(JSON.stringify({ text, read: message.readTokens, skipped: message.skippedTokens }));
  channel.port1.close();
};
read({ ...sent.request, tokens: [], id: 0 }, request);
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
@pytest.mark.parametrize("words", [3, 300])
def test_a_page_reads_as_much_of_a_prompt_as_the_program(words: int) -> None:
    own, prompt = model(), "the cat " * words
    greedy = {"temperature": 0, "top_k": 0, "top_p": 1, "repetition_penalty": 1}
    generator = Generator(own.parameters, own.tokenizer)
    reply = "".join(generator.generate(prompt, Sampling(**greedy, max_tokens=40)))
    sent = {
        "shape": msgspec.to_builtins(own.settings.shape),
        "tokenizer": base64.b64encode(own.tokenizer.to_bytes()).decode(),
        "tensors": {name: base64.b64encode(each.tobytes()).decode() for name, each in own.parameters.tensors.items()},
        "request": {"prompt": prompt, "sampling": greedy | {"seed": 1}, "count": 40},
    }
    program = "".join(["var onmessage;", *map(web_page.page_file, web_page.WORKER), WORKER_PROGRAM])
    done = subprocess.run(
        ["node", "-e", program], input=json.dumps(sent).encode(), capture_output=True, timeout=TIMEOUT_S, check=True
    )
    found = json.loads(done.stdout)
    assert base64.b64decode(found["text"]).decode(errors="replace") == reply
    assert (found["read"], found["skipped"]) == (generator.figures.prompt_tokens, generator.figures.skipped_tokens)
    assert (found["skipped"] > 0) == (words > 3)


def test_fewer_bits_make_a_smaller_page(tmp_path: Path) -> None:
    bundle = small_bundle(d_model=96, hidden_size=384)
    types = ("f32", "bf16", "int8")
    sizes = [export_model(bundle, "html", tmp_path / name, number_type=name).bytes for name in types]
    program = sizes[0] - 4 * 4 * sum(tensor.size for tensor in bundle.parameters.tensors.values()) // 3
    assert sizes[1] - program < 0.6 * (sizes[0] - program)
    assert sizes[2] - program < 0.4 * (sizes[0] - program)


def test_text_of_users_is_escaped(tmp_path: Path) -> None:
    page = export_model(small_bundle(), "html", tmp_path / "page.html").path.read_text()
    assert "trained on Märchen &lt;3.txt" in page
    assert "<3" not in page
    assert "</script><b>" not in page
    found = re.search(r'id="model">(.*?)</script>', page)
    assert found
    assert json.loads(found[1])["prompt"] == SMALL.sample_prompt


def about(bundle: ModelBundle) -> str:
    """Return the description of a model in its page."""
    return web_page.about_text(bundle, training_text(bundle))


def test_the_page_says_what_the_model_is() -> None:
    bundle = small_bundle()
    assert about(bundle).startswith(
        "A language model of 16,592 parameters, trained for 1,234 steps on Märchen <3.txt "
        "to 2.35 bits per byte of held-out text. "
    )
    unknown = replace(bundle, scores=None, settings=msgspec.structs.replace(bundle.settings, train_file=""))
    assert "trained for 1,234 steps. It continues" in about(unknown)
    assert "trained for 1 step. It continues" in about(replace(unknown, step=1))
    assert web_page.title_of(unknown, training_text(unknown)) == "language model"
    assert about(replace(bundle, step=0)).startswith("A language model of 16,592 parameters. It continues")
    tuned = replace(bundle, settings=msgspec.structs.replace(bundle.settings, init_from="a.safetensors"))
    assert ", fine-tuned for 1,234 steps on " in about(tuned)


def test_a_text_that_was_found_is_named_if_it_is_the_one_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "input.txt").write_text(TEXT)
    bundle = replace(small_bundle(train_file=""), corpus_sha256=hashlib.sha256(TEXT.encode()).hexdigest())
    assert training_text(bundle) == "input.txt"
    assert "trained on input.txt" in model_card(bundle)
    other = replace(bundle, corpus_sha256="0" * 64)
    assert training_text(other) == training_text(replace(bundle, step=0)) == ""
    assert "trained on" not in model_card(other)


def test_a_page_has_no_address_of_another_host(tmp_path: Path) -> None:
    page = export_model(small_bundle(), "html", tmp_path / "page.html").path.read_text()
    assert not re.search(r"https?://|\b(?:src|href)=\"(?!data:)", page)
    assert "default-src 'none'" in page


def test_a_model_that_is_too_large_is_refused_in_one_line(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(preset("micro"), layers=9)
    bundle = replace(small_bundle(), settings=settings)
    expected = r"^the model has 12,489,920 parameters, expected at most 12,000,000 in a page"
    with pytest.raises(ExportError, match=expected) as error:
        export_model(bundle, "html", tmp_path / "page.html")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@needs_tokenizers
def test_another_tokenizer_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^the model has the tokenizer 'bpe', expected pieces or ascii in a page"):
        export_model(model("bpe"), "html", tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_page_is_not_read_back(tmp_path: Path) -> None:
    bundle = small_bundle(d_model=96, hidden_size=1024, layers=4)
    page = export_model(bundle, "html", tmp_path / "page.html").path
    content = page.read_bytes()
    page.write_bytes(content[: len(content) // 2])
    with pytest.raises(ExportError, match="is incomplete: got "):
        web_page.read_back(page)
    page.write_bytes(content[:1000])
    with pytest.raises(ExportError, match="is not a page of gpt-tui"):
        web_page.read_back(page)
