"""The errors a user can meet, and the exit code each one ends the program with.

Every message is one line that says what is wrong, what was found, what was wanted and what to do next.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_HANGUP = 129
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


def printable(text: str) -> str:
    """The text on one line, safe for a terminal: line ends, controls and other unprintable characters as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class GptError(Exception):
    """Something the user should read as one line; `exit_code` is what the program ends with."""

    exit_code = EXIT_FAILED

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(GptError):
    """The input is at fault: a setting, a file, an argument."""

    exit_code = EXIT_BAD_INPUT


class ConfigError(InputError):
    """A setting is unknown, of the wrong type, or out of range."""


class CorpusError(InputError):
    """A training or evaluation text cannot be found, read, or is too short to train on."""


class TokenizerError(InputError):
    """A tokenizer cannot be made from a text, or its file is damaged."""


class CheckpointError(InputError):
    """A checkpoint is missing, damaged, or of another shape than asked for."""


class RunExistsError(InputError):
    """A new run would overwrite another run's checkpoints."""


class FolderInUseError(InputError):
    """Another trainer holds the models folder."""


class SaveError(GptError):
    """A checkpoint could not be written; the one it would have replaced is untouched."""
