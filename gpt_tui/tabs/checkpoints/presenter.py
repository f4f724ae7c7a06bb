"""What the Checkpoints tab says of a file: its details, why something cannot be done, what a deletion costs. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.model.parameters import parameter_count
from gpt_tui.session.run_preview import shown_path
from gpt_tui.session.run_state import ENDINGS
from gpt_tui.shared.formatting import age, duration, rate, short, size, whole
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.checkpoints.files import FolderView, StoredFile
from gpt_tui.tabs.checkpoints.table import Verdict, Verdicts, best_accuracy, mean_loss, verdict_of

DIGEST = 12  # characters of a hash that are shown


def details(file: StoredFile, verdict: Verdict, now_s: float) -> list[tuple[str, str]]:
    """All that is known of a file, as (label, text), what matters first."""
    when = time.strftime("%d %b %Y, %H:%M", time.localtime(file.saved_s))
    rows = [
        ("file", f"{shown_path(file.stamp.path)}, {size(file.stamp.size)}"),
        ("check", check_sentence(file, verdict)),
    ]
    if file.info:
        rows += [("good for", use_words(file.info, verdict)), *run_rows(file.info)]
    rows.insert(3, ("saved", f"{when}, {age(max(0.0, now_s - file.saved_s))} ago"))
    return rows


def run_rows(info: CheckpointInfo) -> list[tuple[str, str]]:
    """What the header says of the run and its model."""
    settings, state, shape = info.settings, info.state, info.settings.shape
    trained = [f"step {whole(info.step)}", f"epoch {info.epoch} done", f"{short(state.tokens)} tokens"]
    trained += [duration(state.elapsed_s), ENDINGS.get(state.finished, state.finished)]
    scores = [f"loss {mean_loss(info)} so far in this epoch"] if state.loss_count else []
    scores += [f"best accuracy {best_accuracy(info)} at step {whole(state.best_step)}"] if best_accuracy(info) else []
    rates = {settings.attn_lr, settings.mlp_lr, settings.norm_lr, settings.pos_lr, settings.unembed_lr}
    lr = " to ".join(rate(value) for value in sorted({min(rates), max(rates)}))
    batch = f"batch {settings.batch_size} × {settings.seq_len}, learning rate {lr}"
    return [
        ("trained", ", ".join(part for part in trained if part)),
        ("scores", "; ".join(scores) or "none yet"),
        ("model", f"{info.preset or 'own shape'}, {whole(parameter_count(shape))} parameters: {shape.layers} layers, "
                  f"{shape.d_model} wide, {shape.num_heads} heads, context {shape.seq_len}"),
        ("settings", f"{batch}, warm-up {whole(settings.warmup_steps)}, decay {whole(settings.decay_steps)} steps"),
        ("run", f"{info.run_id}, seed {settings.seed}"),
        ("text", f"{settings.train_file or 'train.en, found under data/'}, SHA-256 {cut(info.corpus_sha256)}"),
        ("tokenizer", f"{settings.tokenizer}, {whole(shape.vocab_size)} ids, SHA-256 {cut(info.tokenizer_sha256)}"),
    ]  # fmt: skip


def cut(digest: str) -> str:
    """The beginning of a hash."""
    return f"{digest[:DIGEST]}…" if len(digest) > DIGEST else digest


def check_sentence(file: StoredFile, verdict: Verdict) -> str:
    """Whether it is whole, in a sentence, with the reason where it is not."""
    match verdict.state:
        case "whole":
            return "✓ whole: every value matches its checksum"
        case "checking":
            return f"… being read through, {int(verdict.share * 100)}%"
        case "unchecked":
            return "· waiting to be read through"
    return f"✗ {reason_alone(verdict.error, file.stamp.path)}"


def reason_alone(error: str, path: Path) -> str:
    """An error without the path that it begins with."""
    return error.removeprefix(str(path)).removeprefix(":").strip().removeprefix("is ")


def use_words(info: CheckpointInfo, verdict: Verdict) -> str:
    """What can be done with it."""
    if verdict.state == "damaged":
        return "nothing: delete it, or copy a whole one over it"
    if not info.has_moments:
        return "chatting; not resuming, because it holds no optimizer state"
    return "chatting and resuming"


def refusal(file: StoredFile, verdict: Verdict, *, resume: bool, running: bool) -> str:
    """Why one cannot chat with a file, or with `resume` go on from it, in one line; "" if one can."""
    doing = "resume from" if resume else "chat with"
    name = one_line(file.stamp.path.name)
    if verdict.state == "damaged":
        return f"cannot {doing} {name}: {reason_alone(verdict.error, file.stamp.path)}"
    if resume and running:
        return "a run is under way: stop it on the Train tab (F2, then x), then resume from here"
    if resume and file.info and not file.info.has_moments:
        return f"cannot resume from {name}: it holds no optimizer state; chat with it, or resume from another"
    return ""


def deletion_question(
    file: StoredFile, files: Sequence[StoredFile], verdicts: Verdicts, *, running_in: Path | None
) -> str:
    """What would be lost with a file. `running_in` is the folder that a run under way saves in."""
    what = f"{shown_path(file.stamp.path)}, {size(file.stamp.size)}"
    if file.info:
        what += f", {file.found.kind} checkpoint at step {whole(file.info.step)}"
    lines = [f"{what}. It cannot be brought back."]
    beside = [other for other in files if other.stamp.path.parent == file.stamp.path.parent]
    usable = [other for other in beside if other.info and verdict_of(other, verdicts).state != "damaged"]
    ours = [other for other in usable if other.found.kind != "other"]
    resumable = sorted((o for o in ours if o.info and o.info.has_moments), key=lambda o: o.found.kind == "final")
    if resumable[:1] == [file]:
        after = resumable[1].info if resumable[1:] else None
        then = f"the next one is at step {whole(after.step)}" if after else "without it there is none"
        lines.append(f"! It is the newest one to resume from; {then}.")
    if file in usable and file.found.kind == "best":
        lines.append("! It is the best model of its run, the one that the chat takes.")
    elif usable == [file] and file not in resumable:
        lines.append("! It is the only usable model in its folder.")
    if running_in is not None and running_in.absolute() == file.stamp.path.parent.absolute():
        lines.append("! The run under way saves in this folder.")
    return "\n".join(lines)


def nothing_there(models_dir: str, problems: Sequence[str], keys: dict[str, str], *, running: bool) -> str:
    """What stands in place of the table when there is nothing to list; `keys` are the keys by their ids."""
    if problems:
        return f"✗ {one_line(problems[0])}\n\nMake it readable, or name another folder with --models-dir."
    go, start, save = keys["go.train"], keys["train.start"], keys["train.save"]
    where = f"No checkpoint under {one_line(models_dir)}/ yet."
    if running:
        return f"{where}\n\nThe run under way saves by itself. To save now: {go}, then {save}."
    return (
        f"{where}\n\nTo train a model: {go}, then {start}. Checkpoints come here as they are saved: after some "
        "minutes, at each better score, and when a run stops."
    )


def summary_words(view: FolderView, verdicts: Verdicts) -> str:
    """How much there is, how much of it is damaged, and what could not be seen."""
    count = len(view.files)
    parts = [f"{count} file{'s' * (count != 1)}, {size(sum(file.stamp.size for file in view.files))}"]
    damaged = sum(verdict_of(file, verdicts).state == "damaged" for file in view.files)
    parts += [f"{damaged} unusable"] if damaged else []
    return " · ".join([*parts, *map(one_line, view.problems[:1])])
