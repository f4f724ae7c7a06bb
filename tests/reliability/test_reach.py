"""Side effects of a run: no pickle, no code from files, only documented files, no symbolic links.

Only `gpt-tui serve` uses a network, the loopback one, and the ranks of a run that `mpiexec` has started.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_core.formats.checkpoint import verify_checkpoint
from tests.program import ROOT, TIMEOUT_S, environment
from tests.reliability.runs import LATEST, needs_strace, require_one_line, run_process, run_to_completion, training

pytestmark = pytest.mark.slow

UNWANTED_MODULES = {"pickle", "marshal", "shelve", "dill", "joblib", "socket", "urllib", "http", "requests", "ssl"}
WITHOUT_NETWORK = {"urllib.parse"}
SERVER = ROOT / "gpt_tui" / "browser"  # `gpt-tui serve`, which listens on a loopback address only
RANKS = ROOT / "gpt_core" / "distributed"  # imported by processes that `mpiexec` has started only
UNWANTED_CALLS = {"eval", "exec", "compile", "__import__"}
# runs the program and prints its audit events (sys.addaudithook) from the first training event on
WATCHED = """
import json, sys
seen = []
def hook(event, arguments):
    if event.startswith(("socket.", "pickle.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "urllib.")):
        seen.append(event)
    elif event == "open" and isinstance(arguments[0], str) and arguments[2] & 0o3:
        seen.append("wrote " + str(arguments[0]))
sys.addaudithook(hook)
from gpt_tui.cli.main import main
code = main(sys.argv[1:])
print(json.dumps(seen), file=sys.stderr)
sys.exit(code)
"""


def sources() -> list[Path]:
    return [path for package in ("gpt_core", "gpt_tui") for path in sorted((ROOT / package).rglob("*.py"))]


def test_only_the_server_and_the_ranks_of_a_run_import_a_network_and_no_source_pickle_or_code_from_text() -> None:
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported: list[str] = []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported = [node.module or ""]
            names = {name.split(".")[0] for name in imported if name not in WITHOUT_NETWORK}
            unwanted = names & UNWANTED_MODULES
            if {SERVER, RANKS} & set(path.parents):
                unwanted -= {"socket"}
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                unwanted |= {node.func.id} & UNWANTED_CALLS
            if isinstance(node, ast.Attribute):
                whose = node.value.id if isinstance(node.value, ast.Name) else ""
                unwanted |= {f"{whose}.{node.attr}"} & {"np.load", "numpy.load", "np.save", "os.system", "os.popen"}
            found += [(path.name, node.lineno, name) for name in unwanted]
    assert found == []
    assert len(sources()) > 50


def test_training_and_generating_open_no_socket_unpickle_nothing_and_write_only_documented_files(folder: Path) -> None:
    written = set()
    options = training("save_every_steps=2", "save_epoch_number=1")
    for arguments in ([*options, "--max-steps", "50"], ["generate", "It was"], ["evaluate"], ["verify", str(LATEST)]):
        run = subprocess.run(
            [sys.executable, "-c", WATCHED, *arguments], cwd=folder, env=environment(), capture_output=True,
            stdin=subprocess.DEVNULL, timeout=TIMEOUT_S, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        seen = json.loads(run.stderr.splitlines()[-1])
        assert [what for what in seen if not what.startswith("wrote ")] == []
        written |= {what.removeprefix("wrote ") for what in seen}
    places = {os.path.relpath(os.path.dirname(os.path.join(folder, path)), folder) for path in written}
    assert places <= {"models", "data/raw", "data/test"}
    assert "models" in places


def test_a_run_makes_no_network_call(folder: Path) -> None:
    calls = folder / "calls.txt"
    before = (needs_strace(), "-f", "-o", str(calls), "-e", "trace=%network")
    run = run_process(*training(), "--max-steps", "3", cwd=folder, before=before)
    assert run.code == 0, run.errors
    made = [line for line in calls.read_text().splitlines() if "+++" not in line and "---" not in line]
    assert made == []


def test_a_run_works_without_any_network(folder: Path) -> None:
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces cannot be made here")
    run = run_process(*training(), "--max-steps", "3", cwd=folder, before=(unshare, "-n"))
    assert run.code == 0, run.errors


@pytest.mark.skipif(os.name == "nt", reason="umask")
@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
def test_files_are_created_with_the_mode_of_the_umask(folder: Path, mask: int, mode: int) -> None:
    old = os.umask(mask)
    try:
        run = run_to_completion(*training(), "--max-steps", "50", cwd=folder)
    finally:
        os.umask(old)
    assert run.code == 0, run.errors
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder / "models").iterdir()}
    assert set(modes) >= {"ckpt_latest.safetensors", "best_model.safetensors", "metrics.jsonl", ".lock"}
    assert set(modes.values()) == {mode}


@pytest.mark.parametrize("name", ["ckpt_latest.safetensors", "best_model.safetensors", "metrics.jsonl", ".lock"])
@pytest.mark.parametrize("how", ["new run", "resume"])
def test_nothing_is_written_through_a_planted_symbolic_link(folder: Path, name: str, how: str) -> None:
    victim = folder / "victim"
    victim.write_text("precious")
    planted = folder / "models" / name
    planted.parent.mkdir()
    settings = training("save_every_steps=1")
    if how == "resume":
        first = run_to_completion(*settings, "--max-steps", "5", cwd=folder)
        assert first.code == 0, first.errors
        settings.append("--resume")
    planted.unlink(missing_ok=True)
    planted.symlink_to(victim)
    run = run_to_completion(*settings, "--max-steps", "60", cwd=folder)
    assert victim.read_text() == "precious"
    assert run.code in (0, 2), run.errors
    if run.code:
        require_one_line_at_the_end(run.errors)
    else:
        verify_checkpoint(folder / LATEST)


def require_one_line_at_the_end(errors: str) -> None:
    """Check that the run was refused with one line of error."""
    assert errors.splitlines()[-1].startswith("gpt-tui: ")
    assert "Traceback" not in errors


def test_code_in_a_config_file_is_not_run(folder: Path) -> None:
    (folder / "config.toml").write_text("train_file = \"__import__('os').system('touch owned')\"\n")
    run = run_to_completion(*training(), "--config", "config.toml", cwd=folder)
    require_one_line(run, 2, "__import__")
    assert (
        run_to_completion("--train-only", "--set", "seed=__import__('os').system('touch owned')", cwd=folder).code == 2
    )
    assert not (folder / "owned").exists()
