"""The command-line parser, the table of commands, and the conversion of errors to one line and an exit code.

Parsing imports neither Textual nor NumPy nor the model, so that help and usage errors appear at once. Each command
imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from gpt_tui.shared.interrupts import interrupt_exits, skip_save_requests, terminations_interrupt
from gpt_tui.shared.standard_streams import OutputError, discard_output, guard_standard_streams, print_utf8

if TYPE_CHECKING:
    from gpt_core.distributed.communicator import Communicator

Options = argparse.Namespace

PROGRAM = "gpt-tui"
INSPECT_VIEWS = {
    "tokens": "surprise of each token",
    "lens": "prediction after each layer",
    "attention": "where attention goes, per head",
    "heads": "scores of all heads",
    "health": "norms and units that never fire",
    "ablation": "loss without each part",
    "neighbors": "similar tokens",
    "attribution": "what the next token depends on",
}
"""What each view of `gpt-tui inspect` shows (`gpt_tui.session.inside.views`)"""
LAUNCHED = {"PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PMIX_RANK"}
"""Environment variables that launchers of MPI set (`gpt_core.distributed.launch`)."""
NEWEST = ""  # value of --resume without a file
RUN_LENGTH = ("--models-dir", "--max-steps", "--minutes")  # of no use to commands with temporary folders and --steps
MINUTES = (
    "stop after N minutes of training, with the model and the schedule that suit this time, unless settings give them; "
    "pauses and the time between sessions do not count"
)


def whole_number(text: str) -> int:
    """Return the number that the value of an option is."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number") from None


class Parser(argparse.ArgumentParser):
    """Argument parser without abbreviations that raises usage errors as `InputError`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise InputError."""
        from gpt_core.errors import InputError

        raise InputError(f"{message}; see `{self.prog} --help`")

    def parse_all(self, arguments: Sequence[str]) -> Options:
        """Parse the arguments. An unknown option is an error that names the closest known one."""
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            if self.prog == PROGRAM and unknown[0] in COMMANDS:
                self.error(f"got {unknown[0]!r} after an option: the command comes first, as in `gpt-tui {unknown[0]}`")
            is_option = unknown[0].startswith("-")
            name = unknown[0].partition("=")[0]
            actions = self._option_string_actions
            known = [option for option in actions if actions[option].help != argparse.SUPPRESS]
            near = difflib.get_close_matches(name, known, n=1) if is_option else []
            if (setting := setting_named(name)) and option_of(setting) in actions:
                near = [option_of(setting)]
            elif setting and "--set" in actions:
                near = [f"--set {setting}=VALUE"]
            if near and near[0] == name:
                self.error(f"got the option {unknown[0]!r} after `--`, expected it before")
            hint = f" (did you mean {near[0]}?)" if near else ""
            self.error(f"unknown {'option' if is_option else 'argument'} {unknown[0]!r}{hint}")
        return options

    def as_typed(self, message: str, options: Options) -> str:
        """Return a message of the core with the names of arguments and settings as options of this command.

        A name at the beginning, such as `output: got x`, is that of an option if the value is that of this option.
        Remedies such as `set text_field to` and `set hold_out=true` become `set --text-field to` and
        `add --set hold_out=true`.
        """
        name = message.partition(":")[0]
        option = option_of(name)
        is_typed = option in self._option_string_actions and getattr(options, name, None) is not None
        without_source = message.removesuffix(f" (from {option})")
        if is_typed and " (from " not in without_source:
            message = option + without_source.removeprefix(name)

        def remedy(found: re.Match[str]) -> str:
            name, sign = found.groups()
            verb = "add" if sign == "=" else "set"
            if option_of(name) in self._option_string_actions:
                return f"{verb} {option_of(name)}{sign}"
            return f"add --set {name}=" if sign == "=" and "--set" in self._option_string_actions else found[0]

        return re.sub(r"(?<![-\w])set ([a-z_]+)( to\b|=)", remedy, message)


def option_of(name: str) -> str:
    """Return the option that an argument or a setting of this name has."""
    return f"--{name.replace('_', '-')}"


