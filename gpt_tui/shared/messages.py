"""Every message of the app, on one page: what happened, in the past tense, as plain values."""

from __future__ import annotations

from textual.message import Message

from gpt_core.bench.estimate import CorpusStats, StepTime
from gpt_tui.session.run_preview import Setup


class ControllerUpdated(Message, bubble=False):
    """The controller has something new that should be shown at once. From its thread to the app."""


class PreviewRead(Message, bubble=False):
    """It is known what a start would train and which checkpoints are there. From a thread to the main screen."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.setup = setup


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
