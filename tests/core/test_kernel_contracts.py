"""What every kernel promises besides its result: clear refusals, NaN passed on, the same bits again, the GIL let go."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from gpt_core import gradcheck
from gpt_core.gradcheck import relative_error
from gpt_core.kernels import adamw, attention, cross_entropy, embedding, gelu, gemm, layer_norm, linear, threads
from tests.core.other_levels import OTHER_LEVELS, printed_at

ADAMW = {"step": 1, "lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1}


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    before = threads.get_threads()
    yield
    threads.set_threads(before)


def f(*shape):
    return np.zeros(shape, np.float32)


def ids(*values):
    return np.array(values, np.int32)


def workspace(keys, head_size=2):
    return f(threads.get_threads(), attention.workspace_size(keys, head_size))


REFUSED = {
    "linear: weight of other inputs": (lambda: linear.forward(f(2, 5), f(2, 4), f(3, 5), f(5)), "got 3, want 4"),
    "linear: bias too short": (lambda: linear.forward(f(2, 5), f(2, 4), f(4, 5), f(4)), "got 4, want 5"),
    "linear: other rows in y": (lambda: linear.forward(f(3, 5), f(2, 4), f(4, 5), f(5)), "got 3, want 2"),
    "linear: other rows in residual": (
        lambda: linear.forward(f(2, 5), f(2, 4), f(4, 5), f(5), f(3, 5)), "got 3, want 2"),
    "linear: no rows": (lambda: linear.forward(f(0, 5), f(0, 4), f(4, 5), f(5)), "got 0, want at least 1"),
    "linear: d_weight transposed": (
        lambda: linear.backward(f(2, 4), f(5, 4), f(5), f(2, 5), f(2, 4), f(4, 5)), "got [45], want [45]"),
    "linear: d_bias too long": (
        lambda: linear.backward(f(2, 4), f(4, 5), f(6), f(2, 5), f(2, 4), f(4, 5)), "got 6, want 5"),
    "product: inner lengths differ": (lambda: linear.product(f(2, 3), f(2, 4), f(5, 3)), "got 5, want 4"),
    "product: transposed factor": (lambda: linear.product(f(2, 3), f(2, 4), f(4, 3), True), "want"),
    "layer_norm: weight of other channels": (
        lambda: layer_norm.forward(f(3, 4), f(3), f(3), f(3, 4), f(5), f(4)), "got 5, want 4"),
    "layer_norm: mean too short": (
        lambda: layer_norm.forward(f(3, 4), f(2), f(3), f(3, 4), f(4), f(4)), "got 2, want 3"),
    "layer_norm: d_weight too short": (
        lambda: layer_norm.backward(f(3, 4), f(3), f(4), f(3, 4), f(3, 4), f(3), f(3), f(4)), "got 3, want 4"),
    "embedding: id past the table": (
        lambda: embedding.forward(f(2, 4), ids(0, 9), f(9, 4), f(5, 4), 2), "token 9 at 1"),
    "embedding: negative id": (lambda: embedding.backward(f(9, 4), f(5, 4), ids(0, -1), f(2, 4), 2), "token -1 at 1"),
    "embedding: position past the table": (
        lambda: embedding.forward(f(2, 4), ids(0, 1), f(9, 4), f(5, 4), 2, 4), "within 5"),
    "embedding: more tokens than rows": (
        lambda: embedding.forward(f(2, 4), ids(0, 1, 2), f(9, 4), f(5, 4), 2), "got 3, want 2"),
    "gelu: other channels": (lambda: gelu.forward(f(2, 5), f(2, 4)), "got 5, want 4"),
    "gelu: other rows": (lambda: gelu.backward(f(2, 5), f(3, 5), f(2, 5)), "got 3, want 2"),
    "cross_entropy: target past the vocabulary": (
        lambda: cross_entropy.forward_backward(f(2), f(2, 4), ids(0, 4), 1.0), "target 4 at 1"),
    "cross_entropy: target under -1": (
        lambda: cross_entropy.forward(f(2), ids(0, 0), f(2, 4), ids(-2, 0)), "target -2 at 0"),
    "cross_entropy: losses too short": (
        lambda: cross_entropy.forward_backward(f(1), f(2, 4), ids(0, 1), 1.0), "got 1, want 2"),
    "attention: heads that do not divide": (
        lambda: attention.forward(f(1, 4, 4), f(1, 3, 4), f(1, 4, 4), f(1, 4, 4), f(1, 4, 4), workspace(4)),
        "got 1, want 0"),
    "attention: fewer keys than queries": (
        lambda: attention.forward(f(1, 4, 4), f(1, 2, 4), f(1, 4, 4), f(1, 3, 4), f(1, 3, 4), workspace(4)), "3 keys"),
    "attention: workspace too small": (
        lambda: attention.forward(f(1, 4, 4), f(1, 2, 4), f(1, 4, 4), f(1, 4, 4), f(1, 4, 4), f(1, 9)), "workspace"),
    "attention: channels apart": (
        lambda: attention.forward(f(1, 4, 4), f(1, 2, 4), f(1, 4, 8)[..., ::2], f(1, 4, 4), f(1, 4, 4), workspace(4)),
        "got 8, want 4"),
    "adamw: moments too short": (lambda: adamw.update(f(3), f(3), f(2), f(3), **ADAMW), "got 2, want 3"),
    "adamw: step 0": (lambda: adamw.update(f(3), f(3), f(3), f(3), **{**ADAMW, "step": 0}), "step 0, want 1"),
    "threads: none": (lambda: threads.set_threads(0), "got 0, want at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_shapes_and_ids_are_refused_in_one_line(case):
    call, words = REFUSED[case]
    with pytest.raises(ValueError, match=words) as refusal:
        call()
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).split(":")[0] in (case.split(":")[0], "product")


def test_other_types_layouts_and_read_only_outputs_are_refused():
    frozen = f(2, 3)
    frozen.flags.writeable = False
    gelu.forward(f(2, 3), frozen)  # as an input it is welcome
    for y, x in [(f(2, 3), np.zeros((2, 3))), (f(2, 3), np.asfortranarray(f(2, 3))), (frozen, f(2, 3))]:
        with pytest.raises(ValueError, match=r"dtype|contiguous|read-only"):
            gelu.forward(y, x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_number_that_is_not_finite_reaches_the_loss_and_the_norm(bad):
    """The guard of the trainer looks at these two only, so nothing on the way may swallow it."""
    for place in (0, 5, 16):
        logits, losses = f(2, 17), f(2)
        logits[0, place] = bad
        cross_entropy.forward_backward(losses, logits, ids(3, 3), 1.0)
        assert not np.isfinite(losses[0])
        assert np.isfinite(losses[1])
    values = f(5000)
    values[4321] = bad
    assert not np.isfinite(adamw.norm(values))


def test_nan_passes_through_gelu_norm_and_attention_but_not_into_the_past():
    x, y = np.array([[1.0, np.nan, 2.0]], np.float32), f(1, 3)
    gelu.forward(y, x)
    np.testing.assert_array_equal(np.isnan(y), [[False, True, False]])
    layer_norm.forward(y, f(1), f(1), x, f(3), f(3))
    assert np.isnan(y).all()
    qkv, out = f(1, 3, 12), f(1, 3, 4)
    qkv[0, 1, 5] = np.nan  # the second position's key, first head
    attention.forward(out, f(1, 2, 3), qkv[..., :4], qkv[..., 4:8], qkv[..., 8:], workspace(3))
    assert np.isnan(out[0, 1:, :2]).all()
    assert np.isfinite(out[0, 0]).all()
    assert np.isfinite(out[0, :, 2:]).all()


def everything(count):
    """The results of every kernel, at sizes that no thread count divides, on `count` threads."""
    threads.set_threads(count)
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.normal(size=shape).astype(np.float32)

    B, T, C, F, V, H = 3, 131, 33, 71, 517, 3
    N = B * T
    x, tokens = normal(N, C), random.integers(0, V, N, dtype=np.int32)
    made = {"wte": normal(V, C), "wpe": normal(T, C), "embedded": f(N, C), "d_wte": f(V, C), "d_wpe": f(T, C)}
    embedding.forward(made["embedded"], tokens, made["wte"], made["wpe"], T)
    embedding.backward(made["d_wte"], made["d_wpe"], tokens, x, T)
    made |= {"normed": f(N, C), "mean": f(N), "rstd": f(N), "d_n_x": f(N, C), "d_n_w": f(C), "d_n_b": f(C)}
    layer_norm.forward(made["normed"], made["mean"], made["rstd"], x, normal(C), normal(C))
    layer_norm.backward(
        made["d_n_x"], made["d_n_w"], made["d_n_b"], normal(N, C), x, made["mean"], made["rstd"], normal(C)
    )
    made |= {"linear": f(N, F), "d_l_x": f(N, C), "d_l_w": f(C, F), "d_l_b": f(F), "gelu": f(N, F), "d_g": f(N, F)}
    weight = normal(C, F)
    linear.forward(made["linear"], x, weight, normal(F))
    linear.backward(made["d_l_x"], made["d_l_w"], made["d_l_b"], normal(N, F), x, weight)
    gelu.forward(made["gelu"], made["linear"])
    gelu.backward(made["d_g"], normal(N, F), made["linear"])
    qkv, scratch = normal(B, T, 3 * C), f(count, attention.workspace_size(T, C // H))
    made |= {"attended": f(B, T, C), "log_sums": f(B, H, T), "d_qkv": f(B, T, 3 * C)}
    q, k, v = np.split(qkv, 3, axis=2)
    attention.forward(made["attended"], made["log_sums"], q, k, v, scratch)
    d_q, d_k, d_v = np.split(made["d_qkv"], 3, axis=2)
    attention.backward(d_q, d_k, d_v, normal(B, T, C), made["attended"], made["log_sums"], q, k, v, scratch)
    made |= {"losses": f(N), "logits": normal(N, V), "values": normal(50_001), "first": f(50_001), "second": f(50_001)}
    cross_entropy.forward_backward(made["losses"], made["logits"], tokens, 0.01)
    made["norm"] = np.array([adamw.norm(made["values"])])
    adamw.update(made["values"], normal(50_001), made["first"], made["second"], **ADAMW)
    return made


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_same_threads_give_the_same_bits_again(count):
    once, again = everything(count), everything(count)
    for name in once:
        np.testing.assert_array_equal(once[name], again[name], err_msg=name)


def test_more_threads_change_rounding_at_most():
    one, two, three = everything(1), everything(2), everything(3)
    for name in one:
        assert relative_error(two[name], one[name]) < 1e-5, name
        assert relative_error(three[name], one[name]) < 1e-5, name


@pytest.mark.skipif(not gemm.is_own(), reason="BLAS sums the rows at an edge in another order")
@pytest.mark.parametrize("rows", [33, 97, 131])
def test_how_threads_share_a_product_changes_no_bit(rows):
    random = np.random.default_rng(0)
    x, weight, bias, residual = (
        random.normal(size=shape).astype(np.float32) for shape in ((rows, 800), (800, 77), (77,), (rows, 77))
    )
    results = []
    for count in (1, 2, 3):
        threads.set_threads(count)
        results.append(f(rows, 77))
        linear.forward(results[-1], x, weight, bias, residual)
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("level", OTHER_LEVELS)
def test_every_instruction_set_level_computes_the_same(level):
    script = (
        "from gpt_core import gradcheck as g\n"
        "print(max(g.kernel_errors(g.SMALL_SHAPE, g.SMALL_BATCH, g.SMALL_TIME, 0).values()))\n"
    )
    assert printed_at(level, script) < gradcheck.KERNEL_LIMIT


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processors cannot be chosen here")
def test_threads_that_compute_keep_to_their_cores_and_no_others_do():
    script = """
