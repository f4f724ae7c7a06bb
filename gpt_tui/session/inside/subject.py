"""A model and the text that it reads."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpt_core import interpret
from gpt_core.errors import ConfigError
from gpt_core.generation.generator import prompt_bytes, sampled_ids, with_bos
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.gpt import GPT
from gpt_core.progress import Progress, ignore_progress
from gpt_core.tokenizers import Tokenizer
from gpt_core.training.model_stats import REPEATED_TOKENS
from gpt_tui.shared.sanitize import printable


class UnavailableViewError(ConfigError):
    """A view that needs a longer text, or a model with a longer context."""


@dataclass(frozen=True)
class Subject:
    """A model and the text that it reads.

    Attributes:
        gpt: The model.
        tokenizer: Its tokenizer.
        ids: Token ids (T,), with `<bos>` if the tokenizer adds it.
        total: Tokens of the complete text; more than T if it did not fit into the context.
        progress: Receives the progress of long work.
        eval_ids: More of the text, for views that measure a loss; empty for the ids alone.
    """

    gpt: GPT
    tokenizer: Tokenizer
    ids: NDArray[np.int32]
    total: int
    progress: Progress = ignore_progress
    eval_ids: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))

    @property
    def batch(self) -> NDArray[np.int32]:
        """The ids as a batch of one sequence (1, T)."""
        return self.ids[None]

    def inputs_and_targets(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the ids but the last, and those that follow each of them (1, T - 1)."""
        return self.batch[:, :-1], self.batch[:, 1:]

    def eval_inputs_and_targets(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return windows of the longer text, and the ids that follow each of their tokens (B, T).

        Raises:
            ConfigError: There are fewer than two tokens.
        """
        ids = self.eval_ids if len(self.eval_ids) > len(self.ids) else self.ids
        length = min(self.gpt.shape.seq_len, len(ids) - 1)
        if length < 1:
            raise ConfigError(f"the text has {len(ids)} token, expected at least 2; choose another text")
        count = (len(ids) - 1) // length
        inputs, targets = (ids[first : first + count * length].reshape(count, length) for first in (0, 1))
        return np.ascontiguousarray(inputs), np.ascontiguousarray(targets)

    def text(self, token: int) -> str:
        """Return a token as printable text."""
        return self.tokenizer.describe(int(token))

    def texts(self) -> list[str]:
        """Return the text of each token."""
        return [self.text(token) for token in self.ids]

    def shown_texts(self) -> tuple[str, ...]:
        """Return each token for reading: spaces and line breaks as such."""
        return tuple(shown_text(self.tokenizer, int(token)) for token in self.ids)

    def used_ids(self) -> NDArray[np.int64]:
        """Return the ids of all tokens that have text."""
        used = sampled_ids(self.tokenizer)
        used[self.tokenizer.EOS] = False
        return np.flatnonzero(used)

    def repeated(self) -> NDArray[np.int32]:
        """Return random sequences, each repeated (B, 2 n), of tokens in the text if it has n, else of all with text.

        A model knows the tokens of its text; others may never have occurred in its training. The context must have at
        least `gpt_core.training.model_stats.MIN_SEQ_LEN` tokens.
        """
        length = min(REPEATED_TOKENS, self.gpt.shape.seq_len // 2)
        used = self.used_ids()
        own = used[np.isin(used, self.ids)]
        return interpret.repeated_tokens(own if len(own) >= length else used, length)

    def end_note(self) -> str:
        """Return a note if the last token depends on a space at the end of the text, "" if not or if the text is cut.

        What a model predicts after a split that its training text does not have means little. `generate` takes such
        tokens back (token healing, see `gpt_core.generation.prompt`); views show the text as it is. There is no note
        where the ids are not those of their decoded text: the tokenizer is lossy, or they hold ends of documents.
        """
        if max(self.total, len(self.eval_ids)) > len(self.ids):
            return ""
        ids = self.ids.tolist()
        text = self.tokenizer.decode(ids)
        if with_bos(self.tokenizer, self.tokenizer.encode(text).tolist()) != ids:
            return ""
        ends_with_space = text.endswith(b" ")
        longer = with_bos(self.tokenizer, self.tokenizer.encode(text + (b"a" if ends_with_space else b" ")).tolist())
        if longer[: len(ids)] == ids:
            return ""
        if ends_with_space:
            return "the space at the end would be the beginning of the next token; remove it to see what follows"
        first = next((t for t, pair in enumerate(zip(ids, longer, strict=False)) if pair[0] != pair[1]), len(longer))
        end, other = ("|".join(map(self.text, part[first:])) for part in (ids, longer))
        return f"with a space after it, the text would end with {other} instead of {end}; add it to see what follows"

    def require_two(self, view: str) -> None:
        """Raise UnavailableViewError unless there are two tokens."""
        if len(self.ids) < 2:
            raise UnavailableViewError(f"TEXT: got {len(self.ids)} token, expected at least 2 for the view {view}")


def subject_of(bundle: ModelBundle, text: str, progress: Progress = ignore_progress) -> Subject:
    """Return the model with the beginning of a text that fits into its context."""
    tokenizer = bundle.tokenizer
    ids = with_bos(tokenizer, tokenizer.encode(prompt_bytes(text)).tolist())
    fitting = np.array(ids[: bundle.settings.seq_len], np.int32)
    return Subject(bundle.gpt(), tokenizer, fitting, len(ids), progress)


def shown_text(tokenizer: Tokenizer, token: int) -> str:
    """Return a token for reading: its text, or its name if it has none or is a part of a character."""
    try:
        text = printable(tokenizer.token_bytes(token).decode())
    except UnicodeDecodeError:
        text = ""
    return text or tokenizer.describe(token)
