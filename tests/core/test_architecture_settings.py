"""Layers other than GPT-2's: the settings of the group "architecture", one by one and as in Qwen3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gpt_core import gradcheck, interpret, reference
from gpt_core.config.freezing import model_parts
from gpt_core.config.resolve import read_overrides
from gpt_core.config.settings import GPT2, QWEN3, SIZES, ModelShape, Settings
from gpt_core.errors import CheckpointError, ConfigError
from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_core.gradcheck import KERNEL_LIMIT, REFERENCE_LIMIT
from gpt_core.kernels import threads
from gpt_core.model.flops import step_flops
from gpt_core.model.gpt import GPT
from gpt_core.model.inference import PREFILL_CHUNK, Decoder
from gpt_core.model.layers.transformer import Transformer
from gpt_core.model.memory import activation_bytes, decode_bytes
from gpt_core.model.parameters import Parameters, frozen_names, initial_parameters, parameter_count, parameter_table
from gpt_core.model.stored_weights import StoredWeights
from gpt_core.optim.muon import column_ranges, is_hidden_matrix
from gpt_core.registry import OPTIMIZERS
from tests.core.test_costs import allocated_bytes
from tests.core.training_samples import LATEST, finished_trainer, in_one_go, losses, tiny_settings, train, whole_state

SHAPE = ModelShape(d_model=24, hidden_size=41, vocab_size=101, num_heads=3, seq_len=PREFILL_CHUNK + 44, layers=2)
CHANGES: dict[str, dict[str, Any]] = {
    "rms_norm": {"norm": "rms_norm"},
    "qk_norm": {"qk_norm": True},
    "rope": {"positions": "rope"},
    "relu_squared": {"mlp": "relu_squared"},
    "swiglu": {"mlp": "swiglu"},
    "no biases": {"bias": False},
    "own head": {"tied_head": False},
    "x0 shortcut": {"x0_shortcut": True, "layers": 3},
    "qwen3": dict(QWEN3),
    "qwen3 with its own head": QWEN3 | {"tied_head": False},
    "relu_squared, rope, x0": {
        "mlp": "relu_squared",
        "positions": "rope",
        "bias": False,
        "tied_head": False,
        "x0_shortcut": True,
    },
}
BFLOAT16 = 2.0**-9  # unit roundoff
each_change = pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)


def with_layers(changes: dict[str, Any], shape: ModelShape = SHAPE) -> ModelShape:
    return msgspec.structs.replace(shape, **changes)


def weights_of(shape: ModelShape) -> Parameters:
    return gradcheck.as_parameters(shape, gradcheck.scattered_parameters(shape, 0))


# ---- gradients


SMALL = msgspec.structs.replace(gradcheck.SMALL_SHAPE, d_model=8)


@each_change
def test_gradients_of_the_kernels_equal_those_of_the_reference(changes: dict[str, Any]) -> None:
    shape = with_layers(changes, SMALL)
    for dropout in (0.0, 0.25):
        errors = gradcheck.kernel_errors(shape, 2, 6, 2, dropout)
        assert errors.keys() == {spec.name for spec in parameter_table(shape)}
        assert max(errors.values()) < KERNEL_LIMIT, errors


@pytest.mark.slow
@each_change
def test_gradients_of_the_reference_equal_central_differences(changes: dict[str, Any]) -> None:
    errors = gradcheck.reference_errors(with_layers(changes, SMALL), 2, 6, 2, 0.25)
    assert max(error for _, error in errors.values()) < REFERENCE_LIMIT, errors


def test_a_rotation_in_the_wrong_direction_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "rope_backward", reference.rope_forward)
    errors = gradcheck.kernel_errors(with_layers(CHANGES["rope"], SMALL), 2, 6, 2)
    assert errors["h.0.attn.c_attn.weight"] > KERNEL_LIMIT


def test_each_backward_equals_central_differences_of_its_forward() -> None:
    random = np.random.default_rng(0)
    x, weight = random.normal(size=(2, 3, 6)), random.normal(size=6)
    passes = {
        "rms_norm": (
            lambda: reference.rms_norm_forward(x, weight), lambda d: reference.rms_norm_backward(d, x, weight)[0],
        ),
        "rope": (lambda: reference.rope_forward(x), reference.rope_backward),
        "relu_squared": (lambda: reference.relu_squared_forward(x), lambda d: reference.relu_squared_backward(d, x)),
        "swiglu": (lambda: reference.swiglu_forward(x), lambda d: reference.swiglu_backward(d, x)),
    }  # fmt: skip
    for name, (forward, backward) in passes.items():
        d_y = random.normal(size=forward().shape)
        slopes = gradcheck.central_differences(lambda f=forward, d=d_y: float((d * f()).sum()), x, range(x.size))
        assert gradcheck.relative_error(backward(d_y).reshape(-1), slopes) < REFERENCE_LIMIT, name


def test_scores_of_rotated_queries_and_keys_depend_on_their_distance_alone() -> None:
    q, k = np.random.default_rng(0).normal(size=(2, 1, 8))
    rotated = [reference.rope_forward(np.repeat(x, 12, axis=0)) for x in (q, k)]
    scores = rotated[0] @ rotated[1].T
    # angles up to 12 are rounded in proportion to their size
    bound = 12 * np.finfo(np.float64).eps * np.linalg.norm(q) * np.linalg.norm(k)
    for distance in range(12):
        assert np.ptp(np.diagonal(scores, -distance)) < bound


@each_change
def test_the_number_of_threads_changes_no_bit(changes: dict[str, Any]) -> None:
    shape, found = with_layers(changes), []
    tokens, targets = gradcheck.random_batch(shape, 3, 75, 0)
    for count in (1, 3):
        threads.set_threads(count)
        gradients = Parameters(shape)
        loss, _ = GPT(weights_of(shape)).loss_and_gradients(tokens, targets, gradients, 0.01)
        found.append((loss, gradients.flat.tobytes()))
    assert found[0] == found[1]


def test_bfloat16_products_give_nearly_the_same_loss_and_gradients() -> None:
    shape, found = with_layers(QWEN3), []
    tokens, targets = gradcheck.random_batch(shape, 3, 75, 0)
    for products in ("float32", "bfloat16"):
        gradients = Parameters(shape)
        loss, _ = GPT(initial_parameters(shape, 0), products).loss_and_gradients(tokens, targets, gradients, 0.01)  # type: ignore[arg-type]
        found.append((loss, gradients.flat))
    assert found[0][0] == pytest.approx(found[1][0], rel=BFLOAT16)
    assert found[0][0] != found[1][0]
    # both operands of a product are rounded, in the forward and in the backward pass
    assert gradcheck.relative_error(found[1][1], found[0][1]) < 4 * BFLOAT16


# ---- decoding


@pytest.mark.parametrize("count", [1, 3])
@each_change
def test_a_decoder_computes_the_logits_of_the_full_forward_pass(changes: dict[str, Any], count: int) -> None:
    threads.set_threads(count)
    shape = with_layers(changes)
    weights, tokens = weights_of(shape), np.arange(PREFILL_CHUNK + 20, dtype=np.int32) % shape.vocab_size
    expected = GPT(weights).logits(tokens[None])[0]
    decoder = Decoder(weights)
    for size in (PREFILL_CHUNK + 9, 1, 5):  # two chunks, a single token, a chunk
        found = decoder.prefill(tokens[decoder.length : decoder.length + size])
        assert gradcheck.relative_error(found, expected[decoder.length - 1]) < KERNEL_LIMIT
    for token in tokens[decoder.length : decoder.length + 3]:
        found = decoder.decode(int(token))
        assert gradcheck.relative_error(found, expected[decoder.length - 1]) < KERNEL_LIMIT


@pytest.mark.parametrize("weight_format", ["bfloat16", "int8"])
@pytest.mark.parametrize("name", ["qwen3 with its own head", "relu_squared, rope, x0", "qk_norm"])
def test_a_decoder_of_stored_weights_is_near_the_full_forward_pass_of_their_values(
    name: str, weight_format: Any
) -> None:
    shape = with_layers(CHANGES[name])
    stored = StoredWeights(weights_of(shape), weight_format)
    tokens = np.arange(40, dtype=np.int32)
    expected = GPT(stored.expanded()).logits(tokens[None])[0]
    decoder = Decoder(stored)
    decoder.prefill(tokens[:30])
    for token in tokens[30:]:
        found = decoder.decode(int(token))
        # keys and values of each layer are rounded in the cache
        assert gradcheck.relative_error(found, expected[decoder.length - 1]) < 2 * shape.layers * BFLOAT16


# ---- training


@pytest.mark.parametrize(
    "changes", [QWEN3 | {"tied_head": False}, {"mlp": "relu_squared", "bias": False, "x0_shortcut": True}]
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, changes: dict[str, Any], optimizer: str) -> None:
    changes = changes | {"optimizer": optimizer, "dropout": 0.1, "ema": 0.9}
    whole, expected = in_one_go(tmp_path / "whole", 7, **changes)
    in_one_go(tmp_path / "parts", 3, **changes)
    settings = tiny_settings(tmp_path / "parts", max_steps=7, **changes)
    resumed, rest = finished_trainer(settings, resume=tmp_path / "parts" / LATEST)
    assert rest == expected[3:]
    assert whole_state(resumed) == whole_state(whole)
    found = peek_checkpoint(tmp_path / "parts" / LATEST).settings
    assert {name: getattr(found, name) for name in GPT2} == GPT2 | {k: v for k, v in changes.items() if k in GPT2}


@pytest.mark.slow
@each_change
def test_a_run_learns(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = losses(train(tiny_settings(tmp_path, max_steps=30, **changes)))
    assert np.mean(found[-3:]) < 0.75 * found[0]


def test_only_learned_positions_have_parameters_with_the_rate_of_positions() -> None:
    groups = {name: {spec.lr_group for spec in parameter_table(with_layers({"positions": name}))}
              for name in ("learned", "rope")}  # fmt: skip
    assert "pos" in groups["learned"]
    assert "pos" not in groups["rope"]


def test_a_resume_with_other_layers_names_the_setting(tmp_path: Path) -> None:
    in_one_go(tmp_path / "run", 2)
    settings = tiny_settings(tmp_path / "run", max_steps=4, norm="rms_norm")
    with pytest.raises(CheckpointError, match="norm is 'layer_norm' in it, 'rms_norm' was requested"):
        train(settings, resume=tmp_path / "run" / LATEST)


def test_a_run_can_start_from_a_model_with_other_layers_but_not_change_them(tmp_path: Path) -> None:
    in_one_go(tmp_path / "first", 3, **QWEN3)
    start = tiny_settings(tmp_path, max_steps=2, init_from=str(tmp_path / "first" / LATEST), **QWEN3)
    train(msgspec.structs.replace(start, seq_len=16))  # rotary positions have no embedding to cut
    with pytest.raises(ConfigError, match="mlp is 'swiglu' in it, 'gelu' was requested"):
        train(msgspec.structs.replace(start, mlp="gelu"), overwrite=True)


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["positions=rope", "d_model=12", "num_heads=4"], "positions: got rope with 3 channels per head"),
        (["positions=rope", "d_model=4", "num_heads=4"], "got rope with 1 channel per head"),
        (["positions=rope", "d_model=4", "num_heads=4"], "; positions learned accepts any number"),
        (["positions=rope", "freeze=positions"], "with positions rope there is no embedding of them"),
        (["freeze=head"], "its head is tied to the embedding"),
        (["freeze=embedding, layers 0-3, final norm, head", "tied_head=false"], "the complete model"),
        (["norm=rmsnorm"], "did you mean rms_norm?"),
        (["tie_word_embeddings=false"], "did you mean tied_head?"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(assignments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_overrides("nano", assignments=assignments).apply_to()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_with_shortcuts_begins_as_one_without() -> None:
    shape, tokens = with_layers({"x0_shortcut": True}), np.arange(40, dtype=np.int32)[None]
    found, plain = (GPT(initial_parameters(each, 0)).logits(tokens) for each in (shape, SHAPE))
    assert np.array_equal(found, plain)
    assert [spec.name for spec in parameter_table(shape) if spec.size == 1] == ["h.1.x0_scale"]


def test_attribution_counts_what_shortcuts_pass_on() -> None:
    shape = with_layers({"x0_shortcut": True, "layers": 3})
    weights, tokens = gradcheck.scattered_parameters(shape, 0), np.arange(12, dtype=np.int32)[None]
    model = GPT(gradcheck.as_parameters(shape, weights))
    found = interpret.attribution(model, tokens, np.array([5], np.int32))
    targets = np.full(tokens.shape, -1, np.int32)
    targets[0, -1] = 5
    _, gradients = reference.loss_and_gradients(weights, tokens, targets, shape)
    x = weights["wte.weight"][tokens[0]] + weights["wpe.weight"][:12]
    expected = -(gradients["wpe.weight"][:12] * x).sum(axis=-1)  # each position occurs once: its gradient is that of x
    assert gradcheck.relative_error(found[0], expected) < KERNEL_LIMIT


def test_parts_to_freeze_are_those_that_the_model_has() -> None:
    shape = with_layers(QWEN3 | {"tied_head": False})
    assert model_parts(shape) == ("tokens", "layer 0", "layer 1", "final norm", "head")
    assert frozen_names(shape, "embedding, head") == {"wte.weight", "lm_head.weight"}
    assert {name for name in frozen_names(shape, "layers 0") if "norm" in name} == {
        "h.0.attn.q_norm.weight", "h.0.attn.k_norm.weight",
    }  # fmt: skip


# ---- parameters and costs


@each_change
def test_tensors_are_those_of_the_reference_with_its_groups_and_decay(changes: dict[str, Any]) -> None:
    shape = with_layers(changes)
    table = {spec.name: spec for spec in parameter_table(shape)}
    assert {name: spec.shape for name, spec in table.items()} == reference.parameter_shapes(shape)
    assert {name: spec.lr_group for name, spec in table.items()} == {name: reference.lr_group(name) for name in table}
    assert {name: spec.decay for name, spec in table.items()} == {name: reference.decays(name) for name in table}


def test_an_architecture_of_gpt2_has_the_values_of_earlier_versions() -> None:
    assert {name: getattr(Settings(), name) for name in GPT2} == GPT2
    assert SIZES == ("d_model", "hidden_size", "vocab_size", "num_heads", "seq_len", "layers")
    assert GPT2 == {
        "norm": "layer_norm", "qk_norm": False, "positions": "learned", "mlp": "gelu", "bias": True, "tied_head": True,
        "x0_shortcut": False,
    }  # fmt: skip
    plain = ModelShape(*(getattr(SHAPE, name) for name in SIZES))
    assert plain == SHAPE
    assert msgspec.json.decode(msgspec.json.encode(plain)).keys() == set(SIZES)


def test_gates_and_hidden_units_are_two_matrices_for_muon() -> None:
    table = {spec.name: spec for spec in parameter_table(with_layers(CHANGES["qwen3 with its own head"]))}
    assert column_ranges(table["h.0.mlp.c_fc.weight"]) == [(0, 41), (41, 41)]
    assert column_ranges(table["h.0.attn.c_attn.weight"]) == [(0, 24), (24, 24), (48, 24)]
    assert {name.split(".", 2)[-1] for name, spec in table.items() if is_hidden_matrix(spec)} == {
        "attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight",
    }  # fmt: skip


def test_zero_projections_are_the_same_with_a_gate() -> None:
    parameters = initial_parameters(with_layers(QWEN3), 0, "zero")
    assert not any(parameters[f"h.{layer}.{part}.c_proj.weight"].any() for layer in (0, 1) for part in ("attn", "mlp"))
    assert parameters["h.0.mlp.c_fc.weight"].any()


def test_costs_follow_from_the_layers() -> None:
    N, C, F, V, L, T = 2 * 32, 24, 41, 101, 2, SHAPE.seq_len
    plain, gated = with_layers({}), with_layers({"mlp": "swiglu"})
    more = step_flops(gated, 2, 32).total - step_flops(plain, 2, 32).total
    assert more == 3 * L * 2 * N * C * F
    for changes, values in (
        ({"norm": "rms_norm"}, -(2 * L + 1) * C), ({"qk_norm": True}, 2 * L * SHAPE.head_size),
        ({"positions": "rope"}, -T * C), ({"mlp": "swiglu"}, L * (C * F + F)), ({"tied_head": False}, V * C),
    ):  # fmt: skip
        assert parameter_count(with_layers(changes)) - parameter_count(plain) == values, changes
    normalized = with_layers({"qk_norm": True})
    added = activation_bytes(normalized, 2, 32, 1) - activation_bytes(plain, 2, 32, 1)
    assert added == 4 * (L * (2 * N * C + 2 * N * SHAPE.num_heads) + 2 * N * C)  # qk and its statistics; d_qk
    untied = with_layers({"tied_head": False})
    assert decode_bytes(untied, 9) - decode_bytes(plain, 9) == 4 * C  # one row of the token embedding


@each_change
def test_a_step_allocates_the_bytes_of_the_estimate(changes: dict[str, Any]) -> None:
    shape = with_layers(changes)
    tokens, targets = gradcheck.random_batch(shape, 2, 70, 0)
    weights = weights_of(shape)
    gpt = GPT(weights)
    gpt.loss_and_gradients(tokens, targets, Parameters(shape), 0.01)
    allocated = allocated_bytes(gpt.transformer) - allocated_bytes(weights.flat)
    assert allocated == activation_bytes(shape, 2, 70, threads.get_threads())


@each_change
def test_buffers_are_those_that_a_step_uses(changes: dict[str, Any]) -> None:
    """A buffer that is not declared, or shared with one that is still needed, makes results depend on what it held."""
    shape, found = with_layers(changes), []
    tokens, targets = gradcheck.random_batch(shape, 2, 70, 0)
    for garbage in (0.0, np.nan):
        gpt, gradients = GPT(weights_of(shape)), Parameters(shape)
        gpt.loss_and_gradients(tokens, targets, gradients, 0.01)
        for layer in _all_layers(gpt.transformer):
            for buffer in layer.own_buffers(gpt.batch):
                array = getattr(layer, buffer.name)
                array.fill(0 if array.dtype.kind == "i" else garbage)
        gradients.flat.fill(0.0)
        found.append((gpt.loss_and_gradients(tokens, targets, gradients, 0.01), gradients.flat.tobytes()))
    assert found[0] == found[1]


def _all_layers(layer: Any) -> list[Any]:
    return [layer, *(inner for part in layer.sublayers for inner in _all_layers(part))]


# ---- reading the activations


def test_activations_are_those_of_the_reference() -> None:
    shape = with_layers(QWEN3)
    weights = gradcheck.scattered_parameters(shape, 0)
    tokens, _ = gradcheck.random_batch(shape, 2, 30, 0)
    _, _, blocks = reference.model_forward(weights, tokens, shape)
    found = interpret.trace(GPT(gradcheck.as_parameters(shape, weights)), tokens)
    assert gradcheck.relative_error(found["h.1.mlp.swiglu"], blocks[1]["act_out"]) < KERNEL_LIMIT
    assert gradcheck.relative_error(found["h.1.mlp.hidden"], blocks[1]["hidden"]) < KERNEL_LIMIT
    q = blocks[0]["qkv"][..., : shape.d_model].reshape(2, 30, 3, 8).transpose(0, 2, 1, 3)
    assert gradcheck.relative_error(found["h.0.attn.q"], q) < KERNEL_LIMIT
    assert gradcheck.relative_error(found["h.0.attn.probabilities"].sum(axis=-1), np.ones((2, 3, 30))) < 30 * 2.0**-24


@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_parts_of_a_model_without_biases_can_be_ablated(kind: Any) -> None:
    shape = with_layers(QWEN3)
    model = GPT(weights_of(shape))
    tokens, targets = gradcheck.random_batch(shape, 2, 30, 0)
    part = interpret.Part("mlp", 1)
    (found,) = interpret.ablations(model, tokens, targets, [part], kind)
    means = interpret.mean_outputs(model, tokens) if kind == "mean" else None
    alone = GPT(interpret.ablate(model.parameters, [part], means)).evaluate(tokens, targets)
    assert found.loss == pytest.approx(alone.loss_sum / alone.targets)
    assert found.change != 0.0


def test_dead_units_of_a_gate_are_its_gates() -> None:
    shape = with_layers({"mlp": "swiglu"})
    weights = weights_of(shape)
    weights["h.0.mlp.c_fc.weight"][...], weights["h.0.mlp.c_fc.bias"][...] = 0.0, 1.0
    weights["h.0.mlp.c_fc.bias"][:10] = -1.0
    tokens, _ = gradcheck.random_batch(shape, 2, 30, 0)
    assert interpret.dead_units(GPT(weights), tokens)[0] == pytest.approx(10 / 41)


def test_layers_are_those_of_the_settings() -> None:
    transformer = Transformer(with_layers(QWEN3))
    names = [type(layer).__name__ for layer in _all_layers(transformer)]
    assert names.count("RMSNorm") == 5
    assert names.count("QKNorm") == names.count("RotaryEmbedding") == 2
    assert all(block.mlp.c_fc.out_features == 2 * SHAPE.hidden_size for block in transformer.blocks)
