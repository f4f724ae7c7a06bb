"""Compiled model: equal to the reference in any batch shape; the decoder is equal to the model."""

from __future__ import annotations

import threading

import msgspec
import numpy as np
import pytest

from gpt_core import reference
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.gradcheck import (
    ARCHITECTURES,
    KERNEL_LIMIT,
    LARGE_SHAPE,
    SMALL_SHAPE,
    as_parameters,
    random_batch,
    relative_error,
    run_gradcheck,
    scattered_parameters,
)
from gpt_core.kernels import threads
from gpt_core.model.gpt import GPT
from gpt_core.model.inference import PREFILL_CHUNK, Decoder
from gpt_core.model.parameters import Parameters, initial_parameters, parameter_count, parameter_table
from gpt_core.model.stored_weights import StoredWeights
from tests.core.training_samples import open_run, tiny_settings

SHAPE = ModelShape(d_model=24, hidden_size=41, vocab_size=101, num_heads=3, seq_len=140, layers=2)
ONE_CHANNEL = ModelShape(d_model=6, hidden_size=9, vocab_size=37, num_heads=6, seq_len=70, layers=2)  # per head
LONG = ModelShape(d_model=16, hidden_size=20, vocab_size=37, num_heads=2, seq_len=PREFILL_CHUNK + 44, layers=2)


def model_of(shape, seed=0):
    return GPT(as_parameters(shape, scattered_parameters(shape, seed)))


def gradients_of(model, tokens, targets, weight=1.0):
    gradients = Parameters(model.shape)
    loss_sum, counted = model.loss_and_gradients(tokens, targets, gradients, weight)
    return gradients, loss_sum, counted


def assert_same_tensors(got, expected, limit):
    wrong = {name: error for name in expected if not (error := relative_error(got[name], expected[name])) < limit}
    assert not wrong


# ---- against the reference


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("shape", "batch", "time"),
    [
        (SMALL_SHAPE, 1, 1),
        (SMALL_SHAPE, 3, 9),
        (SHAPE, 1, 64),
        (SHAPE, 2, 65),
        (SHAPE, 2, 140),
        (LARGE_SHAPE, 2, 150),
        (ONE_CHANNEL, 1, 1),
        (ONE_CHANNEL, 2, 70),
    ],
)
def test_loss_logits_and_gradients_equal_the_reference(shape, batch, time, count):
    threads.set_threads(count)
    parameters = scattered_parameters(shape, 1)
    tokens, targets = random_batch(shape, batch, time, seed=2)
    targets[0, 0] = 3  # at least one
    model = GPT(as_parameters(shape, parameters))
    counted = int((targets != -1).sum())
    gradients, loss_sum, seen = gradients_of(model, tokens, targets, 1.0 / counted)
    loss, expected = reference.loss_and_gradients(parameters, tokens, targets, shape)
    logits, _, _ = reference.model_forward(parameters, tokens, shape)
    assert seen == counted
    assert loss_sum / counted == pytest.approx(loss, rel=1e-5)
    assert relative_error(model.logits(tokens), logits) < KERNEL_LIMIT
    assert_same_tensors(gradients, expected, KERNEL_LIMIT)

    sums = model.evaluate(tokens, targets)
    assert sums.loss_sum == pytest.approx(loss_sum, rel=1e-5)
    assert sums.targets == counted
    assert sums.correct == int((logits.argmax(axis=-1) == targets).sum())


@pytest.mark.slow
def test_gradcheck_passes_for_every_tensor():
    rows = run_gradcheck()
    assert [(row.architecture, row.tensor) for row in rows] == [
        (name, tensor)
        for name, layers in ARCHITECTURES.items()
        for tensor in reference.parameter_shapes(msgspec.structs.replace(SMALL_SHAPE, **layers))
    ]
    assert [(row.architecture, row.tensor) for row in rows if not row.passed] == []


@pytest.mark.slow
def test_gradcheck_fails_for_a_wrong_gradient(monkeypatch):
    right = GPT.loss_and_gradients

    def wrong(self, tokens, targets, gradients, *more):
        result = right(self, tokens, targets, gradients, *more)
        if not self.shape.other_layers:
            gradients["h.1.ln_2.bias"][0] *= 1.01
            gradients["wpe.weight"][0, 0] = np.nan
        return result

    monkeypatch.setattr(GPT, "loss_and_gradients", wrong)
    failed = [(row.architecture, row.tensor) for row in run_gradcheck() if not row.passed]
    assert failed == [("gpt2", "wpe.weight"), ("gpt2", "h.1.ln_2.bias")]


