"""Files that are whole or not there, folders with one writer, devices, and random draws."""

import errno
import os
import resource
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mnist_sum import console
from mnist_sum.console import UserError
from mnist_sum.system import device
from mnist_sum.system.files import folder_lock, make_folder, write_atomically
from mnist_sum.system.randomness import derived_seed, generator


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_temporary(call, monkeypatch, tmp_path):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    write_atomically(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(UserError, match=f"cannot write {path}: No space left"):
            write_atomically(path, b"new" * 1000)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_disk_that_fills_up_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    """RLIMIT_FSIZE stands in for the disk: the write gets so far and no farther."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(UserError, match="cannot write"):
            write_atomically(path, bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_content_is_on_the_disk_before_its_name_is_and_then_the_name_too(monkeypatch, tmp_path):
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, o=original: (calls.append(n), o(*a))[1])
    write_atomically(tmp_path / "file", b"content")
    assert calls == ["fsync", "replace", "fsync"]


def test_make_folder_makes_it_with_its_parents_and_leaves_nothing_in_it(tmp_path):
    for _ in range(2):
        assert os.listdir(make_folder(tmp_path / "parent" / "folder")) == []


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/below"])
def test_a_folder_that_cannot_be_written_into_is_named(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"cannot write into {tmp_path / name}: .*; choose another folder"):
        make_folder(tmp_path / name)


def test_temporaries_of_a_killed_run_are_removed_and_nothing_else(tmp_path):
    for name in (".checkpoint.safetensors.part", ".history.csv.part", "mine.part", ".hidden"):
        (tmp_path / name).touch()
    with folder_lock(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".hidden", ".lock", "mine.part"]


def test_a_lock_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match="cannot lock"), folder_lock(tmp_path):
        pass


def test_a_locked_folder_is_refused_or_waited_for(monkeypatch, tmp_path):
    warned = threading.Event()
    monkeypatch.setattr(console, "warn", lambda _: warned.set())

    def wait_for_it():
        with folder_lock(tmp_path, wait=True):
            return "held"

    with ThreadPoolExecutor(1) as thread:
        with folder_lock(tmp_path):
            with pytest.raises(UserError, match="another run is writing into"), folder_lock(tmp_path):
                pass
            waiting = thread.submit(wait_for_it)
            assert warned.wait(10) and not waiting.done()
        assert waiting.result(10) == "held"


def test_a_device_that_is_not_there_is_a_user_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.choose_device("auto") == device.choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="--device cpu"):
        device.choose_device("cuda")


@pytest.mark.parametrize("native", [False, True])
def test_auto_precision_is_bf16_only_where_the_processor_has_it(native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    cpu = torch.device("cpu")
    assert device.choose_precision("auto", cpu) == ("bf16" if native else "fp32")
    assert [device.choose_precision(name, cpu) for name in ("fp32", "bf16")] == ["fp32", "bf16"]


def test_draws_are_a_pure_function_of_seed_purpose_epoch_and_step():
    last = 2**63 - 1
    places = [
        (0, "order"),
        (1, "order"),
        (last, "order"),
        (0, "numbers"),
        (0, "order", 1),
        (0, "order", 0, 1),
    ]
    draws = [torch.rand(1, generator=generator(*place)).item() for place in places]
    assert len(set(draws)) == len(places)
    assert draws == [torch.rand(1, generator=generator(*place)).item() for place in places]
    assert derived_seed(0, "order") == 1778561849141805087  # as in every version: runs can be repeated


def test_a_folder_named_like_a_temporary_is_left_alone(tmp_path):
    (tmp_path / ".x.part").mkdir()
    with folder_lock(tmp_path):
        assert (tmp_path / ".x.part").is_dir()
