"""Devices by name, precision, and the processes of torchrun."""

import csv
import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mnist_sum import device
from mnist_sum.augment import affine, random_matrices
from mnist_sum.cli import UserError
from mnist_sum.data import MnistSum, Split, batches
from mnist_sum.evaluation import exhaustive_logits
from mnist_sum.loss import summed_loss
from mnist_sum.models import build_model
from mnist_sum.recipes import RECIPES
from tests.conftest import ROOT


def test_auto_is_cuda_where_available_else_the_cpu():
    assert device.choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device.choose_device("cpu:0") == torch.device("cpu:0")


@pytest.mark.parametrize("name", ["cuda:7", "mps", "tpu", ""])
def test_a_device_that_is_not_there_is_one_line(name):
    with pytest.raises(UserError, match="no device") as error:
        device.choose_device(name)
    assert "\n" not in str(error.value)


def test_precision_is_bf16_only_where_the_processor_has_it(monkeypatch):
    cpu = torch.device("cpu")
    for native, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        assert device.choose_precision("auto", cpu) == expected
    assert device.choose_precision("fp32", cpu) == "fp32"
    assert device.choose_precision("auto", torch.device("mps")) == "fp32"


def test_seeds_differ_by_purpose_epoch_and_seed_and_are_as_ever():
    seeds = {device.derived_seed(*each) for each in ((0, "order"), (0, "order", 1), (1, "order"), (0, "numbers"))}
    assert len(seeds) == 4
    assert device.derived_seed(0, "weights") == 1460659147112888765  # so that measured figures stay valid


def test_shards_are_all_items_once(monkeypatch):
    monkeypatch.setattr(device, "world_size", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(device, "rank", lambda rank=rank: rank)
        parts += range(10)[device.shard(10)]
    assert parts == list(range(10))


def test_two_processes_of_torchrun_train_one_model_without_a_network(tmp_path):
    """In a network namespace of its own, with a host name that does not resolve, where the system allows that."""
    isolated = ["unshare", "--net", "--uts", "sh", "-c", 'ip link set lo up && hostname nosuchhost && "$@"', "sh"]
    allowed = shutil.which("unshare") and subprocess.run([*isolated, "true"], capture_output=True).returncode == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--local-addr", "127.0.0.1"]
    command = [*(isolated if allowed else []), *torchrun, ROOT / "train.py"]
    flags = "--data sample --limit 512 --epochs 3 --model mlp_adder --lr 0.02 --save --json --device cpu --output-dir r"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *flags.split()], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"epoch"') == 3  # the main process alone prints
    assert "2 processes" in done.stderr
    with open(tmp_path / "r" / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[2]["train_digit_accuracy"]) > 0.3
    alone = subprocess.run(
        [sys.executable, ROOT / "train.py", *flags.replace("--output-dir r", "--output-dir s").split()],
        cwd=tmp_path, env=environment, capture_output=True, check=True,
    )  # fmt: skip
    assert alone.stdout
    with open(tmp_path / "s" / "history.csv") as file:
        first = list(csv.DictReader(file))[0]
    # the same images in the same order; batch normalization sees each half by itself
    assert float(rows[0]["train_digit_loss"]) == pytest.approx(float(first["train_digit_loss"]), rel=0.05)


@pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning")
@pytest.mark.parametrize("name", RECIPES)
def test_a_step_and_the_exhaustive_test_stay_on_a_gpu(name, monkeypatch):
    """Fake CUDA tensors: an operation on tensors of different devices raises, as on a GPU."""
    monkeypatch.setattr(torch.nn.Module, "to", lambda model, *_, **__: model)  # needs a driver
    with FakeTensorMode():
        with torch.device("cuda"):
            model = build_model(name)
        split = Split(torch.zeros(20, 28, 28, dtype=torch.uint8), torch.zeros(20, dtype=torch.long))
        dataset = MnistSum(split, device="cuda")
        dataset.fix_numbers(0, 0)
        (image, number), (digit, total) = dataset[batches(20, 16, 0, 0, "cuda")[0]]
        image = affine(image, random_matrices(len(image), device.generator(0, "affine"), "cuda"))
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(image, number)
        loss, *_ = summed_loss(*logits, digit, total)
        assert {each.device.type for each in (image, number, *logits, loss)} == {"cuda"}
        for outputs in exhaustive_logits(model, split):
            assert {each.device.type for each in outputs} == {"cuda"}
