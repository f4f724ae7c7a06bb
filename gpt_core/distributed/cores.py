"""Cores of a rank: the ranks of one host share those that they may use."""

from __future__ import annotations

import os
from collections.abc import Sequence

from gpt_core.cgroups import cpu_quota


def usable_cores() -> tuple[int, ...]:
    """Return the CPUs that this process may use, at most as many as its CPU quota; empty where that is unknown."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    cores, quota = sorted(os.sched_getaffinity(0)), cpu_quota()
    return tuple(cores if quota is None else cores[: max(1, int(quota))])


def take_share_of_cores(local_rank: int, cores: Sequence[tuple[int, ...]]) -> None:
    """Bind this process to its share of the cores of its host, unless the launcher has bound the ranks already.

    It must be called before the kernels are loaded, which bind their threads.

    Args:
        local_rank: Number of this rank among those of its host.
        cores: Usable cores of each rank of the host.
    """
    if share := share_of_cores(local_rank, cores):
        os.sched_setaffinity(0, share)


def share_of_cores(local_rank: int, cores: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the cores of a rank: those that it has for itself, else its share of those that all have."""
    own, ranks = cores[local_rank], len(cores)
    if ranks == 1 or not own or any(other != own for other in cores):
        return own
    if ranks > len(own):
        return (own[local_rank % len(own)],)
    return own[local_rank * len(own) // ranks : (local_rank + 1) * len(own) // ranks]
