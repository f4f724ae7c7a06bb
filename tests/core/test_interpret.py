"""Functions that show what a model computes, against the float64 reference."""

from __future__ import annotations

import contextlib
import math
import warnings

import numpy as np
import pytest

from gpt_core import interpret, reference
from gpt_core.config.settings import ModelShape
from gpt_core.gradcheck import KERNEL_LIMIT, as_parameters, relative_error, scattered_parameters
from gpt_core.interpret import Part
from gpt_core.model.gpt import GPT
from gpt_core.model.inference import Decoder
from gpt_core.model.parameters import Parameters

SHAPE = ModelShape(d_model=24, hidden_size=41, vocab_size=101, num_heads=3, seq_len=140, layers=3)
B, T = 2, 70


@pytest.fixture(scope="module")
def weights():
    return scattered_parameters(SHAPE, seed=1)


@pytest.fixture
def model(weights):
    return GPT(as_parameters(SHAPE, weights))


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(2).integers(0, SHAPE.vocab_size, (B, T), dtype=np.int32)


@pytest.fixture(scope="module")
def expected(weights, tokens):
    """Logits, output of the final norm, and the activations of each block, in float64."""
    return reference.model_forward(weights, tokens, SHAPE)


def heads(x):
    return x.reshape(B, T, SHAPE.num_heads, SHAPE.head_size).transpose(0, 2, 1, 3)


def probabilities_of(qkv):
    """Return the attention of a block from q, k and v side by side, with a loop over the queries."""
    q, k, _ = (heads(part) for part in np.split(qkv, 3, axis=-1))
    found = np.zeros((*q.shape[:2], T, T))
    for t in range(T):
        scores = np.einsum("bhd,bhsd->bhs", q[:, :, t], k[:, :, : t + 1]) / math.sqrt(SHAPE.head_size)
        found[:, :, t, : t + 1] = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    return found


def lens_of(x, weights):
    """Return the logits of a residual stream: final norm and head."""
    return reference.layer_norm_forward(x, weights["ln_f.weight"], weights["ln_f.bias"]) @ weights["wte.weight"].T


# ---- trace and attention


def expected_trace(expected, weights, tokens):
    logits, ln_f_out, blocks = expected
    found = {"embedding": blocks[0]["x"], "ln_f": ln_f_out, "logits": logits}
    for layer, block in enumerate(blocks):
        q, k, v = (heads(part) for part in np.split(block["qkv"], 3, axis=-1))
        names = {
            "ln_1": block["ln_1_out"], "attn.q": q, "attn.k": k, "attn.v": v,
            "attn.probabilities": probabilities_of(block["qkv"]), "attn.heads": block["attn_out"],
            "attn.out": block["resid_mid"] - block["x"], "resid_mid": block["resid_mid"], "ln_2": block["ln_2_out"],
            "mlp.hidden": block["hidden"], "mlp.gelu": block["act_out"], "mlp.out": block["y"] - block["resid_mid"],
            "out": block["y"],
        }  # fmt: skip
        found |= {f"h.{layer}.{name}": value for name, value in names.items()}
    return found


def test_every_activation_of_a_trace_equals_the_reference(model, tokens, expected, weights):
    found, wanted = interpret.trace(model, tokens), expected_trace(expected, weights, tokens)
    assert list(found) == interpret.activation_names(SHAPE)
    assert found.keys() == wanted.keys()
    assert {name: found[name].shape for name in found} == {name: wanted[name].shape for name in found}
    errors = {name: relative_error(found[name], wanted[name]) for name in found}
    assert {name: error for name, error in errors.items() if not error < KERNEL_LIMIT} == {}


def test_the_last_batch_of_training_is_traced_without_a_forward_pass(model, tokens, expected, weights, monkeypatch):
    targets = np.roll(tokens, -1, axis=1)
    model.loss_and_gradients(tokens, targets, Parameters(SHAPE), 1.0)
    monkeypatch.setattr(GPT, "forward", None)
    found, wanted = interpret.trace(model), expected_trace(expected, weights, tokens)
    assert all(relative_error(found[name], wanted[name]) < KERNEL_LIMIT for name in wanted)
    assert relative_error(interpret.attention(model)[1], wanted["h.1.attn.probabilities"]) < KERNEL_LIMIT
    lens = interpret.logit_lens(model)
    np.testing.assert_array_equal(lens.ids[-1, ..., 0], expected[0].argmax(axis=-1))


def test_reading_a_trace_changes_no_later_gradient(model, tokens):
    targets = np.roll(tokens, -1, axis=1)
    before, after = Parameters(SHAPE), Parameters(SHAPE)
    model.loss_and_gradients(tokens, targets, before, 1.0)
    interpret.trace(model)
    interpret.logit_lens(model)
    model.loss_and_gradients(tokens, targets, after, 1.0)
    np.testing.assert_array_equal(before.flat, after.flat)


