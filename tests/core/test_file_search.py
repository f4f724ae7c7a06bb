"""Files of a text: single files, folders, patterns and several of them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gpt_core.config.validation import names_title
from gpt_core.errors import CorpusError
from gpt_core.text import file_search
from gpt_core.text.source import TextSource, text_source


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `texts` in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/deep/d.md", "a b/[1].txt", ".hidden/e.txt", ".f.txt"):
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Text of {name}.\n")
    (tmp_path / "texts" / "a.txt.tokens-0123456789ab").write_bytes(b"cache")
    (tmp_path / "texts" / "a.txt.pieces-0123456789ab").write_bytes(b"cache")
    (tmp_path / "texts" / "unfinished.tokens-1-0123456789ab").write_bytes(b"cache")
    return tmp_path / "texts"


def names(*given: str) -> list[str]:
    return [path.as_posix() for path in text_source(given).files]


def refusal(*given: str) -> str:
    with pytest.raises(CorpusError) as caught:
        text_source(given)
    assert str(caught.value).isprintable(), "an error is one line"
    return str(caught.value)


ALL = ["texts/a b/[1].txt", "texts/a.txt", "texts/b.txt", "texts/sub/c.txt", "texts/sub/deep/d.md"]


def test_a_folder_is_all_files_below_it_by_name_without_hidden_ones_and_caches(folder: Path) -> None:
    assert names("texts") == names("texts/") == ALL
    assert names(str(folder)) == [str(folder.parent / name) for name in ALL]


def test_what_runs_write_into_a_folder_is_left_out(folder: Path) -> None:
    (folder / "sub" / "metrics.jsonl").write_bytes(b'{"event":"started","step":0}\n')
    (folder / "sub" / "metrics.previous.jsonl").write_bytes(b"")
    (folder / "sub" / "my choice.safetensors").write_bytes(bytes(8) + b'{"__metadata__":{"header_sha256":"0')
    (folder / "race.json").write_bytes(b'{\n "requested": {\n}}')
    assert names("texts") == names("texts/**") == ALL
    assert names("texts/sub/metrics.jsonl") == ["texts/sub/metrics.jsonl"]


def test_texts_with_the_names_of_files_of_a_run_are_found(folder: Path) -> None:
    (folder / "metrics.jsonl").write_bytes(b'{"text": "event"}\n')
    (folder / "race.json").write_bytes(b'{"text": "event"}\n')
    (folder / "z.safetensors").write_bytes(b"text")
    assert set(names("texts")) == {*ALL, *(f"texts/{name}" for name in ("metrics.jsonl", "race.json", "z.safetensors"))}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("texts/*.txt", ["texts/a.txt", "texts/b.txt"]), ("texts/**/*.txt", ALL[:4]), ("texts/**", ALL),
        ("texts/**/*", ALL), ("texts/s*", ALL[3:]), ("texts/*/c.txt", ["texts/sub/c.txt"]), ("**/d.*", [ALL[4]]),
        ("texts/[ab].txt", ["texts/a.txt", "texts/b.txt"]), ("texts/?.txt", ["texts/a.txt", "texts/b.txt"]),
        ("texts/.f*", ["texts/.f.txt"]), ("texts/a b/[1].txt", ["texts/a b/[1].txt"]),
    ],
)  # fmt: skip
def test_a_pattern_is_the_files_that_match_by_name(folder: Path, pattern: str, expected: list[str]) -> None:
    assert names(pattern) == expected


def test_several_names_keep_their_order_and_each_file_is_taken_once(folder: Path) -> None:
    (folder / "link.txt").symlink_to("b.txt")
    assert names("texts/b.txt", "texts/*.txt", "texts/sub") == ["texts/b.txt", "texts/a.txt", *ALL[3:]]


def test_links_are_followed_and_a_cycle_ends(folder: Path) -> None:
    other = folder.parent / "elsewhere"
    other.mkdir()
    (other / "z.txt").write_text("z")
    (folder / "link").symlink_to(other)
    (folder / "sub" / "up").symlink_to(folder)
    (other / "back").symlink_to(folder)
    assert names("texts") == [*ALL[:3], "texts/link/z.txt", *ALL[3:]]
    assert set(names("texts/**/z.txt")) == {"texts/link/z.txt"}
    assert len(names("texts/**/*.txt")) == 5


def test_names_that_stand_for_nothing_are_refused(folder: Path) -> None:
    (folder.parent / "empty").mkdir()
    assert "cannot read the text nowhere.txt: No such file" in refusal("nowhere.txt")
    assert refusal("empty") == "the folder empty has no text files; put some there, or name another folder"
    assert refusal("texts/*.csv").startswith("no file matches 'texts/*.csv'")
    assert "no file matches" in refusal("nowhere/**/*.txt")
    assert "empty list" in refusal()
    (folder / "broken.txt").symlink_to("nowhere")
    assert "texts/broken.txt is a broken link to nowhere" in refusal("texts")
    (folder / "broken.txt").unlink()
    os.mkfifo(folder / "fifo.txt")
    assert "not a regular file" in refusal("texts")


def test_too_many_files_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_search, "MAX_FILES", 3)
    assert "texts: got more than 3 files" in refusal("texts")


def test_a_source_is_named_and_cached_as_one_expects(folder: Path) -> None:
    def place(*given: str) -> tuple[str, str, str]:
        source: TextSource = text_source(given)
        return source.name, source.title, source.cache_path.as_posix()

    assert place("texts/a.txt") == ("texts/a.txt", "a.txt", "texts/a.txt")
    assert place("texts/") == ("texts/", "texts", "texts/texts")
    several = [place("texts/*.txt"), place("texts/b.txt", "texts/a.txt"), place("texts/a.txt", "texts/b.txt")]
    assert several[0][:2] == ("texts/*.txt", "*.txt")
    assert several[1][:2] == ("texts/b.txt and 1 more", "b.txt and 1 more")
    for *_, cache_path in several:
        assert re.fullmatch(r"texts/texts\+[0-9a-f]{8}", cache_path)
    assert len({cache_path for *_, cache_path in several}) == 3
    os.chdir(folder / "sub")
    assert place(".")[2] == "sub"
    assert Path(place("../*.txt")[2]).resolve() == folder.parent / several[0][2]


def test_a_text_that_is_given_twice_is_named_as_given_once(folder: Path) -> None:
    (folder / "link.txt").symlink_to("a.txt")
    a = text_source("texts/a.txt")
    for given in (["texts/a.txt"] * 2, ["texts/a.txt", "./texts/../texts/a.txt"], ["texts/a.txt", "texts/link.txt"]):
        assert text_source(given) == a
    (folder / "link.txt").unlink()
    assert text_source(["texts", "texts/"]) == text_source("texts")
    assert text_source(["texts/b.txt", "texts/a.txt", "texts/b.txt"]).name == "texts/b.txt and 1 more"
    assert names_title(["texts/a.txt", "texts/a.txt"]) == names_title("texts/a.txt") == "a.txt"


def test_eval_files_inside_a_training_folder_are_not_trained_on(folder: Path) -> None:
    train, held_out = text_source("texts"), text_source("texts/b.txt")
    assert [path.as_posix() for path in train.without(held_out).files] == [ALL[0], ALL[1], *ALL[3:]]
    assert held_out.without(held_out) == held_out
