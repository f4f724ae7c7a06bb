"""Commands that generate text: `generate` continues one prompt, `chat` one line of input after another."""

from __future__ import annotations

import sys
from argparse import Namespace
from itertools import chain
from typing import IO

from gpt_core.errors import ConfigError
from gpt_core.file_kinds import HEAD_BYTES
from gpt_core.files import reason
from gpt_core.generation.generator import Generator, prompt_bytes
from gpt_core.generation.sampler import Sampling
from gpt_core.model.stored_weights import StoredWeights
from gpt_core.text.encodings import find_encoding, prompt_text
from gpt_tui.cli.options import load_model, typed_path
from gpt_tui.headless.terminal_chat import converse, report_end, report_skipped, write
from gpt_tui.shared.standard_streams import is_terminal

SAMPLING_OPTIONS = ("max_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed", "weights")
STANDARD_INPUT = "-"
MAX_PROMPT_BYTES = 64 << 20


def generate(options: Namespace) -> int:
    """Run `gpt-tui generate`: print the prompt and the generated text, and nothing else on standard output."""
    prompt = requested_prompt(options)
    generator, sampling, _ = generator_of(options)
    text = prompt_bytes(prompt).decode("utf-8", "replace")
    pieces = generator.generate(prompt, sampling)
    first = next(pieces, "")  # after it, the length of the prompt is known
    report_skipped(generator.figures)
    write(text)
    for piece in chain([first], pieces):
        write(piece)
        text = piece or text
    if not text.endswith("\n"):
        write("\n")
    report_end(generator.figures)
    return 0


def chat(options: Namespace) -> int:
    """Run `gpt-tui chat`: reply to each line until `exit` or end of input."""
    converse(*generator_of(options))
    return 0


def generator_of(options: Namespace) -> tuple[Generator, Sampling, str]:
    """Return the generator and the sampling parameters of the options, and a prompt that suits the model."""
    model = load_model(options, SAMPLING_OPTIONS)
    seed = model.settings.seed if options.seed is not None else None
    weights = StoredWeights(model.parameters, model.settings.weights)
    generator = Generator(weights, model.tokenizer, seed=seed)
    return generator, Sampling.from_settings(model.settings), model.settings.sample_prompt


def requested_prompt(options: Namespace) -> str:
    """Return the prompt: the argument, or the text of standard input for `-`, or of the file of `--prompt-file`.

    Raises:
        ConfigError: There is no prompt, there are two, the file cannot be read, or what was read is not text.
    """
    if options.prompt is not None and options.prompt_file is not None:
        raise ConfigError("got PROMPT and --prompt-file, expected one of them")
    if options.prompt_file is not None and options.prompt_file != STANDARD_INPUT:
        path = typed_path(options.prompt_file, "--prompt-file")
        try:
            with path.open("rb") as file:
                return prompt_of(file, options.prompt_file)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise ConfigError(
                f"--prompt-file: cannot read {options.prompt_file}: {reason(error)}; name a text file"
            ) from None
    if options.prompt_file == STANDARD_INPUT or options.prompt == STANDARD_INPUT:
        return standard_input_text("PROMPT", "use --prompt-file FILE")
    if options.prompt is None:
        raise ConfigError("got no prompt, expected PROMPT, - for standard input, or --prompt-file FILE")
    return str(options.prompt)


def standard_input_text(argument: str, instead: str) -> str:
    """Return the text of standard input, for an argument `-`.

    Args:
        argument: Name of the argument, for messages.
        instead: What to do if standard input is closed.

    Raises:
        ConfigError: Standard input is closed, or what was read is not text.
    """
    if sys.stdin is None:
        raise ConfigError(f"{argument}: got -, but standard input is closed; {instead}")
    if is_terminal(sys.stdin):
        print(f"gpt-tui: reading the {argument.lower()} from standard input; end it with Ctrl+D on an empty line",
              file=sys.stderr)  # fmt: skip
    return prompt_of(sys.stdin.buffer, "standard input")


def prompt_of(file: IO[bytes], name: str) -> str:
    """Return the text of a file without its byte order mark and its last line break.

    Raises:
        ConfigError: The file is too long, not text, or neither UTF-8 nor in the encoding of its byte order mark.
        OSError: It cannot be read.
    """
    data = file.read(MAX_PROMPT_BYTES + 1)
    if len(data) > MAX_PROMPT_BYTES:
        raise ConfigError(
            f"{name}: got more than {MAX_PROMPT_BYTES >> 20} MiB, expected at most that; keep only its end"
        )
    text = prompt_text(data, name, find_encoding(data[:HEAD_BYTES], ""))
    return text.removesuffix("\n").removesuffix("\r")