def test_a_trace_is_a_copy_and_has_only_the_names_asked_for(model, tokens):
    found = interpret.trace(model, tokens, ["h.1.out", "embedding"])
    assert list(found) == ["embedding", "h.1.out"]
    assert list(interpret.trace(model, tokens, iter(["h.1.out", "embedding"]))) == ["embedding", "h.1.out"]
    kept = {name: values.copy() for name, values in found.items()}
    interpret.trace(model, tokens[:, ::-1])
    assert all(np.array_equal(found[name], kept[name]) for name in kept)
    with pytest.raises(ValueError, match=r"names: got 'h\.9\.out', expected names such as 'embedding'"):
        interpret.trace(model, tokens, ["h.9.out"])


def test_without_tokens_and_a_last_batch_there_is_an_error(model):
    for function in (interpret.trace, interpret.attention, interpret.logit_lens, interpret.dead_units):
        with pytest.raises(ValueError, match="tokens: got none"):
            function(model)


@pytest.mark.parametrize("fails_first", [False, True])
def test_without_tokens_a_batch_that_failed_is_not_read(model, tokens, fails_first):
    functions = (interpret.trace, interpret.attention, interpret.logit_lens, interpret.dead_units)
    failures = {
        "an id that is not in the vocabulary": lambda: model.forward(np.full((B, T), SHAPE.vocab_size, np.int32)),
        "too long": lambda: model.forward(np.zeros((1, SHAPE.seq_len + 1), np.int32)),
        "a target that is not in the vocabulary": lambda: model.evaluate(tokens, tokens + SHAPE.vocab_size),
    }
    for fail in failures.values():
        if not fails_first:
            interpret.dead_units(model, tokens)
            interpret.dead_units(model)
        with pytest.raises(ValueError, match="got"):
            fail()
        for function in functions:
            with pytest.raises(ValueError, match="tokens: got none"):
                function(model)
        with pytest.raises(ValueError, match="tokens: got none"):
            model.logits_of_residual(np.zeros((B * T, SHAPE.d_model), np.float32))


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
def test_numpy_does_not_warn_of_weights_that_are_not_finite(weights, tokens, value):
    parameters = as_parameters(SHAPE, weights)
    parameters.flat[::2] = value
    ids = tokens[:, : T // 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for name, read in READERS.items():
            with contextlib.suppress(np.linalg.LinAlgError) if name == "embedding_map" else contextlib.nullcontext():
                read(GPT(parameters), ids)
        interpret.trace(GPT(parameters), ids)
        interpret.ablate(parameters, [Part("head", 0, 1)], interpret.mean_outputs(GPT(parameters), ids))
        interpret.weight_stats(parameters, parameters, as_parameters(SHAPE, weights))
        interpret.weight_stats(as_parameters(SHAPE, weights), parameters, parameters)


def test_an_update_that_vanishes_beside_weights_whose_norm_overflows_has_a_ratio():
    before = np.array([3e38, 3e38, 1.0], np.float32)
    assert interpret.update_ratio(before + np.array([0, 0, 1], np.float32), before) == -math.inf
    assert interpret.update_ratio(before, np.zeros(3, np.float32)) == math.inf


READERS = {
    "trace": lambda model, ids: interpret.trace(model, ids, ["logits"])["logits"],
    "attention": interpret.attention,
    "token_losses": interpret.token_losses,
    "next_tokens": lambda model, ids: interpret.next_tokens(model, ids).ids,
    "text_predictions": lambda model, ids: interpret.text_predictions(model, ids[0]).ids,
    "logit_lens": lambda model, ids: interpret.logit_lens(model, ids).ids,
    "lens_logits": lambda model, ids: interpret.lens_logits(model, "h.0.out", ids),
    "head_scores": lambda model, ids: interpret.head_scores(model, ids, REPEATED).entropy,
    "induction_scores": lambda model, ids: interpret.induction_scores(model, [[*row, *row] for row in ids]),
    "mean_outputs": lambda model, ids: interpret.mean_outputs(model, ids).heads,
    "ablations": lambda model, ids: next(interpret.ablations(model, ids, ids)).loss,
    "joint_ablation": lambda model, ids: interpret.joint_ablation(model, ids, ids, [Part("mlp", 0)]),
    "dead_units": interpret.dead_units,
    "attribution": lambda model, ids: interpret.attribution(model, ids, [row[0] for row in ids]),
    "neighbors": lambda model, ids: interpret.neighbors(model.parameters, ids[0], 2, ids[1]).ids,
    "embedding_map": lambda model, ids: interpret.embedding_map(model.parameters, ids[0]).coordinates,
    "repeated_tokens": lambda model, ids: interpret.repeated_tokens(ids[0], 3),
}
REPEATED = np.array([[1, 2, 3, 1, 2, 3]], np.int32)


COUNTED = {
    "next_tokens": lambda model, ids, count: interpret.next_tokens(model, ids, count).ids,
    "text_predictions": lambda model, ids, count: interpret.text_predictions(model, ids[0], count).ids,
    "logit_lens": lambda model, ids, count: interpret.logit_lens(model, ids, count).ids,
    "neighbors": lambda model, ids, count: interpret.neighbors(model.parameters, ids[0], count).ids,
}


@pytest.mark.parametrize("name", COUNTED)
def test_a_number_of_tokens_is_a_whole_number_from_0(name, model, tokens):
    read = COUNTED[name]
    assert read(model, tokens, 0).shape[-1] == 0
    assert read(model, tokens, np.int64(3)).shape[-1] == 3
    for other in (-1, 2.5, "3"):
        with pytest.raises(ValueError, match=rf"count: got {other!r}, expected a whole number of at least 0"):
            read(model, tokens, other)


@pytest.mark.parametrize("name", READERS)
def test_ids_may_be_integers_of_any_type_and_nothing_else(name, model, tokens):
    read, ids = READERS[name], tokens[:, : T // 2]  # half of a row each: not contiguous
    expected = read(model, np.ascontiguousarray(ids))
    for same in (ids, ids.astype(np.int64), ids.astype(np.uint16), ids.tolist()):
        np.testing.assert_array_equal(read(model, same), expected)
    for other in (ids + 0.5, ids.astype(str), ids > 3):
        with pytest.raises(ValueError, match=r"got values of type (float64|str_|bool), expected integers"):
            read(model, other)
    with pytest.raises(ValueError, match=r"got .* to 4294967296, expected token ids"):
        read(model, np.full(ids.shape, 1 << 32))
    for low in (1, -1):
        with pytest.raises(ValueError, match=rf"got {low} to {1 << 64}, expected token ids from 0 to 2147483647"):
            read(model, [[low] * len(row[1:]) + [1 << 64] for row in ids])
    with pytest.raises(ValueError, match="got rows of different lengths, expected an array of token ids"):
        read(model, [[[1, 2], [3]], [[1], [2, 3]]])


def test_attention_equals_the_reference_and_its_rows_sum_to_1(model, tokens, expected):
    found = interpret.attention(model, tokens)
    wanted = np.stack([probabilities_of(block["qkv"]) for block in expected[2]])
    assert found.shape == (SHAPE.layers, B, SHAPE.num_heads, T, T)
    assert relative_error(found, wanted) < KERNEL_LIMIT
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, rtol=1e-5)
    assert not found[..., np.triu(np.ones((T, T), bool), 1)].any()
    np.testing.assert_array_equal(interpret.attention(model, tokens, [2, 0]), found[[2, 0]])
    assert interpret.attention(model, tokens, []).shape == (0, B, SHAPE.num_heads, T, T)
    with pytest.raises(IndexError, match="layers: got 3, expected 0 to 2"):
        interpret.attention(model, tokens, [0, 3])


def test_attention_of_extreme_scores_is_finite(weights, tokens):
    scaled = weights | {
        f"h.0.attn.c_attn.{kind}": weights[f"h.0.attn.c_attn.{kind}"] * 1e3 for kind in ("weight", "bias")
    }
    found = interpret.attention(GPT(as_parameters(SHAPE, scaled)), tokens)
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, rtol=1e-5)


