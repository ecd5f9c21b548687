import dataclasses
import errno
import os
import shutil

import pytest
import torch

from mnist_sum import data, reproduce, runs
from mnist_sum.console import UserError
from mnist_sum.recipes import RECIPES
from mnist_sum.runs import checkpoint
from mnist_sum.runs.series import mean_and_deviation
from mnist_sum.training import fit, new_state

CHECKPOINT = "checkpoint.safetensors"


@pytest.fixture
def recipe(monkeypatch):
    """A short recipe for compact."""
    short = dataclasses.replace(RECIPES["compact"], epochs=2, batch_size=16)
    monkeypatch.setitem(RECIPES, "compact", short)
    return short


@pytest.fixture
def folder(recipe, few, tmp_path, monkeypatch):
    """A folder with compact-0 finished and compact-1 half done, trained on noise; all data is that noise."""
    few = dataclasses.replace(few, name="mnist")
    for module in (data, runs):
        monkeypatch.setattr(module, "load", lambda *_: few)
    for seed, epochs in ((0, 2), (1, 1)):
        state = new_state("compact", recipe, seed, torch.device("cpu"), "fp32")
        for _ in zip(range(epochs), fit(state, few.train, few.test), strict=False):
            pass
        path = tmp_path / f"compact-{seed}" / CHECKPOINT
        path.parent.mkdir()
        checkpoint.save(path, state, checkpoint.describe_data(few))
    return tmp_path


def reproduced(folder, *flags):
    """The exit code of the command for compact, and the lines of its table."""
    code = reproduce.main(["--models", "compact", "--output-dir", str(folder), *map(str, flags)])
    return code, (folder / "reproduction.md").read_text().splitlines()


def test_runs_are_started_resumed_or_left_alone_and_then_tabled(folder, capsys):
    finished = (folder / "compact-0" / CHECKPOINT).read_bytes()
    (first_epoch,) = checkpoint.load(folder / "compact-1" / CHECKPOINT)["history"]
    code, (head, _, row) = reproduced(folder, "--seeds", 3)
    assert code == 0
    assert (folder / "compact-0" / CHECKPOINT).read_bytes() == finished
    stored = [checkpoint.load(folder / f"compact-{seed}" / CHECKPOINT) for seed in range(3)]
    assert stored[1]["history"][0] == first_epoch
    assert [(each["seed"], each["epoch"]) for each in stored] == [(0, 2), (1, 2), (2, 2)]
    assert row in capsys.readouterr().out
    assert (folder / "reproduction.png").read_bytes().startswith(b"\x89PNG")
    cells = {key.strip(): value.strip() for key, value in zip(head.split("|"), row.split("|"), strict=True)}
    sums = [100 * each["history"][-1]["test_sum_accuracy"] for each in stored]
    assert cells["model"] == "`compact`" and cells["parameters"] == "7,364" and cells["seeds"] == "3"
    assert cells["sum %"] == mean_and_deviation(sums)
    assert cells["reported"] == "99.17 / 98.49"


def test_a_run_by_another_recipe_is_refused_and_kept(folder, recipe, monkeypatch):
    monkeypatch.setitem(RECIPES, "compact", dataclasses.replace(recipe, learning_rate=0.1))
    with pytest.raises(UserError, match="another recipe"):
        reproduced(folder, "--seeds", 1)


def test_the_teacher_teaches_every_run_and_is_named_below_the_table(folder, tmp_path):
    teacher = folder / "compact-0" / CHECKPOINT
    code, lines = reproduced(tmp_path / "distilled", "--seeds", 1, "--teacher", teacher)
    assert code == 0 and lines[-1].endswith(f"(knowledge distillation): {teacher}")
    stored = [
        checkpoint.load(at / CHECKPOINT) for at in (tmp_path / "distilled" / "compact-0", teacher.parent)
    ]
    assert stored[0]["recipe"]["teacher"] == stored[1]["sha256"]
    with pytest.raises(UserError, match="another teacher"):
        reproduced(folder, "--seeds", 1, "--teacher", teacher)
    with pytest.raises(UserError, match="cannot teach channel_fusion, .* --models"):
        reproduce.main(["--teacher", str(teacher), "--output-dir", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_a_full_disk_keeps_the_old_table(folder, monkeypatch):
    reproduced(folder, "--seeds", 1)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert before.keys() == {reproduce.TABLE, reproduce.PICTURE, ".lock"}

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=f"cannot write .*{reproduce.TABLE}: No space left"):
        reproduced(folder, "--seeds", 1)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_teachers_name_need_not_be_utf_8(folder, tmp_path):
    teacher = tmp_path / os.fsdecode(b"t\xff.safetensors")
    shutil.copy(folder / "compact-0" / CHECKPOINT, teacher)
    code, lines = reproduced(tmp_path / "distilled", "--seeds", 1, "--teacher", teacher)
    assert code == 0 and lines[-1].endswith("/t\\udcff.safetensors")


def test_neither_the_teacher_nor_a_pipe_becomes_the_table(folder, tmp_path):
    for name, make in (("teacher", lambda path: shutil.copy(folder / "compact-0" / CHECKPOINT, path)),
                       ("pipe", os.mkfifo)):  # fmt: skip
        (tmp_path / name).mkdir()
        make(table := tmp_path / name / reproduce.TABLE)
        with pytest.raises(UserError, match=f"cannot write {table}: it is .*; give"):
            reproduce.main(["--teacher", str(table), "--output-dir", str(tmp_path / name)])
        assert os.listdir(tmp_path / name) == [reproduce.TABLE]


def test_a_run_that_is_stopped_ends_the_command_with_its_exit_code(folder, monkeypatch):
    def stopped(state, *_):
        state.stop_signal = 15
        return iter(())

    monkeypatch.setattr("mnist_sum.runs.series.fit", stopped)
    assert reproduced(folder, "--seeds", 3)[0] == 143
    assert not (folder / "compact-2").exists()


def test_mean_and_standard_deviation_over_seeds():
    assert mean_and_deviation([1.0, 3.0]) == "2.00 ± 1.41"
    assert mean_and_deviation([1.0]) == "1.00"