# ---- batches in pieces


def test_accumulated_micro_batches_equal_one_batch():
    tokens, targets = random_batch(SHAPE, 5, 33, seed=0)
    weight = 1.0 / int((targets != -1).sum())
    whole, loss_sum, _ = gradients_of(model_of(SHAPE), tokens, targets, weight)
    model, pieces, losses = model_of(SHAPE), Parameters(SHAPE), 0.0
    for part in (slice(0, 2), slice(2, 3), slice(3, 5)):
        losses += model.loss_and_gradients(tokens[part], targets[part], pieces, weight)[0]
    assert losses == pytest.approx(loss_sum, rel=1e-6)
    assert_same_tensors(pieces, whole.tensors, 1e-5)


def test_padding_after_a_sequence_changes_nothing():
    tokens, targets = random_batch(SHAPE, 2, 20, seed=0)
    longer, padded = np.zeros((2, 31), np.int32), np.full((2, 31), -1, np.int32)
    longer[:, :20], padded[:, :20] = tokens, targets
    short, short_loss, short_count = gradients_of(model_of(SHAPE), tokens, targets)
    long, long_loss, long_count = gradients_of(model_of(SHAPE), longer, padded)
    assert long_count == short_count
    assert long_loss == pytest.approx(short_loss, rel=1e-6)
    assert_same_tensors(long, short.tensors, 1e-5)


def test_a_batch_of_padding_has_no_loss_and_no_gradient():
    gradients, loss_sum, counted = gradients_of(
        model_of(SHAPE), np.zeros((2, 9), np.int32), np.full((2, 9), -1, np.int32)
    )
    assert (loss_sum, counted) == (0.0, 0)
    assert not gradients.flat.any()
    assert model_of(SHAPE).evaluate(np.zeros((1, 9), np.int32), np.full((1, 9), -1, np.int32)) == (0.0, 0, 0)


def test_batches_of_other_shapes_do_not_affect_the_next():
    model = model_of(SHAPE)
    tokens, targets = random_batch(SHAPE, 3, 40, seed=0)
    first = gradients_of(model, tokens, targets)[0]
    for batch, time in [(1, 1), (4, 67), (3, 40)]:
        gradients_of(model, *random_batch(SHAPE, batch, time, seed=5))
    np.testing.assert_array_equal(gradients_of(model, tokens, targets)[0].flat, first.flat)


@pytest.mark.parametrize("count", [1, 2])
def test_a_step_is_reproducible_to_the_bit(count):
    threads.set_threads(count)
    tokens, targets = random_batch(SHAPE, 3, 100, seed=0)
    first, again = (gradients_of(model_of(SHAPE), tokens, targets) for _ in range(2))
    np.testing.assert_array_equal(again[0].flat, first[0].flat)
    assert again[1] == first[1]


def test_two_threads_change_only_rounding():
    tokens, targets = random_batch(SHAPE, 3, 100, seed=0)
    threads.set_threads(1)
    one = gradients_of(model_of(SHAPE), tokens, targets)[0]
    threads.set_threads(2)
    assert_same_tensors(gradients_of(model_of(SHAPE), tokens, targets)[0], one.tensors, 1e-5)


@pytest.mark.parametrize(
    "tensor", ["wte.weight", "wpe.weight", "h.0.attn.c_attn.bias", "h.1.mlp.c_proj.weight", "ln_f.bias"]
)
def test_a_nan_weight_makes_the_loss_nan(tensor):
    model = model_of(SHAPE)
    model.parameters[tensor].reshape(-1)[0] = np.nan
    tokens = np.zeros((1, 5), np.int32)
    assert not np.isfinite(gradients_of(model, tokens, tokens)[1])


def test_invalid_tokens_targets_and_lengths_raise_value_error():
    model, fine = model_of(SHAPE), np.zeros((1, 3), np.int32)
    for tokens, targets in [
        (fine + 101, fine),
        (fine - 1, fine),
        (fine, fine + 101),
        (fine, fine - 2),
        (fine, fine[:, :2]),
        (fine, np.zeros((2, 3), np.int32)),
        (fine.repeat(2, axis=0), np.zeros((3, 2), np.int32)),
    ]:
        with pytest.raises(ValueError, match=r"got .*, (want|expected) "):
            gradients_of(model, tokens, targets)
    with pytest.raises(ValueError, match="from 1 to 140"):
        model.logits(np.zeros((1, 141), np.int32))