# ---- predictions


def test_token_losses_equal_the_reference_and_those_of_evaluate(model, tokens, expected):
    found = interpret.token_losses(model, tokens)
    log_p = np.log(reference.softmax(expected[0][:, :-1]))
    wanted = -np.take_along_axis(log_p, tokens[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    inputs, targets = np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])
    assert float(found.sum(dtype=np.float64)) == model.evaluate(inputs, targets).loss_sum


def test_token_losses_refuse_a_sequence_longer_than_the_context_and_the_token_after_it(model):
    longest = SHAPE.seq_len + 1
    assert interpret.token_losses(model, np.zeros((1, longest), int)).shape == (1, SHAPE.seq_len)
    for length in (1, longest + 1):
        with pytest.raises(ValueError, match=rf"tokens: got shape \(1, {length}\), .* T from 2 to {longest}"):
            interpret.token_losses(model, np.zeros((1, length), int))


def test_the_entropy_of_large_logits_is_not_negative(model, tokens):
    weights = model.parameters.tensors["wte.weight"]
    before = weights.copy()
    weights *= 1e4
    try:
        found = interpret.next_tokens(model, tokens)
    finally:
        weights[...] = before
    assert np.isfinite(found.entropy).all()
    assert found.entropy.min() >= 0


def test_next_tokens_are_the_most_probable_in_order_with_entropy_and_rank(model, tokens, expected):
    found = interpret.next_tokens(model, tokens, count=5)
    p = reference.softmax(expected[0])
    order = np.argsort(-p, axis=-1)
    np.testing.assert_array_equal(found.ids, order[..., :5])
    np.testing.assert_allclose(found.probabilities, np.take_along_axis(p, order[..., :5], axis=-1), rtol=1e-3)
    np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(axis=-1), rtol=1e-4)
    rank = np.argsort(order, axis=-1)[:, :-1]  # of each id at each position
    following = tokens[:, 1:, None]
    np.testing.assert_array_equal(found.ranks, 1 + np.take_along_axis(rank, following, axis=-1)[..., 0])
    wanted = np.take_along_axis(p[:, :-1], following, axis=-1)[..., 0]
    np.testing.assert_allclose(found.target_probabilities, wanted, rtol=1e-3)
    np.testing.assert_allclose(-np.log(found.target_probabilities), interpret.token_losses(model, tokens), rtol=1e-4)


