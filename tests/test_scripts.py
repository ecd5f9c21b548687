"""The command lines, as users give them: what they print, write and exit with."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mnist_sum.cli import UserError, run
from tests.conftest import ROOT

PICTURES = ["model.png", "occlusion.png", "samples.png", "testing.png", "training.png"]
MODULES = ["train.py", "inference.py", *(f"mnist_sum.{name}" for name in ("demo", "export", "reproduce", "study"))]
WRONG_FLAGS = {
    "train.py": ["--epochs 0", "--lr nan", "--model nosuch", "--seed -1", "--resume a --lr 1", "--x"],
    "inference.py": [
        *("--total 0", "--image a.png", "--number 3", "--image a.png --number 12", "--plot-graph"),
        *("--evaluate --total 3", "--checkpoint a b", "--evaluate --plot-graph --checkpoint a b"),
    ],
}


def digit_picture(path):
    image = np.full((200, 160), 250, np.uint8)
    image[30:170, 75:90] = 20  # a 1
    Image.fromarray(image).save(path)


@pytest.mark.parametrize("module", MODULES)
def test_help_answers_without_torch(module, script, tmp_path):
    for name in ("torch", "torchvision", "matplotlib", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    done = script(module, "--help", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.parametrize(("name", "flags"), [(name, flags) for name in WRONG_FLAGS for flags in WRONG_FLAGS[name]])
def test_wrong_flags_exit_with_2_and_one_line(name, flags, train, infer, capsys):
    with pytest.raises(SystemExit) as stop:
        (train if name == "train.py" else infer)(*flags.split())
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{name}: error: ")


def test_train_then_test_then_predict(train, infer, tmp_path):
    flags = [
        "--epochs",
        "2",
        "--limit",
        "256",
        "--save",
        "--summary",
        "--plot-graph",
        "--report",
        "--output-dir",
        "run",
    ]
    code, out, err = train(*flags)
    assert code == 0
    assert "reached: digit" in out
    assert "Total params: 7,274" in out
    assert out.splitlines()[-1] == "next: python inference.py --evaluate --checkpoint run"
    files = sorted(os.listdir("run"))
    assert files == sorted([*PICTURES, "checkpoint.safetensors", "history.csv", "report.md", "settings.json"])
    for picture in PICTURES:
        assert Image.open(f"run/{picture}").width > 300
        assert picture in (tmp_path / "run" / "report.md").read_text()
    with open("run/history.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["recipe"]["epochs"] == 2

    code, out, err = infer("--evaluate", "--checkpoint", "run", "--data", "sample", "--json", "--plot-graph")
    values = json.loads(out)
    assert values["cases"] == 10 * values["images"] == 10_000
    assert "pictures: confusion.png" in err
    code, out, err = infer("--total", 7, "--checkpoint", "run", "--data", "sample", "--seed", 1)
    assert out.count("\n") > 8
    assert Image.open("predictions.png").width > 300
    first = out
    assert infer("--total", 7, "--checkpoint", "run", "--data", "sample", "--seed", 1)[1] == first


def test_a_run_is_logged_for_tensorboard_and_its_curve_is_kept_current(train, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from mnist_sum import plots

    drawn = []
    monkeypatch.setattr(plots, "draw_history", lambda history, *_: drawn.append(len(history)))
    flags = ["--epochs", 2, "--limit", 64, "--save", "--tensorboard", "--plot-graph", "--output-dir", "run"]
    assert "TensorBoard: tensorboard --logdir run" in train(*flags)[1]
    assert drawn[:2] == [1, 2]
    log = events.EventAccumulator("run").Reload()
    rows = list(csv.DictReader(Path("run/history.csv").read_text().splitlines()))
    for tag, column in (("loss/train_digit", "train_digit_loss"), ("accuracy/test_sum", "test_sum_accuracy")):
        logged = [(event.step, event.value) for event in log.Scalars(tag)]
        assert logged == [(int(row["epoch"]), pytest.approx(float(row[column]))) for row in rows]
    assert log.Tags()["images"] == ["samples", "confusion"]


def test_json_is_alone_on_stdout(train, infer):
    code, out, err = train("--epochs", 2, "--limit", 64, "--json", "--summary", "--model", "compact")
    assert [json.loads(line)["epoch"] for line in out.splitlines()] == [1, 2]
    assert "Total params" in err
    _, out, _ = infer("--total", 3, "--data", "sample", "--json")
    assert len([json.loads(line) for line in out.splitlines()]) == 3


def test_several_models_are_compared(infer):
    code, out, _ = infer("--evaluate", "--checkpoint", "tiny", "compact", "--data", "sample")
    assert code == 0
    assert "1 tiny" in out
    assert "2 compact" in out
    assert Image.open("comparison.png").width > 300


def test_own_pictures_are_read_and_one_bad_one_does_not_stop_the_others(infer, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    digit_picture("pictures/a 1.png")
    (tmp_path / "pictures" / "b.png").write_text("no picture")
    code, out, err = infer("--image", "pictures", "missing.png", "--number", 7, "--json", "--output", "p.png")
    assert code == 1
    (row,) = map(json.loads, out.splitlines())
    assert (row["digit"], row["sum"]) == (1, 8)
    assert set(row) == {
        *("file", "line", "place", "box", "digit", "number", "sum"),
        *("digit_probability", "sum_probability", "unsure"),
    }
    assert sum(line.startswith("inference.py: error: ") for line in err.splitlines()) == 2
    assert Image.open("p.png").width > 300
    code, out, _ = infer("--image", "pictures/a 1.png", "--number", 7)
    assert code == 0
    assert "1 + 7 = 8" in out


def test_a_custom_model_is_trained_resumed_and_tested(train, infer, custom):
    assert train("--model", custom, "--limit", 64, "--save", "--output-dir", "run")[0] == 0
    assert train("--resume", "run", "--model", custom, "--device", "cpu")[0] == 0
    code, out, _ = infer("--evaluate", "--checkpoint", "run", "compact", "--model", custom, "--data", "sample")
    assert code == 0
    assert "net.py:Net" in out


def test_an_interrupt_says_how_to_resume(train, monkeypatch):
    from mnist_sum import training

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "exhaustive_test", interrupted)
        code, out, _ = train("--epochs", 2, "--limit", 64, "--save", "--output-dir", "run")
    assert code == 130
    assert out.splitlines()[-1] == "stopped; resume with: python train.py --resume run"
    assert train("--resume", "run", "--device", "cpu")[0] == 0


PROBLEMS = {
    ("train.py", "--resume", "nowhere"): "does not exist",
    ("train.py", "--output-dir", "old"): "already holds a run",
    ("train.py", "--device", "cuda:9"): "no device",
    ("train.py", "--data", "other"): "there is no dataset",
    ("train.py", "--model", "nowhere.py:Net"): "there is no model",
    ("inference.py", "--checkpoint", "nowhere"): "does not exist",
    ("inference.py", "--checkpoint", "damaged.safetensors"): "is damaged",
    ("inference.py", "--total", "10001", "--data", "sample"): "is more than",
    ("inference.py", "--output", "a.xyz", "--data", "sample"): "xyz",
    ("inference.py", "--output", "old/history.csv/p.png", "--data", "sample"): "cannot write",
}


@pytest.mark.parametrize("command", PROBLEMS)
def test_a_problem_is_one_line(command, train, infer, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "history.csv").write_text("")
    (tmp_path / "damaged.safetensors").write_bytes(b"0" * 100)
    name, *flags = command
    with pytest.raises(UserError, match=PROBLEMS[command]) as error:
        (train if name == "train.py" else infer)(*flags)
    assert "\n" not in str(error.value)


def test_exit_codes(capsys):
    def fails(argv):
        raise UserError("do this instead")

    def interrupted(argv):
        raise KeyboardInterrupt

    for main, code in ((fails, 1), (interrupted, 130), (lambda argv: None, None), (lambda argv: 1, 1)):
        with pytest.raises(SystemExit) as stop:
            run(main, "some.py")
        assert stop.value.code == code
    assert capsys.readouterr().err == "some.py: error: do this instead\n"


def test_a_run_in_a_notebook_leaves_the_interpreter_as_it_was(script, tmp_path):
    pytest.importorskip("IPython")
    (tmp_path / "notebook.py").write_text(f"""
