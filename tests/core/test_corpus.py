import os
from pathlib import Path

import pytest

import gpt_core
from gpt_core.config.settings import Settings
from gpt_core.errors import CorpusError
from gpt_core.text import corpus
from gpt_core.text.corpus import (
    find_eval_text,
    find_training_text,
    is_shipped_text,
    require_text,
    unused_texts_note,
)
from gpt_core.text.reader import sample_windows
from gpt_core.text.source import text_source
from gpt_core.training.setup import text_sources

SHIPPED = Path(gpt_core.__file__).parent.parent / "data"


def file(path, data=b"text"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def refusal(function, *arguments):
    with pytest.raises(CorpusError) as caught:
        list(function(*arguments))
    message = str(caught.value)
    assert message.isprintable(), "an error is one line"
    return message


def test_a_large_text_is_sampled_at_regular_intervals(tmp_path):
    data = b"".join(bytes([number]) * (1 << 20) for number in range(9))
    path = file(tmp_path / "t", data)
    windows = [b"".join(window) for window in sample_windows(path, 3 << 20)]
    assert [window[:1] + window[-1:] for window in windows] == [b"\0\0", b"\4\4", b"\x08\x08"]
    assert [b"".join(window) for window in sample_windows(path, 9 << 20)] == [data]
    assert "No such file" in refusal(lambda: [list(window) for window in sample_windows(tmp_path / "no", 1)])


def test_the_training_text_is_found_in_documented_order(tmp_path):
    deep = file(tmp_path / "data" / "b" / "train.en")
    assert find_training_text(tmp_path) == deep
    nearer = file(tmp_path / "data" / "a" / "z" / "train.eng")
    file(tmp_path / "data" / "a" / "other.en")
    assert find_training_text(tmp_path) == nearer
    raw_eng = file(tmp_path / "data" / "raw" / "train.eng")
    assert find_training_text(tmp_path) == raw_eng
    raw = file(tmp_path / "data" / "raw" / "train.en")
    assert find_training_text(tmp_path) == raw


def test_a_folder_named_like_the_training_text_is_skipped(tmp_path):
    (tmp_path / "data" / "raw" / "train.en").mkdir(parents=True)
    inside = file(tmp_path / "data" / "raw" / "train.en" / "train.en")
    assert find_training_text(tmp_path) == inside


def test_the_shipped_texts_are_used_where_there_is_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_training_text() == SHIPPED / "raw" / "train.en"
    assert find_eval_text() == SHIPPED / "test" / "eval.en"


def test_an_installed_package_finds_the_text_inside_it(tmp_path, monkeypatch):
    package = file(tmp_path / "site-packages" / "gpt_core" / "__init__.py").parent
    monkeypatch.setattr(corpus, "PACKAGE", package)
    file(tmp_path / "site-packages" / "data" / "raw" / "train.en")  # some other package's
    assert "no training text" in refusal(find_training_text, tmp_path)
    train = file(package / "data" / "raw" / "train.en")
    held_out = file(package / "data" / "test" / "eval.en")
    assert find_training_text(tmp_path) == train
    assert find_eval_text(tmp_path) == held_out
    assert is_shipped_text(train)
    assert not is_shipped_text(tmp_path / "data" / "raw" / "train.en")


def test_a_clone_beside_an_installed_package_holds_copies_of_the_shipped_texts(tmp_path, monkeypatch):
    package = file(tmp_path / "site-packages" / "gpt_core" / "__init__.py").parent
    monkeypatch.setattr(corpus, "PACKAGE", package)
    clone = tmp_path / "clone"
    for folder in (package, clone):
        train = file(folder / "data" / "raw" / "train.en", b"the novels")
        held_out = file(folder / "data" / "test" / "eval.en", b"a novel")
    assert (find_training_text(clone), find_eval_text(clone)) == (train, held_out)
    assert find_eval_text(clone, file(tmp_path / "my.txt")) is None
    own = file(clone / "data" / "train.txt", b"my text")
    assert (find_training_text(clone), find_eval_text(clone)) == (own, None)
    own_eval = file(clone / "data" / "eval.txt", b"my eval text")
    assert find_eval_text(clone) == own_eval
    monkeypatch.setattr(corpus, "PACKAGE", clone / "gpt_core")  # an editable install
    file(clone / "pyproject.toml")
    assert (find_training_text(clone), find_eval_text(clone)) == (own, own_eval)
    own_eval.unlink()
    assert find_eval_text(clone) is None


def test_caches_beside_a_copy_of_the_shipped_text_are_no_unused_texts(tmp_path, monkeypatch):
    package = file(tmp_path / "site-packages" / "gpt_core" / "__init__.py").parent
    monkeypatch.setattr(corpus, "PACKAGE", package)
    for folder in (package, tmp_path):
        train = file(folder / "data" / "raw" / "train.en", b"the novels")
    file(tmp_path / "data" / "raw" / "train.en.baselines-0123456789ab", b"{}")
    assert unused_texts_note(train, tmp_path) == ""


def test_the_bundled_eval_text_belongs_to_the_folder_of_the_bundled_training_text(monkeypatch):
    monkeypatch.chdir(SHIPPED.parent)
    for name in ("data/raw", "data/raw/train.en", "data/raw/*.en"):
        _, held_out = text_sources(Settings(train_file=name))
        assert held_out is not None
        assert held_out.files == (Path("data/test/eval.en"),)


def test_the_shipped_eval_text_is_not_used_with_another_training_text(tmp_path):
    own = file(tmp_path / "data" / "raw" / "train.en")
    assert find_eval_text(tmp_path) is None
    assert find_eval_text(tmp_path, own) is None
    elsewhere = file(tmp_path / "elsewhere.txt")
    assert find_eval_text(SHIPPED.parent, elsewhere) is None
    assert find_eval_text(SHIPPED.parent) == SHIPPED / "test" / "eval.en"


def test_the_eval_text_is_found_in_documented_order(tmp_path):
    train = file(tmp_path / "data" / "raw" / "train.en")
    file(tmp_path / "data" / "evaluation.txt")
    late = file(tmp_path / "data" / "z" / "my-eval-2.en")
    assert find_eval_text(tmp_path, train) == late
    early = file(tmp_path / "data" / "b" / "eval.en")
    assert find_eval_text(tmp_path, train) == early
    test = file(tmp_path / "data" / "test" / "eval.en")
    assert find_eval_text(tmp_path, train) == test


def test_the_training_text_is_not_its_own_eval_text(tmp_path):
    only = file(tmp_path / "data" / "raw" / "my-eval.en")
    assert find_eval_text(tmp_path, only) is None


def test_require_text_does_not_open_the_file(tmp_path, monkeypatch):
    text = tmp_path / "text"
    text.write_bytes(b"It was")
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr("builtins.open", lambda *_: pytest.fail("it was opened"))
    require_text(text)
    for name, said in (("none", "No such file"), (".", "it is a folder"), ("fifo", "not a regular file")):
        with pytest.raises(CorpusError, match=f"cannot read the text .*{said}.*; name a text file"):
            require_text(tmp_path / name)


def test_train_txt_and_input_txt_are_taken_where_there_is_no_train_en(tmp_path):
    data = tmp_path / "data"
    deep = file(data / "a" / "input.txt")
    assert find_training_text(tmp_path) == deep
    raw_input = file(data / "raw" / "input.txt")
    assert find_training_text(tmp_path) == raw_input
    raw = file(data / "raw" / "train.txt")
    assert find_training_text(tmp_path) == raw
    assert find_eval_text(tmp_path) is None
    held_out = file(data / "val.txt")
    assert find_eval_text(tmp_path) == held_out
    english = file(data / "z" / "train.en")
    assert find_training_text(tmp_path) == english


def test_links_to_folders_are_followed_once(tmp_path):
    real = file(tmp_path / "texts" / "train.txt")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").symlink_to(tmp_path / "texts")
    (tmp_path / "texts" / "back").symlink_to(tmp_path / "data")
    assert find_training_text(tmp_path) == tmp_path / "data" / "mine" / "train.txt"
    assert find_training_text(tmp_path).resolve() == real
    (tmp_path / "data" / "mine").unlink()
    (tmp_path / "data").rmdir()
    (tmp_path / "data").symlink_to(tmp_path / "texts")
    assert find_training_text(tmp_path) == tmp_path / "data" / "train.txt"


@pytest.mark.parametrize("name", ["data", "data/raw", "data/raw/train.en", "data/train.txt", "data/other.txt"])
def test_a_broken_link_is_an_error_that_names_its_target(tmp_path, name):
    link = tmp_path / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("/nowhere/text")
    assert refusal(find_training_text, tmp_path) == (
        f"{link} is a broken link to /nowhere/text; repair or remove it, or name a text with --train-file"
    )


def test_a_broken_link_that_is_not_needed_is_ignored_but_not_as_an_eval_text(tmp_path):
    train = file(tmp_path / "data" / "raw" / "train.en")
    (tmp_path / "data" / "other").symlink_to("/nowhere/text")
    assert find_training_text(tmp_path) == train
    assert find_eval_text(tmp_path, train) is None
    (tmp_path / "data" / "eval.en").symlink_to("/nowhere/text")
    assert "eval.en is a broken link" in refusal(lambda: [find_eval_text(tmp_path, train)])


def test_an_unreadable_folder_is_an_error_where_no_text_is_found(tmp_path, monkeypatch):
    hidden = file(tmp_path / "data" / "raw" / "train.en").parent
    scan = os.scandir

    def scandir(path):
        if os.fspath(path) == str(hidden):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os.path, "isfile", lambda path: not str(path).startswith(str(hidden)))
    assert f"{hidden} cannot be read: Permission denied" in refusal(find_training_text, tmp_path)


