"""Exit codes, and the errors that users can cause or meet, with the exit code of each.

The message of an error is one line: what is wrong, what was got, what was expected, what to do next.
"""

from __future__ import annotations

EXIT_OK = 0  # completed
EXIT_FAILED = 1  # the run diverged, its last save failed, or a check did not pass
EXIT_BAD_INPUT = 2  # a setting, a file or an argument is not usable
EXIT_HANGUP = 129  # stopped by SIGHUP
EXIT_INTERRUPTED = 130  # stopped by SIGINT (Ctrl+C)
EXIT_TERMINATED = 143  # stopped by SIGTERM


def printable(text: str) -> str:
    """Return the text as one line that is safe to print: control and other unprintable characters are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(value: object) -> str:
    """Return a value as text for an error message, of bounded length."""
    if isinstance(value, dict | list | tuple):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return str(value).lower()
    try:
        words = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number too long to show"
    return words if len(words) <= 80 else words[:77] + "..."


class GptError(Exception):
    """Error that is shown to the user as one line. The program exits with `exit_code`.

    Args:
        reason: What is wrong, and what helps in the app and on the command line alike.
        remedy: What helps on the command line alone, with the punctuation before it. It ends the message.
    """

    exit_code = EXIT_FAILED

    def __init__(self, reason: str = "", remedy: str = "") -> None:
        super().__init__(reason + remedy)
        self.reason, self.remedy = printable(reason), remedy

    def __str__(self) -> str:
        return printable(super().__str__())


def reason_of(error: Exception) -> str:
    """Return what the app shows of an error: its message, without what helps on the command line alone."""
    return error.reason if isinstance(error, GptError) else str(error)


class InputError(GptError):
    """The input is not usable: a setting, a file, an argument."""

    exit_code = EXIT_BAD_INPUT


class ConfigError(InputError):
    """A setting is unknown, has the wrong type or is out of bounds."""


class CorpusError(InputError):
    """A training or eval text is missing, cannot be read, or is too short; `setting` is the one that names it."""

    setting = "train_file"


class ResumeTextError(CorpusError):
    """A text of the run to resume is missing, cannot be read, or is another one: a resume has to name it."""

    def __init__(self, reason: str, remedy: str = "", setting: str = "train_file") -> None:
        super().__init__(reason, remedy)
        self.setting = setting


class TokenizerError(InputError):
    """A tokenizer is unknown, cannot be trained, or its file is damaged."""


class CheckpointError(InputError):
    """A checkpoint is missing, damaged, or does not have the requested model shape."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint does not have the length, the checksums or the tensors that it should have."""


class NotACheckpointError(CheckpointError):
    """A file was not saved by this program."""


class ExportError(InputError):
    """A model cannot be exported: the format cannot hold it, or its path exists or cannot be created."""


class ModelImportError(InputError):
    """A model of another program cannot be imported."""


def install_hint(extra: str) -> str:
    """Return how to install an extra of the package, as part of a message."""
    return f"run `pip install '.[{extra}]'` in the clone of gpt-tui"


class MissingPackageError(GptError):
    """An optional package is not installed; the message names the extra to install."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; {install_hint(extra)}")


class LogitsError(GptError):
    """No token can be chosen from the logits of a model: they are not finite, or exclude every token."""


class RunExistsError(InputError):
    """A new run would overwrite the checkpoints of another run."""


class FolderInUseError(InputError):
    """Another run trains in the models folder."""


class SaveError(GptError):
    """A checkpoint or an exported model could not be written. What it would have replaced is unchanged."""


class BetterModelError(SaveError):
    """A best model was not replaced, because it is better than the one to save."""
