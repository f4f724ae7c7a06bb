import errno
import hashlib
import json
import math
import os
import random
import time
import tracemalloc

import msgspec
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file

from gpt_core import files
from gpt_core.config.settings import SIZES, Settings
from gpt_core.errors import CheckpointError, SaveError
from gpt_core.formats import checkpoint as checkpoint_module
from gpt_core.formats import safetensors as codec
from gpt_core.formats.checkpoint import (
    TrainingState,
    checkpoint_bytes,
    peek_checkpoint,
    read_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)
from gpt_core.formats.checkpoint_header import Contents, checkpoint_layout, encode_header, saved_state
from gpt_core.formats.safetensors import MAX_HEADER_BYTES
from tests.core.checkpoint_samples import SETTINGS, all_tensors, forged, same_bits, sample, split

SECONDS, BYTES = 0.1, 2 << 20  # that a refusal may take, besides reading


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ckpt_latest.safetensors"


@pytest.fixture
def valid(path):
    """The bytes of a valid file, written to `path`."""
    write_checkpoint(path, sample())
    return path.read_bytes()


def rejected(path, *, memory=BYTES):
    """Return the message with which every reader rejects the file, in little time and memory."""
    messages = set()
    for reader in (verify_checkpoint, read_checkpoint):
        tracemalloc.start()
        start = time.thread_time()  # of the processor, which a busy machine does not change
        try:
            with pytest.raises(CheckpointError) as caught:
                reader(path)
            seconds, peak = time.thread_time() - start, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert seconds < SECONDS * 5, "tracing makes Python several times slower"
        assert peak < memory
        messages.add(str(caught.value))
    assert len(messages) == 1
    message = messages.pop()
    assert str(path) in message
    assert message.isprintable(), "an error is one line"
    return message


@pytest.mark.parametrize("optimizer_state", [True, False])
def test_what_is_written_is_read_back_to_the_bit(path, optimizer_state):
    written = sample(
        optimizer_state=optimizer_state, random_state='{"state": 1}', best_accuracy=0.1 + 0.7, finished="stopped"
    )
    write_checkpoint(path, written, saved_at=123.456)
    read = read_checkpoint(path)
    assert read[:5] == written[:5]
    assert same_bits(read.parameters, written.parameters)
    assert read.path == path
    if optimizer_state:
        assert list(read.optimizer_state) == list(written.optimizer_state)
        assert all(
            same_bits(read.optimizer_state[name], written.optimizer_state[name]) for name in ("adam_m", "adam_v")
        )
    else:
        assert read.optimizer_state is None
    assert verify_checkpoint(path) == peek_checkpoint(path)


@pytest.mark.parametrize("shape", [(1, 1, 260, 1, 2, 1), (6, 5, 261, 3, 3, 3), (16, 64, 300, 4, 9, 1)])
def test_shapes_that_are_no_multiples_of_a_cache_line_survive(path, shape):
    settings = Settings(**dict(zip(SIZES, shape, strict=True)))
    written = sample(settings)
    write_checkpoint(path, written)
    assert same_bits(read_checkpoint(path).parameters, written.parameters)


def test_tensors_larger_than_a_chunk_are_read_completely_and_verified_to_the_last_bit(path, monkeypatch):
    written = sample()
    monkeypatch.setattr(codec, "CHUNK_BYTES", 64)
    write_checkpoint(path, written)
    assert same_bits(read_checkpoint(path).optimizer_state["adam_v"], written.optimizer_state["adam_v"])
    monkeypatch.undo()
    assert verify_checkpoint(path).step == 7
    data = bytearray(path.read_bytes())
    data[-len(written.tokenizer) - 1] ^= 1  # the last value of the optimizer state
    path.write_bytes(data)
    monkeypatch.setattr(codec, "CHUNK_BYTES", 64)
    assert "checksum" in rejected(path)


def test_random_floats_of_the_state_survive_to_the_bit(path):
    draw = random.Random(0)
    for _ in range(50):
        number = draw.uniform(0, 1) * 10.0 ** draw.randint(-300, 300)
        write_checkpoint(path, sample(loss_sum=number))
        assert peek_checkpoint(path).state.loss_sum == number


