"""A run and its folder: killed, stopped, refused or short of space, it loses nothing and resumes exactly."""

import dataclasses
import os
import random
import shlex
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from stress import forks
from stress.forks import wait_for
from stress.outcome import epochs_done, outcome

from mnist_sum import cli, loss, models, runs
from mnist_sum.console import UserError
from mnist_sum.recipes import DEFAULT_MODEL
from mnist_sum.runs import checkpoint, folder
from mnist_sum.training import fit

TRAIN = Path(__file__).resolve().parent.parent / "train.py"
CPU = torch.device("cpu")
SIGNALS = [signal.SIGTERM, signal.SIGINT]
FLAGS = ["--save", "--data", "sample", "--limit", "256", "--epochs", "8", "--batch-size", "32", "--seed", "5"]
SHORT = ["--save", "--data", "sample", "--limit", "64", "--epochs", "2", "--output-dir", "run"]


@pytest.fixture
def launch(sample, tmp_path):
    """Start train.py in tmp_path with its output in the files out and err; returns its process id."""

    def start(*argv, out=tmp_path / "out", err=tmp_path / "err"):
        return forks.start("train.py", argv, out, err, tmp_path, MNIST_SUM_MIRROR="http://127.0.0.1:9/")

    return start


@pytest.fixture(scope="module")
def uninterrupted(sample, tmp_path_factory):
    """The outcome of the run with FLAGS that nobody disturbed."""
    path = tmp_path_factory.mktemp("uninterrupted")
    assert forks.run("train.py", *FLAGS, "--output-dir", path, cwd=path)[::2] == (0, "")
    return outcome(path)


def test_sigkills_at_random_moments_change_no_bit_of_a_run(uninterrupted, launch, tmp_path):
    draw, path, codes = random.Random(6), tmp_path / "run", []
    while len(codes) < 5 and 0 not in codes:
        begun = (path / folder.CHECKPOINT).exists()
        pid = launch("--resume", path) if begun else launch(*FLAGS, "--output-dir", path)
        before = epochs_done(path)
        wait_for((path / ".lock").exists)
        time.sleep(draw.uniform(0, 0.2))
        os.kill(pid, signal.SIGKILL)
        codes.append(forks.wait(pid))
        assert epochs_done(path) >= before
    assert set(codes) <= {0, -signal.SIGKILL} and codes[0] != 0, (tmp_path / "err").read_text()
    assert forks.run("train.py", "--resume", path, cwd=tmp_path)[::2] == (0, "")
    assert outcome(path) == uninterrupted
    assert not list(path.glob(".*.part"))


@pytest.mark.parametrize("signum", SIGNALS, ids=str)
def test_a_stop_signal_saves_in_mid_epoch_and_the_printed_command_resumes_exactly(
    signum, uninterrupted, launch, tmp_path
):
    path = tmp_path / "a run"
    pid = launch(*FLAGS, "--output-dir", path)
    wait_for(lambda: epochs_done(path) >= 2)
    os.kill(pid, signum)
    assert forks.wait(pid) == 128 + signum
    assert (tmp_path / "err").read_text() == ""
    stopped = checkpoint.load(path / folder.CHECKPOINT)
    assert stopped["step"] > 0 and 2 <= stopped["epoch"] < 8
    command = (tmp_path / "out").read_text().splitlines()[-1].removeprefix("stopped; resume with: ")
    *python, flag, folder_name = shlex.split(command)
    assert (python, flag) == (["python", "-m", "train"], "--resume")  # there is no train.py in tmp_path
    assert forks.run("train.py", flag, folder_name, cwd=tmp_path)[::2] == (0, "")
    assert outcome(path) == uninterrupted


def test_a_run_that_is_suspended_and_continued_ends_as_if_it_had_not_been(uninterrupted, launch, tmp_path):
    path = tmp_path / "run"
    pid = launch(*FLAGS, "--output-dir", path)
    wait_for(lambda: epochs_done(path) >= 2)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.1)  # for what was under way in the kernel
    before = epochs_done(path)
    time.sleep(0.5)
    assert epochs_done(path) == before < 8
    os.kill(pid, signal.SIGCONT)
    assert forks.wait(pid) == 0 and (tmp_path / "err").read_text() == ""
    assert outcome(path) == uninterrupted


