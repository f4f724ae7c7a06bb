"""Models to chat with and to look inside of: the model in training, or a checkpoint. Slow: for worker threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from gpt_core.checkpoints.store import CheckpointStore, UnusableCheckpoint, chat_candidates
from gpt_core.errors import CheckpointError
from gpt_core.formats.bundle import load_bundle
from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_core.formats.checkpoint_header import CheckpointInfo
from gpt_core.generation.generator import Figures, Generator
from gpt_core.generation.sampler import Sampling
from gpt_core.interpret import Part, ablate
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.parameters import Parameters, parameter_count
from gpt_core.model.stored_weights import StoredWeights, WeightFormat
from gpt_core.text.token_stream import TokenStream
from gpt_core.tokenizers import Tokenizer
from gpt_tui.session.controller import TrainerLike, TrainingController
from gpt_tui.session.model_options import AUTOMATIC, AvailableModels, OtherModel, checkpoint_name
from gpt_tui.session.removed_parts import without
from gpt_tui.session.run_finder import is_same_folder, is_trained_in, log_folders
from gpt_tui.shared.formatting import counted, integer, size
from gpt_tui.shared.sanitize import one_line

MAX_CACHED = 2  # the two models of a comparison

Report = Callable[[str], object]


class LiveRun(NamedTuple):
    """A run in progress: its id, and the text whose beginning the Inside tab shows."""

    run_id: str
    probe: TokenStream


class LoadedModel(NamedTuple):
    """A model that does not change while it is used.

    Attributes:
        weights: Its weights, in the format that was asked for.
        tokenizer: Its tokenizer.
        name: Name to show.
        bundle: The model with the settings of its run.
        live: The run in progress that it is a copy of, None for a checkpoint.
    """

    weights: Parameters | StoredWeights
    tokenizer: Tokenizer
    name: str
    bundle: ModelBundle | None = None
    live: LiveRun | None = None


class TextGenerator(Protocol):
    """The part of `gpt_core.generation.generator.Generator` that a reply uses."""

    figures: Figures

    def generate(
        self, prompt: str, sampling: Sampling, *, keep_bytes: bool = False, is_stopped: Callable[[], bool]
    ) -> Iterator[str]:
        """Yield the reply piece by piece."""


MakeGenerator = Callable[[LoadedModel, int | None], TextGenerator]


def make_generator(model: LoadedModel, seed: int | None) -> TextGenerator:
    """Return a `Generator` for the model."""
    return Generator(model.weights, model.tokenizer, seed=seed)


class ModelCache:
    """The last `MAX_CACHED` checkpoints that were loaded; a file that has changed is loaded again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cached: dict[Path, tuple[tuple[object, ...], LoadedModel]] = {}
        self._lock = threading.Lock()  # a stopped reply may still be loading when the next one starts

    def load(self, path: Path, report: Report, weights: WeightFormat) -> LoadedModel:
        """Return the model of a checkpoint; `report` is called before a file is read. Raises CheckpointError."""
        with self._lock:
            cached = self._cached.pop(path, None)
            info = peek_checkpoint(path)
            identity = (*_identity(info), weights)
            if cached is None or cached[0] != identity:
                cached = None  # memory is released before the file is read
                while len(self._cached) >= MAX_CACHED:
                    del self._cached[next(iter(self._cached))]
                name = checkpoint_name(path, self._folder)
                report(f"loading {name}, {size(4 * parameter_count(info.settings.shape))}")
                cached = identity, _read(path, name, weights)
            self._cached[path] = cached
            return cached[1]


def _identity(info: CheckpointInfo) -> tuple[object, ...]:
    return info.saved_at, info.size, info.run_id, info.step


def _read(path: Path, name: str, weights: WeightFormat) -> LoadedModel:
    bundle = load_bundle(path)
    return stored_model(
        LoadedModel(bundle.parameters, bundle.tokenizer, f"{name}, step {integer(bundle.step)}", bundle), weights
    )


def ablated_model(model: LoadedModel, removed: tuple[Part, ...]) -> LoadedModel:
    """Return a model without some parts, which its name says. Raises CheckpointError if it has no such part."""
    assert isinstance(model.weights, Parameters)
    try:
        weights = ablate(model.weights, removed)
    except ValueError as error:
        raise CheckpointError(f"{model.name} {without(removed)}: {error}; put the part back in Inside") from None
    return LoadedModel(weights, model.tokenizer, f"{model.name}, {without(removed)}")


def stored_model(model: LoadedModel, weights: WeightFormat) -> LoadedModel:
    """Return a model with its weights in another format, which its name says; float32 is the model itself."""
    if weights == "float32" or isinstance(model.weights, StoredWeights):
        return model
    return model._replace(weights=StoredWeights(model.weights, weights), name=f"{model.name}, {weights}")