def test_a_batch_without_sequences_is_refused():
    model, none = model_of(SHAPE), np.zeros((0, 3), np.int32)
    calls = (model.forward, lambda ids: model.evaluate(ids, ids), lambda ids: gradients_of(model, ids, ids))
    for call in (*calls, model.logits):
        with pytest.raises(ValueError, match=r"tokens: got shape \(0, 3\), expected \(B, T\) with B of at least 1"):
            call(none)


def test_buffers_grow_with_the_number_of_threads():
    tokens, targets = random_batch(SHAPE, 2, 70, seed=1)
    threads.set_threads(1)
    model, decoder = model_of(SHAPE), Decoder(model_of(SHAPE).parameters)
    alone = gradients_of(model, tokens, targets)[0].flat
    first = decoder.prefill(tokens[0])
    threads.set_threads(3)
    assert relative_error(gradients_of(model, tokens, targets)[0].flat, alone) < 1e-5
    decoder.reset()
    assert relative_error(decoder.prefill(tokens[0]), first) < 1e-5


# ---- the decoder


@pytest.mark.parametrize("pieces", [[1] * 40, [40], [7, 1, 1, 31], [64, 1, 64, 1]])
def test_cached_decoding_equals_the_full_forward(pieces):
    tokens = random_batch(SHAPE, 1, sum(pieces), seed=4)[0]
    model = model_of(SHAPE)
    expected = model.logits(tokens)[0]
    decoder, end = Decoder(model.parameters), 0
    for length in pieces:
        got = decoder.prefill(tokens[0, end : end + length])
        end += length
        assert decoder.length == end
        assert relative_error(got, expected[end - 1]) < KERNEL_LIMIT


@pytest.mark.parametrize("weight_format", ["float32", "bfloat16", "int8"])
def test_heads_of_one_channel_are_decoded_as_in_the_full_forward(weight_format):
    tokens = random_batch(ONE_CHANNEL, 1, ONE_CHANNEL.seq_len, seed=4)[0]
    weights = StoredWeights(model_of(ONE_CHANNEL).parameters, weight_format)
    limit = KERNEL_LIMIT if weight_format == "float32" else 2.0**-6  # keys and values are rounded to bfloat16
    decoder, expected = Decoder(weights), GPT(weights.expanded()).logits(tokens)[0]
    for first, end in ((0, 41), (41, 69), (69, 70)):
        assert relative_error(decoder.prefill(tokens[0, first:end]), expected[end - 1]) < limit


@pytest.mark.parametrize("first", [PREFILL_CHUNK, PREFILL_CHUNK + 1, LONG.seq_len])
def test_a_prompt_can_fill_the_context(first):
    tokens = random_batch(LONG, 1, LONG.seq_len, seed=4)[0]
    model = model_of(LONG)
    expected = model.logits(tokens)[0]
    decoder = Decoder(model.parameters)
    assert relative_error(decoder.prefill(tokens[0, :first].tolist()), expected[first - 1]) < KERNEL_LIMIT
    for position in range(first, LONG.seq_len):
        assert relative_error(decoder.decode(int(tokens[0, position])), expected[position]) < KERNEL_LIMIT
    assert decoder.length == decoder.capacity == LONG.seq_len
    with pytest.raises(ValueError, match=f"at most {LONG.seq_len}"):
        decoder.decode(0)
    assert decoder.length == LONG.seq_len


def test_reset_empties_the_cache():
    decoder = Decoder(model_of(SHAPE).parameters)
    first = decoder.prefill([5, 6, 7])
    decoder.prefill([8, 9])
    decoder.reset()
    assert decoder.length == 0
    again = decoder.prefill([5, 6, 7])
    np.testing.assert_array_equal(again, first)
    decoder.decode(1)
    np.testing.assert_array_equal(again, first)  # logits once given stay as they are


def test_the_decoder_rejects_invalid_tokens():
    decoder = Decoder(model_of(SHAPE).parameters)
    for tokens in ([], [0] * 141, [101], [-1], [[1, 2]], [1.5], [1 << 32], [1 << 64]):
        with pytest.raises(ValueError, match=r"got .*, (want|expected) "):
            decoder.prefill(tokens)
    for token in (101, -1, 1 << 64):
        with pytest.raises(ValueError, match=f"token: got {token}, expected 0 to 100"):
            decoder.decode(token)
    assert decoder.length == 0