import os, threading
import numpy as np
every = os.sched_getaffinity(0)
from gpt_core import kernels
from gpt_core.kernels import linear, threads
assert os.sched_getaffinity(0) == every, "the thread that loads the kernels"
threads.set_threads(2)
def compute():
    a = np.ones((512, 512), np.float32)
    linear.product(np.empty_like(a), a, a)
    there = [os.sched_getaffinity(int(number)) for number in os.listdir("/proc/self/task")]
    assert len(every) == 1 or any(cores < every for cores in there), "nothing is bound"
    assert kernels.available_cores() == len(every)
    kernels.use_any_core()
    assert os.sched_getaffinity(0) == every
worker = threading.Thread(target=compute)
threading.excepthook = lambda failed: (print(failed.exc_value), os._exit(1))
worker.start()
worker.join()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_another_python_thread_runs_while_a_kernel_computes():
    threads.set_threads(1)
    ticks = 0
    for size in (1500, 3000, 6000):  # a processor may be quick, and a busy machine slow to wake this thread
        a, c = np.ones((size, size), np.float32), f(size, size)
        worker = threading.Thread(target=linear.product, args=(c, a, a))
        ticks = 0
        worker.start()
        while worker.is_alive():
            time.sleep(0.001)
            ticks += 1
        if ticks >= 3:
            break
    assert ticks >= 3