def test_the_header_alone_describes_a_checkpoint(path):
    before_s = time.time()
    write_checkpoint(path, sample())
    valid = path.read_bytes()
    data_start = len(valid) - len(split(valid)[1])
    info = peek_checkpoint(path)
    assert (info.kind, info.step, info.epoch, info.run_id, info.size) == ("latest", 7, 1, "run-a", len(valid))
    assert (info.settings, info.preset, info.has_optimizer_state, info.corpus_sha256) == (
        SETTINGS,
        "custom",
        True,
        "0123abcd",
    )
    assert info.tokenizer_sha256 == hashlib.sha256(b"some pieces").hexdigest()
    assert before_s <= info.saved_at <= time.time()
    path.write_bytes(valid[:data_start] + bytes(len(valid) - data_start))
    assert peek_checkpoint(path) == info


def test_chat_needs_no_optimizer_state_and_does_not_read_it(path, valid):
    data = bytearray(valid)
    data[-len(b"some pieces") - 1] ^= 1
    path.write_bytes(data)
    read = read_checkpoint(path, optimizer_state=False)
    assert read.optimizer_state is None
    assert same_bits(read.parameters, sample().parameters)
    assert verify_checkpoint(path, optimizer_state=False).step == 7
    assert "adam_v" in rejected(path)


def test_any_safetensors_reader_finds_the_weights_under_gpt2_names(path):
    written = sample()
    write_checkpoint(path, written)
    tensors = load_file(path)
    for name, tensor in written.parameters.tensors.items():
        assert np.array_equal(tensors[name], tensor)
        assert np.array_equal(tensors["adam_m." + name], written.optimizer_state["adam_m"][name])
    assert tensors["h.1.attn.c_attn.weight"].shape == (8, 24)
    assert tensors["tokenizer"].tobytes() == b"some pieces"
    with safetensors.safe_open(path, "np") as file:
        assert json.loads(file.metadata()["settings"])["d_model"] == 8
        assert file.metadata()["format"] == "pt"


def test_the_estimated_size_is_that_of_the_file(path, valid):
    assert checkpoint_bytes(SETTINGS) == pytest.approx(len(valid), abs=1.5e5)