def setting_named(option: str) -> str:
    """Return the setting that an option such as `--d-model` names, or `--lr` of other programs; "" for none."""
    from gpt_core.config.settings import LEARNING_RATE, Settings
    from gpt_core.config.validation import OTHER_NAMES

    name = option.lstrip("-").replace("-", "_")
    name = OTHER_NAMES.get(name, name)
    return name if option.startswith("--") and name in (*Settings.__struct_fields__, LEARNING_RATE) else ""


class Version(argparse.Action):
    """Action of `--version`, which imports the version only when it is needed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the version and exit."""
        from gpt_core import __version__

        print(PROGRAM, __version__)
        parser.exit()


class Command(NamedTuple):
    """A command: its summary, its arguments, and the function in `gpt_tui.cli` that runs it (`module:function`)."""

    summary: str
    add_arguments: Callable[[Parser], None]
    function: str


def add_settings(
    parser: Parser, *, folder: str = "folder for checkpoints and the log (default: models)", has_files: bool = False,
    refused: Collection[str] = (),
) -> None:  # fmt: skip
    """Add the options for settings. Their values are validated with the settings, not by the parser.

    Args:
        parser: Parser of the command.
        folder: Meaning of `--models-dir`.
        has_files: The command has arguments of its own, which may follow the options.
        refused: Options that the command refuses, with a reason, and that its help leaves out.
    """
    text = "nano (1M parameters, the default), micro (10M), mini (57.5M), induction (experiment with a generated text)"
    parser.add_argument("--preset", metavar="NAME", help=text)
    text = "settings from a file, as printed by `gpt-tui config`; relative paths in it are relative to its folder"
    parser.add_argument("--config", metavar="FILE.toml", help=text)
    text = "change a setting (`gpt-tui config` lists them all); may be repeated"
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="assignments", help=text)
    for option, metavar, text in (
        ("--seed", "N", "random seed of the initial weights and the shuffling"),
        ("--threads", "N", "compute threads (0: one per core)"),
        ("--learning-rate", "X", "learning rate of all parameters"),
        ("--init-from", "FILE", "start from the weights and the tokenizer of a checkpoint (fine-tuning)"),
        ("--models-dir", "DIR", folder),
        ("--max-steps", "N", "stop after N optimizer steps, counted from the start of the run"),
        ("--minutes", "N", MINUTES),
    ):
        parser.add_argument(option, metavar=metavar, help=argparse.SUPPRESS if option in refused else text)
    add_texts(parser, {"--train-file": "training text", "--eval-file": "held-out text"}, has_files=has_files)
    text = "self-test: memorize the first lines of the text (also OVERFIT_TINY=1)"
    text = argparse.SUPPRESS if "--overfit-tiny" in refused else text
    parser.add_argument("--overfit-tiny", action="store_const", const=True, help=text)


def add_texts(parser: Parser, options: Mapping[str, str], *, has_files: bool = False) -> None:
    """Add options that name texts, and those that say how texts are read."""
    kinds = "files (also .gz, .zst, .jsonl, .csv, .parquet), folders or patterns; may be repeated"
    for option, text in options.items():
        if has_files:
            parser.add_argument(option, metavar="F", action="append", help=f"{text}: {kinds}")
        else:
            parser.add_argument(option, metavar="F", action="extend", nargs="+", help=f"{text}: {kinds}")
    text = "field of JSON Lines, CSV and Parquet files that holds the text (default: text)"
    parser.add_argument("--text-field", metavar="NAME", help=text)
    text = "encoding of texts that are not UTF-8 and have no byte order mark, such as cp1252"
    parser.add_argument("--encoding", metavar="NAME", help=text)


def add_app(parser: Parser) -> None:
    """Add the options of `gpt-tui` without a command."""
    add_training(parser, "train without the app; same as `gpt-tui train`", "with --train-only: ")


