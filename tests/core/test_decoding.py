"""Fused decoding kernels: equal to the float64 reference, and reproducible to the bit on the same threads."""

from __future__ import annotations

import numpy as np
import pytest

from gpt_core import reference
from gpt_core.config.settings import ModelShape
from gpt_core.gradcheck import relative_error
from gpt_core.kernels import decoding, threads
from tests.core.other_levels import OTHER_LEVELS, printed_at

LIMIT = 2e-6  # float32 against float64, relative to the norm of the array
WIDE = (11, 330, 3, 1801)  # enough work for three threads
HEAD_SIZES = (8, 64, 96, 144)  # less than a vector of any level, and several vectors of each, more than 8 at last

# names of the reference, in the order in which a block takes its pairs
LAYERS = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")


def weights_of(channels, hidden, seed=0):
    """Return the tensors of one block by the reference's names."""
    random = np.random.default_rng(seed)
    sizes = {"attn.c_attn": (channels, 3 * channels), "attn.c_proj": (channels, channels),
             "mlp.c_fc": (channels, hidden), "mlp.c_proj": (hidden, channels)}  # fmt: skip
    made = {}
    for name in LAYERS:
        shape = sizes.get(name, (channels,))
        made[f"{name}.weight"] = (random.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)
        made[f"{name}.bias"] = random.normal(size=shape[-1]).astype(np.float32)
    return made


def block_of(weights, time, heads, channels):
    keys, values = (np.full((heads, time, channels // heads), np.nan, dtype=np.float32) for _ in range(2))
    pairs = [(weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in LAYERS]
    return decoding.Block(*pairs, keys, values), keys, values


def rows_of(cache):
    """Return a cache (H, T, D) as rows (T, C)."""
    return np.ascontiguousarray(cache.transpose(1, 0, 2)).reshape(cache.shape[1], -1)


def outputs(time, channels, heads, hidden):
    """Run a block on random rows (T, C), one by one; return its outputs, keys, values and the rows."""
    x = np.random.default_rng(1).normal(size=(time, channels)).astype(np.float32)
    block, keys, values = block_of(weights_of(channels, hidden), time, heads, channels)
    rows = x.copy()
    for position, row in enumerate(rows):
        block.read(row, position)
    return rows, keys, values, x


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("time", "channels", "heads", "hidden"),
    [(1, 1, 1, 1), (1, 9, 3, 5), (4, 6, 6, 17), (33, 24, 2, 100), (130, 35, 5, 16), (9, 288, 2, 40), WIDE],
)
def test_a_block_equals_the_reference_token_by_token(time, channels, heads, hidden, count):
    threads.set_threads(count)
    rows, keys, values, x = outputs(time, channels, heads, hidden)
    wide = {name: tensor.astype(np.float64) for name, tensor in weights_of(channels, hidden).items()}
    expected = reference.block_forward(
        x[None].astype(np.float64), wide, ModelShape(channels, hidden, 1, heads, time, 1)
    )
    assert relative_error(rows, expected["y"][0]) < LIMIT
    assert relative_error(rows_of(keys), expected["qkv"][0, :, channels : 2 * channels]) < LIMIT
    assert relative_error(rows_of(values), expected["qkv"][0, :, 2 * channels :]) < LIMIT


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("ids", "channels"), [(1, 1), (7, 5), (300, 33), (13, 64), (5003, 330)])
def test_logits_equal_the_reference(ids, channels, count):
    threads.set_threads(count)
    random = np.random.default_rng(2)
    x, weight, bias = random.normal(size=(3, channels)).astype(np.float32)
    wte = random.normal(size=(ids, channels)).astype(np.float32)
    out, normed = np.full(ids, np.nan, np.float32), np.full(channels, np.nan, np.float32)
    decoding.logits(out, normed, x, weight, bias, wte)
    wide = [array.astype(np.float64) for array in (x, weight, bias, wte)]
    expected = reference.layer_norm_forward(*wide[:3])
    assert relative_error(normed, expected) < LIMIT
    assert relative_error(out, wide[3] @ expected) < LIMIT


def test_the_logits_do_not_depend_on_the_number_of_threads():
    random = np.random.default_rng(2)
    x, weight, bias = random.normal(size=(3, 330)).astype(np.float32)
    wte = random.normal(size=(5003, 330)).astype(np.float32)
    made = []
    for count in (1, 2, 3):
        threads.set_threads(count)
        made.append(np.empty(5003, np.float32))
        decoding.logits(made[-1], np.empty(330, np.float32), x, weight, bias, wte)
    np.testing.assert_array_equal(made[1], made[0])
    np.testing.assert_array_equal(made[2], made[0])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 15, 16, 100_003, 2_000_000])
def test_the_total_is_that_of_all_values(size, count):
    threads.set_threads(count)
    values = np.random.default_rng(4).integers(9, size=size).astype(np.float32)  # so that every sum is exact
    assert decoding.total(values) == values.sum(dtype=np.float64)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_block_is_reproducible_to_the_bit_on_equal_threads(count):
    threads.set_threads(count)
    first = outputs(*WIDE)
    for _ in range(3):
        for name, before, again in zip(("rows", "keys", "values"), first, outputs(*WIDE), strict=False):
            np.testing.assert_array_equal(again, before, err_msg=name)


def test_a_block_uses_threads_added_after_its_creation():
    threads.set_threads(1)
    _, channels, heads, hidden = WIDE
    weights = weights_of(channels, hidden)
    x, block = np.ones(channels, np.float32), block_of(weights, 1, heads, channels)[0]
    threads.set_threads(3)
    block.read(x, 0)
    expected = np.ones(channels, np.float32)
    block_of(weights, 1, heads, channels)[0].read(expected, 0)
    np.testing.assert_array_equal(x, expected)


