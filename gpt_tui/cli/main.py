"""The command line: what can be asked for, and the one place where an error becomes a line and an exit code.

Parsing imports neither Textual nor NumPy nor the model, so that help and mistakes are answered at once; each command
imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from gpt_tui.shared.interrupts import interrupt_exits

Options = argparse.Namespace

PROGRAM = "gpt-tui"
LATEST = ""  # what --resume says without a file


class Parser(argparse.ArgumentParser):
    """An argparse parser that takes no abbreviations and raises its mistakes as errors of one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise InputError."""
        from gpt_core.errors import InputError

        raise InputError(f"{message}; `{self.prog} --help` lists what there is")

    def parse_all(self, arguments: Sequence[str]) -> Options:
        """The options of these arguments; an unknown one is an error, with the option that was probably meant."""
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            name = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(name, self._option_string_actions, n=1) if name.startswith("-") else []
            if (setting := setting_named(name)) and "--set" in self._option_string_actions:
                near = [f"--set {setting}=VALUE"]
            self.error(f"got {unknown[0]!r}, which means nothing here" + (f"; did you mean {near[0]}?" if near else ""))
        return options


def setting_named(option: str) -> str:
    """The setting of a name like `--d-model`, which has no option of its own; "" if there is none."""
    from gpt_core.config.settings import Settings

    name = option.lstrip("-").replace("-", "_")
    return name if option.startswith("--") and name in Settings.__struct_fields__ else ""


class Version(argparse.Action):
    """--version: the version is read only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print it and leave."""
        from gpt_core import __version__

        print(PROGRAM, __version__)
        parser.exit()


class Command(NamedTuple):
    """A word after `gpt-tui`: what it does, its arguments, and the function of `gpt_tui.cli` that does it."""

    summary: str
    add_arguments: Callable[[Parser], None]
    function: str


def add_settings(parser: Parser) -> None:
    """The options that say what the settings are. Their values are checked with the settings, not here."""
    parser.add_argument("--preset", metavar="NAME", help="nano (1M parameters, the default), micro (10M), mini (57.5M)")
    parser.add_argument("--config", metavar="FILE.toml", help="settings from a file, as `gpt-tui config` prints them")
    words = "any setting; may be given several times"
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="assignments", help=words)
    for option, metavar, words in (
        ("--seed", "N", "of the initial weights and the order of the text"),
        ("--threads", "N", "threads that compute (0: one for each core)"),
        ("--train-file", "F", "training text"),
        ("--eval-file", "F", "held-out text"),
        ("--models-dir", "DIR", "folder of the checkpoints (default: models)"),
        ("--max-steps", "N", "stop after N optimizer steps from the beginning of the run"),
    ):
        parser.add_argument(option, metavar=metavar, help=words)
    words = "learn the first lines by heart, to see that training works (also OVERFIT_TINY=1)"
    parser.add_argument("--overfit-tiny", action="store_const", const=True, help=words)


def add_training(parser: Parser) -> None:
    """`gpt-tui` without a command."""
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and leave")
    parser.add_argument("--train-only", action="store_true", help="train without the app, here")
    parser.add_argument("--json", action="store_true", help="with --train-only: one JSON object a line")
    add_settings(parser)
    add_resume(parser)
    parser.add_argument("--overwrite", action="store_true", help="a new run may replace another run's checkpoints")


def add_serve(parser: Parser) -> None:
    """`gpt-tui serve`."""
    parser.add_argument("--port", metavar="N", default="8000", help="port on this machine (default: 8000)")
    add_settings(parser)
    add_resume(parser)


def add_resume(parser: Parser) -> None:
    """`--resume`."""
    words = "go on from a checkpoint (default: the latest)"
    parser.add_argument("--resume", metavar="FILE", nargs="?", const=LATEST, help=words)


def add_model(parser: Parser) -> None:
    """The options that say which checkpoint is meant."""
    parser.add_argument("--model", metavar="FILE", help="checkpoint (default: best_model if there, else the newest)")
    parser.add_argument("--models-dir", metavar="DIR", help="folder to look for it in (default: models)")
    parser.add_argument("--threads", metavar="N", help="threads that compute (0: one for each core)")


def add_sampling(parser: Parser) -> None:
    """The options that say how a reply is sampled. Without them the checkpoint's settings hold."""
    for option, metavar, words in (
        ("--max-tokens", "N", "most tokens of a reply"),
        ("--temperature", "X", "above 1 flattens the choice, below sharpens it; 0 takes the likeliest token"),
        ("--top-k", "N", "choose among the N likeliest tokens (0: all)"),
        ("--top-p", "X", "choose among the likeliest tokens that together reach X"),
        ("--repetition-penalty", "X", "above 1 makes what was said less likely"),
    ):
        parser.add_argument(option, metavar=metavar, help=words)
    parser.add_argument("--seed", metavar="N", help="the same seed gives the same text (default: any)")


def add_generate(parser: Parser) -> None:
    """`gpt-tui generate`."""
    parser.add_argument("prompt", metavar="PROMPT", help="the text to go on from; it is printed too, then what follows")
    add_model(parser)
    add_sampling(parser)


def add_chat(parser: Parser) -> None:
    """`gpt-tui chat`."""
    add_model(parser)
    add_sampling(parser)


def add_evaluate(parser: Parser) -> None:
    """`gpt-tui evaluate`."""
    add_model(parser)
    parser.add_argument("--eval-file", metavar="F", help="text to score the model on")
    add_json(parser)


