"""The toolkit from Python: a handful of names, which cost nothing until they are used."""

import inspect
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn
from torch.utils.data import DataLoader

import inference
import mnist_sum
from mnist_sum import console, data, images, runs
from mnist_sum.console import UserError
from mnist_sum.figures import plots

ROOT = Path(__file__).resolve().parent.parent
IMPORT = """
import sys, time
start = time.perf_counter()
import mnist_sum
print(time.perf_counter() - start, *sys.modules)
"""


class Linear(nn.Module):
    """A module of anybody's, without encode and join."""

    def __init__(self):
        super().__init__()
        self.both = nn.Linear(784 + 10, 10 + 19)

    def forward(self, image, number):
        return self.both(torch.cat((image.flatten(1), number), 1)).split((10, 19), 1)


def test_the_import_takes_less_than_50_ms_and_no_torch():
    seconds = []
    for _ in range(3):
        command = [sys.executable, "-c", IMPORT]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        time, *modules = done.stdout.split()
        seconds.append(float(time))
        assert "mnist_sum" in modules and not {"torch", "numpy", "argparse"} & set(modules)
    assert median(seconds) < 0.05


@pytest.mark.parametrize("name", mnist_sum.__all__)
def test_every_name_is_there_and_documented(name):
    offered = getattr(mnist_sum, name)
    assert name in dir(mnist_sum) and name in mnist_sum.__doc__
    assert inspect.getdoc(offered).count(" ") > 20


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'mnist_sum' has no attribute 'fitt'"):
        mnist_sum.fitt  # noqa: B018


def test_a_shipped_model_predicts_a_path_a_pil_image_and_a_tensor_alike(tmp_path):
    model, page, path = mnist_sum.load("tiny"), Image.new("RGBA", (90, 90)), tmp_path / "page.png"
    ImageDraw.Draw(page).line([(25, 20), (70, 20), (45, 80)], fill=(0, 0, 0, 255), width=8)  # on transparency
    page.save(path)
    pixels = images.load_image(path)[1]
    predictions = [model.predict(image, 4) for image in (path, str(path), page, pixels, pixels[None])]
    for prediction in predictions:
        assert (prediction.digit, prediction.total) == (7, 11)
        assert torch.equal(prediction.sum_probabilities, predictions[0].sum_probabilities)
    for image, number in ((pixels, 10), (pixels, "4"), (pixels / 255, 4), (pixels[:9], 4), (None, 4)):
        with pytest.raises(UserError):
            model.predict(image, number)


def test_the_data_set_works_in_a_plain_loader_with_workers(few):
    data_set = mnist_sum.MnistSum(few.test, seed=3)
    batches = list(DataLoader(data_set, batch_size=8, num_workers=2))
    assert [len(digit) for _, (digit, _) in batches] == [8, 8, 8, 6]
    for place, part in enumerate(batches):
        items = data_set[8 * place : 8 * place + 8]
        for got, expected in zip((*part[0], *part[1]), (*items[0], *items[1]), strict=True):
            assert torch.equal(got, expected)


def test_a_plain_loop_trains_and_the_test_is_that_of_inference(few, monkeypatch, capsys):
    model = Linear()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(20):
        for inputs, targets in DataLoader(mnist_sum.MnistSum(few.train), batch_size=32):
            loss, digit_loss, sum_loss = mnist_sum.summed_loss(*model(*inputs), *targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        mnist_sum.evaluate(model, few)
        assert model.training  # as it was
    assert losses[-1] < losses[0] / 2 and loss == digit_loss + sum_loss

    shipped, another = mnist_sum.load("compact").model, nn.Identity()  # without parameters, encode and join
    another.forward = lambda image, number: shipped(image, number)
    monkeypatch.setattr(console, "_stdout_is_json", False)  # as it was, afterwards
    monkeypatch.setattr(data, "load", lambda *_: few)
    inference.main(["--evaluate", "--json", "--checkpoint", "compact"])
    assert mnist_sum.evaluate(another, few) == pytest.approx(json.loads(capsys.readouterr().out))


def test_in_a_notebook_a_run_is_a_loop_and_its_pictures_are_shown(few, monkeypatch, tmp_path):
    def cells():
        with mnist_sum.opened(model="compact", epochs=2) as run:
            rows = list(mnist_sum.fit(run.state, run.data.train, run.data.test))
        return rows, plots.draw_history(run.state.history, "test", "a run")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "load", lambda *_: few)
    with ThreadPoolExecutor(1) as notebook:  # a notebook's cells may run outside the main thread
        rows, history = notebook.submit(cells).result()
    case = {"number": 3, "digit": 4, "sum": 7, "predicted_digit": 4, "predicted_sum": 8}
    grid = plots.draw_predictions(few.test.images[:1], [case], "one image")
    assert [row["epoch"] for row in rows] == [1, 2] and set(os.listdir()) == {"runs"}
    for picture in (history, grid, plots.draw_sum_grid(torch.rand(10, 10), "a model")):
        assert picture._repr_png_().startswith(b"\x89PNG") and len(repr(picture)) < 50
    assert not list(Path().rglob("*.png"))
    for name in dir(plots):
        if name.startswith("draw_"):
            *_, path = inspect.signature(getattr(plots, name)).parameters.values()
            assert (path.name, path.default) == ("path", None), name
            assert "    return _" in inspect.getsource(getattr(plots, name)), name


@pytest.mark.parametrize(
    "settings",
    [
        {"data": "nope"},
        {"limit": -5},
        {"epochs": -1},
        {"schedule": "x"},
        {"batch_size": -1},
        {"precision": "fp64"},
    ]
    + [{"device": "gpu"}, {"lr": -1.0}],
    ids=str,
)
def test_an_impossible_setting_of_a_run_is_one_line_and_writes_nothing(settings, tmp_path):
    settings = {
        "device": "cpu",
        "model": "compact",
        "data": "sample",
        "output_dir": tmp_path / "run",
        **settings,
    }
    with pytest.raises(UserError), mnist_sum.opened(**settings):
        pass
    assert not (tmp_path / "run").exists()