def test_rows_that_overlap_or_run_backwards_are_refused() -> None:
    x = np.zeros((1, 4, 4), dtype=np.float32)
    out, log_sums = x.copy(), np.zeros((1, 2, 4), dtype=np.float32)
    workspace = np.zeros((threads.get_threads(), attention.workspace_size(4, 2)), dtype=np.float32)
    for rows in (np.broadcast_to(x[:, :1], (1, 4, 4)), x[:, ::-1]):
        with pytest.raises(ValueError, match="bytes between rows of k"):
            attention.forward(out, log_sums, x, rows, x, workspace)


def test_a_position_far_beyond_the_table_is_refused() -> None:
    x, wte, wpe = (np.zeros((3, 2), dtype=np.float32) for _ in range(3))
    with pytest.raises(ValueError, match="within 3"):
        embedding.forward(x, np.zeros(3, dtype=np.int32), wte, wpe, 3, 2**63 - 2)


def test_a_small_weight_decay_is_not_lost_in_rounding() -> None:
    values = np.full(8, 1.0, dtype=np.float32)
    zeros = np.zeros(8, dtype=np.float32)
    for step in range(1, 1001):
        adamw.update(values, zeros, zeros.copy(), zeros.copy(), step, 1e-3, 0.9, 0.999, 1e-8, 1e-3)
    assert np.allclose(values, 1 - 1e-3, atol=2e-5)
