"""Training treats denormal numbers as 0, on all threads, and restores the mode of every thread."""

import numpy as np
import pytest

from gpt_core.config.settings import Settings
from gpt_core.kernels import adamw, threads
from gpt_core.kernels.arrays import Array
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters, initial_parameters
from gpt_core.optim import create_optimizer
from gpt_core.registry import OPTIMIZERS

DENORMAL = 1e-40
SIZE = 1 << 20  # enough work for four threads

pytestmark = pytest.mark.skipif(not threads.has_openmp(), reason="needs OpenMP")


def halves(size: int = SIZE) -> Array:
    """Return half of denormal first moments, as the kernel of AdamW computes it."""
    values, gradients, m, v = (np.zeros(size, np.float32) for _ in range(4))
    m[:] = DENORMAL
    adamw.update(values, gradients, m, v, 1, 0.0, 0.5, 0.5, 1e-8, 0.0)
    return m


@pytest.mark.parametrize("count", [1, 2, 4])
def test_denormals_are_zero_on_every_thread_within_the_block_only(count: int) -> None:
    threads.set_threads(count)
    assert (halves() > 0).all()
    with threads.DenormalsFlushed():
        assert not halves().any()
        with threads.DenormalsFlushed():
            assert not halves().any()
        assert not halves().any()
    assert (halves() > 0).all()


def test_the_mode_is_restored_after_an_error() -> None:
    threads.set_threads(2)
    with pytest.raises(ZeroDivisionError), threads.DenormalsFlushed():
        raise ZeroDivisionError
    assert (halves() > 0).all()
    assert np.float32(DENORMAL) * np.float32(0.5) > 0


def test_every_thread_is_restored_when_their_number_has_shrunk() -> None:
    threads.set_threads(3)
    with threads.DenormalsFlushed():
        threads.set_threads(1)
    threads.set_threads(3)
    assert (halves() > 0).all()


def test_threads_that_start_within_the_block_are_restored() -> None:
    threads.set_threads(3)  # a team of another size than before
    with threads.DenormalsFlushed():
        halves()
    assert (halves() > 0).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_an_update_and_gradients_flush_denormals(optimizer: str) -> None:
    settings = Settings(
        d_model=8, hidden_size=16, vocab_size=300, num_heads=2, seq_len=8, layers=1, optimizer=optimizer,
    )  # fmt: skip
    parameters = initial_parameters(settings.shape, 0)
    tokens = np.arange(8, dtype=np.int32)[None]
    gradients = Parameters(settings.shape)
    GPT(parameters).loss_and_gradients(tokens, tokens, gradients, DENORMAL)
    assert not gradients.flat.any()

    created = create_optimizer(parameters, settings)
    first = created.state[created.state_names[0]]
    first.flat[:] = DENORMAL
    created.update(gradients, 1, 1.0, 1.0)
    assert not first["wte.weight"].any()
    assert np.float32(DENORMAL) * np.float32(0.5) > 0