def add_training(parser: Parser, train_only: str = argparse.SUPPRESS, when: str = "") -> None:
    """Add the options of `gpt-tui train`, with the help of `--train-only`, and when `--json` can be used."""
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    parser.add_argument("--train-only", action="store_true", help=train_only)
    parser.add_argument("--json", action="store_true", help=f"{when}print one JSON object per line")
    add_settings(parser)
    add_resume(parser)
    text = "let a new run replace another run's files at its first save"
    parser.add_argument("--overwrite", action="store_true", help=text)


def add_serve(parser: Parser) -> None:
    """Add the options of `gpt-tui serve`."""
    parser.add_argument("--port", metavar="N", default="8000", help="port on the loopback interface (default: 8000)")
    add_settings(parser)
    add_resume(parser)


def add_resume(parser: Parser) -> None:
    """Add `--resume`."""
    text = "resume from a checkpoint (default: the newest)"
    parser.add_argument("--resume", metavar="FILE", nargs="?", const=NEWEST, help=text)


def add_model(parser: Parser) -> None:
    """Add the options that select a checkpoint."""
    parser.add_argument("--model", metavar="FILE", help="checkpoint (default: best_model, else the newest)")
    parser.add_argument("--models-dir", metavar="DIR", help="folder of the checkpoints (default: models)")
    parser.add_argument("--threads", metavar="N", help="compute threads (0: one per core)")


def add_sampling(parser: Parser) -> None:
    """Add the sampling options. Their defaults are the checkpoint's settings."""
    group = parser.add_argument_group("sampling options (default: the settings of the model's run)")
    for option, metavar, text in (
        ("--max-tokens", "N", "maximum number of new tokens"),
        ("--temperature", "X", "sampling temperature (0: greedy)"),
        ("--top-k", "N", "sample from the N most likely tokens (0: all)"),
        ("--top-p", "X", "sample from the smallest set of tokens whose probabilities reach X"),
        ("--repetition-penalty", "X", "penalty on tokens that occurred before (1: off)"),
    ):
        group.add_argument(option, metavar=metavar, help=text)
    add_weights(parser)
    parser.add_argument("--seed", metavar="N", help="random seed; the same seed gives the same text (default: random)")


def add_weights(parser: Parser) -> None:
    """Add `--weights`."""
    text = "float32, bfloat16 or int8: how the weights are stored in memory; fewer bits decode faster"
    parser.add_argument("--weights", metavar="FORMAT", help=text)


def add_generate(parser: Parser) -> None:
    """Add the options of `gpt-tui generate`."""
    text = "text to continue, or - to read it from standard input; printed before the generated text"
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help=text)
    parser.add_argument(
        "--prompt-file", metavar="FILE", help="read the prompt from a file, without its last line break"
    )
    add_model(parser)
    add_sampling(parser)


def add_chat(parser: Parser) -> None:
    """Add the options of `gpt-tui chat`."""
    add_model(parser)
    add_sampling(parser)


def add_evaluate(parser: Parser) -> None:
    """Add the options of `gpt-tui evaluate`."""
    add_model(parser)
    add_texts(parser, {"--eval-file": "text to evaluate on"})
    text = "change how the text is read: allow_binary, document, encoding or text_field; may be repeated"
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="assignments", help=text)
    add_weights(parser)
    add_json(parser)


def add_export(parser: Parser) -> None:
    """Add the options of `gpt-tui export`."""
    text = "hf: folder for Hugging Face transformers; gguf: file for llama.cpp; html: web page that runs the model"
    parser.add_argument("format", metavar="FORMAT", choices=("hf", "gguf", "html"), help=text)
    parser.add_argument("path", metavar="PATH", help="file or folder to create")
    text = "number type of the weights: f32 (default); gguf: also f16, bf16 or q8_0; html: also bf16 or int8"
    parser.add_argument("--type", metavar="TYPE", help=text)
    add_model(parser)


