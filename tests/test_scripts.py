"""Both scripts as a user runs them."""

import csv
import json
import os
import re
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from handwriting import drawn

from mnist_sum.dataset import MnistSum
from mnist_sum.evaluation.exhaustive import evaluate
from mnist_sum.metrics import averages
from mnist_sum.models import compact, find, shipped
from mnist_sum.recipes import CHOICES
from mnist_sum.runs import checkpoint, report
from mnist_sum.training import FIGURES, ROW

PNG = b"\x89PNG"
OTHER_DATA = "warning: tested on sample but trained on mnist"
FLAGS = ("--model", "compact", "--data", "sample", "--device", "cpu", "--limit")


@pytest.fixture(scope="module")
def trained(script, sample, tmp_path_factory):
    """A short run on the sample with everything turned on, and its folder."""
    folder = tmp_path_factory.mktemp("trained")
    shown = ("--summarize", "--plot-graph", "--report")
    done = script("train.py", *FLAGS, 300, "--epochs", 2, "--save", *shown, "--output-dir", "run", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return done, folder / "run"


@pytest.fixture(scope="module")
def own(trained):
    """The flags that have inference.py take that run's model and its data."""
    return "--checkpoint", trained[1] / "checkpoint.safetensors", "--data", "sample"


def history(folder):
    return list(csv.DictReader((folder / "history.csv").read_text().splitlines()))


def test_training_prints_its_settings_a_line_an_epoch_and_what_is_next(trained):
    done, folder = trained
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("device: CPU")
    assert "data: sample, 300 training and 300 test images" in lines
    assert "Total params: 7,364" in lines
    assert len([line for line in lines if re.match(r" +[12]  0\.02", line)]) == 2
    last = [f"{float(history(folder)[-1][f'test_{output}_accuracy']):.2%}" for output in ("digit", "sum")]
    assert lines[-3].startswith("reached: digit {}, sum {} on 300 test images".format(*last))
    assert lines[-2:] == [
        "saved: run/checkpoint.safetensors",
        "next: python -m inference --evaluate --checkpoint run",
    ]


def test_a_report_is_written_without_docstrings_too(monkeypatch):
    """As under PYTHONOPTIMIZE=2."""
    state = SimpleNamespace(model=compact.Compact(), model_name="compact", architecture=find("compact"))
    assert report._architecture(state) == compact.__doc__.strip()
    monkeypatch.setattr(compact, "__doc__", None)
    assert report._architecture(state) == "compact"


def test_the_line_of_what_was_reached_fits_100_columns_on_mnist_too():
    row = {"test_digit_accuracy": 1.0, "test_sum_accuracy": 1.0, "seconds": 9999}
    recipe = SimpleNamespace(split="validation", epochs=60)
    state = SimpleNamespace(history=[row], recipe=recipe, epoch=60)
    assert len(report.result_line(state, 10_000)) <= 100


def test_a_run_leaves_checkpoint_history_settings_report_and_pictures(trained):
    folder = trained[1]
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    pictures = {name: content for name, content in files.items() if name.endswith(".png")}
    assert set(pictures) == {"training.png", "testing.png", "samples.png", "model.png", "occlusion.png"}
    texts = {"checkpoint.safetensors", "history.csv", "settings.json", "report.md"}
    assert set(files) - set(pictures) == texts
    assert all(content.startswith(PNG) and len(content) > 10_000 for content in pictures.values())
    assert json.loads(files["settings.json"])["data"]["name"] == "sample"
    rows = history(folder)
    assert tuple(rows[0]) == ROW
    assert [row["epoch"] for row in rows] == ["1", "2"]


def test_a_report_is_filled_from_the_run(trained):
    folder = trained[1]
    text = (folder / "report.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
        "Data representation", "Data generation", "How the two inputs are joined", "Training", "Loss",
        "Evaluation", "Results", "Log", "Pictures",
    ]  # fmt: skip
    assert f"{float(history(folder)[-1]['test_sum_accuracy']):.3%}" in text
    assert "| 2 | 0.020000 |" in text
    assert "7,364 parameters" in text
    shown = re.findall(r"!\[.+\]\((.+)\)", text)
    assert len(shown) == 5 and all((folder / name).is_file() for name in shown)


def test_a_report_has_words_for_every_setting():
    tables = {"split": report.SPLITS, "numbers": report.NUMBERS, "augmentation": report.AUGMENTATIONS}
    assert {name: tuple(words) for name, words in tables.items()} == {name: CHOICES[name] for name in tables}


def test_json_of_training_is_the_history_and_without_save_nothing_is_kept(script, sample, tmp_path):
    done = script("train.py", *FLAGS, 100, "--epochs", 2, "--json", "--output-dir", "run", cwd=tmp_path)
    stored = [{name: float(value) for name, value in row.items()} for row in history(tmp_path / "run")]
    assert done.returncode == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == stored
    reached, last = done.stderr.splitlines()[-2:]
    assert reached.startswith("reached: ") and last == "nothing was saved; --save keeps the model"
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_the_smallest_and_the_largest_seed_train(seed, script, sample):
    assert script("train.py", *FLAGS, 64, "--epochs", 1, "--seed", seed).returncode == 0


def test_a_checkpoints_exhaustive_test_equals_the_last_row_of_training(trained, sample):
    folder = trained[1]
    model, _ = checkpoint.load_model(folder / "checkpoint.safetensors", torch.device("cpu"))
    figures = averages(evaluate(model, MnistSum(sample.test.first(300))))
    for name in FIGURES:
        assert figures[name] == pytest.approx(float(history(folder)[-1][f"test_{name}"]), rel=1e-6), name


def test_random_predictions_are_printed_and_drawn(script, own, tmp_path):
    flags = (*own, "--total", 7, "--seed", 1)
    done, as_json = (script("inference.py", *flags, *more, cwd=tmp_path) for more in ((), ("--json",)))
    assert done.returncode == as_json.returncode == 0
    assert (tmp_path / "predictions.png").read_bytes().startswith(PNG)
    rows = re.findall(r"^ +(\d+)" + r" +(\d+)" * 5 + "(  wrong)?$", done.stdout, re.MULTILINE)
    cases = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [[*map(str, case.values())] for case in cases] == [list(row[:-1]) for row in rows]
    assert list(cases[0]) == ["image", "number", "digit", "predicted_digit", "sum", "predicted_sum"]
    assert len(cases) == 7
    for *_, digit, predicted_digit, total, predicted_sum, wrong in rows:
        assert bool(wrong) == (digit != predicted_digit or total != predicted_sum)


def test_evaluate_counts_every_image_with_every_number(script, own):
    figures = json.loads(script("inference.py", "--evaluate", "--json", *own).stdout)
    accuracies = ["digit_accuracy", "sum_accuracy", "joint_accuracy"]
    causes = ["digit_misread", "addition_wrong", "both_wrong", "errors_cancel"]
    calibration = ["digit_calibration_error", "sum_calibration_error"]
    names = ["data", "images", "cases", *accuracies, "gap", "consistency", *causes, *calibration]
    assert list(figures) == names
    assert figures["gap"] == pytest.approx(figures["digit_accuracy"] - figures["sum_accuracy"])
    assert sum(figures[cause] for cause in causes[:3]) == round(1e4 * (1 - figures["sum_accuracy"]))
    assert (figures["data"], figures["images"], figures["cases"]) == ("sample", 1000, 10_000)
    assert 0 <= figures["joint_accuracy"] <= figures["sum_accuracy"] <= 1


def test_the_command_that_training_prints_evaluates_and_draws_where_the_model_errs(script, trained):
    done, folder = trained
    _, _, name, *flags = shlex.split(done.stdout.splitlines()[-1].removeprefix("next: "))
    flags += ["--plot-graph", "--data", "sample", "--output", "errors"]
    done = script(f"{name}.py", *flags, cwd=folder.parent)
    assert (done.returncode, done.stderr) == (0, "")
    pictures = {path.name: path.stat().st_size for path in (folder.parent / "errors").iterdir()}
    assert set(pictures) == {"confusion.png", "sum_grid.png", "reliability.png", "mistakes.png"}
    assert min(pictures.values()) > 10_000
    assert "wrong sums" in done.stdout and max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=str)
