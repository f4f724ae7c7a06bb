"""Names of models folders beside each other."""

from itertools import islice
from pathlib import Path

import pytest

from gpt_core.checkpoints.folders import next_free_folder, numbered_folders


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("models", ["models", "models-2", "models-3"]),
        ("a/models-9", ["a/models-9", "a/models-10", "a/models-11"]),
        ("run-a", ["run-a", "run-a-2", "run-a-3"]),
        ("-2", ["-2", "-3", "-4"]),
        (".", ["run", "run-2", "run-3"]),
        ("..", ["../run", "../run-2", "../run-3"]),
        ("a\nb", ["a\nb", "a\nb-2", "a\nb-3"]),
    ],
)
def test_folders_are_numbered_from_two(folder: str, names: list[str]):
    assert [str(path) for path in islice(numbered_folders(folder), 3)] == names


def test_the_next_free_folder_has_nothing_at_its_path(tmp_path: Path):
    assert next_free_folder(tmp_path / "models") == tmp_path / "models-2"
    (tmp_path / "models-2").mkdir()
    (tmp_path / "models-3").write_text("mine")
    (tmp_path / "models-4").symlink_to(tmp_path / "nowhere")
    assert next_free_folder(tmp_path / "models") == tmp_path / "models-5"
    assert next_free_folder(tmp_path / "models-3") == tmp_path / "models-5"