def test_the_mode_of_a_file_is_what_the_umask_leaves(path):
    old = os.umask(0o027)
    try:
        write_checkpoint(path, sample())
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_saving_never_writes_through_a_planted_link(path, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    path.symlink_to(victim)
    write_checkpoint(path, sample())
    assert victim.read_bytes() == b"precious"
    assert not path.is_symlink()
    assert verify_checkpoint(path).step == 7


def test_saving_never_writes_to_a_planted_temporary_file(path, tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    monkeypatch.setattr("secrets.token_hex", lambda _: "0" * 16)
    planted = tmp_path / f".{path.name}.{'0' * 16}.new"
    planted.symlink_to(victim)
    with pytest.raises(SaveError, match="File exists"):
        write_checkpoint(path, sample())
    assert victim.read_bytes() == b"precious"
    assert not path.exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", range(3))
def test_a_checkpoint_with_values_that_are_not_finite_is_not_saved(path, valid, where, value):
    written = sample()
    list(all_tensors(written).values())[where]["ln_f.bias"][3] = value
    with pytest.raises(SaveError, match=r"ln_f\.bias holds values that are not finite"):
        write_checkpoint(path, written)
    assert path.read_bytes() == valid
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    "state", [{"loss_sum": math.nan}, {"best_accuracy": -math.inf}, {"run_id": "\udcff"}, {"step": -1}, {"run_id": ""}]
)
def test_a_state_that_cannot_be_read_back_is_not_saved(path, valid, state):
    with pytest.raises(SaveError, match="unchanged"):
        write_checkpoint(path, sample(**state))
    assert path.read_bytes() == valid


def test_tensors_of_another_shape_than_the_settings_are_not_saved(path):
    with pytest.raises(SaveError, match="another shape"):
        write_checkpoint(path, sample()._replace(settings=msgspec.structs.replace(SETTINGS, layers=3)))
    assert not path.exists()


def test_a_failed_save_names_the_previous_file_only_if_there_is_one(path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", full)
        with pytest.raises(SaveError) as first:
            write_checkpoint(path, sample())
    write_checkpoint(path, sample())
    monkeypatch.setattr(files, "write_all", full)
    with pytest.raises(SaveError) as second:
        write_checkpoint(path, sample())
    assert str(first.value) == f"{path} was not saved: No space left on device"
    assert str(second.value) == f"{first.value}; the previous file is unchanged"


def test_saving_into_a_missing_folder_or_over_a_folder_is_a_save_error(tmp_path):
    (tmp_path / "taken.safetensors").mkdir()
    for name in ("missing/x.safetensors", "taken.safetensors", "a\0b"):
        with pytest.raises(SaveError, match="was not saved"):
            write_checkpoint(tmp_path / name, sample())
    assert os.listdir(tmp_path) == ["taken.safetensors"]


def test_a_file_truncated_anywhere_in_its_header_is_rejected(path, valid):
    header_end = len(valid) - len(split(valid)[1])
    for length in [*range(200), *range(200, header_end, 37), header_end - 1, header_end]:
        path.write_bytes(valid[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            verify_checkpoint(path)
    for length in (0, 7, 8, header_end):
        path.write_bytes(valid[:length])
        rejected(path)


def test_a_file_truncated_anywhere_else_or_too_long_is_rejected(path, valid):
    draw = random.Random(1)
    for length in [draw.randrange(len(valid)) for _ in range(300)] + [len(valid) - 1]:
        path.write_bytes(valid[:length])
        with pytest.raises(CheckpointError):
            peek_checkpoint(path)
    path.write_bytes(valid + b"\0")
    assert f"got {len(valid) + 1:,} bytes, expected {len(valid):,}" in rejected(path)


def test_a_file_truncated_while_it_is_read_is_rejected(path, valid, monkeypatch):
    def cut_and_read_header(file, name):
        header = read_header(file, name)
        os.truncate(path, len(valid) // 2)
        return header

    read_header = checkpoint_module.read_header
    monkeypatch.setattr(checkpoint_module, "read_header", cut_and_read_header)
    with pytest.raises(CheckpointError, match="truncated while it was read"):
        read_checkpoint(path)


def test_every_flipped_bit_is_found(path, valid):
    draw = random.Random(2)
    header_end = len(valid) - len(split(valid)[1])
    places = [*range(0, 120), *draw.sample(range(header_end), 500), *draw.sample(range(header_end, len(valid)), 500)]
    places += range(len(valid) - 12, len(valid))
    with open(path, "r+b", buffering=0) as file:
        for place in places:
            bit = 1 << draw.randrange(8)
            os.pwrite(file.fileno(), bytes([valid[place] ^ bit]), place)
            with pytest.raises(CheckpointError):
                verify_checkpoint(path)
            os.pwrite(file.fileno(), valid[place : place + 1], place)
    assert verify_checkpoint(path).step == 7


def test_upper_case_digits_in_the_checksum_are_rejected(path, valid):
    place = next(i for i in range(42, 106) if valid[i : i + 1].isalpha())
    path.write_bytes(valid[:place] + valid[place : place + 1].upper() + valid[place + 1 :])
    assert "checksum" in rejected(path)


@pytest.mark.parametrize("length", [0, 1, 1 << 24, 1 << 31, 1 << 62, (1 << 64) - 1])
def test_a_wrong_header_length_is_rejected(path, valid, length):
    path.write_bytes(length.to_bytes(8, "little") + valid[8:])
    rejected(path)


def test_a_huge_header_is_rejected_before_it_is_read(path, valid):
    with open(path, "wb") as file:  # a gigabyte that takes no room on disk
        file.write((1 << 30).to_bytes(8, "little") + valid[8:60])
        file.truncate(2 << 30)
    assert f"at most {MAX_HEADER_BYTES:,}" in rejected(path)


def tensors_changed(change):
    def forge(header):
        change(header)
        return header

    return forge


def metadata_changed(key, change):
    def forge(header):
        part = json.loads(header["__metadata__"][key])
        change(part)
        header["__metadata__"][key] = json.dumps(part)
        return header

    return forge


FORGERIES = {
    "negative shape": tensors_changed(lambda h: h["wte.weight"].update(shape=[-260, -8])),
    "zero shape": tensors_changed(lambda h: h["wte.weight"].update(shape=[0, 8])),
    "enormous shape": tensors_changed(lambda h: h["wte.weight"].update(shape=[1 << 40, 1 << 40])),
    "shape beyond 64 bits": tensors_changed(lambda h: h["wte.weight"].update(shape=[10**30])),
    "endless shape": tensors_changed(lambda h: h["wte.weight"].update(shape=[1] * 10_000)),
    "overlapping tensors": tensors_changed(lambda h: h["wpe.weight"].update(data_offsets=[0, 128])),
    "swapped tensors": tensors_changed(lambda h: h.update({"h.0.ln_1.bias": h["h.0.ln_1.weight"]})),
    "offsets beyond the file": tensors_changed(lambda h: h["tokenizer"].update(data_offsets=[1 << 60, 1 << 61])),
    "negative offsets": tensors_changed(lambda h: h["tokenizer"].update(data_offsets=[-11, 0])),
    "another type of number": tensors_changed(lambda h: h["wte.weight"].update(dtype="F64")),
    "a missing tensor": tensors_changed(lambda h: h.pop("ln_f.bias")),
    "a tensor too many": tensors_changed(lambda h: h.update({"more": h["ln_f.bias"]})),
    "a tensor that is no object": tensors_changed(lambda h: h.update({"ln_f.bias": 3})),
    "metadata that is no object": tensors_changed(lambda h: h.update({"__metadata__": {"header_sha256": "0" * 64}})),
    "unknown metadata": tensors_changed(lambda h: h["__metadata__"].update(more="1")),
    "settings of another shape": metadata_changed("settings", lambda s: s.update(layers=1)),
    "settings out of range": metadata_changed("settings", lambda s: s.update(d_model=1 << 30)),
    "heads that do not divide": metadata_changed("settings", lambda s: s.update(num_heads=3)),
    "the largest settings there are": metadata_changed(
        "settings", lambda s: s.update(layers=1024, d_model=65536, vocab_size=1 << 20, num_heads=1, hidden_size=262144)
    ),
    "an unknown setting": metadata_changed("settings", lambda s: s.update(code="__import__('os')")),
    "a state without a run": metadata_changed("state", lambda s: s.pop("run_id")),
    "a negative step": metadata_changed("state", lambda s: s.update(step=-1)),
    "a step that is text": metadata_changed("state", lambda s: s.update(step="7")),
    "a missing checksum": metadata_changed("checksums", lambda s: s.pop("wte.weight")),
    "a wrong checksum": metadata_changed("checksums", lambda s: s.update({"wte.weight": "0" * 64})),
    "a huge tokenizer": metadata_changed("contents", lambda s: s.update(tokenizer_bytes=1 << 40)),
    "a negative tokenizer": metadata_changed("contents", lambda s: s.update(tokenizer_bytes=-1)),
    "an optimizer state that is not there": metadata_changed("contents", lambda s: s.update(has_moments=False)),
    "a time without end": metadata_changed("contents", lambda s: s.update(saved_at=1e300)),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_header_with_a_valid_checksum_is_rejected(path, valid, kind):
    header, tail = split(valid)
    path.write_bytes(forged(FORGERIES[kind](header), tail))
    layers = 1024 if kind == "the largest settings there are" else 2
    message = rejected(path, memory=BYTES + layers * 50_000)
    assert "damaged" in message
    assert "does not match its checksum" not in message or kind == "a wrong checksum"


@pytest.mark.parametrize(
    "text",
    [
        b'{"__metadata__":{"header_sha256":"' + b"0" * 64 + b'","x":' + b"[" * 200_000,
        b'{"__metadata__":{"header_sha256":"' + b"0" * 64 + b'"},"a":' + b'{"a":' * 200_000,
        b'{"__metadata__":{"header_sha256":"' + b"0" * 64 + b'\xff\xfe"}}',
        b'{"__metadata__":{"header_sha256":"' + b"0" * 64 + b'"}',
        b'{"__metadata__":{"header_sha256":"' + b"0" * 64 + b'"}} {}',
        b'{"__metadata__":{"header_sha256":"' + b"0" * 64,
    ],
)
def test_a_header_that_is_not_json_is_rejected(path, text):
    path.write_bytes(forged(text, b""))
    assert "is invalid" in rejected(path, memory=BYTES + 4 * len(text))


@pytest.mark.parametrize("where", ["names", "checksums"])
def test_a_header_of_a_million_names_is_rejected_before_it_is_decoded(path, valid, where):
    header, tail = split(valid)
    if where == "names":
        text = json.dumps(header, separators=(",", ":"))[:-1] + "".join(f',"{n:07x}":0' for n in range(1_000_000)) + "}"
    else:
        header["__metadata__"]["checksums"] = "{" + ",".join(f'"{n:x}":""' for n in range(1_000_000)) + "}"
        text = json.dumps(header, separators=(",", ":"))
    path.write_bytes(forged(text.encode(), tail))
    size = path.stat().st_size
    assert 11e6 < size < MAX_HEADER_BYTES
    assert "is invalid" in rejected(path, memory=5 * size)


def test_weights_that_are_not_finite_are_rejected_under_a_valid_checksum(path):
    written = sample()
    layout = checkpoint_layout(SETTINGS.shape, saved_state(SETTINGS), len(written.tokenizer))
    written.parameters["wpe.weight"][1, 2] = np.nan
    data = {
        prefix + name: tensor.tobytes()
        for prefix, part in all_tensors(written).items()
        for name, tensor in part.tensors.items()
    }
    data["tokenizer"] = written.tokenizer
    checksums = {name: hashlib.sha256(data[name]).hexdigest() for name in layout}
    write_checkpoint(path, sample())
    contents = msgspec.convert(json.loads(split(path.read_bytes())[0]["__metadata__"]["contents"]), Contents)
    head = encode_header(SETTINGS, written.state, contents, layout, checksums)
    path.write_bytes(head + b"".join(data[name] for name in layout))
    assert "wpe.weight holds values that are not finite" in rejected(path)


def test_a_foreign_file_is_distinguished_from_a_damaged_one(path):
    path.write_bytes(safetensors.numpy.save({"wte.weight": np.zeros((4, 4), np.float32)}, {"format": "pt"}))
    assert "not a gpt-tui checkpoint" in rejected(path)
    for foreign in (b"\x80\x04\x95" + b"pickle" * 100, b"root:x:0:0:root:/root:/bin/sh\n", b"a short text"):
        path.write_bytes(foreign)
        assert "not a gpt-tui checkpoint" in rejected(path)


def test_a_file_of_a_later_version_is_named_as_such(path, valid):
    header, tail = split(valid)
    header["__metadata__"]["gpt_tui_format"] = "2"
    path.write_bytes(forged(header, tail))
    assert "got checkpoint format 2, expected 1" in rejected(path)


def test_an_older_file_without_a_newer_setting_still_loads(path, valid):
    header, tail = split(valid)
    path.write_bytes(forged(metadata_changed("settings", lambda s: s.pop("top_k"))(header), tail))
    assert verify_checkpoint(path).settings == SETTINGS


def test_what_is_not_a_regular_file_is_rejected_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    os.symlink("loop", tmp_path / "loop")
    cases = {"fifo": "a FIFO", ".": "a folder", "missing": "No such file", "loop": "symbolic links"}
    for name, said in cases.items():
        assert said in rejected(tmp_path / name)
    with pytest.raises(CheckpointError, match="embedded null"):
        verify_checkpoint(tmp_path / "a\0b")
    for device in ("/dev/zero", "/dev/null", "/dev/tty"):
        assert "a device" in rejected(device)


def test_a_file_that_becomes_a_fifo_after_stat_is_rejected_without_waiting(path, valid, monkeypatch):
    regular, real_open = os.stat(path), os.open
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(os, "stat", lambda *_, **__: regular)
    seen = []

    def open_at_once(name, flags):
        seen.append(flags)
        return real_open(name, flags | os.O_NONBLOCK)  # so that a reader that would wait fails and does not hang

    monkeypatch.setattr(os, "open", open_at_once)
    with pytest.raises(CheckpointError, match="a FIFO"):
        verify_checkpoint(path)
    assert seen[0] & os.O_NONBLOCK


def test_an_escape_sequence_in_a_path_cannot_reach_the_terminal(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        verify_checkpoint(tmp_path / "a\x1b[31mb")
    message = str(caught.value)
    assert "\x1b" not in message
    assert "a\\x1b[31mb" in message


def test_the_state_rejects_unknown_fields():
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"run_id": "a", "more": 1}, TrainingState)


def test_verification_reports_progress_and_ends_with_what_the_callback_raises(tmp_path):
    path = tmp_path / "ckpt_latest.safetensors"
    write_checkpoint(path, sample())
    shares = []
    verify_checkpoint(path, progress=shares.append)
    assert shares == sorted(set(shares))
    assert 0 < shares[0] < shares[-1] < 1

    def listener(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify_checkpoint(path, progress=listener)