def test_texts_under_data_that_are_not_used_are_named_with_the_setting(tmp_path):
    shipped = SHIPPED / "raw" / "train.en"
    assert unused_texts_note(shipped, tmp_path) == ""
    for name, data in (("README.md", b"x"), ("my-eval.txt", b"x"), (".hidden", b"x"), ("empty", b""), ("b", b"\0" * 9)):
        file(tmp_path / "data" / name, data)
    assert unused_texts_note(shipped, tmp_path) == ""
    text = file(tmp_path / "data" / "my book.txt")
    note = unused_texts_note(shipped, tmp_path)
    assert note.startswith(f"{tmp_path / 'data'}/ has my book.txt, but not named train.en, train.txt, input.txt: ")
    assert note.endswith(f"set train_file='{text}'")
    file(tmp_path / "data" / "z" / "second.txt")
    assert "has my book.txt and 1 more, but" in unused_texts_note(shipped, tmp_path)
    assert unused_texts_note(text, tmp_path) == ""


def test_the_shipped_texts_are_not_unused_texts():
    assert unused_texts_note(SHIPPED / "raw" / "train.en", SHIPPED.parent) == ""


@pytest.mark.parametrize(
    "suffix", [".jsonl", ".ndjson", ".csv", ".tsv.gz", ".parquet", ".md", ".txt.gz", ".en.gz", ".jsonl.zst"]
)
def test_texts_of_other_kinds_are_taken_where_there_is_no_plain_one(tmp_path, suffix):
    data = tmp_path / "data"
    other = file(data / "a" / f"train{suffix}")
    held_out = file(data / "a" / f"validation{suffix}")
    assert find_training_text(tmp_path) == other
    assert find_eval_text(tmp_path, other) == held_out
    plain = file(data / "z" / "input.txt")
    assert find_training_text(tmp_path) == plain


def test_numbered_files_are_taken_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "other-0-of-1"):
        file(tmp_path / "data" / "en [1]" / f"{name}.parquet")
    train = text_source(find_training_text())
    assert [path.name for path in train.files] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    held_out = find_eval_text(None, train.cache_path)
    assert [path.name for path in text_source(held_out).files] == ["validation-00000-of-00001.parquet"]


def test_a_folder_named_train_is_taken_where_there_is_no_file_of_that_name(tmp_path):
    file(tmp_path / "data" / "train" / "b.txt")
    file(tmp_path / "data" / "val" / "c.txt")
    assert find_training_text(tmp_path) == tmp_path / "data" / "train"
    assert find_eval_text(tmp_path, tmp_path / "data" / "train") == tmp_path / "data" / "val"
    (tmp_path / "data" / "val" / "c.txt").unlink()
    assert find_eval_text(tmp_path, tmp_path / "data" / "train") is None
    other = file(tmp_path / "data" / "train.md")
    assert find_training_text(tmp_path) == other


def test_files_that_are_no_texts_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train.bin", "train.py", "trained.txt.gz", "train.parquet.gz"):
        file(tmp_path / "data" / name, b"\0" * 99)
    assert find_training_text() == SHIPPED / "raw" / "train.en"
