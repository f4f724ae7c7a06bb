"""Which model answers in the chat: the one in training, or a checkpoint, which is kept loaded. Off the event loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from gpt_core import tokenizers
from gpt_core.errors import CheckpointError
from gpt_core.formats.checkpoint import peek_checkpoint, read_checkpoint
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.generation.generator import Figures, Generator
from gpt_core.generation.sampler import Sampling
from gpt_core.model.parameters import Parameters, parameter_count
from gpt_core.tokenizers import Tokenizer
from gpt_tui.session.checkpoints import chat_candidates
from gpt_tui.session.controller import TrainerLike, TrainingController
from gpt_tui.shared.formatting import size, whole
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.chat.model_options import AUTOMATIC, Listed, called

MOST_KEPT = 2  # as many as can answer side by side

Tell = Callable[[str], None]


class LoadedModel(NamedTuple):
    """A model that nobody changes while it answers, and what it is called."""

    parameters: Parameters
    tokenizer: Tokenizer
    name: str


class AnyGenerator(Protocol):
    """What a reply needs of `gpt_core.generation.generator.Generator`."""

    figures: Figures

    def generate(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """The reply, piece by piece."""


MakeGenerator = Callable[[LoadedModel, int | None], AnyGenerator]


def make_generator(answerer: LoadedModel, seed: int | None) -> AnyGenerator:
    """The real one."""
    return Generator(answerer.parameters, answerer.tokenizer, seed=seed)


class KeptModels:
    """The checkpoints that were read last, at most `MOST_KEPT`; one whose file has changed is read again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[Path, tuple[tuple[object, ...], LoadedModel]] = {}
        self._lock = threading.Lock()  # a reply that was stopped may still be reading when the next one begins

    def take(self, path: Path, tell: Tell) -> LoadedModel:
        """The model of a file; `tell` hears of it before a file is read. Raises CheckpointError."""
        with self._lock:
            kept = self._kept.pop(path, None)
            info = peek_checkpoint(path)
            if kept is None or kept[0] != _identity(info):
                kept = None  # what is not needed makes room before more is read
                while len(self._kept) >= MOST_KEPT:
                    del self._kept[next(iter(self._kept))]
                tell(f"reading {called(path, self._folder)}, {size(4 * parameter_count(info.settings.shape))}")
                kept = _identity(info), _read(path, called(path, self._folder))
            self._kept[path] = kept
            return kept[1]


def _identity(info: CheckpointInfo) -> tuple[object, ...]:
    return info.saved_at, info.size, info.run_id, info.step


def _read(path: Path, name: str) -> LoadedModel:
    checkpoint = read_checkpoint(path, moments=False)
    tokenizer = tokenizers.from_bytes(checkpoint.tokenizer)
    return LoadedModel(checkpoint.parameters, tokenizer, f"{name}, step {whole(checkpoint.state.step)}")


class ChatModels:
    """Finds the models that answer. For a thread: weights are copied, files are read."""

    def __init__(self, controller: TrainingController, models_dir: str) -> None:
        self._engine = controller
        self.look_in(models_dir)

    def look_in(self, models_dir: str) -> None:
        """The folder whose checkpoints answer from now on."""
        self.models_dir = models_dir
        self._kept = KeptModels(Path(models_dir))

    def listed(self) -> Listed:
        """The models there are, by the files' headers."""
        candidates, _damaged = chat_candidates(self.models_dir)
        live = self._engine.live_model() is not None
        return Listed(Path(self.models_dir), live, tuple(candidates), time.time())

    def answerer(self, choice: str = AUTOMATIC, tell: Tell = lambda _words: None) -> LoadedModel:
        """The model of a choice (`gpt_tui.tabs.chat.model_options`) for one reply; `tell` hears what takes long.

        Raises GptError when there is no model, or its file is damaged.
        """
        if choice != AUTOMATIC:
            return self._kept.take(Path(choice), tell)
        if trainer := self._engine.live_model():
            return in_training(trainer, tell)
        return self._best_stored(tell)

    def _best_stored(self, tell: Tell) -> LoadedModel:
        """`best_model` if it is whole, else the newest whole checkpoint; damaged ones on the way are named."""
        candidates, damaged = chat_candidates(self.models_dir)
        passed_over = [found.path.stem for found in damaged if found.kind == "best"]
        for info in candidates:
            try:
                answerer = self._kept.take(info.path, tell)
            except CheckpointError:
                passed_over.append(info.path.stem)
                continue
            damage = f" ({one_line(', '.join(passed_over))}: damaged)" if passed_over else ""
            return answerer._replace(name=answerer.name + damage) if damage else answerer
        count = len(damaged) + len(candidates)
        broken = f"; {count} there {'are' if count > 1 else 'is'} damaged" if count else ""
        raise CheckpointError(f"no model to chat with in {self.models_dir}{broken}; start training first")


def in_training(trainer: TrainerLike, tell: Tell) -> LoadedModel:
    """A run's weights as one step left them."""
    tell("waiting for a consistent set of weights")
    parameters, step = trainer.weights_snapshot()
    return LoadedModel(parameters, trainer.tokenizer, f"in training, step {whole(step)}")
