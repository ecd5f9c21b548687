"""Several processes, one run. Where the launcher is part of what is tested it is torchrun itself; else
two forks are its workers, numbered in the environment and given a store, as torchrun does."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed.run
from hypothesis import given
from hypothesis import strategies as st
from stress import forks
from stress.forks import wait_for
from stress.outcome import epochs_done
from torch import nn

from mnist_sum.console import UserError
from mnist_sum.runs import checkpoint, folder
from mnist_sum.system import processes
from mnist_sum.system.files import folder_lock
from mnist_sum.system.processes import LOST, all_reduce, any_stop_signal, broadcast, process_group, shard

TRAIN = Path(__file__).resolve().parent.parent / "train.py"
AS_TORCHRUN = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "TORCHELASTIC_USE_AGENT_STORE": "True"}
LONGEST = 60  # seconds; whatever takes longer hangs
SAMPLE = ["--device", "cpu", "--data", "sample", "--output-dir", "run"]
FLAGS = [*SAMPLE, "--model", "tiny", "--precision", "fp32", "--save", "--limit", "101", "--lr", "0.01"]
FLAGS += ["--batch-size", "32", "--epochs"]  # the last batch holds five images


def wait(pid):
    """The exit code of a fork; it is killed if it takes too long."""
    clock = threading.Timer(LONGEST, os.kill, (pid, signal.SIGKILL))
    clock.start()
    code = forks.wait(pid)
    clock.cancel()
    return code


class Pair:
    """A script as two processes of one run, in tmp_path; stream: where both print, else a file for each."""

    def __init__(self, tmp_path, script, flags, flags_of_rank_1=None, stream=None):
        self.store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        environment = {**AS_TORCHRUN, "MASTER_PORT": str(self.store.port)}
        self.files = [(tmp_path / f"out {rank}", tmp_path / f"err {rank}") for rank in range(2)]
        if stream is not None:
            self.files = [(stream, stream)] * 2
        self.pids = [
            forks.start(script, argv, *self.files[rank], cwd=tmp_path, RANK=str(rank), **environment)
            for rank, argv in enumerate((flags, flags_of_rank_1 or flags))
        ]

    def kill(self, rank, signum):
        os.kill(self.pids[rank], signum)

    def wait(self):
        """Both exit codes."""
        return [wait(pid) for pid in self.pids]

    def stdout(self):
        """What each of them printed."""
        return [out.read_text() for out, _ in self.files]

    def stderr(self):
        return [err.read_text() for _, err in self.files]


def run(count, tmp_path, script, flags):
    """(exit codes, stdout, stderr) of the script run by one or two processes."""
    if count == 1:
        code, stdout, stderr = forks.run(script, *flags, cwd=tmp_path)
        return [code], stdout, stderr
    pair = Pair(tmp_path, script, flags)
    return pair.wait(), "".join(pair.stdout()), "".join(pair.stderr())


def patched_train(tmp_path, *lines):
    """A script that runs train.py after these lines."""
    script = tmp_path / "train.py"
    lines = ["import os, runpy", *lines, f"runpy.run_path({str(TRAIN)!r}, run_name='__main__')"]
    script.write_text("\n".join(lines))
    return script


def in_epoch_2(tmp_path, *lines):
    """train.py, which in its sixth step, the second of epoch 2, does these lines."""
    before = (
        "from mnist_sum import metrics, training",
        "calls = []",
        "def count(*parts):",
        "    calls.append(1)",
    )
    after = "    return metrics.batch_sums(*parts)", "training.batch_sums = count"
    lines = [f"        {line}" for line in lines]
    return patched_train(tmp_path, *before, "    if len(calls) == 6:", *lines, *after)


def assert_close(one, two, tolerance=1e-3):
    """The checkpoints in two folders are those of the same run within rounding."""
    one, two = (checkpoint.load(path / folder.CHECKPOINT) for path in (one, two))
    for name, tensor in one["model"].items():
        torch.testing.assert_close(two["model"][name], tensor, rtol=tolerance, atol=tolerance)
    for row, other in zip(one["history"], two["history"], strict=True):
        for name in set(row) - {"seconds"}:
            slack = 0.011 if "accuracy" in name else tolerance  # one image of a hundred
            assert other[name] == pytest.approx(row[name], rel=tolerance, abs=slack), name


@given(count=st.integers(0, 10**6), size=st.integers(1, 100))
def test_shards_are_all_items_in_order_each_once_and_differ_by_one_at_most(count, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "size", lambda: size)
        shards = []
        for rank in range(size):
            patch.setattr(processes, "rank", lambda rank=rank: rank)
            shards.append(range(count)[shard(count)])
    assert shards[0].start == 0 and shards[-1].stop == count
    assert all(one.stop == two.start for one, two in zip(shards, shards[1:], strict=False))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("variables", [{}, {"RANK": "0", "WORLD_SIZE": "1"}], ids=["python", "torchrun"])
def test_a_single_process_has_no_group_and_exchanges_nothing(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    model, tensor = nn.Linear(2, 2), torch.ones(2)
    with process_group("cpu") as device:
        assert device == torch.device("cpu")
        assert not torch.distributed.is_initialized()
        assert (processes.size(), processes.rank(), shard(7)) == (1, 0, slice(0, 7))
        assert processes.wrapped_in_ddp(model) is model
        assert all_reduce(tensor) is tensor and tensor.tolist() == [1, 1]
        assert (any_stop_signal(None), any_stop_signal(15), broadcast("text")) == (None, 15, "text")


def test_a_process_without_a_gpu_of_its_own_is_told_how_many_there_are(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(processes.UserError, match="no GPU for process 3 .*, only 2; use --nproc-per-node=2"):
        processes._take_gpu()


WORKER = """  # what the fixture `results` runs
import sys
import torch
from mnist_sum import data, metrics, models, training
from mnist_sum.recipes import RECIPES
from mnist_sum.runs.distillation import Teacher
from mnist_sum.system import processes

