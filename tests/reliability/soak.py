"""A long run as the app makes it, without a screen: `python -m tests.reliability.soak FOLDER STEPS`.

The controller trains in its thread while this one does what a user does all day: it looks at the history a few times a
second, asks for saves and evaluations, pauses and goes on, and chats with the model in training. A line of standard
output for each look at the machine: step, resident kilobytes, open files, threads; then what was done, as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from gpt_core.config.resolve import resolve
from gpt_core.generation.sampler import Sampling
from gpt_tui.run_view.status import Phase
from gpt_tui.session.controller import RunRequest, TrainingController
from gpt_tui.session.open_run import open_request
from gpt_tui.tabs.chat.models import ChatModels, make_generator
from gpt_tui.tabs.chat.reply import ReplyUpdate, generate_reply, interleave
from tests.program import TINY
from tests.reliability.runs import ENDLESS, taken_of_the_machine

LOOKS = 400  # over the whole run
DRAIN_S = 0.05
# of the shape, what a step's time goes to; of the rest, what happens often enough to show
SMALL = (
    "d_model=8", "hidden_size=8", "vocab_size=260", "seq_len=8", "batch_size=1", "micro_batch_size=1",
    "eval_every_steps=2000", "sample_tokens=8", "save_every_steps=500",
)  # fmt: skip


class User:
    """Does something else at each look: a pause, a save, an evaluation, a chat."""

    def __init__(self, controller: TrainingController, models: ChatModels, sampling: Sampling) -> None:
        self.done: Counter[str] = Counter()
        self._engine, self._models, self._sampling = controller, models, sampling
        self._reply: threading.Thread | None = None
        self._has_stepped = False

    def act(self, look: int) -> None:
        """The look-th thing."""
        match look % 5:
            case 0:
                self._engine.pause()
                self.done["pauses"] += 1
            case 1:
                self._engine.save()
                self.done["saves asked for"] += 1
            case 2:
                self._engine.evaluate()
                self.done["evaluations asked for"] += 1
            case _:
                self.chat(look)

    def end_pause(self) -> None:
        """One single step, and at the next look at the history the run goes on."""
        if self._has_stepped:
            self._engine.unpause()
        else:
            self._engine.single_step()
            self.done["single steps"] += 1
        self._has_stepped = not self._has_stepped

    def chat(self, look: int) -> None:
        """A reply of the model in training, unless one is under way."""
        if self._reply is not None and self._reply.is_alive():
            return
        reply = generate_reply(
            "The cat", self._sampling, look, load=lambda report: self._models.load(report=report), make=make_generator,
            stopped=threading.Event(), post=self._count,
        )  # fmt: skip
        self._reply = threading.Thread(target=interleave, args=([reply],))
        self._reply.start()

    def _count(self, update: ReplyUpdate) -> None:
        self.done["pieces of replies"] += bool(update.text)
        self.done["replies"] += update.state == "finished"
        self.done["replies that failed"] += update.state == "failed"


def main() -> None:
    """Run to the end."""
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    options = {"models_dir": folder / "models", "train_file": folder / "data/raw/train.en",
               "eval_file": folder / "data/test/eval.en"}  # fmt: skip
    assignments = [*TINY, *ENDLESS, *SMALL, f"max_steps={steps}"]
    settings = resolve(assignments=assignments, options=options).settings
    controller = TrainingController(open_request, lambda _: None, folder / "gpt-tui.log")
    user = User(controller, ChatModels(controller, settings.models_dir), Sampling.from_settings(settings))
    looks, next_look = 0, 1
    controller.start(RunRequest(settings))
    while controller.alive:
        time.sleep(DRAIN_S)
        controller.drain()
        step = controller.history.step
        if controller.phase is Phase.PAUSED:
            user.end_pause()
        elif step >= next_look:
            looks, next_look = looks + 1, step + steps // LOOKS
            print(step, *taken_of_the_machine("self"), flush=True)
            user.act(looks)
    controller.join()
    assert controller.failure is None, controller.failure
    print(json.dumps(user.done), flush=True)


if __name__ == "__main__":
    main()
