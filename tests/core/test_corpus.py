import os
from pathlib import Path

import pytest

import gpt_core
from gpt_core.errors import CorpusError
from gpt_core.text import corpus
from gpt_core.text.corpus import find_eval_text, find_training_text, is_shipped_text, require_text, sample_windows

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