def add_verify(parser: Parser) -> None:
    """Add the options of `gpt-tui verify`."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="checkpoints")


def add_verify_resume(parser: Parser) -> None:
    """Add the options of `gpt-tui verify-resume`."""
    parser.add_argument("--steps", metavar="N", type=whole_number, default=20, help="steps per run (default: 20)")
    text = "step at which one run is stopped and resumed (default: 10)"
    parser.add_argument("--cut", metavar="N", type=whole_number, default=10, help=text)
    add_settings(parser, refused=RUN_LENGTH)
    add_json(parser)


def add_bench(parser: Parser) -> None:
    """Add the options of `gpt-tui bench`."""
    text = "steps to measure after one warm-up step (default: 5; 3 if a step takes seconds, more if it is short)"
    parser.add_argument("--steps", metavar="N", type=whole_number, help=text)
    text = "measure the exchange of gradients between ranks, and predict more: mpiexec -n 2 gpt-tui bench --mpi"
    parser.add_argument("--mpi", action="store_true", help=text)
    add_settings(parser, refused=RUN_LENGTH)
    add_json(parser)


def add_race(parser: Parser) -> None:
    """Add the options of `gpt-tui race`."""
    text = (
        "values of a setting to compare, the baseline first; may be repeated: every combination is a case; "
        "KEY+OTHER=A+B,C+D for settings that change together; init_from=,FILE compares random weights with a checkpoint"
    )
    parser.add_argument("--vary", metavar="KEY=A,B", action="append", default=[], help=text)
    text = "runs per case, with the seeds from --seed on (default: 3)"
    parser.add_argument("--seeds", metavar="N", type=whole_number, default=3, help=text)
    parser.add_argument("--steps", metavar="N", type=whole_number, help="steps per run, in place of --minutes")
    folder = "folder of the race, with a folder per run (default: race)"
    add_settings(parser, folder=folder, refused=("--max-steps", "--overfit-tiny"))
    add_json(parser)


def add_tokenize(parser: Parser) -> None:
    """Add the options of `gpt-tui tokenize`."""
    text = "texts to encode and decode: files, folders or patterns"
    parser.add_argument("files", metavar="FILE", nargs="+", help=text)
    text = (
        "checkpoint whose tokenizer to use (default: best_model, else the newest; without one, or with options such as "
        "--train-file, --preset or --set vocab_size=N, a tokenizer trained on the training text)"
    )
    parser.add_argument("--model", metavar="FILE", help=text)
    text = "also print the text with | between its tokens; with --json, a list of them"
    parser.add_argument("--show-tokens", action="store_true", help=text)
    add_settings(parser, has_files=True)
    add_json(parser)


def add_inspect(parser: Parser) -> None:
    """Add the options of `gpt-tui inspect`."""
    parser.add_argument("text", metavar="TEXT", help="text that the model reads, or - to read it from standard input")
    add_model(parser)
    text = "; ".join(f"{name}: {shown}" for name, shown in INSPECT_VIEWS.items()) + " (default: tokens)"
    parser.add_argument("--view", metavar="VIEW", choices=INSPECT_VIEWS, help=text)
    parser.add_argument("--layer", metavar="N", help="attention: only this layer, from 0")
    parser.add_argument("--head", metavar="N", help="attention: only this head of the layer, from 0, with every weight")
    text = "attribution: text that begins with the next token (default: the most probable token)"
    parser.add_argument("--next", metavar="TEXT", help=text)
    text = "ablation: replace the output of a part by its mean instead of 0"
    parser.add_argument("--mean", action="store_true", help=text)
    text = "write a web page instead, which needs no network: of the view, or of all views without --view"
    parser.add_argument("--html", metavar="FILE", help=text)
    add_json(parser)


def add_import(parser: Parser) -> None:
    """Add the options of `gpt-tui import`."""
    text = (
        "folder of a GPT-2 model as `save_pretrained` of transformers writes it, or a GGUF file of one; or of a Qwen3 "
        "model with as many key heads as query heads and a rope_theta of 10000, as `gpt-tui export` writes it"
    )
    parser.add_argument("source", metavar="DIR|FILE", help=text)
    text = "checkpoint to create, which ends in .safetensors (default: models/ and the name of the source)"
    parser.add_argument("--output", metavar="FILE", help=text)


def add_watch(parser: Parser) -> None:
    """Add the options of `gpt-tui watch`."""
    text = (
        "models folder of the run (default: the one in training, else the one whose log changed last, of models, its "
        "subfolders and the subfolders of the current folder)"
    )
    parser.add_argument("folder", metavar="DIR", nargs="?", help=text)


def add_json(parser: Parser) -> None:
    """Add `--json` to a command that prints a result."""
    parser.add_argument("--json", action="store_true", help="print JSON")


TRAIN = Command("train without the app (same as --train-only)", add_training, "train:start")
COMMANDS = {
    "train": TRAIN,
    "watch": Command("follow a run in another terminal", add_watch, "watch:watch"),
    "generate": Command("continue a prompt", add_generate, "generate:generate"),
    "chat": Command("chat in the terminal; `exit` or end of input quits", add_chat, "generate:chat"),
    "evaluate": Command("evaluate a checkpoint on the eval text", add_evaluate, "evaluate:evaluate"),
    "inspect": Command("show what a model computes on a text", add_inspect, "inspect:inspect"),
    "export": Command("export a model: transformers, llama.cpp or a web page", add_export, "export:export"),
    "verify": Command("verify the checksums of checkpoints", add_verify, "verify:verify"),
    "verify-resume": Command(
        "check that a resumed run equals an uninterrupted one", add_verify_resume, "verify_resume:verify_resume"
    ),
    "gradcheck": Command("check all gradients of the model", add_json, "gradcheck:gradcheck"),
    "bench": Command("measure throughput and profile a training step", add_bench, "bench:bench"),
    "race": Command("compare settings by short runs with paired seeds", add_race, "race:race"),
    "tokenize": Command("tokenize a text and check the round trip", add_tokenize, "tokenize:tokenize"),
    "import": Command("convert a model of another program to a checkpoint", add_import, "import_model:import_model"),
    "serve": Command("show the app in a browser on this machine", add_serve, "serve:serve"),
    "config": Command("print the settings as TOML, each with its source", add_settings, "config:config"),
}
PRINTING = COMMANDS.keys() - {"train", "watch", "serve"}  # whose result is what they print
INTERRUPTED = PRINTING - {"chat"}  # commands that SIGTERM and SIGHUP end as Ctrl+C does; in chat it ends a reply only
APP = Command("Train a GPT on the CPU, watch it learn, and chat with it.", add_app, "train:start")

EPILOG = (
    "commands, each with its own --help:\n"
    + "".join(f"  {PROGRAM} {name:<13} {command.summary}\n" for name, command in COMMANDS.items())
    + """