def test_several_checkpoints_make_a_table_or_a_json_line_each_and_one_picture(flags, script, own, tmp_path):
    done = script("inference.py", "--evaluate", *own, "--checkpoint", shipped("tiny"), *flags, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr.count(OTHER_DATA) == 1
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    if flags:
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(row["model"], row["parameters"]) for row in rows] == [("compact", 7364), ("tiny", 7274)]
        assert all(row["images_per_second"] > 0 for row in rows)
    else:
        rows = re.findall("^([12]) (compact|tiny) +([0-9,]+)", done.stdout, re.MULTILINE)
        assert rows[:2] == [("1", "compact", "7,364"), ("2", "tiny", "7,274")]


def test_without_a_checkpoint_the_shipped_model_is_used_and_other_data_is_warned_about(
    script, sample, tmp_path
):
    """The sample's images are among MNIST's training images, which the shipped model has seen."""
    done = script("inference.py", "--data", "sample", "--total", 3, "--output", "grid", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr.startswith(OTHER_DATA)
    assert f"model: tiny from {shipped('tiny')}, trained for " in done.stdout
    assert os.listdir(tmp_path) == ["grid"]
    assert (tmp_path / "grid").read_bytes().startswith(PNG)


def test_own_images_of_any_name_are_predicted_and_a_bad_one_does_not_stop_the_others(script, tmp_path):
    names = ["a\n$\\foo$.png", "absent.png", "2.png"]
    for name, digit in ((names[0], 4), (names[2], 2)):
        drawn(digit, np.random.default_rng(digit)).save(tmp_path / name)
    flags = ("--image", *names, "--number", 7, "--output", "own.png")
    done, as_json = (script("inference.py", *flags, *more, cwd=tmp_path) for more in ((), ("--json",)))
    assert done.returncode == as_json.returncode == 1
    assert done.stderr == "inference.py: error: cannot read absent.png: No such file or directory\n"
    assert (tmp_path / "own.png").read_bytes().startswith(PNG)
    cases = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [(case["file"], case["digit"], case["sum"]) for case in cases] == [
        (names[0], 4, 11), (names[2], 2, 9),
    ]  # fmt: skip
    keys = ["file", "line", "place", "box", "digit", "number", "sum"]
    keys += ["digit_probability", "sum_probability", "unsure"]
    for case, name in zip(cases, ("a\\n$\\foo$.png", "2.png"), strict=True):
        assert list(case) == keys
        chances = [f"{case[key]:.1%}" for key in keys[-3:-1]]
        line = "{}: digit {digit} ({}), {digit} + 7 = {sum} ({})".format(name, *chances, **case)
        assert line in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("inference.py --total 1001 OWN", "--total 1001 is more than the 1,000 test images"),
        ("inference.py OWN --output no/such/folder.png", "cannot write the picture no/such/folder.png"),
        ("inference.py OWN --output folder.png", "cannot write folder.png: it is a folder"),
        ("inference.py --checkpoint old/m.png --output old/m.png", "read by this command"),
        ("inference.py --evaluate --checkpoint tiny old/m.png --output old/m.png", "read by this command"),
        ("inference.py --number 7 --image old/a.png --output old/a.png", "read by this command"),
        ("inference.py --checkpoint missing", "missing does not exist"),
        ("inference.py --checkpoint old", "old/checkpoint.safetensors does not exist"),
        ("inference.py --checkpoint old/checkpoint.pt", "train the model again, or use it with mnist_sum 1"),
        ("train.py --resume old", "train it again, or resume it with mnist_sum 1"),
        ("train.py --resume missing", "there is no checkpoint.safetensors in missing"),
        ("train.py --data sample --batch-size 1", "cannot learn from --batch-size 1"),
        ("train.py --data sample --limit 1", "cannot learn from a single training image"),
        ("train.py --data sample --device cuda", "--device cpu"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line_and_writes_nothing(command, words, script, own, tmp_path):
    if "cuda" in command and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    for folder in ("old", "folder.png"):
        (tmp_path / folder).mkdir()
    (tmp_path / "old" / "a.png").touch()
    shutil.copy(shipped("compact"), tmp_path / "old" / "m.png")
    (old := tmp_path / "old" / "checkpoint.pt").write_bytes(b"PK\x03\x04 and what else is in a zip")
    name, *flags = command.replace("OWN", shlex.join(map(str, own))).split()
    done = script(name, *flags, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{name}: error: ") and words in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["folder.png", "old"] and old.read_bytes().endswith(b"in a zip")


def test_pictures_do_not_depend_on_what_matplotlib_is_set_to(script, own, tmp_path):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "matplotlibrc").write_bytes(b"text.usetex: True\nsavefig.bbox: tight\n# \xff\n")
    (tmp_path / "rc").write_bytes(b"# \xff\n")
    odd = {
        "MPLBACKEND": "nonsense",
        "MATPLOTLIBRC": str(tmp_path / "rc"),
        "MPLCONFIGDIR": str(tmp_path / "rc"),
    }
    pictures = [tmp_path / "plain.png", tmp_path / "odd" / "odd.png", tmp_path / "odd" / "here.png"]
    for path, environment in zip(pictures, ({}, odd, {}), strict=True):
        flags = (*own, "--total", 2, "--seed", 3, "--output", path)
        done = script("inference.py", *flags, cwd=path.parent, **environment)
        assert done.returncode == 0 and done.stderr == ""
    assert len({path.read_bytes() for path in pictures}) == 1


def test_resume_and_inference_find_mnist_where_the_run_had_it(script, mnist_folder, tmp_path):
    where = ("--data", "mnist", "--data-dir", os.path.relpath(mnist_folder, tmp_path))
    flags = ("--model", "compact", "--limit", 64, "--epochs", 1, "--save", "--output-dir", "run")
    assert script("train.py", *flags, *where, cwd=tmp_path).returncode == 0
    elsewhere = {"MNIST_SUM_DATA": "", "MNIST_SUM_MIRROR": "http://127.0.0.1:9/"}
    done = script("train.py", "--resume", ".", cwd=tmp_path / "run", **elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    path = tmp_path / "run" / "checkpoint.safetensors"
    done = script("inference.py", "--checkpoint", path, "--total", 2, **elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert "data: mnist, 10,000 test images" in done.stdout
