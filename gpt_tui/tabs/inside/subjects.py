"""Models and texts that the Inside tab looks at. Slow: for the worker."""

from __future__ import annotations

import dataclasses
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt_core import interpret
from gpt_core.errors import CheckpointError, ConfigError, CorpusError
from gpt_core.generation.generator import prompt_bytes, with_bos
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import initial_parameters
from gpt_core.progress import Progress
from gpt_core.tokenizers import Tokenizer
from gpt_core.training.setup import eval_text_of_run
from gpt_tui.session.inside.subject import Subject
from gpt_tui.session.models import LiveRun, ModelLoader
from gpt_tui.tabs.inside.presenter import INITIAL, TextChoice

MAX_TOKENS = 256  # of a text
MAX_RANDOM_TOKENS = 64
MAX_EVAL_TOKENS = 4096  # of the eval text, for views that measure a loss


class Held(NamedTuple):
    """A model in memory.

    Attributes:
        version: Version that it was loaded for.
        name: Name to show.
        bundle: Weights, tokenizer and settings.
        gpt: The model.
        checksum: Checksum of the weights.
        live: The run in progress that it is a copy of, None for a checkpoint.
    """

    version: int
    name: str
    bundle: ModelBundle
    gpt: GPT
    checksum: int
    live: LiveRun | None = None


class Probe(NamedTuple):
    """Beginning of an eval text as tokens of one tokenizer. `is_open`: it begins inside a document."""

    ids: NDArray[np.int32]
    tokenizer: Tokenizer
    is_open: bool

    def ids_of(self, tokenizer: Tokenizer) -> NDArray[np.int32]:
        """Return the same documents as tokens of another tokenizer.

        Raises:
            ConfigError: Its own tokenizer is lossy, so that the text is unknown.
        """
        if tokenizer.sha256 == self.tokenizer.sha256:
            return self.ids
        if not self.tokenizer.is_lossless:
            raise ConfigError(
                f"no probe: its text is known in tokens of the first model's tokenizer {self.tokenizer.name} alone, "
                "which is lossy; choose another text ({inside.text})"
            )
        is_eos = self.ids == self.tokenizer.EOS
        follows_end = np.concatenate([[not self.is_open], is_eos[:-1]])  # `<bos>` and `<eos>` may be one id
        parts = np.split(self.ids, np.flatnonzero(is_eos & ~follows_end) + 1)
        texts = [self.tokenizer.decode(part.tolist()) for part in parts]
        ends = np.cumsum([len(text) for text in texts[:-1]], dtype=np.int64)  # the last one is incomplete, or empty
        return tokenizer.encode_documents(b"".join(texts), ends, self.is_open)[0]