signals: Ctrl+C, SIGTERM and SIGHUP save and exit; SIGUSR1 saves and continues
exit codes: 0 success, 1 failure, 2 invalid input; 129, 130 and 143 after SIGHUP, SIGINT and SIGTERM
"""
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with the given arguments (default: those of the process) and return its exit code."""
    skip_save_requests()
    guard_standard_streams()
    # NumPy's own products are small, and the threads of its pool would spin beside those of training.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if is_launched():
        from gpt_tui.cli.ranks import run_rank

        return run_rank(lambda ranks: exit_code(words, ranks), described)
    try:
        return exit_code(words)
    except (Exception, KeyboardInterrupt) as error:
        if (found := known_error(error)) is None:
            raise
        line, code = found
        if isinstance(error, KeyboardInterrupt) and code == 128 + signal.SIGINT:
            print(file=sys.stderr)  # ends the line of ^C
        elif line:
            print(f"{PROGRAM}: {line}", file=sys.stderr)
        return code


def is_launched() -> bool:
    """Return True if `mpiexec` has started this process as one of several ranks."""
    if not LAUNCHED & os.environ.keys():
        return False
    from gpt_core.distributed.launch import launched_as

    return launched_as()[1] > 1


def exit_code(arguments: list[str], ranks: Communicator | None = None) -> int:
    """Run the program and return its exit code. Raises the errors of the command."""
    try:
        code = run(arguments, ranks)
    except SystemExit as leaving:  # raised by argparse after printing help
        code = int(leaving.code or 0)
    if sys.stdout is not None:
        sys.stdout.flush()
    return code


