"""Program that runs the app with a fake trainer, for tests with a real terminal and signals."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import gpt_tui.app.app
import gpt_tui.app.launch
from gpt_core.training.request import RunRequest
from tests.tui.fake_trainer import FakeOpen, FakeTrainer, fake_generator, fake_settings


class NotingTrainer(FakeTrainer):
    """Fake trainer that writes a file per save, and one when its first step begins, visible to the test."""

    saves = 0

    def _save(self, kind: str):  # type: ignore[no-untyped-def]
        self.saves += 1
        Path(self.settings.models_dir, f"saved-{kind}-{self.saves}").touch()
        return super()._save(kind)

    def _one_step(self):  # type: ignore[no-untyped-def]
        Path(self.settings.models_dir, "step-begun").touch()
        return super()._one_step()


def main() -> int:
    """`python -m tests.tui.terminal_app FOLDER STEP_S [fail|deaf]`."""
    folder, step_s, *rest = sys.argv[1:]
    settings = fake_settings(folder)
    opener = FakeOpen(step_s=float(step_s))

    def open_run(request, progress):  # type: ignore[no-untyped-def]
        opener(request, progress)
        return NotingTrainer(request, step_s=float(step_s))

    class App(gpt_tui.app.app.GptApp):
        def __init__(self, *arguments, **options):  # type: ignore[no-untyped-def]
            super().__init__(*arguments, **(options | {"open_run": open_run}), make=fake_generator())

        def on_mount(self) -> None:
            super().on_mount()
            if rest == ["deaf"]:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)

        def drain(self) -> None:
            super().drain()
            if rest == ["fail"] and self.controller.run.step > 20:
                raise ZeroDivisionError("a widget fell over")

    gpt_tui.app.app.GptApp = App  # type: ignore[misc]
    return gpt_tui.app.launch.run_app(RunRequest(settings, "nano"), autostart=True)


if __name__ == "__main__":
    raise SystemExit(main())