def test_a_block_writes_its_own_row_and_reads_only_earlier_ones():
    channels, heads, time = 24, 2, 6
    block, keys, values = block_of(weights_of(channels, 40), time, heads, channels)
    keys[:, :3], values[:, :3] = 1.0, 2.0
    x = np.ones(channels, np.float32)
    block.read(x, 3)
    assert np.isfinite(x).all()  # what is not read is NaN
    assert np.isfinite(keys[:, 3]).all()
    assert np.isfinite(values[:, 3]).all()
    for array, before in ((keys, 1.0), (values, 2.0)):
        assert (array[:, :3] == before).all()
        assert np.isnan(array[:, 4:]).all()


def test_a_nan_propagates_to_the_logits():
    channels = 24
    block = block_of(weights_of(channels, 40), 1, 2, channels)[0]
    x = np.ones(channels, np.float32)
    x[5] = np.nan
    block.read(x, 0)
    out = np.zeros(7, np.float32)
    ones = np.ones(channels, np.float32)
    decoding.logits(out, np.empty(channels, np.float32), x, ones, ones, np.ones((7, channels), np.float32))
    assert np.isnan(out).all()


def f(*shape):
    return np.zeros(shape, np.float32)


def block(**changed):
    """Return a block of C = 4, F = 6, T = 3 with two heads and these changes."""
    parts = {
        "ln_1": (f(4), f(4)), "c_attn": (f(4, 12), f(12)), "attn_proj": (f(4, 4), f(4)),
        "ln_2": (f(4), f(4)), "c_fc": (f(4, 6), f(6)), "mlp_proj": (f(6, 4), f(4)),
        "keys": f(2, 3, 2), "values": f(2, 3, 2),
    }  # fmt: skip
    return decoding.Block(**(parts | changed))


REFUSED = {
    "no heads": (lambda: block(keys=f(0, 3, 2), values=f(0, 3, 2)), "got 0, expected at least 1"),
    "no positions": (lambda: block(keys=f(2, 0, 2), values=f(2, 0, 2)), "got 0, expected at least 1"),
    "no channels": (lambda: block(keys=f(2, 3, 0), values=f(2, 3, 0)), "got 0, expected at least 1"),
    "other heads of values": (lambda: block(values=f(4, 3, 1)), "got 4, expected 2"),
    "fewer values than keys": (lambda: block(values=f(2, 2, 2)), "got 2, expected 3"),
    "values of other channels": (lambda: block(values=f(2, 3, 3)), "got 3, expected 2"),
    "c_attn of other rows": (lambda: block(c_attn=(f(5, 12), f(12))), "got 5, expected 4"),
    "c_attn of other columns": (lambda: block(c_attn=(f(4, 8), f(8))), "got 8, expected 12"),
    "attn_proj that is not square": (lambda: block(attn_proj=(f(4, 5), f(5))), "got 5, expected 4"),
    "mlp_proj of other rows": (lambda: block(mlp_proj=(f(5, 4), f(4))), "got 5, expected 6"),
    "c_fc's bias too short": (lambda: block(c_fc=(f(4, 6), f(5))), "got 5, expected 6"),
    "ln_1 too long": (lambda: block(ln_1=(f(5), f(4))), "got 5, expected 4"),
    "ln_2's bias too long": (lambda: block(ln_2=(f(4), f(5))), "got 5, expected 4"),
    "x too short": (lambda: block().read(f(3), 0), "got 3, expected 4"),
    "a position before the first": (lambda: block().read(f(4), -1), "got position -1, expected a value in [0, 3)"),
    "a position past the last": (lambda: block().read(f(4), 3), "got position 3, expected a value in [0, 3)"),
    "too few logits": (lambda: decoding.logits(f(6), f(4), f(4), f(4), f(4), f(7, 4)), "got 6, expected 7"),
    "x of other channels": (lambda: decoding.logits(f(7), f(4), f(5), f(4), f(4), f(7, 4)), "got 5, expected 4"),
    "normed of other channels": (lambda: decoding.logits(f(7), f(5), f(4), f(4), f(4), f(7, 4)), "got 5, expected 4"),
    "a norm of other channels": (lambda: decoding.logits(f(7), f(4), f(4), f(3), f(4), f(7, 4)), "got 3, expected 4"),
    "no values": (lambda: decoding.total(f(0)), "got 0, expected at least 1"),
    "no ids": (lambda: decoding.logits(f(0), f(4), f(4), f(4), f(4), f(0, 4)), "got 0, expected at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mismatched_shapes_raise_value_error_in_one_line(case):
    call, words = REFUSED[case]
    with pytest.raises(ValueError, match=r"^decoding: .*") as refusal:
        call()
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("level", OTHER_LEVELS)
def test_every_instruction_set_level_decodes_equally(level):
    script = (
        "from gpt_core import gradcheck as g\n"
        "from gpt_core.config.settings import ModelShape\n"
        "from gpt_core.model.inference import Decoder\n"
        "from gpt_core.model.gpt import GPT\n"
        f"for head_size in {HEAD_SIZES}:\n"
        "    shape = ModelShape(2 * head_size, 40, 300, 2, 80, 2)\n"
        "    parameters = g.as_parameters(shape, g.scattered_parameters(shape, 0))\n"
        "    tokens, decoder = g.random_batch(shape, 1, 30, 0)[0], Decoder(parameters)\n"
        "    expected = GPT(parameters).logits(tokens)[0]\n"
        "    for token, row in zip(tokens[0].tolist(), expected):\n"
        "        print(g.relative_error(decoder.decode(token), row))\n"
    )
    assert all(error < 1e-5 for error in printed_at(level, script))