class ModelLoader:
    """The models to choose from: the controller's model in training and the checkpoints of a models folder."""

    def __init__(self, controller: TrainingController, models_dir: str) -> None:
        self._controller = controller
        self.use_folder(models_dir)

    def use_folder(self, models_dir: str) -> None:
        """Use the checkpoints of this folder from now on."""
        self.models_dir = models_dir
        self._cache = ModelCache(Path(models_dir))

    def available(self) -> AvailableModels:
        """List the models; reads headers only."""
        candidates = chat_candidates(CheckpointStore(self.models_dir).list())
        others = models_of_other_runs(Path(self.models_dir))
        live = self._controller.live_model()
        listed = [*candidates, *(other.info for other in others)]
        settings = [live.settings] if live is not None else [info.settings for info in listed]
        example = settings[0].sample_prompt if settings else ""
        return AvailableModels(
            Path(self.models_dir), live is not None, tuple(candidates), tuple(others), time.time(), example
        )

    def load(
        self,
        choice: str = AUTOMATIC,
        report: Report = lambda _text: None,
        *,
        weights: WeightFormat = "float32",
        removed: tuple[Part, ...] = (),
    ) -> LoadedModel:
        """Return the model of an option's value for one reply; `report` receives a line before a slow part.

        Args:
            choice: Value of the option.
            report: Receives the reason for waiting.
            weights: Format in which the weights are stored in memory.
            removed: Parts of the model to leave out.

        Raises:
            GptError: There is no model, its file is damaged, or it has no such part.
        """
        if removed:
            return stored_model(ablated_model(self.load(choice, report), removed), weights)
        if choice != AUTOMATIC:
            return self._cache.load(Path(choice), report, weights)
        if trainer := self._controller.live_model():
            return stored_model(model_in_training(trainer, report), weights)
        return self._load_best(report, weights)

    def load_of_step(self, step: int, report: Report, folder: Path | None = None) -> LoadedModel:
        """Return the model of a run after `step` steps if a checkpoint has it, else another model of the run.

        Args:
            step: Step of the run.
            report: Receives the reason for waiting.
            folder: Folder of the run. None for the run of this session, whose other model is that of `AUTOMATIC`.

        Raises:
            GptError: As in `load`, or the folder has no valid checkpoint.
        """
        candidates = chat_candidates(CheckpointStore(folder or self.models_dir).list())
        of_step = [info for info in candidates if info.step == step]
        for info in of_step if folder is None else (*of_step, *candidates):
            with suppress(CheckpointError):
                return self._cache.load(info.path, report, "float32")
        if folder is None:
            return self.load(report=report)
        raise CheckpointError(f"no valid checkpoint in {one_line(str(folder))}, which would score the sample")

    def _load_best(self, report: Report, weights: WeightFormat) -> LoadedModel:
        """Load the first valid checkpoint in chat order; the name lists the unusable ones that were skipped.

        Without a checkpoint in the models folder, those of other runs are used, as `automatic_label` says.
        """
        listing = CheckpointStore(self.models_dir).list()
        candidates = chat_candidates(listing)
        unusable = [found for found in listing if isinstance(found, UnusableCheckpoint)]
        skipped = [found.path.stem for found in unusable if found.kind == "best"]
        folder = Path(self.models_dir)
        for info in candidates or [other.info for other in models_of_other_runs(folder)]:
            try:
                model = self._cache.load(info.path, report, weights)
            except CheckpointError:
                skipped.append(checkpoint_name(info.path, folder))
                continue
            return model._replace(name=f"{model.name} ({one_line(', '.join(skipped))}: unusable)") if skipped else model
        count = len(unusable) + len(candidates)
        broken = f" ({counted(count, 'unusable file')})" if count else ""
        raise CheckpointError(f"no model yet in {self.models_dir}{broken}; start training first")


def models_of_other_runs(models_dir: Path) -> list[OtherModel]:
    """Return the checkpoints to chat with of the runs below `models_dir` and the working folder, up to two per run.

    Of each run, these are the one that `AUTOMATIC` would select and the newest one. Runs in training come first, then
    those whose newest checkpoint is newest.
    """
    found: list[tuple[bool, float, str, list[OtherModel]]] = []
    for folder in log_folders([models_dir, Path()]):
        if is_same_folder(folder, models_dir):
            continue
        candidates = chat_candidates(CheckpointStore(folder).list())
        if not candidates:
            continue
        newest = max(candidates, key=lambda info: info.saved_at)
        is_live = is_trained_in(folder)
        chosen = [candidates[0], *([newest] if newest is not candidates[0] else [])]
        found.append((not is_live, -newest.saved_at, str(folder), [OtherModel(info, is_live) for info in chosen]))
    return [model for *_, models in sorted(found, key=lambda each: each[:3]) for model in models]


def model_in_training(trainer: TrainerLike, report: Report) -> LoadedModel:
    """Return a copy of a run's weights, taken between two steps."""
    report("waiting for the current step to finish")
    parameters, step = trainer.weights_snapshot()
    bundle = ModelBundle(trainer.settings, parameters, trainer.tokenizer, step)
    live = LiveRun(trainer.state.run_id, trainer.probe_text)
    return LoadedModel(parameters, trainer.tokenizer, f"in training, step {integer(step)}", bundle, live)