def test_a_long_prompt_with_an_invalid_id_at_its_end_leaves_the_cache_as_it_is():
    decoder = Decoder(model_of(LONG).parameters)
    with pytest.raises(ValueError, match=f"got ids 0 to {LONG.vocab_size}, expected 0 to {LONG.vocab_size - 1}"):
        decoder.prefill([0] * PREFILL_CHUNK + [LONG.vocab_size])
    assert decoder.length == 0


def test_decoding_during_training_changes_neither():
    threads.set_threads(2)
    tokens, targets = random_batch(SHAPE, 2, 130, seed=0)
    model, decoder = model_of(SHAPE), Decoder(model_of(SHAPE, 1).parameters)
    gradients, logits = gradients_of(model, tokens, targets)[0], decoder.prefill(tokens[0])
    same = []

    def train():
        for _ in range(15):
            same.append(np.array_equal(gradients_of(model, tokens, targets)[0].flat, gradients.flat))

    trainer = threading.Thread(target=train)
    trainer.start()
    while trainer.is_alive():
        decoder.reset()
        same.append(np.array_equal(decoder.prefill(tokens[0]), logits))
    trainer.join()
    assert len(same) > 15
    assert all(same)


# ---- the table of parameters


def test_the_default_shape_has_57482752_parameters():
    assert parameter_count(Settings().shape) == 57_482_752


def test_the_parameter_table_equals_the_reference():
    table = {spec.name: spec for spec in parameter_table(SHAPE)}
    assert {name: spec.shape for name, spec in table.items()} == reference.parameter_shapes(SHAPE)
    for name, spec in table.items():
        assert (spec.lr_group, spec.decay) == (reference.lr_group(name), reference.decays(name)), name


def test_tensors_do_not_overlap_in_the_flat_buffer():
    parameters = Parameters(SHAPE)
    for number, tensor in enumerate(parameters.tensors.values(), start=1):
        tensor += number
    for number, (name, tensor) in enumerate(parameters.tensors.items(), start=1):
        assert (tensor == number).all(), name
    segments = sorted(parameters.segments)
    assert [segment.start for segment in segments] == [0, *(segment.stop for segment in segments[:-1])]
    assert segments[-1].stop == parameters.flat.size
    twin = parameters.copy()
    twin["ln_f.bias"][...] = -1
    assert (parameters["ln_f.bias"] == len(parameters.tensors)).all()


def test_initial_values_equal_gpt2_and_depend_on_the_seed():
    shape = ModelShape(d_model=96, hidden_size=192, vocab_size=300, num_heads=3, seq_len=64, layers=8)
    parameters = initial_parameters(shape, seed=1)
    for name, expected in reference.initial_parameters(shape, seed=1).items():
        tensor = parameters[name]
        assert tensor.mean() == pytest.approx(expected.mean(), abs=1e-3), name
        assert tensor.std() == pytest.approx(expected.std(), rel=0.05), name
    np.testing.assert_array_equal(initial_parameters(shape, seed=1).flat, parameters.flat)
    assert not np.array_equal(initial_parameters(shape, seed=2)["wte.weight"], parameters["wte.weight"])


def test_zero_projections_make_every_block_the_identity_and_change_no_other_value():
    scaled, zero = initial_parameters(SHAPE, 1), initial_parameters(SHAPE, 1, "zero")
    for name, expected in reference.initial_parameters(SHAPE, 1, zero_projections=True).items():
        is_projection = name.endswith("c_proj.weight")
        assert zero[name].any() == (bool(expected.any()) and not is_projection), name
        assert is_projection or np.array_equal(zero[name], scaled[name])
    model = GPT(zero)
    model.forward(random_batch(SHAPE, 2, 20, seed=0)[0])
    for block in model.transformer.blocks:
        np.testing.assert_array_equal(block.out, model.transformer.embedding.out)


def test_a_run_starts_with_the_projections_that_its_setting_names(tmp_path):
    for init in ("scaled", "zero"):
        trainer = open_run(tiny_settings(tmp_path, init_projections=init, models_dir=str(tmp_path / init)))
        assert trainer.parameters["h.0.mlp.c_proj.weight"].any() == (init == "scaled")
        trainer.run.store.close()
