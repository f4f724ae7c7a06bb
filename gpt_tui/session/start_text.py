"""Text for the start of a run: its model, its weights and its training text.

The log, the headless output and the app share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from gpt_core.config.presets import CUSTOM
from gpt_core.training.events import RunStarted
from gpt_tui.shared.formatting import counted, fixed, integer, short
from gpt_tui.shared.sanitize import one_line


def started_text(event: RunStarted) -> str:
    """Return what is trained, which weights it started with, and which checkpoint it resumes."""
    what = "self-test" if event.kind != "train" else event.preset or CUSTOM
    where = (
        f", resumed from {PurePath(event.resumed_from).name} at step {integer(event.step)}"
        if event.resumed_from
        else ""
    )
    start = f", weights of {origin_text(event, PurePath(event.init_from).name)}" if event.init_from else ""
    return f"{what}: {parameters_text(event)}, {short(event.train_tokens)} tokens{start}{where}"


def parameters_text(event: RunStarted) -> str:
    """Return the number of parameters, and how many of them are trained where some are frozen."""
    trained = f", {short(event.trained_parameters)} of them trained" if event.trained_parameters else ""
    return f"{short(event.parameters)} parameters{trained}"


def threads_text(event: RunStarted) -> str:
    """Return the number of threads; of several ranks, the number of ranks and hosts, and the threads per rank.

    Of a run with local steps, also the steps between two exchanges.
    """
    threads = counted(event.threads, "thread")
    every = event.sync_every_steps
    rounds = f", {counted(every, 'local step')} per exchange" if every else ""
    return (f"{ranks_text(event)}, {threads} per rank" if event.hosts else threads) + rounds


def ranks_text(event: RunStarted) -> str:
    """Return the number of ranks and of their hosts; "" for a run on one process."""
    return f"{len(event.hosts)} ranks on {hosts_count(event.hosts)}" if event.hosts else ""


def hosts_count(hosts: Sequence[str]) -> str:
    """Return the number of different hosts."""
    return counted(len(set(hosts)), "host")


def hosts_text(hosts: Sequence[str]) -> str:
    """Return the number of ranks, and the names of their hosts: `4 on 2 hosts: a, b`."""
    return f"{len(hosts)} on {hosts_count(hosts)}: {one_line(', '.join(dict.fromkeys(hosts)))}"


def origin_text(event: RunStarted, name: str) -> str:
    """Return the checkpoint that a run started from, under this name, and its step if its header has one."""
    return f"{name} (step {integer(event.init_step)})" if event.init_step else name


def text_sample(event: RunStarted) -> str:
    """Return the size of the training text, and its first words."""
    files = f"{integer(event.train_files)} files, " if event.train_files > 1 else ""
    documents = counted(event.documents, "document")
    per_token = fixed(event.train_bytes / max(1, event.train_tokens), 2)
    return f"{files}{documents}, {per_token} bytes per token; the text begins: {event.first_words}"
