"""Long run through the app's training controller, without a screen: `python -m tests.reliability.soak FOLDER STEPS`.

The controller trains in its thread while the main thread acts as a user: it reads the run state several times per
second, requests saves and evaluations, pauses and continues, and chats with the model in training. Each line of
standard output is one measurement: step, resident kilobytes, open files, threads. The last line is the count of
actions, as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from gpt_core.config.resolve import read_overrides
from gpt_core.generation.sampler import Sampling
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run
from gpt_tui.session.controller import TrainingController
from gpt_tui.session.models import ModelLoader, make_generator
from gpt_tui.session.phase import Phase
from gpt_tui.tabs.chat.reply import ReplyUpdate, generate_reply, interleave
from tests.program import TINY
from tests.reliability.runs import ENDLESS, resource_usage

MEASUREMENTS = 400  # during the run
DRAIN_S = 0.05
# a small shape, for short steps; evaluations and saves often enough to show leaks
SMALL = (
    "d_model=8", "hidden_size=8", "vocab_size=260", "seq_len=8", "batch_size=1", "micro_batch_size=1",
    "eval_every_steps=2000", "sample_tokens=8", "save_every_steps=500",
)  # fmt: skip


class User:
    """User that pauses, saves, evaluates or chats after each measurement, in turn."""

    def __init__(self, controller: TrainingController, models: ModelLoader, sampling: Sampling) -> None:
        self.done: Counter[str] = Counter()
        self._controller, self._models, self._sampling = controller, models, sampling
        self._reply: threading.Thread | None = None
        self._has_stepped = False

    def act(self, number: int) -> None:
        """Perform the action that follows measurement `number`."""
        match number % 5:
            case 0:
                self._controller.pause()
                self.done["pauses"] += 1
            case 1:
                self._controller.save()
                self.done["requested saves"] += 1
            case 2:
                self._controller.evaluate()
                self.done["requested evaluations"] += 1
            case _:
                self.chat(number)

    def end_pause(self) -> None:
        """Run a single step; on the next call, end the pause."""
        if self._has_stepped:
            self._controller.unpause()
        else:
            self._controller.single_step()
            self.done["single steps"] += 1
        self._has_stepped = not self._has_stepped

    def chat(self, seed: int) -> None:
        """Request a reply of the model in training, unless one is in progress."""
        if self._reply is not None and self._reply.is_alive():
            return
        reply = generate_reply(
            "The cat", self._sampling, seed, load=lambda report: self._models.load(report=report), make=make_generator,
            stopped=threading.Event(), post=self._count,
        )  # fmt: skip
        self._reply = threading.Thread(target=interleave, args=([reply],))
        self._reply.start()

    def _count(self, update: ReplyUpdate) -> None:
        self.done["pieces of replies"] += bool(update.text)
        self.done["replies"] += update.state == "finished"
        self.done["replies that failed"] += update.state == "failed"


def main() -> None:
    """Train to the last step."""
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    options = {"models_dir": folder / "models", "train_file": folder / "data/raw/train.en",
               "eval_file": folder / "data/test/eval.en"}  # fmt: skip
    assignments = [*TINY, *ENDLESS, *SMALL, f"max_steps={steps}"]
    settings = read_overrides(assignments=assignments, options=options).apply_to().settings
    controller = TrainingController(open_run, lambda _: None, folder / "gpt-tui.log")
    user = User(controller, ModelLoader(controller, settings.models_dir), Sampling.from_settings(settings))
    measurements, next_step = 0, 1
    controller.start(RunRequest(settings))
    while controller.alive:
        time.sleep(DRAIN_S)
        controller.drain()
        step = controller.run.step
        if controller.phase is Phase.PAUSED:
            user.end_pause()
        elif step >= next_step:
            measurements, next_step = measurements + 1, step + steps // MEASUREMENTS
            print(step, *resource_usage("self"), flush=True)
            user.act(measurements)
    controller.join()
    assert controller.failure is None, controller.failure
    print(json.dumps(user.done), flush=True)


if __name__ == "__main__":
    main()
