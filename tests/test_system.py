"""Files that are whole or not there, folders with one writer, devices, and random draws."""

import contextlib
import errno
import os
import resource
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mnist_sum import console
from mnist_sum.console import UserError
from mnist_sum.system import device, files
from mnist_sum.system.files import folder_lock, make_folder, write_atomically
from mnist_sum.system.randomness import derived_seed, generator

ROOT = Path(__file__).resolve().parent.parent


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


def test_a_signal_while_a_folder_is_tried_leaves_nothing_in_it(monkeypatch, tmp_path):
    def touched_and_interrupted(path, exist_ok, touch=Path.touch):
        touch(path, exist_ok=exist_ok)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "touch", touched_and_interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_folder(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/below"])
def test_a_folder_that_cannot_be_written_into_is_named(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"cannot write into {tmp_path / name}: .*; choose another folder"):
        make_folder(tmp_path / name)


def test_a_folder_in_too_many_others_is_refused_and_nothing_left(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("a/" * 1990, "x" * 200 + "/y" * 2000):
        with pytest.raises(UserError, match=f"cannot write into {name[:100]}.*; choose another folder"):
            make_folder(name)
    assert os.listdir() == []


def test_temporaries_of_a_killed_run_are_removed_and_nothing_else(tmp_path):
    others = {".x.part", "mine.part", ".mnist_sum-notes.part", ".hidden"}
    for name in (*others, files.TEMPORARY.format("0" * 32), files.TEMPORARY.format("f" * 32)):
        (tmp_path / name).touch()
    (tmp_path / files.TEMPORARY.format("a" * 32)).mkdir()  # nothing of ours
    with folder_lock(tmp_path):
        assert set(os.listdir(tmp_path)) == {*others, ".lock", files.TEMPORARY.format("a" * 32)}


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("elsewhere")])
def test_a_lock_that_cannot_be_made_is_a_user_error(make, tmp_path):
    make(tmp_path / ".lock")
    with pytest.raises(UserError, match="cannot lock"), folder_lock(tmp_path):
        pass
    assert os.listdir(tmp_path) == [".lock"]


def test_a_run_whose_folder_was_deleted_writes_nothing_into_another_runs(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with folder_lock(folder):
        write_atomically(folder / "file", b"first")
        shutil.rmtree(folder)
        folder.mkdir()
        with pytest.raises(UserError, match=f"{folder}, or .lock in it, was deleted while this run"):
            write_atomically(folder / "file", b"first")
        code = "import sys; from mnist_sum.system.files import *\n"
        code += "with folder_lock(sys.argv[1]): write_atomically(sys.argv[1] + '/file', b'second')"
        subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, check=True)
        with pytest.raises(UserError, match="was deleted"):
            write_atomically(folder / "file", b"first")
    assert (folder / "file").read_bytes() == b"second"


def special_files(folder):
    """A pipe, a socket, a device, a link to one, and a folder, each made in the folder."""
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(folder):  # a socket's path has to be short
        made.bind("socket")
    (folder / "device link").symlink_to("/dev/null")
    (folder / "folder").mkdir()
    with contextlib.suppress(PermissionError):  # it takes root
        os.mknod(folder / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return sorted(folder.iterdir())


def test_only_regular_files_are_replaced(tmp_path):
    for path in special_files(tmp_path):
        before = path.lstat()
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        with pytest.raises(UserError, match=f"cannot write {path}: it is {kind}; give the name of a file"):
            write_atomically(path, b"content")
        assert path.lstat() == before


def test_a_link_to_a_file_is_replaced_and_the_file_it_names_kept(tmp_path):
    (tmp_path / "other").write_bytes(b"other")
    for target in ("other", "nowhere"):
        (tmp_path / target[0]).symlink_to(target)
        write_atomically(tmp_path / target[0], b"content")
        assert not (tmp_path / target[0]).is_symlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "other": b"other", "o": b"content", "n": b"content"
    }  # fmt: skip


def test_what_lies_at_the_temporarys_name_is_neither_followed_nor_written(monkeypatch, tmp_path):
    (tmp_path / "victim").write_bytes(b"victim")
    for planted in (".file.part", f".probe-{os.getpid()}"):  # names that can be guessed are not used
        (tmp_path / planted).symlink_to("victim")
    make_folder(tmp_path)
    write_atomically(tmp_path / "file", b"content")
    (tmp_path / "file").unlink()
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    planted = tmp_path / files.TEMPORARY.format("guessed")
    for plant in (lambda: planted.symlink_to("victim"), lambda: os.mkfifo(planted)):
        plant()
        with pytest.raises(UserError, match="cannot write .*file: File exists"):
            write_atomically(tmp_path / "file", b"content")
        plant()
        with pytest.raises(UserError, match="cannot write into .*: File exists"):
            make_folder(tmp_path)
        planted.unlink(missing_ok=True)
        assert (tmp_path / "victim").read_bytes() == b"victim" and not (tmp_path / "file").exists()


def test_an_interrupted_write_leaves_the_old_file_and_no_temporary(monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"old"


def test_a_name_of_255_bytes_can_be_written_and_a_longer_one_is_a_user_error(tmp_path):
    write_atomically(tmp_path / ("x" * 255), b"content")
    assert os.listdir(tmp_path) == ["x" * 255]
    for write in (files.check_output, lambda path: write_atomically(path, b"")):
        with pytest.raises(UserError, match="cannot write .*: File name too long; give it another name"):
            write(tmp_path / ("x" * 256))


def test_an_input_is_never_an_output_whatever_it_is_called(tmp_path):
    (tmp_path / "model").write_bytes(b"model")
    (tmp_path / "link").symlink_to("model")
    os.link(tmp_path / "model", tmp_path / "same")
    inputs = ["nowhere", "", tmp_path / "model"]
    for name in ("model", "link", "same", "../" + tmp_path.name + "/model"):
        with pytest.raises(UserError, match="cannot write .*: it is read by this command; give another name"):
            files.check_output(tmp_path / name, inputs)
    files.check_output(tmp_path / "new", inputs)
    (tmp_path / "other").touch()
    files.check_output(tmp_path / "other", inputs)


def test_a_standard_stream_that_goes_to_a_file_is_not_replaced(tmp_path):
    (tmp_path / "link").symlink_to("/dev/stdout")
    code = "import sys; from mnist_sum.system.files import *; write_atomically(sys.argv[1], b'content')"
    with open(tmp_path / "out", "wb") as out:
        command = [sys.executable, "-c", code, tmp_path / "link"]
        done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True)
    assert "it is a stream of this command; give another name" in done.stderr
    assert (tmp_path / "link").is_symlink() and (tmp_path / "out").read_bytes() == b""


def test_what_is_no_regular_file_is_not_read_or_waited_for(tmp_path):
    for path in special_files(tmp_path):
        with pytest.raises(OSError):  # noqa: PT011  its number depends on the kind
            files.read_regular(path)
    (tmp_path / "file").write_bytes(b"content")
    assert files.read_regular(tmp_path / "file", 3) == b"con"
    os.truncate(tmp_path / "file", 2**40)
    assert len(files.read_regular(tmp_path / "file")) == files.LARGEST_TEXT


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
