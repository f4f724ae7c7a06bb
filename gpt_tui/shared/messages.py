"""Every message of the app, on one page: what happened, in the past tense, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from textual.message import Message

from gpt_core.bench.estimate import CorpusStats, StepTime
from gpt_tui.session.run_preview import Setup
from gpt_tui.session.run_state import RunState
from gpt_tui.tabs.chat.model_options import Listed
from gpt_tui.tabs.checkpoints.files import FolderView, Stamp
from gpt_tui.tabs.runs.run_finder import RunLog


class ControllerUpdated(Message, bubble=False):
    """The controller has something new that should be shown at once. From its thread to the app."""


class ModelsListed(Message, bubble=False):
    """It is known which models there are to chat with. From a thread to the chat pane."""

    def __init__(self, listed: Listed) -> None:
        super().__init__()
        self.listed = listed


class ReplyDelayed(Message, bubble=False):
    """The reply `number` waits for something that takes long; `words` says what. From the chat's thread to its pane."""

    def __init__(self, number: int, words: str) -> None:
        super().__init__()
        self.number = number
        self.words = words


class ReplyBegan(Message, bubble=False):
    """The model that answers is known; `model` names it."""

    def __init__(self, number: int, model: str) -> None:
        super().__init__()
        self.number = number
        self.model = model


class ReplyGrew(Message, bubble=False):
    """More text of the reply `number` has come; `tokens` so far."""

    def __init__(self, number: int, text: str, tokens: int, tokens_per_s: float) -> None:
        super().__init__()
        self.number = number
        self.text = text
        self.tokens = tokens
        self.tokens_per_s = tokens_per_s


class ReplyEnded(Message, bubble=False):
    """The reply `number` is complete, was stopped, or failed; `summary` says how, in one line."""

    def __init__(self, number: int, summary: str, failed: bool) -> None:
        super().__init__()
        self.number = number
        self.summary = summary
        self.failed = failed


class PreviewRead(Message, bubble=False):
    """It is known what a start would train and which checkpoints are there. From a thread to the main screen."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.setup = setup


class ChatLeft(Message):
    """The user typed `exit`: the chat is over, the Train tab is wanted. From the chat pane to its screen."""


class ResumeWanted(Message):
    """The user chose a checkpoint to go on from. From the checkpoints pane to its screen."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path


class ChatWanted(Message):
    """The user chose a checkpoint to chat with, or one to answer `beside` the model that is chosen already.

    From the checkpoints pane to its screen.
    """

    def __init__(self, path: Path, *, beside: bool = False) -> None:
        super().__init__()
        self.path = path
        self.beside = beside


class CheckpointsSeen(Message, bubble=False):
    """It is known which files are under the models folder. From a thread to the checkpoints pane."""

    def __init__(self, view: FolderView) -> None:
        super().__init__()
        self.view = view


class CheckProgressed(Message, bubble=False):
    """So much of a file was read and found whole. From a check's thread to the checkpoints pane."""

    def __init__(self, stamp: Stamp, share: float) -> None:
        super().__init__()
        self.stamp = stamp
        self.share = share


class CheckEnded(Message, bubble=False):
    """A file was read through; `error` is what is wrong with it, "" if it is whole. To the checkpoints pane."""

    def __init__(self, stamp: Stamp, error: str) -> None:
        super().__init__()
        self.stamp = stamp
        self.error = error


class DeleteWanted(Message):
    """The user wants a checkpoint gone; `question` says what would be lost. From the checkpoints pane to its screen."""

    def __init__(self, path: Path, question: str) -> None:
        super().__init__()
        self.path = path
        self.question = question


class CheckpointDeleted(Message):
    """A file was removed, or could not be: `error` says why. From a thread to the checkpoints pane and its screen."""

    def __init__(self, path: Path, error: str) -> None:
        super().__init__()
        self.path = path
        self.error = error


class RoomChanged(Message):
    """There is more or less room for a table, which may have other columns now. From its container to its pane."""


class FieldsChanged(Message):
    """What is typed in the set-up form is another; `preset_chosen` names a preset that is to fill it. To its screen."""

    def __init__(self, preset_chosen: str = "") -> None:
        super().__init__()
        self.preset_chosen = preset_chosen


class FolderSeen(Message, bubble=False):
    """What lies in the way of a new run in the models folder of the question `number`, "" if nothing does.

    From the prober's thread to the set-up screen.
    """

    def __init__(self, number: int, models_dir: str, in_the_way: str) -> None:
        super().__init__()
        self.number = number
        self.models_dir = models_dir
        self.in_the_way = in_the_way


class TextsRead(Message, bubble=False):
    """The texts of the question `number` are known, or why not. From the prober's thread to the set-up screen."""

    def __init__(self, number: int, texts: CorpusStats | None, problem: str = "") -> None:
        super().__init__()
        self.number = number
        self.texts = texts
        self.problem = problem


class StepTimed(Message, bubble=False):
    """A step of the question `number` was timed, or why not. From the prober's thread to the set-up screen."""

    def __init__(self, number: int, time: StepTime | None, problem: str = "") -> None:
        super().__init__()
        self.number = number
        self.step_time = time
        self.problem = problem


class RunsFound(Message, bubble=False):
    """These runs have a log. From the thread that looks for them to the runs pane."""

    def __init__(self, runs: Sequence[RunLog]) -> None:
        super().__init__()
        self.runs = runs


class RunsRead(Message, bubble=False):
    """These runs' logs were read that far, by their folders. From the thread that reads them to the runs pane."""

    def __init__(self, histories: Mapping[Path, RunState]) -> None:
        super().__init__()
        self.histories = histories