def test_a_second_run_into_the_folder_is_refused_until_the_first_is_dead(launch, tmp_path):
    path, endless = tmp_path / "run", [*FLAGS, "--epochs", "500", "--output-dir", "run"]
    first = launch(*endless)
    wait_for(lambda: epochs_done(path) >= 1)
    code, _, stderr = forks.run("train.py", "--resume", "run", cwd=tmp_path)
    assert code == 1 and stderr.count("\n") == 1
    assert stderr.startswith("train.py: error: another run is writing into run;")
    os.kill(first, signal.SIGKILL)
    assert forks.wait(first) == -signal.SIGKILL
    second, done = launch("--resume", "run"), epochs_done(path)
    wait_for(lambda: epochs_done(path) > done)
    os.kill(second, signal.SIGKILL)
    forks.wait(second)


def test_a_reader_of_stdout_that_leaves_does_not_end_the_training(launch, tmp_path):
    """As `train.py … | head -1`: one line is read, then the pipe is closed."""
    os.mkfifo(tmp_path / "pipe")
    pid = launch(*SHORT, out=tmp_path / "pipe")
    with open(tmp_path / "pipe") as reader:
        assert reader.readline().startswith("device: ")
    assert (forks.wait(pid), (tmp_path / "err").read_text()) == (0, "")
    assert checkpoint.load(tmp_path / "run" / folder.CHECKPOINT)["epoch"] == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("stream", ["out", "err"])
def test_a_stream_on_a_full_disk_does_not_end_the_training(stream, launch, tmp_path):
    elsewhere = {"data": "auto", "data-dir": "nowhere"}  # so that there is a warning
    flags = [text for name, value in elsewhere.items() for text in (f"--{name}", value)]
    pid = launch(*SHORT, *flags, **{stream: "/dev/full"})
    assert forks.wait(pid) == 0
    assert checkpoint.load(tmp_path / "run" / folder.CHECKPOINT)["epoch"] == 2


def test_a_disk_that_fills_up_in_mid_run_ends_it_with_one_line_and_the_last_good_save(sample, tmp_path):
    """The limit lets history.csv and the first checkpoint through, and not the second."""
    script, path = tmp_path / "small_disk.py", tmp_path / "run"
    script.write_text(
        "import resource, runpy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))\n"
        f"runpy.run_path({str(TRAIN)!r}, run_name='__main__')\n"
    )
    code, _, stderr = forks.run(script, *SHORT, cwd=tmp_path)
    assert code == 1 and stderr.count("\n") == 1
    assert stderr.startswith(f"train.py: error: cannot write run/{folder.CHECKPOINT}: ")
    assert checkpoint.load(path / folder.CHECKPOINT)["epoch"] == 0
    assert not list(path.glob(".*.part"))
    assert forks.run("train.py", "--resume", "run", cwd=tmp_path)[0] == 0
    assert checkpoint.load(path / folder.CHECKPOINT)["epoch"] == 2


# From here on: runs in this process, on noise.

SETTINGS = {"model": "compact", "epochs": 2, "batch_size": 16}


@pytest.fixture
def loads(few, monkeypatch):
    """Runs in this process have noise for data; returns the arguments of each runs.load."""
    calls = []
    monkeypatch.setattr(runs, "load", lambda *arguments: (calls.append(arguments), few)[1])
    return calls


def train(stop_signal=None, **settings):
    """What train.py does; with a stop_signal, it comes before the first step is done."""
    with runs.opened(CPU, **settings) as run:
        run.announce()
        run.state.stop_signal = stop_signal
        for row in fit(run.state, run.data.train, run.data.test):
            run.record(row)
        run.finish()
    return run


def test_a_stopped_run_reopened_in_the_same_process_ends_bit_identically(loads, tmp_path):
    train(**SETTINGS, save=True, output_dir=tmp_path / "uninterrupted")
    path = tmp_path / "stopped"
    stopped = train(15, **SETTINGS, save=True, output_dir=path)
    assert (stopped.state.step, stopped.exit_code) == (1, 143)
    assert train(resume=path).exit_code == 0
    assert outcome(path) == outcome(tmp_path / "uninterrupted")