@pytest.mark.parametrize("seq_len", [2, 3, 8, 9, 70, 140])
def test_predictions_of_a_long_text_are_those_of_the_windows_that_hold_each_token_first(seq_len, weights, tokens):
    shape = ModelShape(24, 41, 101, 3, seq_len, 3)
    short = weights | {"wpe.weight": weights["wpe.weight"][:seq_len]}
    model, ids = GPT(as_parameters(shape, short)), tokens[0]
    found = interpret.text_predictions(model, ids, 5)
    assert found.ids.shape == found.probabilities.shape == (1, T, 5)
    assert found.target_probabilities.shape == found.ranks.shape == (1, T - 1)
    step = seq_len // 2
    for token in range(1, T + 1):
        start = next(start for start in range(0, T, step) if min(token, T - 1) < start + seq_len)
        logits = reference.model_forward(short, ids[None, start:token], shape)[0][0, -1].astype(np.float64)
        p = np.exp(logits - logits.max())
        p /= p.sum()
        assert found.ids[0, token - 1].tolist() == np.argsort(-p, kind="stable")[:5].tolist()
        np.testing.assert_allclose(found.entropy[0, token - 1], -(p * np.log(p)).sum(), rtol=1e-3)
        if token < T:
            np.testing.assert_allclose(found.target_probabilities[0, token - 1], p[ids[token]], rtol=1e-3)
            assert found.ranks[0, token - 1] == 1 + (p > p[ids[token]]).sum()


def test_the_predictions_of_a_text_that_fits_are_those_of_its_positions(model, tokens):
    found, expected = interpret.text_predictions(model, tokens[0], 5), interpret.next_tokens(model, tokens[:1], 5)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_text_of_one_token_has_a_prediction_of_what_follows_alone(model):
    found = interpret.text_predictions(model, np.array([1], np.int32))
    assert found.ids.shape == (1, 1, 8)
    assert found.target_probabilities.shape == found.ranks.shape == (1, 0)
    with pytest.raises(ValueError, match="at least 1"):
        interpret.text_predictions(model, np.empty(0, np.int32))


def test_more_next_tokens_than_the_vocabulary_has_are_all_of_it(model, tokens):
    found = interpret.next_tokens(model, tokens, count=500)
    assert found.ids.shape == (B, T, SHAPE.vocab_size)
    np.testing.assert_allclose(found.probabilities.sum(axis=-1), 1.0, rtol=1e-4)


def test_predictions_of_diverged_weights_have_their_shape(weights, tokens):
    broken = as_parameters(SHAPE, weights | {"ln_f.bias": np.full(SHAPE.d_model, np.nan)})
    assert interpret.next_tokens(GPT(broken), tokens, count=4).ids.shape == (B, T, 4)
    assert set(np.unique(interpret.logit_lens(GPT(broken), tokens).ids)) <= set(range(SHAPE.vocab_size))


def test_the_logit_lens_equals_the_reference_at_every_place(model, tokens, expected, weights):
    lens = interpret.logit_lens(model, tokens, count=2)
    streams = [expected[2][0]["x"]]
    for block in expected[2]:
        streams += [block["resid_mid"], block["y"]]
    assert list(lens.places) == ["embedding", *(f"h.{n}.{place}" for n in range(3) for place in ("resid_mid", "out"))]
    for place, (stream, name) in enumerate(zip(streams, lens.places, strict=True)):
        logits = lens_of(stream, weights)
        assert relative_error(interpret.lens_logits(model, name, tokens), logits) < KERNEL_LIMIT
        order = np.argsort(-logits, axis=-1)[..., :2]
        p = np.take_along_axis(reference.softmax(logits), order, axis=-1)
        np.testing.assert_array_equal(lens.ids[place], order)
        np.testing.assert_allclose(lens.probabilities[place], p, rtol=1e-3)