def run(arguments: list[str], ranks: Communicator | None) -> int:
    """Parse the arguments and run the command that they name, or the app without one, on these ranks."""
    name = arguments[0] if arguments else ""
    command = COMMANDS.get(name, APP)
    if command is APP:
        usage = f"{PROGRAM} [options]\n       {PROGRAM} COMMAND ..."
        parser = Parser(prog=PROGRAM, usage=usage, description=command.summary, epilog=EPILOG)
        if name and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            parser.error(f"unknown command {name!r}" + (f" (did you mean {near[0]}?)" if near else ""))
    else:
        parser = Parser(prog=f"{PROGRAM} {name}", description=f"{command.summary[0].upper()}{command.summary[1:]}.")
        del arguments[0]
    command.add_arguments(parser)
    options = parser.parse_all(arguments)
    if command is TRAIN:
        options.train_only = True
    runs_on_ranks = command in (APP, TRAIN) or getattr(options, "mpi", False)
    if ranks is not None and not runs_on_ranks:
        raise alone_error(name, len(ranks.hosts))
    if ranks is not None:
        from gpt_tui.cli.ranks import check_same_command

        check_same_command(ranks, command_text(options))
    options.ranks = ranks
    if sys.stdout is None and name in PRINTING:
        raise OutputError(errno.EBADF, "it is closed")
    if name == "config" or getattr(options, "json", False):
        print_utf8()
    module, _, function = command.function.partition(":")
    with interrupt_exits():
        command_function = getattr(import_module(f"gpt_tui.cli.{module}"), function)
    from gpt_core.errors import GptError

    try:
        with terminations_interrupt() if name in INTERRUPTED and ranks is None else nullcontext():
            code: int = command_function(options)
    except GptError as error:
        error.args = (parser.as_typed(str(error), options),)
        raise
    return code


def command_text(options: Options) -> str:
    """Return the name of a command that runs on several ranks."""
    if getattr(options, "mpi", False):
        return "bench --mpi"
    return "train" if options.train_only else "the app"


def alone_error(what: str, ranks: int) -> Exception:
    """Return the error of a command that does not run on several ranks."""
    from gpt_core.errors import InputError

    return InputError(
        f"{what} was started by mpiexec on {ranks} ranks, expected the app, train or bench --mpi; start it alone"
    )


def described(error: BaseException) -> tuple[str, int]:
    """Return an error as `known_error` does, an unexpected one as its traceback."""
    if (found := known_error(error)) is not None:
        return found
    import traceback

    return "".join(traceback.format_exception(error)).rstrip(), 1


def known_error(error: BaseException) -> tuple[str, int] | None:
    """Return an error in one line and its exit code; None for an unexpected error.

    The line of an interrupt and of a closed pipe is "".
    """
    if isinstance(error, KeyboardInterrupt):
        return "", getattr(error, "exit_code", 130)
    if isinstance(error, BrokenPipeError):
        # the reader closed the pipe, as in `| head -1`: exit without a message, also from the final flush
        discard_output()
        return "", 1
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("gpt_core."):
        line, code = f"{error.name} is not compiled; run `pip install -e .` in the source folder first", 1
    elif isinstance(error, ImportError) and (error.name or "").startswith("gpt_core."):
        line, code = str(error), 1
    elif isinstance(error, MemoryError):
        line, code = f"out of memory ({error}); try a smaller preset, batch_size or seq_len", 1
    elif isinstance(error, OutputError):
        discard_output()
        saved = f"; the run is saved in {error.filename}" if error.filename else ""
        line, code = f"cannot write to standard output: {error.strerror}{saved}", 1
    elif isinstance(error, OSError):
        what = error.strerror or str(error)
        line, code = f"{what}: {error.filename}" if error.filename else what, 1
    else:
        from gpt_core.errors import GptError

        if not isinstance(error, GptError):
            return None
        line, code = str(error), error.exit_code
    from gpt_tui.shared.sanitize import one_line

    return one_line(line, 2000), code