torch.set_num_threads(1)


def trained(name, images, distilled=False, dropout=None, **overrides):
    counts, averages = [], metrics.averages
    training.averages = lambda sums: (counts.append(sums[-1].item()), averages(sums))[1]
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 28, 28), dtype=torch.uint8, generator=noise)
    split = data.Split(pixels, torch.randint(10, (images,), generator=noise))
    recipe = RECIPES[name].overridden(epochs=2, batch_size=24, **overrides)
    state = training.new_state(name, recipe, 3, torch.device("cpu"), "fp32")
    for module in state.raw.modules():
        if dropout is not None and isinstance(module, torch.nn.Dropout):
            module.p = dropout
    if distilled:
        torch.manual_seed(7)
        state.teacher = Teacher(models.build("compact").eval())
        state.recipe = recipe.overridden(teacher=64 * "0")
    keys = list(state.model.state_dict())
    rows = [[row[key] for key in training.ROW if key != "seconds"]
            for row in training.fit(state, split, split.first(31))]
    return state.model.state_dict(), rows, counts, keys == list(state.model.state_dict())


with processes.process_group("cpu"):
    results = {
        "tiny": trained("tiny", 101, learning_rate=0.01),
        "large": trained("large", 101, learning_rate=1e-3),
        "distilled": trained("tiny", 101, distilled=True, learning_rate=0.01),
        "channel_fusion": trained("channel_fusion", 101, optimizer="sgd", learning_rate=1e-3),
        "without dropout": trained("deep_adder", 101, dropout=0.0, learning_rate=1e-3),
        "deep_adder": trained("deep_adder", 48),
        "seed": torch.initial_seed(),  # of the last step's dropout
        "size": processes.size(),
    }
    torch.save(results, f"{sys.argv[1]}/{processes.rank()}.pt")
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of the worker above: alone, and as the first and the second of two processes."""
    path = tmp_path_factory.mktemp("worker")
    (path / "worker.py").write_text(WORKER)
    (path / "alone").mkdir()
    found = []
    for count, place in ((1, path / "alone"), (2, path)):
        codes, _, stderr = run(count, path, path / "worker.py", [place])
        assert set(codes) == {0}, stderr
        found += [torch.load(place / f"{rank}.pt") for rank in range(count)]
    assert [each["size"] for each in found] == [1, 2, 2]
    return found


@pytest.mark.parametrize("name", ["tiny", "distilled", "large", "channel_fusion", "without dropout"])
def test_two_processes_train_the_weights_that_one_trains(name, results):
    alone, first, second = (each[name] for each in results)
    weights, rows, counts, same_keys = first
    assert counts == alone[2] == [101, 310, 101, 310]  # each image once, each test image ten times
    assert same_keys and list(weights) == list(alone[0])
    for key, tensor in alone[0].items():
        torch.testing.assert_close(weights[key], tensor, rtol=1e-3, atol=1e-4)
        assert torch.equal(weights[key], second[0][key]), key
    for row, expected in zip(rows, alone[1], strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
    assert rows == second[1]


def test_with_dropout_the_processes_draw_different_masks_and_hold_the_same_weights(results):
    alone, first, second = (each["seed"] for each in results)
    assert alone == first != second
    _, (weights, rows, *_), (same, same_rows, *_) = (each["deep_adder"] for each in results)
    assert rows == same_rows and all(torch.equal(weights[key], same[key]) for key in weights)


@pytest.fixture(scope="module")
def uninterrupted(sample, tmp_path_factory):
    """The folder of a run of three epochs by one process."""
    path = tmp_path_factory.mktemp("uninterrupted")
    assert forks.run("train.py", *FLAGS, 3, cwd=path)[::2] == (0, "")
    return path / "run"


def test_rank_0_alone_prints_and_writes_what_one_process_would_have(uninterrupted, tmp_path):
    pair = Pair(tmp_path, "train.py", [*FLAGS, 3], [*FLAGS, 3, "--output-dir", "run of rank 1"])
    assert (pair.wait(), pair.stderr()) == ([0, 0], ["", ""])
    stdout, stdout_of_rank_1 = pair.stdout()
    assert stdout_of_rank_1 == "" and not (tmp_path / "run of rank 1").exists()
    assert stdout.startswith("device: CPU, 1 threads, 2 processes, fp32\n")
    assert_close(uninterrupted, tmp_path / "run")
    stored = checkpoint.load(tmp_path / "run" / folder.CHECKPOINT)
    assert stored["environment"]["device"] == "cpu, 2 processes"


@pytest.mark.parametrize("counts", [(1, 2), (2, 1), (2, 2)], ids=str)
def test_a_run_stopped_in_mid_epoch_resumes_with_another_number_of_processes(counts, uninterrupted, tmp_path):
    script = in_epoch_2(tmp_path, "if os.environ.get('RANK', '1') == '1': os.kill(os.getpid(), 15)")
    codes, _, stderr = run(counts[0], tmp_path, script, [*FLAGS, 3])
    assert set(codes) == {143} and stderr == ""
    stopped = checkpoint.load(tmp_path / "run" / folder.CHECKPOINT)
    assert (stopped["epoch"], stopped["step"]) == (1, 2)
    assert stopped["sums"][-1] == 64
    codes, stdout, stderr = run(counts[1], tmp_path, "train.py", ["--resume", "run", "--device", "cpu"])
    assert set(codes) == {0} and stderr == ""
    assert stdout.count("note: device was cpu") == (counts[0] != counts[1])
    assert_close(uninterrupted, tmp_path / "run")


@pytest.fixture
def launched(tmp_path):
    """The process id of torchrun with two processes of train.py, when they have done an epoch.

    torchrun itself is a fork, and the workers, which are not, train on noise: both save seconds.
    """
    script = patched_train(
        tmp_path,
        "import torch",
        "from mnist_sum import data",
        "open(f'pid {os.environ[\"RANK\"]}', 'w').write(f'{os.getpid()}')",
        "noise = torch.randint(256, (101, 28, 28), generator=torch.Generator().manual_seed(0))",
        "split = noise.to(torch.uint8), torch.arange(101) % 10",
        "data.load_sample = lambda: (split, split)",
    )
    argv = ["--standalone", "--nproc-per-node=2", script, *FLAGS, 500]
    pid = forks.start(torch.distributed.run.__file__, argv, tmp_path / "out", tmp_path / "err", cwd=tmp_path)
    wait_for(lambda: epochs_done(tmp_path / "run") >= 1)
    return pid


def test_torchrun_passes_a_signal_on_and_the_run_is_saved(launched, tmp_path):
    os.kill(launched, signal.SIGINT)
    assert wait(launched) != 0
    stdout = (tmp_path / "out").read_text()
    assert stdout.count("device: CPU, 1 threads, 2 processes") == 1
    assert stdout.count("\nstopped; resume with: python train.py --resume run\n") == 1
    assert "train.py: error" not in (tmp_path / "err").read_text()
    assert checkpoint.load(tmp_path / "run" / folder.CHECKPOINT)["step"] > 0


def test_a_killed_worker_ends_the_run_and_torchrun(launched, tmp_path):
    pids = [int((tmp_path / f"pid {rank}").read_text()) for rank in range(2)]
    os.kill(pids[1], signal.SIGKILL)
    assert wait(launched) == 1
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    lines = [line for line in (tmp_path / "err").read_text().splitlines() if "train.py: error" in line]
    assert lines == [f"train.py: error: {LOST}"]
    assert checkpoint.load(tmp_path / "run" / folder.CHECKPOINT)["epoch"] >= 1


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=str)
def test_a_process_that_is_killed_or_hangs_ends_the_other_with_one_line(lost, signum, sample, tmp_path):
    script = "train.py"  # which notices a killed one at once
    if signum == signal.SIGSTOP:
        timeout = "processes.TIMEOUT = datetime.timedelta(seconds=2)"
        script = patched_train(tmp_path, "import datetime", "from mnist_sum.system import processes", timeout)
    pair = Pair(tmp_path, script, [*FLAGS, 500])
    wait_for(lambda: epochs_done(tmp_path / "run") >= 1)
    pair.kill(lost, signum)
    assert wait(pair.pids[1 - lost]) == 1
    pair.kill(lost, signal.SIGKILL)
    assert wait(pair.pids[lost]) == -signal.SIGKILL
    assert "".join(pair.stderr()) == f"train.py: error: {LOST}\n"


@pytest.mark.parametrize("stream", ["", "/dev/full"], ids=["closed", "full"])
def test_processes_whose_streams_are_closed_or_full_do_their_run(stream, sample, tmp_path):
    if not os.path.exists(stream or os.devnull):
        pytest.skip("needs /dev/full")
    assert Pair(tmp_path, "train.py", [*FLAGS, 2], stream=stream).wait() == [0, 0]
    assert checkpoint.load(tmp_path / "run" / folder.CHECKPOINT)["epoch"] == 2


def test_a_process_that_is_suspended_and_continued_changes_nothing(uninterrupted, tmp_path):
    stop = "open('suspended', 'w'), os.kill(os.getpid(), signal.SIGSTOP), open('continued', 'w')"
    pair = Pair(tmp_path, in_epoch_2(tmp_path, "import signal", f"os.environ['RANK'] == '1' and ({stop})"),
                [*FLAGS, 3])  # fmt: skip
    wait_for(lambda: (tmp_path / "suspended").exists())
    time.sleep(0.5)  # in which the other one waits for it
    wait_for(lambda: pair.kill(1, signal.SIGCONT) or (tmp_path / "continued").exists())
    assert (pair.wait(), pair.stderr()) == ([0, 0], ["", ""])
    assert_close(uninterrupted, tmp_path / "run")


@pytest.mark.parametrize(
    ("lost", "line", "words"),
    [
        (0, "torch.empty(1 << 45)", "out of memory"),
        (1, "torch.empty(1 << 45)", "out of memory"),
        (0, "os.remove('run/.lock')", ".lock in it, was deleted while this run was writing into it"),
    ],
)
def test_what_fails_in_one_process_in_mid_run_is_its_one_line(lost, line, words, sample, tmp_path):
    script = in_epoch_2(tmp_path, "import torch", f"if os.environ['RANK'] == '{lost}': {line}")
    pair = Pair(tmp_path, script, [*FLAGS, 3])
    assert pair.wait() == [1, 1]
    stderr = pair.stderr()
    assert words in stderr[lost] and stderr[lost].count("\n") == 1 and stderr[1 - lost] == ""
    assert checkpoint.load(tmp_path / "run" / folder.CHECKPOINT)["epoch"] == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--resume nowhere", f"there is no {folder.CHECKPOINT} in nowhere"),
        ("--resume foreign", "is not a mnist_sum checkpoint"),
        ("--data sample --limit 64 --teacher foreign", "is not a mnist_sum checkpoint"),
        ("--data sample --limit 64 --output-dir locked", "another run is writing into locked"),
        ("--data mnist --data-dir file/below", "file/below"),
        ("--data sample --limit 64 --batch-size 1", "2 processes cannot share a batch of 1 of the 64"),
        ("--data sample --limit 64 --model linear_adder --lr 1e30", "no longer finite in epoch 1"),
        ("--data sample --limit 64 --output-dir file/below", "file/below"),
        ("--data sample --limit 64 --epochs 1 --report --output-dir run", "cannot write run/report.md"),
    ],
)
def test_an_error_of_all_processes_is_printed_once(flags, words, sample, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "run" / folder.REPORT).mkdir(parents=True)
    for name in ("foreign", "locked"):
        (tmp_path / name).mkdir()
    (tmp_path / "foreign" / folder.CHECKPOINT).write_text("another program's")
    with folder_lock(tmp_path / "locked"):
        pair = Pair(tmp_path, "train.py", [*flags.split(), "--device", "cpu"])
        assert pair.wait() == [1, 1]
    stderr = "".join(pair.stderr())
    assert stderr.startswith("train.py: error: ") and words in stderr and stderr.count("\n") == 1


def test_an_error_of_rank_1_alone_is_printed_by_it(sample, tmp_path):
    """Its machine, say, has no MNIST; here it is given another batch size."""
    pair = Pair(tmp_path, "train.py", [*SAMPLE, "--limit", 64], [*SAMPLE, "--limit", 64, "--batch-size", 1])
    assert pair.wait() == [1, 1]
    stderr, stderr_of_rank_1 = pair.stderr()
    assert stderr == "" and "cannot share a batch of 1" in stderr_of_rank_1


@pytest.mark.parametrize(
    ("own_rank", "count"), [("5", "2"), ("2", "2"), ("-1", "2"), ("0", "-1"), ("x", "2"), ("0", "2147483648")]
)
def test_impossible_numbers_of_processes_are_refused_at_once(own_rank, count, monkeypatch):
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in {"RANK": own_rank, "WORLD_SIZE": count, **address}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes.dist, "rendezvous", lambda *_, **__: pytest.fail("waited for them"))
    with pytest.raises(UserError, match=r"RANK and WORLD_SIZE \(.*\); start them with torchrun, or unset"):
        processes.process_group("cpu").__enter__()


def test_processes_that_do_not_find_each_other_say_so(tmp_path):
    pid = forks.start("train.py", [], tmp_path / "out", tmp_path / "err", tmp_path, RANK="0", WORLD_SIZE="2")
    assert forks.wait(pid) == 1
    stderr = (tmp_path / "err").read_text()
    assert "MASTER_ADDR" in stderr and "torchrun" in stderr and stderr.count("\n") == 1
