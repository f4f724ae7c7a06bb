"""`mpiexec -n 2 gpt-tui bench --mpi`: exchange of gradients between ranks, and whether more machines are worthwhile."""

from __future__ import annotations

from argparse import Namespace

import msgspec

from gpt_core.bench.exchange import ExchangeBenchmark, MeasuredStep, measure_exchange
from gpt_core.bench.scaling import RANKS, Advice, advise
from gpt_core.config.settings import Settings
from gpt_core.errors import EXIT_OK, InputError
from gpt_tui.headless.progress_line import ProgressLine
from gpt_tui.shared.formatting import counted, integer, percent, short, size
from gpt_tui.shared.sanitize import one_line

STEP_COLUMNS = ("ms per step", "tokens/s", "speedup", "sent per step", "exchange ms", "of the step", "hidden")
START = "mpiexec -n 2 gpt-tui bench --mpi, or over machines: mpiexec --host a,b gpt-tui bench --mpi"


def bench_mpi(options: Namespace, settings: Settings) -> int:
    """Run `gpt-tui bench --mpi` on a rank; rank 0 prints a report or one JSON object.

    Raises:
        InputError: There is one rank only.
    """
    ranks = options.ranks
    if ranks is None:
        raise InputError(f"bench --mpi measures the exchange between ranks, got one rank; start it by {START}")
    with ProgressLine() as waiting:
        found = measure_exchange(ranks, settings, repeats=options.steps or 0, progress=waiting)
    if ranks.rank == 0:
        print(msgspec.json.encode(found).decode() if options.json else "\n".join(report(found)))
    return EXIT_OK


def report(found: ExchangeBenchmark) -> list[str]:
    """Return the lines of the report."""
    hosts = tuple(dict.fromkeys(found.hosts))
    ranks, micro_batches = len(found.hosts), found.batch_size // found.micro_batch_size
    one_host = ["all ranks are on one host: they share its memory and cores, and use no network"]
    return [
        one_line(
            f"{ranks} ranks on {counted(len(hosts), 'host')} ({', '.join(hosts)}), "
            f"{counted(found.threads, 'thread')} per rank; {found.processor}"
        ),
        f"{found.preset}: {short(found.parameters)} parameters; a step is {found.batch_size} x {integer(found.time)} "
        f"tokens in {counted(micro_batches, 'micro-batch', 'micro-batches')}",
        *(one_host if len(hosts) == 1 else []),
        "",
        f"network   {found.latency_s * 1e3:.3f} ms per message, {size(found.bytes_per_s)}/s per rank in each direction",
        f"chunks    {chunks_text(found)}",
        "",
        f"{'exchange':<9}" + "".join(f"  {name:>13}" for name in STEP_COLUMNS),
        step_line("one rank", found.alone_step_s, found.alone_tokens_per_s, found),
        *(measured_line(step, found) for step in found.steps),
        "",
        *prediction_lines(found),
        "",
        *(f"{step.format}: {advice_text(step, ranks)}" for step in found.steps),
    ]


def chunks_text(found: ExchangeBenchmark) -> str:
    """Return the time and the rate of the exchanged chunks."""
    return "; ".join(
        f"{size(chunk.bytes)} in {chunk.seconds * 1e3:,.2f} ms ({size(chunk.bytes_per_s)}/s)" for chunk in found.chunks
    )


def measured_line(step: MeasuredStep, found: ExchangeBenchmark) -> str:
    """Return the row of steps with one format of the exchange."""
    figures = (
        size(step.sent_bytes), f"{step.exchange_s * 1e3:,.2f}", percent(step.exchange_share), percent(step.hidden_share)
    )  # fmt: skip
    return step_line(step.format, step.step_s, step.tokens_per_s, found, *figures)


def step_line(name: str, seconds: float, tokens_per_s: float, found: ExchangeBenchmark, *figures: str) -> str:
    """Return a row of the table of steps."""
    ratio = f"{tokens_per_s / found.alone_tokens_per_s:.2f} x"
    values = (f"{seconds * 1e3:,.2f}", rate_text(tokens_per_s), ratio, *figures)
    return f"{name:<9}" + "".join(f"  {value:>13}" for value in values)


def prediction_lines(found: ExchangeBenchmark) -> list[str]:
    """Return the table of predicted tokens per second."""
    numbers = [prediction.ranks for prediction in found.steps[0].predictions]
    head = "predicted tokens/s, each rank on a machine of its own, by number of ranks"
    rows = [("ranks", [integer(number) for number in numbers])]
    rows += [(step.format, [rate_text(each.tokens_per_s) for each in step.predictions]) for step in found.steps]
    limit = found.batch_size // found.micro_batch_size
    lines = [f"{name:<9}" + "".join(f"  {value:>10}" for value in values) for name, values in rows]
    if limit < RANKS[-1]:
        lines.append(f"more than {limit} ranks need a larger batch_size or a smaller micro_batch_size")
    return [head, *lines]


def advice_text(step: MeasuredStep, ranks: int) -> str:
    """Return a sentence that says if adding a machine is worthwhile on this network."""
    advice = advise(step.costs, step.network, ranks)
    best = best_text(advice, ranks)
    if (following := advice.next) is None:
        return f"each rank has one micro-batch per step, so that another machine has nothing to do{best}"
    now = advice.now
    ratio = f"{following.ranks} ranks are predicted to train {following.tokens_per_s / now.tokens_per_s:.2f} times as"
    more = following.ranks - ranks
    who = "another machine is" if more == 1 else f"{more} more machines are"
    why = (
        ""
        if more == 1
        else f"; fewer than {following.ranks} ranks leave {now.micro_batches} micro-batches to one of them"
    )
    if advice.pays:
        return f"{who} worthwhile: {ratio} fast as {ranks}{why}"
    exposed = (following.exchange_s - following.hidden_s) / following.step_s
    return (
        f"{who} not worthwhile on this network: {ratio} fast as {ranks}, waiting for the exchange "
        f"{percent(exposed)} of the time{best}; sync_every_steps=N exchanges once in N steps instead"
    )


def best_text(advice: Advice, ranks: int) -> str:
    """Return the fastest number of ranks in words, "" if it is the present one or larger."""
    best = advice.best.ranks
    if best >= ranks:
        return ""
    return "; one machine alone is the fastest" if best == 1 else f"; {best} ranks are the fastest"


def rate_text(rate: float) -> str:
    """Format tokens per second, as a whole number if large."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"