import os, signal
from IPython.testing.globalipapp import start_ipython
shell = start_ipython()
signals = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
before = dict(os.environ), [signal.getsignal(each) for each in signals]
shell.run_line_magic("run", "{ROOT}/train.py --data sample --epochs 1 --limit 64 --plot-graph --output-dir run")
import torch  # sets variables of its own
added = {{key for key in os.environ if os.environ[key] != before[0].get(key)}}
assert not [key for key in added if not key.startswith(("KMP_", "TORCHINDUCTOR"))], added
assert [signal.getsignal(each) for each in signals] == before[1]
print("unchanged")
""")
    done = subprocess.run([sys.executable, "notebook.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "unchanged", done.stdout + done.stderr
    assert (tmp_path / "run" / "training.png").exists()


def test_importing_the_package_does_not_import_torch():
    code = "import mnist_sum, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"


def test_from_python(sample):
    import mnist_sum

    assert "load" in dir(mnist_sum)
    trained = mnist_sum.load("tiny", device="cpu")
    right = 0
    for image, digit in zip(sample.test.images[:40], sample.test.digits[:40].tolist(), strict=True):
        prediction = trained.predict(image, 7)
        right += (prediction.digit, prediction.total) == (digit, digit + 7)
        assert prediction.sum_probabilities.shape == (19,)
    assert right >= 39
    with pytest.raises(UserError, match="from 0 to 9"):
        trained.predict(sample.test.images[0], 12)
    with pytest.raises(AttributeError):
        mnist_sum.nothing  # noqa: B018
    assert mnist_sum.evaluate(trained.model, mnist_sum.load_data("sample", limit=20))["images"] == 20
    assert torch.is_tensor(mnist_sum.MnistSum(sample.test)[0][0][0])
