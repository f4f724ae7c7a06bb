"""Reference and compiled model are equal to PyTorch on golden/golden.npz, and other layers on golden_layers.npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt_core import reference
from gpt_core.config.settings import GPT2, ModelShape, Settings
from gpt_core.gradcheck import KERNEL_LIMIT, as_parameters, relative_error
from gpt_core.kernels import adamw
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters
from gpt_core.optim.adamw import AdamW

REFERENCE_LIMIT = 1e-10


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).with_name("golden") / "golden.npz", allow_pickle=False) as file:
        return dict(file)


def under(golden, prefix):
    """Return the entries of one kind by name."""
    return {key.removeprefix(prefix): golden[key] for key in golden if key.startswith(prefix)}


def shape_of(golden):
    return ModelShape(**{name: int(value) for name, value in under(golden, "shape/").items()})


def step_sizes(golden):
    """Return AdamW's settings, and the clipping norm."""
    settings = {name: float(value) for name, value in under(golden, "adamw/").items()}
    bound = settings.pop("clip")
    return settings, bound


def assert_all_close(got, expected, limit):
    errors = {name: relative_error(got[name], expected[name]) for name in expected}
    wrong = {name: error for name, error in errors.items() if not error < limit}
    assert not wrong


def test_the_fixture_has_every_parameter_and_clipped_and_unclipped_gradients(golden):
    assert {name: tensor.shape for name, tensor in under(golden, "weight/").items()} == (
        reference.parameter_shapes(shape_of(golden))
    )
    bound = golden["adamw/clip"]
    assert golden["adamw_gradient_norms"].min() < bound < golden["adamw_gradient_norms"].max()
    assert len(golden["adamw_losses"]) == 10


def test_reference_logits_loss_and_gradients_equal_pytorch(golden):
    weights, shape = under(golden, "weight/"), shape_of(golden)
    tokens, targets = golden["tokens"][0], golden["targets"][0]
    logits, _, _ = reference.model_forward(weights, tokens, shape)
    loss, gradients = reference.loss_and_gradients(weights, tokens, targets, shape)
    assert relative_error(logits, golden["logits"]) < REFERENCE_LIMIT
    assert loss == pytest.approx(float(golden["loss"]), rel=REFERENCE_LIMIT)
    assert_all_close(gradients, under(golden, "gradient/"), REFERENCE_LIMIT)


def test_ten_adamw_steps_of_the_reference_equal_pytorch(golden):
    weights, shape = under(golden, "weight/"), shape_of(golden)
    (settings, bound), rates = step_sizes(golden), under(golden, "lr/")
    decay = settings.pop("weight_decay")
    moments = {name: (np.zeros_like(tensor), np.zeros_like(tensor)) for name, tensor in weights.items()}
    losses, norms = [], []
    for step, (tokens, targets) in enumerate(zip(golden["tokens"], golden["targets"], strict=True), start=1):
        loss, gradients = reference.loss_and_gradients(weights, tokens, targets, shape)
        gradients, norm = reference.clip_by_global_norm(gradients, bound)
        for name, gradient in gradients.items():
            weights[name], *moments[name] = reference.adamw_step(
                weights[name], gradient, *moments[name], step=step, lr=rates[reference.lr_group(name)],
                weight_decay=decay if reference.decays(name) else 0.0, **settings,
            )  # fmt: skip
        losses.append(loss)
        norms.append(norm)
    np.testing.assert_allclose(losses, golden["adamw_losses"], rtol=REFERENCE_LIMIT)
    np.testing.assert_allclose(norms, golden["adamw_gradient_norms"], rtol=REFERENCE_LIMIT)
    assert_all_close(weights, under(golden, "trained/"), REFERENCE_LIMIT)


def test_compiled_logits_loss_and_gradients_equal_pytorch(golden):
    shape = shape_of(golden)
    tokens, targets = golden["tokens"][0], golden["targets"][0]
    model = GPT(as_parameters(shape, under(golden, "weight/")))
    gradients = Parameters(shape)
    counted = int((targets != -1).sum())
    loss_sum, seen = model.loss_and_gradients(tokens, targets, gradients, 1.0 / counted)
    assert seen == counted
    assert loss_sum / counted == pytest.approx(float(golden["loss"]), rel=KERNEL_LIMIT)
    assert relative_error(model.logits(tokens), golden["logits"]) < KERNEL_LIMIT
    assert_all_close(gradients.tensors, under(golden, "gradient/"), KERNEL_LIMIT)