def test_the_logit_lens_of_some_positions_is_that_part_of_all(model, tokens):
    for count in (1, 3):
        every, some = (interpret.logit_lens(model, tokens, count, positions) for positions in (None, [69, 3, -2]))
        assert some.ids.shape == (7, B, 3, count)
        np.testing.assert_array_equal(some.ids, every.ids[:, :, [69, 3, -2]])
        np.testing.assert_allclose(some.probabilities, every.probabilities[:, :, [69, 3, -2]], rtol=1e-5)
    with pytest.raises(IndexError):
        interpret.logit_lens(model, tokens, positions=[T])


def test_the_logit_lens_of_the_last_layer_is_the_logits(model, tokens):
    logits = model.logits(tokens)
    np.testing.assert_array_equal(interpret.lens_logits(model, "h.2.out", tokens), logits)
    np.testing.assert_array_equal(interpret.logit_lens(model, tokens).ids[-1, ..., 0], logits.argmax(axis=-1))
    with pytest.raises(ValueError, match=r"place: got 'h\.3\.out', expected one of embedding, h\.0\.resid_mid, "):
        interpret.lens_logits(model, "h.3.out", tokens)


# ---- heads


def test_head_scores_equal_sums_over_the_attention_of_the_reference(model, tokens, expected):
    repeated = interpret.repeated_tokens(np.arange(4, 101), 20, sequences=3, seed=5)
    found = interpret.head_scores(model, tokens, repeated)
    for layer, block in enumerate(expected[2]):
        P = probabilities_of(block["qkv"])
        for head in range(SHAPE.num_heads):
            rows = [P[b, head, t] for b in range(B) for t in range(1, T)]
            at = [t for _ in range(B) for t in range(1, T)]
            previous = np.mean([row[t - 1] for row, t in zip(rows, at, strict=True)])
            assert found.previous_token[layer, head] == pytest.approx(previous, rel=1e-3)
            assert found.first_token[layer, head] == pytest.approx(np.mean([row[0] for row in rows]), rel=1e-3)
            entropy = np.mean([-(row[row > 0] * np.log(row[row > 0])).sum() for row in rows])
            assert found.entropy[layer, head] == pytest.approx(entropy, rel=1e-3)
    P = interpret.attention(model, repeated)  # (L, 3, H, 40, 40)
    induction = np.mean([P[..., t, t - 19] for t in range(20, 40)], axis=(0, 2))
    np.testing.assert_allclose(found.induction, induction, rtol=1e-5)


def induction_model():
    """Return an attention-only model with a previous-token head in layer 0 and an induction head in layer 1.

    Channels: 0 to 15 the token, 16 to 47 the position, 48 to 63 the token before, which layer 0 writes there.
    """
    shape = ModelShape(d_model=64, hidden_size=4, vocab_size=16, num_heads=1, seq_len=32, layers=2)
    weights = {name: np.zeros(size) for name, size in reference.parameter_shapes(shape).items()}
    weights |= {
        name: np.ones(tensor.shape)
        for name, tensor in weights.items()
        if name.endswith(("1.weight", "2.weight", "f.weight"))
    }
    token, position, before = slice(0, 16), slice(16, 48), slice(48, 64)
    weights["wte.weight"][:, token] = np.eye(16)
    weights["wpe.weight"][:, position] = np.eye(32)
    first, second = weights["h.0.attn.c_attn.weight"], weights["h.1.attn.c_attn.weight"]
    first[position, 64 + 16 : 64 + 48] = 10 * np.eye(32, k=1)  # the key of position t matches the query of t + 1
    first[position, 16:48] = 10 * np.eye(32)
    first[token, 128:144] = np.eye(16)
    weights["h.0.attn.c_proj.weight"][0:16, before] = np.eye(16)
    second[token, 0:16] = 10 * np.eye(16)  # the present token is looked for among the tokens before
    second[before, 64:80] = 10 * np.eye(16)
    return GPT(as_parameters(shape, weights))


def test_a_constructed_induction_head_scores_near_1_and_its_previous_token_head_too():
    model = induction_model()
    repeated = interpret.repeated_tokens(np.arange(16), 12, sequences=4, seed=1)
    found = interpret.head_scores(model, repeated, repeated)
    assert found.previous_token[0, 0] > 0.95
    assert found.induction[1, 0] > 0.95
    assert found.induction[0, 0] < 0.05
    assert found.previous_token[1, 0] < 0.5


