"""Cost of a step in counts that do not depend on the machine: FLOPs, calls, bytes, allocations."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from gpt_core.config.presets import preset
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.kernels import adamw, attention, gemm, linear, threads
from gpt_core.kernels.arrays import ALIGNMENT
from gpt_core.model.flops import prefill_flops, step_flops
from gpt_core.model.gpt import GPT
from gpt_core.model.inference import Decoder
from gpt_core.model.layers import head
from gpt_core.model.layers.buffers import BatchShape, Buffer, BufferPool
from gpt_core.model.layers.layer import Layer
from gpt_core.model.layers.transformer import Transformer
from gpt_core.model.memory import activation_bytes, decode_bytes, kv_cache_bytes
from gpt_core.model.parameters import Parameters, frozen_names, initial_parameters, parameter_count
from gpt_core.model.precision import DType
from gpt_core.optim.adamw import AdamW

SHAPE = ModelShape(d_model=48, hidden_size=112, vocab_size=300, num_heads=3, seq_len=32, layers=2)
BATCH, TIME = 4, 32
ROWS = BATCH * TIME
LOGIT_ROWS = 48  # so that the rows take three slices, the last one shorter


@pytest.fixture
def small_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    for budget in ("LOGITS_BUDGET", "TILES_LOGITS_BUDGET"):
        monkeypatch.setattr(head, budget, LOGIT_ROWS * SHAPE.vocab_size)


def stepper(shape: ModelShape = SHAPE, batch: int = BATCH, time: int = TIME, freeze: str = "") -> Callable[[], None]:
    """Return a function that runs one complete step on random tokens."""
    parameters, gradients = initial_parameters(shape, 0), Parameters(shape)
    gpt, optimizer = GPT(parameters, frozen=frozen_names(shape, freeze)), AdamW(parameters, Settings())
    tokens, targets = np.random.default_rng(0).integers(shape.vocab_size, size=(2, batch, time), dtype=np.int32)

    def step() -> None:
        gradients.flat.fill(0.0)
        gpt.loss_and_gradients(tokens, targets, gradients, 1.0 / targets.size)
        optimizer.update(gradients, 1, 1.0, optimizer.clip_scale(adamw.norm(gradients.flat)))

    return step


def products_of(action: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Return the matrix products (rows, inner length, columns) that the linear kernels compute in `action`."""
    products: list[tuple[int, int, int]] = []
    real = {name: getattr(linear, name) for name in ("forward", "backward", "product")}

    def forward(y: Any, x: Any, weight: Any, *others: Any, **options: Any) -> None:
        products.append((*x.shape, weight.shape[1]))
        real["forward"](y, x, weight, *others, **options)

    def backward(d_x: Any, d_weight: Any, d_bias: Any, d_y: Any, x: Any, weight: Any, **options: Any) -> None:
        products.append((*d_y.shape, d_x.shape[1]))
        products.append((x.shape[1], x.shape[0], d_y.shape[1]))
        real["backward"](d_x, d_weight, d_bias, d_y, x, weight, **options)

    def product(c: Any, a: Any, b: Any, **options: Any) -> None:
        products.append((c.shape[0], a.size // c.shape[0], c.shape[1]))
        real["product"](c, a, b, **options)

    with monkeypatch.context() as patch:
        for replacement in (forward, backward, product):
            patch.setattr(linear, replacement.__name__, replacement)
        action()
    return products


def layers_of(layer: Layer) -> list[Layer]:
    return [layer, *(found for sublayer in layer.sublayers for found in layers_of(sublayer))]


def flops_of(products: list[tuple[int, int, int]]) -> int:
    return sum(2 * rows * inner * columns for rows, inner, columns in products)


def linear_flops(counted: Any) -> int:
    return counted.attention_linears + counted.mlp_linears + counted.logits


# ---- arithmetic and calls


@pytest.mark.usefixtures("small_logits")
def test_a_step_computes_exactly_the_products_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    products = products_of(stepper(), monkeypatch)
    slices = -(-ROWS // LOGIT_ROWS)
    assert len(products) == SHAPE.layers * 4 * 3 + slices * 3
    assert flops_of(products) == linear_flops(step_flops(SHAPE, BATCH, TIME))


@pytest.mark.usefixtures("small_logits")
@pytest.mark.parametrize(
    ("freeze", "backward_layers", "head_products"),
    [("embedding", 2, 2), ("positions", 2, 3), ("embedding, layers 0", 1, 2), ("embedding, layers 0-1", 0, 2)],
)
def test_a_step_with_frozen_parts_computes_exactly_the_products_of_the_formula(
    monkeypatch: pytest.MonkeyPatch, freeze: str, backward_layers: int, head_products: int
) -> None:
    products = products_of(stepper(freeze=freeze), monkeypatch)
    slices = -(-ROWS // LOGIT_ROWS)
    assert len(products) == SHAPE.layers * 4 + backward_layers * 4 * 2 + slices * head_products
    assert flops_of(products) == linear_flops(step_flops(SHAPE, BATCH, TIME, frozen_names(SHAPE, freeze)))


def test_a_prefill_computes_exactly_the_products_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(initial_parameters(SHAPE, 0))
    products = products_of(lambda: decoder.prefill(range(20)), monkeypatch)
    counted = prefill_flops(SHAPE, 20)
    assert len(products) == SHAPE.layers * 4
    assert sum(rows == 1 for rows, _, _ in products) == 3  # of the last block, all but its keys and values
    assert flops_of(products) == counted.attention_linears + counted.mlp_linears
    assert counted.logits == 2 * SHAPE.d_model * SHAPE.vocab_size


def test_attention_flops_count_unmasked_pairs() -> None:
    pairs = sum(key <= query for query in range(TIME) for key in range(TIME))
    multiply_add_a_score, heads = 2 * SHAPE.head_size, BATCH * SHAPE.layers * SHAPE.num_heads
    forward = 2 * multiply_add_a_score * pairs * heads  # q . k^T and P . v
    assert step_flops(SHAPE, BATCH, TIME).attention_scores == 3 * forward
    pairs = sum(key <= query for query in range(20) for key in range(20))
    last_block = 20  # where the last token alone asks for what it sees
    prompt = 2 * multiply_add_a_score * (pairs * (SHAPE.layers - 1) + last_block) * SHAPE.num_heads
    assert prefill_flops(SHAPE, 20).attention_scores == prompt


def test_a_step_of_mini_has_1_39_tflop_in_linears_and_0_15_in_attention() -> None:
    settings = preset("mini")
    counted = step_flops(settings.shape, settings.batch_size, settings.seq_len)
    assert linear_flops(counted) == pytest.approx(1.39e12, rel=0.005)
    assert counted.attention_scores == pytest.approx(0.155e12, rel=0.005)
    assert counted.total == linear_flops(counted) + counted.attention_scores


def test_attention_runs_once_forward_and_once_backward_per_block(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def noted(name: str, kernel: Callable[..., None]) -> Callable[..., None]:
        return lambda *arguments, **options: (called.append(name), kernel(*arguments, **options))[1]

    for name in ("forward", "backward"):
        monkeypatch.setattr(attention, name, noted(name, getattr(attention, name)))
    stepper()()
    assert called == ["forward"] * SHAPE.layers + ["backward"] * SHAPE.layers


# ---- bytes


def allocated_bytes(*owners: object) -> int:
    """Return the bytes of all arrays reachable from these objects; shared memory counts once."""
    found: dict[int, int] = {}
    seen: set[int] = set()

    def visit(thing: object) -> None:
        if isinstance(thing, np.ndarray):
            while isinstance(thing.base, np.ndarray):
                thing = thing.base
            found[id(thing)] = thing.nbytes - (ALIGNMENT if thing.dtype == np.uint8 else 0)  # bytes: from `arrays`
        elif isinstance(thing, (list, tuple)):
            for member in thing:
                visit(member)
        elif hasattr(thing, "__dict__") and id(thing) not in seen:
            seen.add(id(thing))
            for member in vars(thing).values():
                visit(member)

    for owner in owners:
        visit(owner)
    return sum(found.values())


@pytest.mark.parametrize("hidden_size", [112, 200])  # below and above 3 C: either may be the widest gradient
@pytest.mark.parametrize(("batch", "time"), [(4, 32), (3, 7), (1, 1)])
@pytest.mark.usefixtures("small_logits")
def test_a_model_allocates_the_bytes_of_the_formula(hidden_size: int, batch: int, time: int) -> None:
    shape = ModelShape(SHAPE.d_model, hidden_size, SHAPE.vocab_size, SHAPE.num_heads, SHAPE.seq_len, SHAPE.layers)
    parameters = initial_parameters(shape, 0)
    gpt, gradients = GPT(parameters), Parameters(shape)
    tokens = np.zeros((batch, time), np.int32)
    gpt.loss_and_gradients(tokens, tokens, gradients, 1.0)
    allocated = allocated_bytes(gpt.transformer) - allocated_bytes(parameters.tensors["wte.weight"])
    C, F, V, L, H = shape.d_model, shape.hidden_size, shape.vocab_size, shape.layers, shape.num_heads
    N, n_threads = batch * time, threads.get_threads()
    per_layer = 5 * N * C + N * F + 4 * N + batch * H * time  # qkv, attn_out, resid_mid; hidden; norms; lse
    model = (L + 1) * N * C + 4 * N + min(N, LOGIT_ROWS) * V  # residual; ln_f, losses, predictions; logits
    scratch = 3 * N * C + N * F + N * max(F, 3 * C)  # ln_out, d_residual, d_branch; act_out; d_qkv or d_hidden
    workspace = n_threads * attention.workspace_size(time, shape.head_size)
    assert allocated == 4 * (L * per_layer + model + scratch + workspace)
    assert allocated == activation_bytes(shape, batch, time, n_threads)


def test_evaluation_allocates_no_gradients() -> None:
    parameters = initial_parameters(SHAPE, 0)
    tokens = np.zeros((BATCH, TIME), np.int32)
    trained, evaluated = GPT(parameters), GPT(parameters)
    evaluated.evaluate(tokens, tokens)
    trained.loss_and_gradients(tokens, tokens, Parameters(SHAPE), 1.0)
    gradients = 2 * ROWS * SHAPE.d_model + ROWS * max(SHAPE.hidden_size, 3 * SHAPE.d_model)
    assert allocated_bytes(trained.transformer) - allocated_bytes(evaluated.transformer) == 4 * gradients


def test_a_decoder_allocates_the_kv_cache_of_the_formula() -> None:
    parameters = Parameters(SHAPE)
    decoder = Decoder(parameters)
    assert allocated_bytes(decoder._caches) == kv_cache_bytes(SHAPE, SHAPE.seq_len)


@pytest.mark.parametrize("layer", layers_of(Transformer(SHAPE)), ids=lambda layer: type(layer).__name__)
def test_every_buffer_a_layer_declares_is_annotated(layer: Layer) -> None:
    declared = {buffer.name for buffer in layer.own_buffers(BatchShape(2, 3))}
    assert declared <= set(type(layer).__annotations__)


def test_buffers_and_parameters_take_the_bytes_of_their_dtype() -> None:
    half = DType("float16", np.dtype(np.float16), "F16")
    assert Buffer("out", (3, 4), dtype=half).bytes * 2 == Buffer("out", (3, 4)).bytes
    assert BufferPool([]).take(Buffer("out", (3, 4), dtype=half)).dtype == np.float16
    assert Parameters(SHAPE, half).flat.nbytes == pytest.approx(2 * parameter_count(SHAPE), rel=0.02)


@pytest.mark.parametrize(("tiles", "share"), [(False, 1 / 10), (True, 1 / 3)])
def test_logits_exist_for_a_slice_of_rows_at_a_time(tiles: bool, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "has_tiles", lambda: tiles)
    settings = preset("mini")
    rows = settings.batch_size * settings.seq_len
    without_vocabulary = msgspec.structs.replace(settings.shape, vocab_size=260)
    more = activation_bytes(settings.shape, settings.batch_size, settings.seq_len, 2) - activation_bytes(
        without_vocabulary, settings.batch_size, settings.seq_len, 2
    )
    assert more < share * 4 * rows * settings.vocab_size


def test_activations_grow_linearly_with_the_context() -> None:
    """No (T, T) array exists."""
    shape = ModelShape(d_model=64, hidden_size=256, vocab_size=300, num_heads=4, seq_len=8192, layers=2)
    assert activation_bytes(shape, 1, 8192, 2) <= 2.01 * activation_bytes(shape, 1, 4096, 2)


def test_decoding_reads_every_weight_and_cached_value_once() -> None:
    parameters, position = Parameters(SHAPE), 9
    weights = sum(tensor.size for name, tensor in parameters.tensors.items() if name != "wpe.weight") + SHAPE.d_model
    cache = SHAPE.layers * 2 * (position + 1) * SHAPE.d_model
    assert decode_bytes(SHAPE, position) == 4 * (weights + cache)
    assert decode_bytes(SHAPE, SHAPE.seq_len - 1) > 4 * parameter_count(SHAPE) - 4 * SHAPE.seq_len * SHAPE.d_model


# ---- allocations


# The interpreter allocates a few kilobytes for itself now and then: for a cache, a free list, a thread. The arrays of
# these tests are larger than that, and an action that allocates them does so in every round.
ROUNDS = 5


def allocated(action: Callable[[], object]) -> tuple[int, int]:
    """The bytes that an action leaves allocated and its peak, each the least of some rounds.

    tracemalloc counts Python's and NumPy's memory; the kernels themselves allocate none.
    """
    action()
    left, peaks = [], []
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(ROUNDS):
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            action()
            after, peak = tracemalloc.get_traced_memory()
            left.append(after - before)
            peaks.append(peak - before)
    finally:
        tracemalloc.stop()
        gc.enable()
    return min(left), min(peaks)


def test_a_step_allocates_no_array_and_leaks_nothing() -> None:
    smallest_buffer = 4 * ROWS * SHAPE.d_model  # bytes of one (N, C) array
    step = stepper()

    def steps() -> None:
        for _ in range(100 // ROUNDS):
            step()

    left, peak = allocated(steps)
    assert peak < smallest_buffer
    assert left < smallest_buffer / 100


def test_decoding_a_token_allocates_only_its_logits() -> None:
    shape = ModelShape(d_model=2048, hidden_size=2048, vocab_size=300, num_heads=2, seq_len=64, layers=1)
    row = 4 * shape.d_model  # bytes of the smallest array that decoding could make besides
    decoder = Decoder(Parameters(shape))

    def tokens() -> None:
        for token in range(10):
            decoder.decode(token)

    left, peak = allocated(tokens)
    assert 4 * shape.vocab_size <= peak < 4 * shape.vocab_size + ALIGNMENT + row
    assert left < row / 10


def test_the_allocation_count_sees_temporary_and_leaked_arrays() -> None:
    leaked: list[Any] = []
    assert allocated(lambda: np.empty(1000, np.float32))[1] >= 4000
    assert allocated(lambda: leaked.append(np.empty(1000, np.float32)))[0] >= 4000
