"""The program in a tmux terminal, from the first start to a resumed run. Skipped without tmux."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpt_core.formats.checkpoint import peek_checkpoint
from tests.program import PROGRAM, TIMEOUT_S, environment, tiny, write_texts

PROMPT = "the-shell-again"

pytestmark = pytest.mark.skipif(not shutil.which("tmux") or sys.platform == "win32", reason="tmux is not here")


class Tmux:
    """A terminal of 80 by 24 with a shell in it, on a tmux server of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._socket = str(folder / "tmux")
        self._call("-f", os.devnull, "new-session", "-d", "-x", "80", "-y", "24", "sh", env=environment())
        self.type(f"PS1='{PROMPT[:5]}''{PROMPT[5:]} '")
        self.keys("Enter")
        self.until_seen(PROMPT)

    def _call(self, *words: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, *words],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def keys(self, *names: str) -> None:
        """Press keys, by the names of tmux."""
        self._call("send-keys", *names)

    def type(self, text: str) -> None:
        """Type a text."""
        self._call("send-keys", "-l", text)

    def screen(self) -> str:
        """Return the text of the screen."""
        return self._call("capture-pane", "-p")

    def until(self, reached: Callable[[str], bool]) -> str:
        """Wait until a condition holds for the screen, and return it."""
        end = time.monotonic() + TIMEOUT_S
        while not reached(screen := self.screen()):
            assert time.monotonic() < end, screen
            time.sleep(0.05)
        return screen

    def until_seen(self, *words: str) -> str:
        """Wait until all texts are on the screen."""
        return self.until(lambda screen: all(word in screen for word in words))

    def start(self, *more: str) -> None:
        """Start the program with a model so small that a step takes a millisecond; `more` are further settings."""
        settings = tiny(
            "save_every_minutes=0",
            "save_epoch_number=0",
            "sample_tokens=0",
            "max_epochs=1000000",
            "patience=0",
            "epsilon=0",
            *more,
        )
        self.type(shlex.join([*PROGRAM, *settings]))
        self.keys("Enter")
        self.until_seen("○ ready")

    def until_shell(self) -> str:
        """Wait until the program has restored the screen and the echo of the shell."""
        self.until(lambda screen: screen.rstrip().endswith(PROMPT))
        self.type("echo code-$?; stty -a | grep -o ' -\\?echo '")
        self.keys("Enter")
        screen = self.until(lambda screen: "\ncode-" in screen and screen.rstrip().endswith(PROMPT))
        assert (
            self._call("display-message", "-p", "#{alternate_on} #{mouse_any_flag} #{cursor_flag}").strip() == "0 0 1"
        )
        return screen

    def close(self) -> None:
        """End the server and everything in it."""
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], capture_output=True, check=False, timeout=TIMEOUT_S)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Tmux]:
    write_texts(tmp_path)
    tmux = Tmux(tmp_path)
    yield tmux
    tmux.close()


def step_shown(screen: str) -> int:
    """Return the step in the status panel, 0 where it is not shown."""
    for line in screen.splitlines():
        words = line.replace("│", " ").split()
        if "step" in words and (at := words.index("step")) + 1 < len(words):
            number = words[at + 1].replace(",", "")
            if number.isdigit():
                return int(number)
    return 0


@pytest.mark.slow
def test_train_save_quit_and_resume_from_the_checkpoints_tab_with_a_chat_meanwhile(terminal: Tmux):
    latest = terminal.folder / "models" / "ckpt_latest.safetensors"

    terminal.start()
    terminal.keys("s")
    terminal.until(lambda screen: "▶ training" in screen and step_shown(screen) > 20)
    terminal.keys("w")
    terminal.until(lambda _: latest.exists())
    terminal.keys("q")
    terminal.until_seen("Quit gpt-tui?")
    terminal.keys("s")
    assert "code-0\n echo" in terminal.until_shell()
    saved = peek_checkpoint(latest).step
    assert saved > 20

    terminal.start()
    terminal.keys("F4")
    terminal.until_seen("ckpt_latest", "✓ OK", f"{saved:,}")
    terminal.keys("r")
    terminal.until(lambda screen: "▶ training" in screen and step_shown(screen) > saved)

    terminal.keys("F3")
    terminal.until_seen("temperature")
    terminal.type("The cat")
    terminal.keys("Enter")
    terminal.until_seen("in training, step", "tokens")
    terminal.keys("C-c")
    assert "code-130\n echo" in terminal.until_shell()
    assert peek_checkpoint(latest).step > saved