def test_repeated_tokens_repeat_once_and_are_reproducible():
    candidates = np.array([5, 7, 9, 11])
    found = interpret.repeated_tokens(candidates, 4, sequences=2, seed=3)
    assert found.dtype == np.int32
    assert found.shape == (2, 8)
    np.testing.assert_array_equal(found[:, :4], found[:, 4:])
    assert [sorted(row[:4]) for row in found.tolist()] == [[5, 7, 9, 11]] * 2
    np.testing.assert_array_equal(found, interpret.repeated_tokens(candidates, 4, sequences=2, seed=3))
    assert not np.array_equal(found, interpret.repeated_tokens(candidates, 4, sequences=2, seed=4))
    assert set(interpret.repeated_tokens(candidates, 9)[0]) <= {5, 7, 9, 11}
    for wrong, message in (
        (([], 3), r"candidates: got shape \(0,\), expected ids \(N,\) with N of at least 1"),
        (([candidates], 3), r"candidates: got shape \(1, 4\)"),
        ((candidates, 0), "length: got 0, expected a whole number of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            interpret.repeated_tokens(*wrong)
    with pytest.raises(ValueError, match="sequences: got 0, expected a whole number of at least 1"):
        interpret.repeated_tokens(candidates, 3, sequences=0)


def test_induction_scores_refuse_a_sequence_that_does_not_repeat(model, tokens):
    with pytest.raises(ValueError, match=r"repeated: got shape \(2, 70\), expected \(B, 2 n\)"):
        interpret.induction_scores(model, tokens)
    with pytest.raises(
        ValueError, match=rf"repeated: got .*, expected \(B, 2 n\) with n from 2 to {SHAPE.seq_len // 2}"
    ):
        interpret.induction_scores(model, interpret.repeated_tokens(np.arange(101), SHAPE.seq_len // 2 + 1))
    repeated = interpret.repeated_tokens(np.arange(101), 5)
    with pytest.raises(ValueError, match="T of at least 2"):
        interpret.head_scores(model, tokens[:, :1], repeated)


# ---- ablation


def ablated_logits(weights, tokens, part, means=None):
    """Return the logits without a part: the forward pass of the reference, with its output replaced."""
    x = reference.embedding_forward(tokens, weights["wte.weight"], weights["wpe.weight"])
    for layer, p in enumerate(reference._blocks(weights)):
        block = reference.block_forward(x, p, SHAPE)
        here = part.layer == layer
        attn_out, attn = block["attn_out"].copy(), block["resid_mid"] - x
        if here and part.kind == "head":
            columns = slice(part.head * SHAPE.head_size, (part.head + 1) * SHAPE.head_size)
            attn_out[..., columns] = 0.0 if means is None else block["attn_out"][..., columns].mean(axis=(0, 1))
            attn = reference.linear_forward(attn_out, p["attn.c_proj.weight"], p["attn.c_proj.bias"])
        if here and part.kind in ("attn", "block"):
            attn = np.zeros_like(attn) if means is None else np.broadcast_to(attn.mean(axis=(0, 1)), attn.shape)
        resid_mid = x + attn
        mlp_of_intact = block["y"] - block["resid_mid"]
        ln_2 = reference.layer_norm_forward(resid_mid, p["ln_2.weight"], p["ln_2.bias"])
        hidden = reference.gelu_forward(reference.linear_forward(ln_2, p["mlp.c_fc.weight"], p["mlp.c_fc.bias"]))
        mlp = reference.linear_forward(hidden, p["mlp.c_proj.weight"], p["mlp.c_proj.bias"])
        if here and part.kind in ("mlp", "block"):
            mean = np.broadcast_to(mlp_of_intact.mean(axis=(0, 1)), mlp.shape)
            mlp = np.zeros_like(mlp) if means is None else mean
        x = resid_mid + mlp
    return lens_of(x, weights)


PARTS = [Part("head", 0, 2), Part("head", 2, 0), Part("attn", 1), Part("mlp", 0), Part("block", 1)]


@pytest.mark.parametrize("kind", ["zero", "mean"])
@pytest.mark.parametrize("part", PARTS, ids=[part.name for part in PARTS])
def test_ablating_a_part_equals_the_reference_with_its_output_replaced(part, kind, model, tokens, weights):
    means = interpret.mean_outputs(model, tokens) if kind == "mean" else None
    found = GPT(interpret.ablate(model.parameters, [part], means)).logits(tokens)
    assert relative_error(found, ablated_logits(weights, tokens, part, means)) < KERNEL_LIMIT
    assert relative_error(found, model.logits(tokens)) > 10 * KERNEL_LIMIT


def test_ablating_everything_after_the_embedding_leaves_the_head_applied_to_it(model, tokens):
    parts = [Part("block", layer) for layer in range(SHAPE.layers)]
    found = GPT(interpret.ablate(model.parameters, parts)).logits(tokens)
    np.testing.assert_array_equal(found, interpret.lens_logits(model, "embedding", tokens))


def test_all_heads_and_the_bias_make_all_attention(model, tokens):
    each = interpret.ablate(model.parameters, [Part("head", 1, head) for head in range(SHAPE.num_heads)])
    each["h.1.attn.c_proj.bias"].fill(0.0)
    np.testing.assert_array_equal(each.flat, interpret.ablate(model.parameters, [Part("attn", 1)]).flat)


def test_ablations_yield_the_change_of_loss_of_every_part_and_leave_the_model_as_it_was(model, tokens):
    targets = np.roll(tokens, -1, axis=1)
    targets[:, -1] = -1
    before = model.parameters.flat.copy()
    for kind in ("zero", "mean"):
        found = list(interpret.ablations(model, tokens, targets, kind=kind))
        assert [effect.part for effect in found] == interpret.all_parts(SHAPE)
        sums = model.evaluate(tokens, targets)
        intact = sums.loss_sum / sums.targets
        means = interpret.mean_outputs(model, tokens) if kind == "mean" else None
        for effect in found:
            sums = GPT(interpret.ablate(model.parameters, [effect.part], means)).evaluate(tokens, targets)
            assert effect.loss == pytest.approx(sums.loss_sum / sums.targets, rel=1e-6)
            assert effect.change == effect.loss - intact
    np.testing.assert_array_equal(model.parameters.flat, before)


def test_an_ablated_model_generates(model, tokens):
    ablated = interpret.ablate(model.parameters, [Part("head", 0, 1), Part("mlp", 2)])
    logits = Decoder(ablated).prefill(tokens[0].tolist())
    assert relative_error(logits, GPT(ablated).logits(tokens[:1])[0, -1]) < KERNEL_LIMIT


def test_names_of_parts_and_errors_of_unknown_ones(model, tokens):
    names = [part.name for part in interpret.all_parts(SHAPE)]
    assert names[:6] == ["h.0.attn.head.0", "h.0.attn.head.1", "h.0.attn.head.2", "h.0.mlp", "h.0", "h.1.attn.head.0"]
    assert Part("attn", 1).name == "h.1.attn"
    with pytest.raises(ValueError, match=r"part: got h\.0\.attn\.head\.3, expected layers 0 to 2 and heads 0 to 2"):
        interpret.ablate(model.parameters, [Part("head", 0, 3)])
    with pytest.raises(ValueError, match=r"part: got h\.3\.mlp"):
        interpret.ablate(model.parameters, [Part("mlp", 3)])
    with pytest.raises(ValueError, match="part: got the kind 'heads', expected one of head, attn, mlp, block"):
        interpret.ablate(model.parameters, [Part("heads", 0, 1)])
    with pytest.raises(ValueError, match="parts: got 'mlp', expected a Part each"):
        interpret.ablate(model.parameters, Part("mlp", 0))
    with pytest.raises(ValueError, match="part: got the kind 'heads', expected one of head, attn, mlp, block"):
        list(interpret.ablations(model, tokens, tokens, [Part("heads", 0, 1)]))
    with pytest.raises(ValueError, match="kind: got 'Mean', expected one of zero, mean"):
        next(interpret.ablations(model, tokens, tokens, kind="Mean"))
    with pytest.raises(ValueError, match="targets: got none"):
        next(interpret.ablations(model, tokens, np.full_like(tokens, -1)))


# ---- embeddings


def test_neighbors_are_the_tokens_of_largest_cosine(model, weights):
    wte = weights["wte.weight"]
    units = wte / np.linalg.norm(wte, axis=1, keepdims=True)
    found = interpret.neighbors(model.parameters, np.array([3, 50]), count=4)
    for row, token in enumerate((3, 50)):
        cosines = units @ units[token]
        order = [other for other in np.argsort(-cosines) if other != token][:4]
        assert found.ids[row].tolist() == order
        np.testing.assert_allclose(found.cosines[row], cosines[order], rtol=1e-4)


def test_neighbors_are_candidates_and_an_embedding_of_zeros_has_the_cosine_0(weights):
    wte = weights["wte.weight"].copy()
    wte[7] = 0.0
    parameters = as_parameters(SHAPE, weights | {"wte.weight": wte})
    found = interpret.neighbors(parameters, np.array([7, 9]), candidates=np.array([7, 8, 9, 10]))
    assert found.ids.shape == (2, 3)
    assert set(found.ids[0].tolist()) == {8, 9, 10}
    np.testing.assert_array_equal(found.cosines[0], 0.0)
    for wrong, got in (([3, 101], "3 to 101"), ([-1], "-1 to -1"), ([[1]], r"shape \(1, 1\)")):
        with pytest.raises(ValueError, match=rf"tokens: got {got}, expected ids \(N,\) from 0 to 100"):
            interpret.neighbors(parameters, wrong)


def test_the_embedding_map_is_the_projection_to_the_first_two_principal_components(model, weights):
    ids = np.arange(10, 60)
    found = interpret.embedding_map(model.parameters, ids)
    rows = weights["wte.weight"][ids] - weights["wte.weight"][ids].mean(axis=0)
    _, singular, axes = np.linalg.svd(rows)
    wanted = rows @ axes[:2].T
    signs = np.sign((found.coordinates * wanted).sum(axis=0))
    np.testing.assert_allclose(found.coordinates * signs, wanted, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.explained, singular[:2] ** 2 / (singular**2).sum(), rtol=1e-4)
    with pytest.raises(ValueError, match="tokens: got 1 ids in 24 channels, expected at least two of each"):
        interpret.embedding_map(model.parameters, np.array([1]))


# ---- health


def test_weight_stats_are_norms_and_the_logarithm_of_the_relative_update(model, weights):
    gradients, previous = Parameters(SHAPE), model.parameters.copy()
    gradients.flat.fill(2.0)
    previous.tensors["h.0.mlp.c_fc.weight"] *= np.float32(1 / 1.001)
    stats = {row.name: row for row in interpret.weight_stats(model.parameters, gradients, previous)}
    assert list(stats) == list(reference.parameter_shapes(SHAPE))
    for name, row in stats.items():
        assert row.size == weights[name].size
        assert row.norm == pytest.approx(np.linalg.norm(weights[name]), rel=1e-5)
        assert row.gradient_norm == pytest.approx(2 * math.sqrt(row.size), rel=1e-5)
    assert stats["h.0.mlp.c_fc.weight"].update_ratio == pytest.approx(-3, abs=1e-3)
    assert stats["ln_f.weight"].update_ratio == -math.inf
    assert {row[3:] for row in interpret.weight_stats(model.parameters)} == {(None, None)}


def test_dead_units_are_those_that_are_never_positive(weights, tokens):
    bias = weights["h.1.mlp.c_fc.bias"].copy()
    bias[:5] = -1e3
    model = GPT(as_parameters(SHAPE, weights | {"h.1.mlp.c_fc.bias": bias}))
    blocks = reference.model_forward(weights | {"h.1.mlp.c_fc.bias": bias}, tokens, SHAPE)[2]
    wanted = [(block["hidden"] <= 0).all(axis=(0, 1)).mean() for block in blocks]
    assert wanted[1] >= 5 / 41
    np.testing.assert_allclose(interpret.dead_units(model, tokens), wanted, rtol=1e-5)


# ---- attribution


def test_attribution_equals_finite_differences_of_the_reference(weights, tokens):
    model = GPT(as_parameters(SHAPE, weights), frozen=frozenset(weights))
    short = np.ascontiguousarray(tokens[:, :12])
    chosen = np.array([17, 60], np.int32)
    found = interpret.attribution(model, short, chosen)

    def log_p(x):
        for p in reference._blocks(weights):
            x = reference.block_forward(x, p, SHAPE)["y"]
        return np.log(reference.softmax(lens_of(x, weights)[:, -1])[[0, 1], chosen])

    x = reference.embedding_forward(short, weights["wte.weight"], weights["wpe.weight"])
    for t in range(12):
        step = np.zeros_like(x)
        step[:, t] = 1e-5 * x[:, t]
        np.testing.assert_allclose(found[:, t], (log_p(x + step) - log_p(x - step)) / 2e-5, rtol=2e-3, atol=2e-4)


def test_attribution_changes_nothing_in_the_model_and_checks_its_arguments(model, tokens):
    logits = model.logits(tokens)
    interpret.attribution(model, tokens[:1, :5], np.array([1], np.int32))
    np.testing.assert_array_equal(interpret.lens_logits(model, "h.2.out"), logits)  # the last batch is still there
    with pytest.raises(ValueError, match=r"next_tokens: got shape \(1,\), expected one id per sequence"):
        interpret.attribution(model, tokens, np.array([1], np.int32))
    for ids in (tokens[0], tokens[:, :0]):
        with pytest.raises(ValueError, match=r"tokens: got shape .*, expected \(B, T\) with B and T of at least 1"):
            interpret.attribution(model, ids, [1, 2])
    with pytest.raises(ValueError, match="next_tokens: got -1, expected ids from 0 to 100"):
        interpret.attribution(model, tokens, [5, -1])


def test_the_joint_ablation_is_the_change_of_loss_without_all_parts_together(model, tokens):
    inputs, targets = np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])
    before = model.parameters.flat.copy()
    parts = [Part("head", 0, 1), Part("mlp", 2)]
    without = GPT(interpret.ablate(model.parameters, parts))
    losses = [each.evaluate(inputs, targets).loss_sum / targets.size for each in (without, model)]
    assert interpret.joint_ablation(model, inputs, targets, parts) == losses[0] - losses[1]
    np.testing.assert_array_equal(model.parameters.flat, before)