def test_ten_adamw_steps_of_the_compiled_model_equal_pytorch(golden):
    shape = shape_of(golden)
    adamw_settings, bound = step_sizes(golden)
    rates = {f"{group}_lr": float(rate) for group, rate in under(golden, "lr/").items()}
    weight_decay = adamw_settings.pop("weight_decay")
    adam = {f"adam_{name}": value for name, value in adamw_settings.items()}
    settings = Settings(grad_clip=bound, weight_decay=weight_decay, **adam, **rates)
    weights = as_parameters(shape, under(golden, "weight/"))
    model, optimizer, gradients = GPT(weights), AdamW(weights, settings), Parameters(shape)
    losses, norms = [], []
    for step, (tokens, targets) in enumerate(zip(golden["tokens"], golden["targets"], strict=True), start=1):
        gradients.flat.fill(0.0)
        counted = int((targets != -1).sum())
        loss_sum, _ = model.loss_and_gradients(tokens, targets, gradients, 1.0 / counted)
        norms.append(adamw.norm(gradients.flat))
        losses.append(loss_sum / counted)
        optimizer.update(gradients, step, 1.0, optimizer.clip_scale(norms[-1]))
    np.testing.assert_allclose(losses, golden["adamw_losses"], rtol=KERNEL_LIMIT)
    np.testing.assert_allclose(norms, golden["adamw_gradient_norms"], rtol=KERNEL_LIMIT)
    # the bias of the keys changes no probability: its gradient is rounding noise, which AdamW takes for a direction
    expected = under(golden, "trained/")
    keys = slice(shape.d_model, 2 * shape.d_model)
    for layer in range(shape.layers):
        for tensors in (weights.tensors, expected):
            tensors[f"h.{layer}.attn.c_attn.bias"][keys] = 0.0
    assert_all_close(weights.tensors, expected, KERNEL_LIMIT)


# ---- other layers than GPT-2's


@pytest.fixture(scope="module", params=["qwen3", "others"])
def layers(request):
    """Return the results of PyTorch for a model with other layers, and its shape."""
    with np.load(Path(__file__).with_name("golden") / "golden_layers.npz", allow_pickle=False) as file:
        found = under(dict(file), f"{request.param}/")
    return found, ModelShape(**{name: value.item() for name, value in under(found, "shape/").items()})


def test_the_models_of_other_layers_have_every_layer_that_gpt2_has_not(layers):
    found, shape = layers
    shapes = {name: tensor.shape for name, tensor in under(found, "weight/").items()}
    assert shapes == reference.parameter_shapes(shape)
    assert sum(getattr(shape, name) != value for name, value in GPT2.items()) >= 3


def test_other_layers_of_the_reference_equal_pytorch(layers):
    found, shape = layers
    weights = {name: tensor.astype(np.float64) for name, tensor in under(found, "weight/").items()}
    logits, _, _ = reference.model_forward(weights, found["tokens"], shape)
    loss, gradients = reference.loss_and_gradients(weights, found["tokens"], found["targets"], shape)
    assert relative_error(logits, found["logits"]) < REFERENCE_LIMIT
    assert loss == pytest.approx(float(found["loss"]), rel=REFERENCE_LIMIT)
    assert_all_close(gradients, under(found, "gradient/"), REFERENCE_LIMIT)


def test_other_layers_of_the_compiled_model_equal_pytorch(layers):
    found, shape = layers
    model, gradients = GPT(as_parameters(shape, under(found, "weight/"))), Parameters(shape)
    counted = int((found["targets"] != -1).sum())
    loss_sum, _ = model.loss_and_gradients(found["tokens"], found["targets"], gradients, 1.0 / counted)
    assert loss_sum / counted == pytest.approx(float(found["loss"]), rel=KERNEL_LIMIT)
    assert relative_error(model.logits(found["tokens"]), found["logits"]) < KERNEL_LIMIT
    assert_all_close(gradients.tensors, under(found, "gradient/"), KERNEL_LIMIT)