@pytest.mark.slow
def test_after_a_diverged_run_the_app_prints_the_divergence_on_exit(terminal: Tmux):
    rates = [f"{name}_lr=10" for name in ("attn", "mlp", "norm", "pos", "unembed")]
    terminal.start(*rates, "warmup_steps=0", "max_steps=40")
    terminal.keys("s")
    terminal.until_seen("diverged")
    terminal.keys("q")
    screen = terminal.until_shell()
    assert "code-0\n" in screen
    message = " ".join(screen.replace("\n", "").split())  # the terminal wraps the line at any character
    assert "diverged" in message
    assert "guessing" in message
    assert "lower learning rates" in message


@pytest.mark.slow
def test_inside_shows_the_model_in_training_in_every_view_and_generates_from_a_chosen_token(terminal: Tmux):
    terminal.start("eval_every_steps=2000")
    terminal.keys("s")
    terminal.until(lambda screen: "▶ training" in screen and step_shown(screen) > 20)
    terminal.keys("F6")
    screen = terminal.until_seen("in training, step", "probe, ", "bits per token")
    shown = re.search(r"in training, step ([\d,]+)", screen)
    assert shown is not None
    terminal.keys("Right", "Right")
    terminal.until_seen("position 3 of")
    terminal.keys("2")
    terminal.until_seen("attn 0", "at position 3")
    terminal.keys("3")
    terminal.until_seen("row: from, column: to", "position 3 ")
    terminal.keys("4")
    terminal.until_seen("previous token  first token  induction  entropy", "L0 H1", "layer 0, head 0:")
    terminal.keys("5")
    terminal.until_seen("tensor", "wte.weight", "h.0.attn.c_attn.weight", "usual -3")
    terminal.keys("7")
    terminal.until_seen("map of the ")
    terminal.keys("6")
    terminal.until_seen("intact, ", "layer 0 block")
    terminal.keys("x")
    terminal.until_seen("Chat without layer 0 head")
    terminal.keys("x")
    terminal.until(lambda screen: "Chat without" not in screen)
    terminal.keys("1", "r")
    terminal.until(lambda screen: "bits per token" in screen and shown[0] not in screen)
    terminal.keys("Enter", "Enter")
    terminal.until_seen("conversation", "tokens · ")
    terminal.keys("F2")
    terminal.until_seen("train loss")
    terminal.keys("q")
    terminal.until_seen("Quit gpt-tui?")
    terminal.keys("s")
    assert "code-0\n echo" in terminal.until_shell()


@pytest.mark.slow
def test_watch_colors_a_sample_and_shows_the_heads_and_a_resumed_run_shows_them_on(terminal: Tmux):
    run = (*tiny("eval_every_steps=10", "sample_tokens=8", "max_steps=40"), "--train-only")
    done = subprocess.run(
        [*PROGRAM, *run], cwd=terminal.folder, env=environment(), capture_output=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    terminal.type(shlex.join([*PROGRAM, "watch"]))
    terminal.keys("Enter")
    terminal.until_seen("✓ finished", "eval loss")
    terminal.keys("F8")
    terminal.until_seen("sample at step 40", "bits")
    terminal.keys("Escape")
    terminal.until_seen("✓ finished", "eval loss")
    terminal.keys("i")
    terminal.until_seen("previous token  first token  induction  entropy", "step 40, layer 0, head 0:")
    terminal.keys("Home")
    terminal.until_seen("step 10, layer 0, head 0:")
    terminal.keys("q")
    assert "code-0\n" in terminal.until_shell()
    terminal.type(shlex.join([*PROGRAM, "--resume", "--max-steps", "60"]))
    terminal.keys("Enter")
    terminal.until_seen("step 60", "✓ finished")
    terminal.keys("F6")
    terminal.until_seen("7 Neighbors")
    terminal.keys("4")
    terminal.until_seen("previous token  first token  induction  entropy", "layer 0, head 0:")
    terminal.keys("Home")
    terminal.until_seen("step 10, layer 0, head 0:")
    terminal.keys("End")
    terminal.until_seen("step 60, layer 0, head 0:")
    terminal.keys("q")
    terminal.until_shell()
