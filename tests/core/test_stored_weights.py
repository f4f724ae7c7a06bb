"""Weights stored in 16 or 8 bits: decoded as the values that they stand for, and close to the float32 weights."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from gpt_core import reference
from gpt_core.config.settings import ModelShape
from gpt_core.gradcheck import relative_error
from gpt_core.kernels import conversion, decoding, threads
from gpt_core.kernels.arrays import ALIGNMENT
from gpt_core.model.gpt import GPT
from gpt_core.model.inference import Decoder, kv_caches
from gpt_core.model.memory import decode_bytes
from gpt_core.model.parameters import initial_parameters
from gpt_core.model.stored_weights import StoredWeights, columns_of, stored
from tests.core.other_levels import OTHER_LEVELS, printed_at
from tests.core.test_decoding import HEAD_SIZES, LAYERS, WIDE, rows_of, weights_of

LIMIT = 2e-6  # float32 against float64
CACHE_LIMIT = 2.0**-8  # keys and values are rounded to bfloat16, whose unit roundoff is 2^-9
SHAPE = ModelShape(d_model=24, hidden_size=40, vocab_size=300, num_heads=3, seq_len=80, layers=3)
FORMATS = ["bfloat16", "int8"]


def expanded(matrix, outputs):
    """Return a matrix (I, outputs) in panels as float32."""
    panels = matrix[0] if isinstance(matrix, tuple) else matrix
    values = np.full((panels.shape[1], outputs), np.nan, np.float32)
    conversion.expand(values, matrix)
    return values


def from_bfloat16(bits):
    values = np.full(bits.shape, np.nan, np.float32)
    conversion.from_bfloat16(values, bits)
    return values


def decoded(weights, keys, values):
    """Run a block with these weights on random rows (T, C), one by one; return its outputs and the rows."""
    block = decoding.Block(*((weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in LAYERS), keys, values)
    heads, time, size = keys.shape
    x = np.random.default_rng(1).normal(size=(time, heads * size)).astype(np.float32)
    rows = x.copy()
    for position, row in enumerate(rows):
        block.read(row, position)
    return rows, x


def expected_block(weights, heads, x):
    """Return the activations of the reference for the values that the weights hold."""
    values = {
        name: expanded(one, weights[name.replace("weight", "bias")].size)
        if isinstance(one, tuple) or one.ndim == 3
        else one
        for name, one in weights.items()
    }
    wide = {name: tensor.astype(np.float64) for name, tensor in values.items()}
    shape = ModelShape(x.shape[1], values["mlp.c_proj.weight"].shape[0], 1, heads, len(x), 1)
    return reference.block_forward(x[None].astype(np.float64), wide, shape)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize(
    ("time", "channels", "heads", "hidden"), [(1, 1, 1, 1), (1, 9, 3, 5), (4, 6, 6, 17), (33, 24, 2, 100), WIDE]
)
def test_a_block_computes_with_the_stored_values(time, channels, heads, hidden, weight_format, count):
    threads.set_threads(count)
    weights = {
        name: stored(tensor, weight_format) if tensor.ndim == 2 else tensor
        for name, tensor in weights_of(channels, hidden).items()
    }
    keys, values = (np.full((heads, time, channels // heads), np.nan, np.float32) for _ in range(2))
    rows, x = decoded(weights, keys, values)
    expected = expected_block(weights, heads, x)
    assert relative_error(rows, expected["y"][0]) < LIMIT
    assert relative_error(rows_of(keys), expected["qkv"][0, :, channels : 2 * channels]) < LIMIT


@pytest.mark.parametrize("weight_format", FORMATS)
def test_a_block_in_panels_does_not_depend_on_the_number_of_threads(weight_format):
    time, channels, heads, hidden = WIDE
    weights = {
        name: stored(tensor, weight_format) if tensor.ndim == 2 else tensor
        for name, tensor in weights_of(channels, hidden).items()
    }
    made = []
    for count in (1, 2, 3):
        threads.set_threads(count)
        keys, values = (np.zeros((heads, time, channels // heads), np.uint16) for _ in range(2))
        made.append((decoded(weights, keys, values)[0], keys, values))
    for name, first, *others in zip(("rows", "keys", "values"), *made, strict=True):
        for other in others:
            np.testing.assert_array_equal(other, first, err_msg=name)


@pytest.mark.parametrize("head_size", [1, 12, 16, 48, 64, 110, 144])
def test_a_bfloat16_cache_holds_the_rounded_keys_and_values(head_size):
    time, channels, heads, hidden = 33, 2 * head_size, 2, 100
    weights = weights_of(channels, hidden)
    keys, values = (np.zeros((heads, time, channels // heads), np.uint16) for _ in range(2))
    rows, x = decoded(weights, keys, values)
    expected = expected_block(weights, heads, x)
    assert relative_error(from_bfloat16(rows_of(keys)), expected["qkv"][0, :, channels : 2 * channels]) < CACHE_LIMIT
    assert relative_error(rows, expected["y"][0]) < CACHE_LIMIT


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize(("ids", "channels"), [(1, 1), (7, 5), (300, 33), (5003, 330)])
def test_logits_are_those_of_the_stored_values(ids, channels, weight_format):
    random = np.random.default_rng(2)
    x, weight, bias = random.normal(size=(3, channels)).astype(np.float32)
    wte = stored(random.normal(size=(channels, ids)).astype(np.float32), weight_format)
    out, ln_out = np.full(ids, np.nan, np.float32), np.full(channels, np.nan, np.float32)
    decoding.logits(out, ln_out, x, weight, bias, wte)
    normed = reference.layer_norm_forward(*(array.astype(np.float64) for array in (x, weight, bias)))
    assert relative_error(out, normed @ expanded(wte, ids).astype(np.float64)) < LIMIT


def test_bfloat16_is_rounded_to_nearest_with_ties_to_even():
    values = np.array([[1 + 0.9 * 2.0**-8, 1 + 2.0**-8, 1 + 3 * 2.0**-8, -1.5, np.inf, np.nan]], np.float32)
    back = expanded(stored(values, "bfloat16"), 6)
    np.testing.assert_array_equal(back, np.array([[1, 1, 1 + 2.0**-6, -1.5, np.inf, np.nan]], np.float32))


def test_int8_is_within_half_a_step_and_keeps_the_largest_value_of_each_column():
    matrix = np.random.default_rng(0).normal(size=(50, 70)).astype(np.float32)
    matrix[:, 3] = 0
    panels, scales = stored(matrix, "int8")
    assert panels.dtype == np.int8
    assert np.abs(panels).max() == 127
    back = expanded((panels, scales), 70)
    assert (np.abs(back - matrix) <= scales[:70] * 0.5001).all()
    np.testing.assert_array_equal(back[:, 3], np.zeros(50))
    largest = np.abs(matrix).argmax(axis=0)
    np.testing.assert_allclose(back[largest, range(70)], matrix[largest, range(70)], rtol=1e-6)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_columns_of_a_stored_matrix_are_its_values(weight_format):
    matrix = stored(np.random.default_rng(0).normal(size=(5, 130)).astype(np.float32), weight_format)
    ids = np.array([4, 0, 129, 64, 4], np.int32)
    np.testing.assert_array_equal(columns_of(matrix, ids), expanded(matrix, 130)[:, ids].T)


@pytest.mark.parametrize("weight_format", ["float32", *FORMATS])
def test_plain_values_and_scales_are_those_of_the_expanded_model(weight_format):
    weights = StoredWeights(initial_parameters(SHAPE, 0), weight_format)
    for name, tensor in weights.expanded().tensors.items():
        values, scales = weights.plain(name)
        if values.dtype == np.uint16:
            values = from_bfloat16(np.ascontiguousarray(values))
        np.testing.assert_array_equal(values if scales is None else values * scales, tensor, err_msg=name)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_all_matrices_of_a_model_are_aligned_in_one_allocation(weight_format):
    tensors = StoredWeights(initial_parameters(SHAPE, 0), weight_format).tensors.values()
    arrays = [tensor[0] if isinstance(tensor, tuple) else tensor for tensor in tensors]
    panels = [array for array in arrays if array.ndim == 3]
    assert len(panels) == 4 * SHAPE.layers + 1
    assert [array.ctypes.data % ALIGNMENT for array in panels] == [0] * len(panels)
    first = min(array.ctypes.data for array in panels)
    last = max(array.ctypes.data + array.nbytes for array in panels)
    assert last - first == sum(array.nbytes for array in panels)


def test_the_caches_of_all_layers_are_aligned_in_one_allocation():
    shape = ModelShape(d_model=45, hidden_size=8, vocab_size=9, num_heads=3, seq_len=7, layers=3)  # of 9.8 cache lines
    caches = kv_caches(shape, bfloat16=True)
    arrays = [array for cache in caches for array in (cache.keys, cache.values)]
    assert [array.shape for array in arrays] == [(3, 7, 15)] * 6
    starts = [array.ctypes.data for array in arrays]
    assert [start % ALIGNMENT for start in starts] == [0] * 6
    assert np.diff(starts).tolist() == [10 * ALIGNMENT] * 5


def test_float32_weights_are_not_copied():
    parameters = initial_parameters(SHAPE, 0)
    weights = StoredWeights(parameters)
    assert all(weights.tensors[name] is tensor for name, tensor in parameters.tensors.items())


@pytest.mark.parametrize("weight_format", FORMATS)
def test_prefill_and_decoding_agree_with_the_expanded_model(weight_format):
    weights = StoredWeights(initial_parameters(SHAPE, 0), weight_format)
    tokens = np.random.default_rng(0).integers(300, size=70, dtype=np.int32)
    expected = GPT(weights.expanded()).logits(tokens[None])[0]
    decoder = Decoder(weights)
    assert relative_error(decoder.prefill(tokens[:41]), expected[40]) < 4 * CACHE_LIMIT  # 41: an odd number of keys
    assert relative_error(decoder.prefill(tokens[41:60]), expected[59]) < 4 * CACHE_LIMIT
    for position in range(60, 70):
        assert relative_error(decoder.decode(int(tokens[position])), expected[position]) < 4 * CACHE_LIMIT


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("weight_format", FORMATS)
def test_damaged_weights_give_logits_that_are_not_finite_without_a_warning(weight_format, value):
    parameters = initial_parameters(SHAPE, 0)
    parameters["wte.weight"][5, 2] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = StoredWeights(parameters, weight_format)
        assert not np.isfinite(Decoder(weights).prefill([5, 6])).all()
        assert not np.isfinite(GPT(weights.expanded()).logits(np.array([[5, 6]], np.int32))).all()


@pytest.mark.parametrize("weight_format", FORMATS)
def test_an_id_outside_the_vocabulary_is_refused(weight_format):
    decoder = Decoder(StoredWeights(initial_parameters(SHAPE, 0), weight_format))
    for token in (-1, 300):
        for read in (decoder.decode, lambda found: decoder.prefill([0, found])):
            with pytest.raises(ValueError, match=str(token)):
                read(token)


def test_stored_weights_take_the_bytes_of_the_formula():
    parameters = initial_parameters(SHAPE, 0)
    cache = 2 * SHAPE.layers * SHAPE.seq_len * SHAPE.d_model
    unread = 4 * (SHAPE.seq_len - 1) * SHAPE.d_model  # position embeddings of other tokens
    for weight_format, cache_bytes in (("float32", 4), ("bfloat16", 2), ("int8", 2)):
        weights = StoredWeights(parameters, weight_format)
        expected = weights.bytes - unread + cache_bytes * cache
        assert decode_bytes(SHAPE, SHAPE.seq_len - 1, weight_format) == expected


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ((np.zeros((1, 4, 64), np.int8), np.zeros(3, np.float32)), "length of the scales: got 3, expected 64"),
        (np.zeros((1, 4, 64), np.float64), "mismatch"),
        (np.zeros((1, 4, 64), np.float32), "mismatch"),
        (np.zeros((4, 3), np.uint16), "wrong number of dimensions"),
        (np.zeros((0, 4, 64), np.uint16), "panels: got 0, expected 1"),
        (np.zeros((1, 4, 32), np.uint16), "columns of a panel: got 32, expected 64"),
        (np.zeros((1, 5, 64), np.uint16), "rows: got 5, expected 4"),
        (np.zeros((2, 4, 64), np.uint16), "panels: got 2, expected 1"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        conversion.expand(np.zeros((4, 3), np.float32), matrix)


def test_rows_that_are_apart_are_converted_and_columns_that_are_apart_are_refused():
    values = np.random.default_rng(0).normal(size=(5, 60)).astype(np.float32)
    bits, again = np.zeros((5, 20), np.uint16), np.zeros((5, 20), np.float32)
    conversion.to_bfloat16(bits, values[:, 20:40])
    rounded = from_bfloat16(bits)
    assert np.abs(rounded / values[:, 20:40] - 1).max() <= 2.0**-8
    conversion.from_bfloat16(again, np.tile(bits, 3)[:, 20:40])
    np.testing.assert_array_equal(again, rounded)
    with pytest.raises(ValueError, match="bytes between columns of x: got 12, expected 4"):
        conversion.to_bfloat16(bits, values[:, ::3])
    with pytest.raises(ValueError, match="bytes between columns of bits: got 6, expected 2"):
        conversion.from_bfloat16(again, np.tile(bits, 3)[:, ::3])


def test_a_single_column_is_converted_with_any_stride():
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    bits, again = np.zeros((5, 1), np.uint16), np.zeros((5, 1), np.float32)
    conversion.to_bfloat16(bits, values[:, ::3])
    conversion.from_bfloat16(again, np.tile(bits, 3)[:, ::3])
    assert np.abs(again / values[:, :1] - 1).max() <= 2.0**-8


def test_a_cache_that_is_not_of_float32_or_bfloat16_is_refused():
    weights = weights_of(6, 17)
    pairs = [(weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in LAYERS]
    cache = np.zeros((2, 4, 3), np.int8)
    with pytest.raises(ValueError, match="mismatch"):
        decoding.Block(*pairs, cache, cache)
    with pytest.raises(ValueError, match="keys and values in one format"):
        decoding.Block(*pairs, np.zeros((2, 4, 3), np.uint16), np.zeros((2, 4, 3), np.float32))


@pytest.mark.parametrize("level", OTHER_LEVELS)
@pytest.mark.parametrize("weight_format", FORMATS)
def test_every_instruction_set_level_decodes_stored_weights_equally(level, weight_format):
    script = (
        "from gpt_core.gradcheck import relative_error\n"
        "from gpt_core.config.settings import ModelShape\n"
        "from gpt_core.model.gpt import GPT\n"
        "from gpt_core.model.inference import Decoder\n"
        "from gpt_core.model.parameters import initial_parameters\n"
        "from gpt_core.model.stored_weights import StoredWeights\n"
        "import numpy as np\n"
        f"for head_size in {HEAD_SIZES}:\n"
        "    shape = ModelShape(3 * head_size, 40, 300, 3, 80, 3)\n"
        f"    weights = StoredWeights(initial_parameters(shape, 0), {weight_format!r})\n"
        "    tokens, decoder = np.arange(30, dtype=np.int32), Decoder(weights)\n"
        "    expected = GPT(weights.expanded()).logits(tokens[None])[0]\n"
        "    for token in tokens:\n"
        "        print(relative_error(decoder.decode(int(token)), expected[token]))\n"
    )
    assert all(error < 4 * CACHE_LIMIT for error in printed_at(level, script))
