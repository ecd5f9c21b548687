"""Checkpoints: what they hold, that a run resumes bit for bit, that damage is one line."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mnist_sum import checkpoint
from mnist_sum.cli import UserError
from mnist_sum.models import WEIGHTS, build_model
from mnist_sum.recipes import CUSTOM, RECIPES
from mnist_sum.training import fit, new_state
from tests.conftest import ROOT

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["compact", "tiny", "linear_adder"])  # SGD, Nesterov and EMA, Adam
def test_a_resumed_run_ends_with_the_same_bits(name, few, tmp_path):
    recipe = replace(RECIPES[name], epochs=3, batch_size=16, split="standard")
    whole = new_state(name, recipe, 5, CPU, "fp32")
    list(fit(whole, few.train, few.test))

    part = new_state(name, recipe, 5, CPU, "fp32")
    next(iter(fit(part, few.train, few.test)))
    checkpoint.save(tmp_path / "a.safetensors", part, few)
    torch.rand(1)  # whatever else the process draws
    resumed, info = checkpoint.resume(tmp_path / "a.safetensors", CPU)
    assert info["data"] == {"name": "noise", "train_images": 64, "test_images": 30}
    list(fit(resumed, few.train, few.test))
    for key, tensor in whole.ema_model.state_dict().items():
        assert torch.equal(tensor, resumed.ema_model.state_dict()[key]), key
    for row in (*whole.history, *resumed.history):
        row.pop("seconds")
    assert whole.history == resumed.history


def test_a_run_that_is_killed_at_any_moment_resumes_to_the_same_bits(tmp_path):
    flags = [
        "--data",
        "sample",
        "--limit",
        "256",
        "--epochs",
        "8",
        "--save",
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--output-dir",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, ROOT / "train.py", *arguments],
            env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    complete, killed = start(*flags, "whole"), start(*flags, "killed")
    while not (tmp_path / "killed" / "history.csv").exists() and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert (killed.wait(), complete.wait()) == (-signal.SIGKILL, 0)
    assert start("--resume", "killed", "--device", "cpu").wait() == 0
    whole, resumed = (load_file(tmp_path / run / checkpoint.CHECKPOINT) for run in ("whole", "killed"))
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


def test_a_finished_checkpoint_is_a_state_dict_for_any_program(few, tmp_path):
    state = new_state("tiny", replace(RECIPES["tiny"], epochs=1, batch_size=32), 0, CPU, "fp32")
    list(fit(state, few.train, few.test))
    checkpoint.save(tmp_path / "a.safetensors", state, few)
    build_model("tiny").load_state_dict(load_file(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("name", ["tiny", "compact", "large"])
def test_shipped_models_load_and_say_what_they_were_trained_on(name):
    model, info = checkpoint.load_model(checkpoint.find_checkpoint(name))
    assert not model.training
    assert info["data"] == {"name": "mnist", "train_images": 60_000, "test_images": 10_000}
    assert info["data_dir"] == ""
    assert info["recipe"]["epochs"] == len(info["history"]) == RECIPES[name].epochs


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_damaged_file_is_one_line_or_a_model(data, tmp_path_factory):
    content = bytearray((WEIGHTS / "compact.safetensors").read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(8):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "c.safetensors"
    path.write_bytes(content)
    with suppress(UserError):
        checkpoint.load_model(path)


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "c.safetensors").write_bytes(pickle.dumps(Code()))
    with pytest.raises(UserError, match="is no checkpoint"):
        checkpoint.load_model(tmp_path / "c.safetensors")
    assert not (tmp_path / "ran").exists()


def test_a_custom_model_needs_its_file_named(few, custom, tmp_path):
    state = new_state(custom, replace(CUSTOM, epochs=1, batch_size=16), 0, CPU, "fp32")
    checkpoint.save(tmp_path / "c.safetensors", state, few)
    with pytest.raises(UserError, match="--model net.py:Net"):
        checkpoint.load_model(tmp_path / "c.safetensors")
    model, info = checkpoint.load_model(tmp_path / "c.safetensors", custom=["other.py:Other", custom])
    assert info["model"] == "net.py:Net"
    (tmp_path / "net.py").write_text((tmp_path / "net.py").read_text().replace("29)", "29, bias=False)"))
    with pytest.raises(UserError, match="does not fit"):
        checkpoint.load_model(tmp_path / "c.safetensors", custom=[custom])


def test_newest_is_the_last_written_with_an_epoch_done(few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoint.newest() == WEIGHTS / "tiny.safetensors"
    state = new_state("tiny", replace(RECIPES["tiny"], epochs=2, batch_size=32), 0, CPU, "fp32")
    begun = checkpoint.new_run_dir(None, "tiny") / checkpoint.CHECKPOINT
    checkpoint.save(begun, state, few)
    assert checkpoint.newest() == WEIGHTS / "tiny.safetensors"
    next(iter(fit(state, few.train, few.test)))
    trained = checkpoint.new_run_dir(None, "tiny") / checkpoint.CHECKPOINT
    assert trained.parent != begun.parent
    checkpoint.save(trained, state, few)
    os.utime(begun, (time.time() + 10,) * 2)
    assert checkpoint.newest() == trained


def test_a_full_disk_is_one_line_and_the_old_file_stays(few, tmp_path, monkeypatch):
    state = new_state("compact", replace(RECIPES["compact"], epochs=1), 0, CPU, "fp32")
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, state, few)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save(path, state, few)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c.safetensors"]


def test_a_run_never_overwrites_another(few, tmp_path):
    state = new_state("compact", replace(RECIPES["compact"], epochs=1), 0, CPU, "fp32")
    checkpoint.save(checkpoint.new_run_dir(str(tmp_path / "a"), "compact") / checkpoint.CHECKPOINT, state, few)
    with pytest.raises(UserError, match="--resume"):
        checkpoint.new_run_dir(str(tmp_path / "a"), "compact")
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "a").write_text("a file")
    with pytest.raises(UserError, match="cannot write into"):
        checkpoint.new_run_dir(str(tmp_path / "a"), "compact")
