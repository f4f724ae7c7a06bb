"""Attention, hidden states and losses of `gpt_core.interpret` equal those of transformers on the exported model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt_core import interpret
from gpt_core.api import Model
from gpt_core.model.gpt import GPT
from tests.bridges.samples import model, texts

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

LIMIT = 1e-4


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    """Windows of two texts (2, T)."""
    own = model()
    ids = [own.tokenizer.encode(texts()[name].encode())[: own.settings.seq_len] for name in ("English", "German")]
    return np.stack(ids)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The exported model in transformers; eager attention is the one that returns its probabilities."""
    path = tmp_path_factory.mktemp("hf") / "exported"
    Model(model()).export("hf", path)
    return transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def outputs(network: Any, tokens: np.ndarray) -> Any:
    ids = torch.tensor(tokens, dtype=torch.int64)
    with torch.no_grad():
        return network(ids, labels=ids, output_attentions=True, output_hidden_states=True)


def test_attention_equals_output_attentions(outputs: Any, tokens: np.ndarray) -> None:
    found = interpret.attention(model().gpt(), tokens)
    wanted = np.stack([layer.numpy() for layer in outputs.attentions])
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < LIMIT
    assert found.max() > 0.9  # the attention is not uniform


def test_hidden_states_equal_output_hidden_states(outputs: Any, tokens: np.ndarray) -> None:
    layers = model().settings.layers
    names = ["embedding", *(f"h.{layer}.out" for layer in range(layers - 1)), "ln_f"]
    found = interpret.trace(model().gpt(), tokens, names)
    assert len(outputs.hidden_states) == layers + 1
    for name, wanted in zip(names, outputs.hidden_states, strict=True):  # transformers returns the last one normed
        np.testing.assert_allclose(found[name], wanted.numpy(), rtol=1e-3, atol=LIMIT, err_msg=name)


def test_the_logit_lens_equals_the_head_on_hidden_states(network: Any, outputs: Any, tokens: np.ndarray) -> None:
    gpt = model().gpt()
    with torch.no_grad():
        wanted = network.lm_head(network.transformer.ln_f(outputs.hidden_states[1])).numpy()
    np.testing.assert_allclose(interpret.lens_logits(gpt, "h.0.out", tokens), wanted, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        interpret.lens_logits(gpt, "h.1.out", tokens), outputs.logits.numpy(), rtol=1e-3, atol=LIMIT
    )


def test_the_mean_of_the_token_losses_is_the_loss(outputs: Any, tokens: np.ndarray) -> None:
    assert interpret.token_losses(model().gpt(), tokens).mean() == pytest.approx(float(outputs.loss), rel=1e-5)


def test_attribution_equals_the_gradient_of_the_input_embeddings(network: Any, tokens: np.ndarray) -> None:
    ids, chosen = torch.tensor(tokens, dtype=torch.int64), np.array([40, 300], np.int32)
    x = network.transformer.wte(ids).detach().requires_grad_()
    log_p = torch.log_softmax(network(inputs_embeds=x).logits[:, -1], dim=-1)
    log_p[[0, 1], chosen.tolist()].sum().backward()
    with torch.no_grad():
        inputs = x + network.transformer.wpe.weight[: tokens.shape[1]]
        wanted = (x.grad * inputs).sum(dim=-1).numpy()
    found = interpret.attribution(model().gpt(), tokens, chosen)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(np.abs(wanted).max()))


def test_ablating_heads_equals_hooks_that_set_their_outputs_to_zero(network: Any, tokens: np.ndarray) -> None:
    own, D = model(), model().settings.shape.head_size

    def without_head_1(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        x = arguments[0].clone()
        x[..., D : 2 * D] = 0
        return (x, *arguments[1:])

    hook = network.transformer.h[1].attn.c_proj.register_forward_pre_hook(without_head_1)
    with torch.no_grad():
        wanted = network(torch.tensor(tokens, dtype=torch.int64)).logits.numpy()
    hook.remove()
    ablated = interpret.ablate(own.parameters, [interpret.Part("head", 1, 1)])
    found = interpret.lens_logits(GPT(ablated), "h.1.out", tokens)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=LIMIT)