def add_verify(parser: Parser) -> None:
    """`gpt-tui verify`."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="checkpoints")


def add_verify_resume(parser: Parser) -> None:
    """`gpt-tui verify-resume`."""
    parser.add_argument("--steps", metavar="N", type=int, default=20, help="steps of each run (default: 20)")
    parser.add_argument("--cut", metavar="N", type=int, default=10, help="where one is stopped (default: 10)")
    add_settings(parser)
    add_json(parser)


def add_bench(parser: Parser) -> None:
    """`gpt-tui bench`."""
    words = (
        "steps to measure after a first one (default: at least 5, 3 where one takes seconds, more where they are short)"
    )
    parser.add_argument("--steps", metavar="N", type=int, help=words)
    add_settings(parser)
    add_json(parser)


def add_tokenize(parser: Parser) -> None:
    """`gpt-tui tokenize`."""
    parser.add_argument("file", metavar="FILE", help="text to encode and decode again")
    parser.add_argument("--model", metavar="FILE", help="take this checkpoint's tokenizer (default: the settings')")
    add_settings(parser)
    add_json(parser)


def add_watch(parser: Parser) -> None:
    """`gpt-tui watch`."""
    words = (
        "models folder of the run (default: the one that is being trained in, else the one whose log changed last, of "
        "models, the folders in it and those in the current folder)"
    )
    parser.add_argument("folder", metavar="DIR", nargs="?", help=words)


def add_json(parser: Parser) -> None:
    """`--json` of the commands that print a result."""
    parser.add_argument("--json", action="store_true", help="print JSON")


COMMANDS = {
    "watch": Command("follow a run that trains in another terminal", add_watch, "watch:watch"),
    "generate": Command("go on from a prompt", add_generate, "generate:generate"),
    "chat": Command("the plain chat; `exit` or the end of input ends it", add_chat, "generate:chat"),
    "evaluate": Command("score a checkpoint on the whole eval text", add_evaluate, "inspect:evaluate"),
    "verify": Command("check that checkpoints are whole", add_verify, "inspect:verify"),
    "verify-resume": Command("check that resuming changes nothing", add_verify_resume, "verify_resume:verify_resume"),
    "gradcheck": Command("check every gradient of the model", add_json, "inspect:gradcheck"),
    "bench": Command("how fast this machine trains and writes, and where the time goes", add_bench, "bench:bench"),
    "tokenize": Command("cut a text into tokens, and put it together again", add_tokenize, "inspect:tokenize"),
    "serve": Command("the app in a browser, on this machine alone", add_serve, "serve:serve"),
    "config": Command("the settings in force as TOML, and where each is from", add_settings, "inspect:config"),
}
TRAIN = Command("", add_training, "train:start")

EPILOG = (
    "commands, each with its own --help:\n"
    + "".join(f"  {PROGRAM} {name:<13} {command.summary}\n" for name, command in COMMANDS.items())
    + """
signals: Ctrl+C, SIGTERM and SIGHUP save and stop, SIGUSR1 saves and goes on
exit codes: 0 done, 1 failed, 2 bad input, 129, 130 and 143 stopped by SIGHUP, SIGINT and SIGTERM
"""
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments (default: the process's) and give its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an odd locale makes text poorer, not the program fail
    try:
        try:
            code = run(list(sys.argv[1:] if arguments is None else arguments))
        except SystemExit as leaving:  # argparse, after it printed help
            code = int(leaving.code or 0)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        return reported(error)


def run(arguments: list[str]) -> int:
    """Parse the arguments, and run the command that they name, or start training."""
    named = arguments[0] if arguments else ""
    command = COMMANDS.get(named, TRAIN)
    if command is TRAIN:
        parser = Parser(
            prog=PROGRAM,
            usage=f"{PROGRAM} [options]\n       {PROGRAM} COMMAND ...",
            description="Train a GPT on this machine's processor, watch it learn, and chat with it.",
            epilog=EPILOG,
        )
    else:
        parser = Parser(prog=f"{PROGRAM} {named}", description=f"{command.summary[0].upper()}{command.summary[1:]}.")
    command.add_arguments(parser)
    if command is TRAIN and named and not named.startswith("-"):
        near = difflib.get_close_matches(named, COMMANDS, n=1)
        parser.error(f"unknown command {named!r}" + (f"; did you mean {near[0]}?" if near else ""))
    options = parser.parse_all(arguments if command is TRAIN else arguments[1:])
    module, _, function = command.function.partition(":")
    with interrupt_exits():
        command_function = getattr(import_module(f"gpt_tui.cli.{module}"), function)
    code: int = command_function(options)
    return code


def reported(error: BaseException) -> int:
    """Say on standard error what went wrong, in one line; gives the exit code. What nobody foresaw is raised again."""
    if isinstance(error, BrokenPipeError):
        # nobody reads the output any more, as in `| head -1`: leave quietly, also when Python flushes at its end
        with contextlib.suppress(OSError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, KeyboardInterrupt):
        print(file=sys.stderr)
        return getattr(error, "exit_code", 130)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("gpt_core."):
        line, code = f"{error.name} is not compiled: this is the source folder; run `pip install -e .` in it first", 1
    elif isinstance(error, MemoryError):
        line, code = f"out of memory ({error}); try a smaller preset, batch_size or seq_len", 1
    elif isinstance(error, OSError):
        what = error.strerror or str(error)
        line, code = f"{what}: {error.filename}" if error.filename else what, 1
    else:
        from gpt_core.errors import GptError

        if not isinstance(error, GptError):
            raise error
        line, code = str(error), error.exit_code
    from gpt_tui.shared.sanitize import one_line

    print(f"{PROGRAM}: {one_line(line, 2000)}", file=sys.stderr)
    return code