def test_a_stopped_run_without_save_leaves_no_checkpoint_and_says_so(loads, capsys, tmp_path):
    assert train(15, **SETTINGS, output_dir=tmp_path).exit_code == 143
    assert capsys.readouterr().out.endswith("\nstopped; nothing was saved; --save keeps the model\n")
    assert not (tmp_path / folder.CHECKPOINT).exists()


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(loads, tmp_path):
    train(**SETTINGS, save=True, output_dir=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert train(resume=tmp_path).exit_code == 0
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize(("call", "kept"), [(1, 0), (7, 1)])
def test_an_epoch_whose_loss_is_not_finite_is_not_saved_and_can_be_done_again(
    call, kept, loads, monkeypatch, tmp_path
):
    calls, original = [], loss.digit_and_sum_loss

    def spoilt(*arguments):
        calls.append(None)
        digit_loss, sum_loss = original(*arguments)
        return digit_loss, sum_loss * (torch.nan if len(calls) == call else 1)

    path = tmp_path / "spoilt"
    with monkeypatch.context() as patch:
        patch.setattr(loss, "digit_and_sum_loss", spoilt)
        with pytest.raises(UserError, match=f"no longer finite in epoch {kept + 1};"):
            train(**SETTINGS, save=True, output_dir=path)
    stored = checkpoint.load(path / folder.CHECKPOINT)
    assert (stored["epoch"], stored["step"], epochs_done(path)) == (kept, 0, kept)
    train(resume=path)
    train(**SETTINGS, save=True, output_dir=tmp_path / "uninterrupted")
    assert outcome(path) == outcome(tmp_path / "uninterrupted")


def test_a_run_outside_the_main_thread_needs_no_signals(loads, tmp_path):
    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(train, **SETTINGS, output_dir=tmp_path).result()
    assert run.state.epoch == 2


def test_signals_stop_an_open_run_alone_and_their_handlers_are_restored(loads, tmp_path):
    before = [signal.getsignal(signum) for signum in SIGNALS]
    for number, signum in enumerate(SIGNALS):
        path = tmp_path / str(number)
        with suppress(ZeroDivisionError), runs.opened(CPU, **SETTINGS, output_dir=path) as run:
            signal.raise_signal(signum)
            assert run.exit_code == 128 + signum
            assert signal.getsignal(signum) == signal.SIG_DFL  # a second one ends the process
            raise ZeroDivisionError
        assert [signal.getsignal(signum) for signum in SIGNALS] == before


@pytest.mark.parametrize("save", [False, True])
def test_a_run_that_was_refused_does_not_occupy_its_folder(save, loads, tmp_path):
    """The corrected command, into the same folder, has to work."""
    settings = {**SETTINGS, "save": save, "output_dir": tmp_path / "run"}
    with pytest.raises(UserError, match="--batch-size 1"):
        train(**{**settings, "batch_size": 1})
    assert train(**settings).exit_code == 0


@pytest.mark.parametrize("name", [folder.SETTINGS, folder.REPORT, "training.png"])
def test_what_a_run_could_not_write_or_would_overwrite_is_said_before_it_begins(name, loads, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=f"cannot write {tmp_path / name}: it is a device or a pipe"):
        train(**SETTINGS, output_dir=tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([".lock", name])
    train(**SETTINGS, save=True, output_dir=tmp_path / "run")
    shutil.copy(tmp_path / "run" / folder.CHECKPOINT, tmp_path / "run" / "report.md")
    for each in (folder.CHECKPOINT, folder.HISTORY):
        (tmp_path / "run" / each).unlink()
    with pytest.raises(UserError, match="report.md: it is read by this command; give another name"):
        train(**SETTINGS, output_dir=tmp_path / "run", teacher=tmp_path / "run" / "report.md")


def as_bash_takes(command):
    """The command line's words."""
    script = f"printf '%s\\0' {command}"
    return (
        subprocess.run(["bash", "-c", script], capture_output=True, check=True)
        .stdout.decode()
        .split("\0")[:-1]
    )


@pytest.mark.parametrize("name", ["inference.py", ".x.part", "-x", "x\n\x1b[31m\u2028", "数 é", "a'b\\$x\n1"])
def test_a_folder_of_any_name_holds_a_run_and_the_hints_name_it(name, loads, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    train(15, **SETTINGS, save=True, output_dir=name)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    assert cli.parse_train(as_bash_takes(lines[-1].partition("-m train ")[2])).resume == name
    train(resume=name)
    given = as_bash_takes(capsys.readouterr().out.partition("-m inference ")[2])
    assert cli.parse_inference(given).checkpoint == [name]


@pytest.mark.parametrize("name", [folder.CHECKPOINT, folder.HISTORY])
def test_a_folder_that_holds_a_run_is_refused_and_kept(name, loads, tmp_path):
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(UserError, match="already holds a run"):
        train(**SETTINGS, output_dir=tmp_path)
    assert (tmp_path / name).read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["empty", "file", "file/below", "a" * 300])
def test_a_folder_without_a_checkpoint_cannot_be_resumed(name, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"there is no {folder.CHECKPOINT} in {tmp_path / name};"):
        train(resume=tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["empty", "file"]


def test_a_run_does_not_resume_on_other_images(loads, few, monkeypatch, tmp_path):
    train(15, **SETTINGS, save=True, output_dir=tmp_path)
    monkeypatch.setattr(runs, "load", lambda *_: dataclasses.replace(few, test=few.train))
    with pytest.raises(UserError, match="was trained on other images than .* from elsewhere;"):
        train(resume=tmp_path, data_dir="elsewhere")


def test_a_resumed_run_takes_its_data_from_where_it_is_told_or_where_it_began(loads, monkeypatch, tmp_path):
    path, began = tmp_path / "run", tmp_path / "began"
    (began / "MNIST" / "raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    train(**SETTINGS, save=True, output_dir=path, data_dir="began")
    monkeypatch.chdir(path)
    monkeypatch.setenv("MNIST_SUM_DATA", "variable")
    train(resume=path, data_dir="told")
    train(resume=path)
    began.rename(tmp_path / "moved")
    train(resume=path)
    monkeypatch.delenv("MNIST_SUM_DATA")
    train(resume=path)
    assert [where for _, where, *_ in loads] == ["began", "told", str(began), "variable", "data"]


def test_runs_without_an_output_folder_have_folders_of_their_own(loads, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: f"now{form[form.rindex('-') :]}")
    for _ in range(3):
        train(**SETTINGS, save=True)
    assert sorted(os.listdir("runs")) == ["now-compact", "now-compact-2", "now-compact-3"]


def test_the_default_checkpoint_is_the_newest_of_a_whole_epoch_else_the_shipped_one(
    loads, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    assert folder.default_checkpoint() == models.shipped(DEFAULT_MODEL)
    train(15, **SETTINGS, save=True)  # not a whole epoch
    assert folder.default_checkpoint() == models.shipped(DEFAULT_MODEL)
    paths = [Path("runs", name, folder.CHECKPOINT) for name in "abc"]
    for path in paths:
        train(**SETTINGS, save=True, output_dir=path.parent)
    for age, newest in enumerate(paths, 2**32):
        os.utime(newest, (age, age))
        assert folder.default_checkpoint() == newest
    for path in paths:
        os.utime(path, (0, 0))
    for found in (paths, paths[::-1]):  # the order in which a file system lists them
        monkeypatch.setattr(folder, "RUNS", SimpleNamespace(glob=lambda _, found=found: found))
        assert folder.default_checkpoint() == paths[-1]


def test_stray_files_under_runs_neither_fail_nor_hang_the_search_for_a_checkpoint(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for number, (kind, of_history) in enumerate(
        [("text", b"a\xff\nb\n"), ("none", b"a\xff\nb\n"), ("pipe", b"a\nb\n"), ("link", b"a\nb\n"),
         ("text", "pipe"), ("text", "folder"), ("folder", b"a\nb\n")]
    ):  # fmt: skip
        path = tmp_path / "runs" / str(number)
        path.mkdir(parents=True)
        for file, content in ((path / folder.CHECKPOINT, kind), (path / folder.HISTORY, of_history)):
            make = {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda file: file.symlink_to("no"),
                    "text": Path.touch, "none": lambda file: None}  # fmt: skip
            file.write_bytes(content) if isinstance(content, bytes) else make[content](file)
    assert folder.default_checkpoint() == Path("runs", "0", folder.CHECKPOINT)  # the one that may be a model
    shutil.rmtree("runs/0")
    assert folder.default_checkpoint() == models.shipped(DEFAULT_MODEL)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 256 + "/y"])
def test_a_name_that_is_too_long_is_a_user_error(name, loads, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert folder.checkpoint_path(name) == Path(name)
    for settings in (
        dict(output_dir=name),
        dict(teacher=name),
        dict(model=f"{name}.py:X"),
        dict(resume=name),
    ):
        with pytest.raises(UserError, match="too long|there is no checkpoint"):
            train(**{**(SETTINGS if settings.keys() != {"resume"} else {}), **settings})
    assert os.listdir() == []