class SubjectSource:
    """Loads models and texts, and keeps those of the last request."""

    def __init__(self, loader: ModelLoader) -> None:
        self._loader = loader
        self._held: dict[str, Held] = {}
        self._probes: dict[object, Probe] = {}

    def release(self) -> None:
        """Free the memory of the models."""
        self._held.clear()

    def keep(self, models: tuple[str, ...]) -> None:
        """Free the memory of other models than these."""
        for name in self._held.keys() - set(models):
            del self._held[name]

    def load(self, model: str, version: int, first: Held | None, progress: Progress) -> Held:
        """Return the model of an option.

        Args:
            model: Value of the option.
            version: A model is loaded again if the number has changed; INITIAL, if it is of another run.
            first: Model that is compared with it, whose initial weights are those of INITIAL.
            progress: Receives the reason for waiting.

        Raises:
            GptError: There is no such model, or its file is damaged.
        """
        held = self._held.get(model)
        if held is not None and (is_of_run(held, first) if model == INITIAL else held.version == version):
            return held
        self._held.pop(model, None)
        held = None  # memory is released before the model is loaded
        live = None
        if model == INITIAL:
            name, bundle = "before the first step", initial_model(first)
        else:
            loaded = self._loader.load(model, lambda words: progress(words, 0.0))
            if loaded.bundle is None:
                raise CheckpointError(f"{loaded.name}: the settings of its run are unknown")
            name, bundle, live = loaded.name, loaded.bundle, loaded.live
        gpt = bundle.gpt()
        held = Held(version, name, bundle, gpt, zlib.crc32(gpt.parameters.flat.data), live)
        self._held[model] = held
        return held

    def subject(self, held: Held, choice: TextChoice, first: Held | None, progress: Progress) -> Subject:
        """Return a model with a text.

        Args:
            held: The model.
            choice: The text.
            first: Model that is compared with it: both read its probe.
            progress: Receives the activity of reading a probe.

        Raises:
            GptError: There is no such text.
        """
        tokenizer, room = held.bundle.tokenizer, min(held.gpt.shape.seq_len, MAX_TOKENS)
        if choice.kind == "probe":
            ids = self._probe(first or held, progress).ids_of(tokenizer)
            total = min(len(ids), room)
        else:
            ids = np.array(with_bos(tokenizer, tokenizer.encode(prompt_bytes(choice.text)).tolist()), np.int32)
            total = len(ids)
        if not len(ids):
            raise ConfigError("the text has no token; choose another text ({inside.text})")
        ids = np.ascontiguousarray(ids, np.int32)
        return Subject(held.gpt, tokenizer, ids[:room], total, progress, ids[:MAX_EVAL_TOKENS])

    def _probe(self, held: Held, progress: Progress) -> Probe:
        """Return the probe of the run of a model. Raises ConfigError if there is none."""
        bundle = held.bundle
        key = (
            (bundle.corpus_sha256, bundle.eval_sha256, bundle.tokenizer.sha256)
            if held.live is None
            else held.live.run_id
        )
        if key not in self._probes:
            try:
                text = held.live.probe if held.live is not None else eval_text_of_run(bundle, progress)[0]
                ids, is_open = text.read(0, MAX_EVAL_TOKENS), not len(text.document_starts(0, 1))
            except (CheckpointError, CorpusError) as error:
                raise ConfigError(f"no probe: {error.reason}; choose another text ({{inside.text}})") from None
            self._probes[key] = Probe(ids, bundle.tokenizer, is_open)
        return self._probes[key]


def is_of_run(held: Held, other: Held | None) -> bool:
    """Return True if two models were trained with the same settings and tokenizer, so that they began alike."""
    if other is None:
        return False
    own, of_other = held.bundle, other.bundle
    return own.settings == of_other.settings and own.tokenizer.sha256 == of_other.tokenizer.sha256


def random_subject(held: Held, progress: Progress) -> Subject:
    """Return a model with a text of random tokens, for views that show what is known without a text."""
    subject = Subject(held.gpt, held.bundle.tokenizer, np.empty(0, np.int32), 0, progress)
    length = min(held.gpt.shape.seq_len, MAX_RANDOM_TOKENS)
    ids = interpret.repeated_tokens(subject.used_ids(), length, sequences=1)[0, :length]
    return dataclasses.replace(subject, ids=np.ascontiguousarray(ids, np.int32), total=length)


def initial_model(of: Held | None) -> ModelBundle:
    """Return a model before its first step. Raises ConfigError if those weights are unknown."""
    if of is None:
        raise ConfigError("got no model whose first weights to show; choose a model ({inside.model})")
    settings = of.bundle.settings
    if settings.init_from:
        raise ConfigError(
            f"this run started from the weights of {settings.init_from}; choose that file instead ({{inside.compare}})"
        )
    if of.live is None and not of.bundle.corpus_sha256:
        raise ConfigError("the weights of this model were imported: those before its first step are unknown")
    parameters = initial_parameters(settings.shape, settings.seed, settings.init_projections)
    return dataclasses.replace(of.bundle, parameters=parameters, step=0, scores=None, path=None)
