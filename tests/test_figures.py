"""Pictures: that they show the data, and that they are written whole or refused in one line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.text import Annotation
from PIL import Image

from mnist_sum import models
from mnist_sum.console import UserError
from mnist_sum.dataset import MnistSum
from mnist_sum.evaluation.exhaustive import predict_all
from mnist_sum.figures import plots
from mnist_sum.figures.errors import draw_errors
from mnist_sum.figures.layers import layer_inputs, layer_rows
from mnist_sum.models import shipped
from mnist_sum.recipes import RECIPES
from mnist_sum.runs.trained import load
from mnist_sum.training import ROW

CASE = {"number": 3, "digit": 4, "sum": 7, "predicted_digit": 4, "predicted_sum": 7}
ROOT = Path(__file__).resolve().parent.parent
ANY_NAME = "$x^$ _{\n\udcff\\.png"


def share_of_colour(path, colour):
    """The share of the picture's pixels that are of about this colour, "#rrggbb" or (r, g, b) in [0, 1]."""
    pixels = np.asarray(Image.open(path).convert("RGB")) / 255
    return (abs(pixels - to_rgb(colour)).max(2) < 0.08).mean()


@pytest.fixture
def figure_of(monkeypatch):
    """Call a draw_ function with these arguments; its figure, laid out instead of saved."""

    def draw(function, *arguments):
        figures = []
        monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
        function(*arguments, "picture.png")
        figures[0].draw_without_rendering()
        return figures[0]

    return draw


def extent(artist):
    """(left, bottom, right, top) of the artist in pixels."""
    return np.array(artist.get_window_extent().extents)


def test_history_shows_digit_and_sum_where_they_coincide(tmp_path):
    history = [dict.fromkeys(ROW, 1 / epoch) | {"epoch": epoch} for epoch in range(1, 30)]
    plots.draw_history(history, "test", "a run", tmp_path / "testing.png")
    light_sum = 0.6 * np.array(to_rgb(plots.SUM)) + 0.4  # on white, as drawn
    assert share_of_colour(tmp_path / "testing.png", plots.DIGIT) > 0.001
    assert share_of_colour(tmp_path / "testing.png", light_sum) > 0.001


def test_held_out_pairs_are_outlined_where_they_are(figure_of):
    held_out = np.zeros((10, 10), dtype=bool)
    held_out[7, 2] = True
    grid = np.linspace(0, 1, 100).reshape(10, 10)
    grids = {"compact": {"a": (grid, held_out)}, "tiny": {"a": (grid, ~held_out), "b": (grid, held_out)}}
    first, absent, second, third = figure_of(plots.draw_pair_grids, grids).axes[:4]
    assert [len(axes.patches) for axes in (first, absent, second, third)] == [1, 0, 99, 1]
    assert first.patches[0].get_xy() == (1.5, 6.5) and first.images[0].get_array()[7, 2] == 100 * grid[7, 2]
    assert not absent.axison and "tiny" in second.get_ylabel() and absent.get_title() == "b"


@pytest.mark.parametrize("part", ["train", "test"])
def test_legends_of_the_history_cover_no_curve(part, figure_of):
    history = [dict.fromkeys(ROW, 0.5) | {"epoch": epoch} for epoch in (1, 2)]
    for axes in figure_of(plots.draw_history, history, part, "a run").axes:
        assert extent(axes.get_legend())[1] >= extent(axes.patch)[3]
        assert [text.get_text().partition(",")[0] for text in axes.get_legend().texts] == ["digit", "sum"]


@pytest.mark.parametrize("wrong", [0, 1])
def test_wrong_predictions_are_red_and_correct_ones_green(wrong, few, tmp_path):
    case = CASE | {"predicted_sum": 7 + wrong}
    plots.draw_predictions(few.test.images[:1], [case], "one image", tmp_path / "grid.png")
    assert (share_of_colour(tmp_path / "grid.png", plots.WRONG) > 0) == bool(wrong)
    assert (share_of_colour(tmp_path / "grid.png", plots.CORRECT) > 0) != bool(wrong)


@pytest.mark.parametrize("count", [1, 4, 26])
def test_titles_and_captions_lie_within_the_picture(count, few, figure_of):
    images = few.train.images[:count]
    title = "channel_fusion on mnist: " + "the most confident mistakes, with their probabilities " * 2
    figure = figure_of(plots.draw_predictions, images, [CASE | {"predicted_sum": 8}] * count, title)
    for text in (figure._suptitle, *(axes.title for axes in figure.axes if axes.images)):
        left, bottom, right, top = extent(text)
        assert min(left, bottom) >= 0 and right <= figure.bbox.x1 and top <= figure.bbox.y1


@pytest.mark.parametrize("count", [1, 13])
def test_texts_of_occlusion_maps_lie_within_the_picture_and_cover_no_other(count, few, figure_of):
    images, maps = few.train.images[:count], [torch.zeros(2, 28, 28)] * count
    case = CASE | {"number": 9, "predicted_sum": 14, "sum": 13, "probability": 1.0}
    figure = figure_of(
        plots.draw_occlusion, images, [case] * count, maps, "mlp_adder on mnist: mistakes " * 3
    )
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 3 * count
    titles = [axes.title for axes in shown if axes.get_title()]
    texts = [figure._suptitle, figure._supxlabel, *titles, *(axes.yaxis.label for axes in shown[::10])]
    extents = [text.get_window_extent() for text in texts if text.get_text()]
    for place, box in enumerate(extents):
        assert min(box.x0, box.y0) >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in [*extents[:place], *(axes.bbox for axes in shown)])


def test_only_what_an_answer_rests_on_is_magenta(few, tmp_path):
    nothing, something = torch.zeros(28, 28), torch.zeros(28, 28)
    something[5:20, 5:20] = 9
    dark = [np.zeros((28, 28), np.uint8)]
    magenta = 0.85 * np.array(to_rgb(plots.LOOKED_AT))  # on black
    for pair, expected in (((nothing, -something), 0), ((nothing, something), 1)):
        plots.draw_occlusion(dark, [CASE], [pair], "a model", tmp_path / "maps.png")
        assert (share_of_colour(tmp_path / "maps.png", magenta) > 0.01) == bool(expected)


@pytest.mark.parametrize("name", RECIPES)
def test_model_picture_has_texts_in_boxes_and_an_arrow_at_the_first_that_sees_the_number(name, figure_of):
    model = models.build(name)
    rows, inputs = layer_rows(model), layer_inputs(model)
    axes = figure_of(plots.draw_model, rows, inputs, name).axes[0]
    texts = [text for text in axes.texts if not isinstance(text, Annotation)]
    for text, box in zip(texts, axes.patches, strict=True):
        assert (extent(text)[:2] > extent(box)[:2]).all() and (extent(text)[2:] < extent(box)[2:]).all()
        assert extent(box)[2] <= axes.figure.bbox.x1
    orange = [box for box in axes.patches if box.get_facecolor()[:3] == to_rgb(plots.NUMBER_LAYER)]
    left, bottom, _, top = extent(orange[0])
    (number,) = (text for text in axes.texts if text.get_text() == "number\n[10]")
    _, arrow_bottom, tip, arrow_top = extent(number.arrow_patch)
    assert tip == pytest.approx(left, abs=2)
    assert bottom < arrow_bottom < arrow_top < top


def test_layer_inputs_tell_where_the_number_joins():
    sees_number = {name: [sees for _, sees in layer_inputs(models.build(name))] for name in RECIPES}
    assert sees_number["channel_fusion"] == [False] + [True] * 10
    assert sees_number["compact"] == [False] * 29 + [True] * 4
    assert not any(sees_number["tiny"]), "its addition is no layer"


def test_each_member_of_an_ensemble_has_its_column_and_the_image(figure_of):
    model = models.build("large")
    inputs = layer_inputs(model)
    assert [row for row, (takes_image, _) in enumerate(inputs) if takes_image] == [0, 17, 34, 51, 68]
    axes = figure_of(plots.draw_model, layer_rows(model), inputs, "large").axes[0]
    arrows = [(text.get_text(), int(text.xy[0])) for text in axes.texts if isinstance(text, Annotation)]
    assert arrows == [*(("image", column) for column in range(1, 5)), ("number\n[10]", 4)]


def test_names_of_models_cover_neither_each_other_nor_a_point(figure_of):
    ours = {name: (7000 + place, (99.5, 0.1), (99.5, 0.1)) for place, name in enumerate(RECIPES)}
    axes = figure_of(plots.draw_parameters, ours, {"another": (700_000, 99.5, 99.4)}).axes[0]
    extents = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [*RECIPES, "another"]
    for place, one in enumerate(extents):
        assert not any(one.overlaps(other) for other in extents[:place])
        assert not any(one.overlaps(mark.get_window_extent()) for mark in axes.lines)


def test_any_file_name_can_be_drawn(tmp_path):
    probabilities = {"digit": np.eye(10)[4], "sum": np.eye(19)[7]}
    maps = np.zeros((2, 28, 28))
    images = {"original": Image.new("RGB", (40, 50)), "seen": np.zeros((28, 28), np.uint8), "maps": maps}
    plots.draw_own_images([{"file": ANY_NAME, "number": 3, **images, **probabilities}], tmp_path / "own.png")
    row = {"model": "tiny", "checkpoint": ANY_NAME * 9, "parameters": 7274, "images_per_second": 9.0}
    for output in ("digit", "sum"):
        row |= {f"{output}_accuracy": 0.9, f"{output}_interval": (0.8, 0.95)}
    plots.draw_comparison([row, row], "two models", tmp_path / "comparison")
    assert {path.name for path in tmp_path.iterdir()} == {"own.png", "comparison"}
    for path in tmp_path.iterdir():
        assert Image.open(path).format == "PNG"


@pytest.mark.parametrize("place", ["none/picture.png", "picture.nosuch", "picture.pgf", "folder.png", "."])
def test_pictures_that_cannot_be_written_are_user_errors(place, few, tmp_path):
    (tmp_path / "folder.png").mkdir()
    path = tmp_path / place if place != "." else place
    with pytest.raises(UserError, match="^cannot write the picture") as problem:
        plots.draw_samples(few.train.images[:1], [1], [2], path)
    assert str(path) in str(problem.value)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"], "half a picture"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_picture_does_not_replace_a_pipe_or_wait_for_its_reader(few, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="^cannot write the picture .*: it is a device or a pipe; give"):
        plots.draw_samples(few.train.images[:1], [1], [2], tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_pictures_in_assets_can_be_redrawn_from_what_ships(tmp_path):
    command = [sys.executable, "-m", "tests.draw_assets", "--output-dir", str(tmp_path), "--only"]
    subprocess.run([*command, "own", "reproduction"], cwd=ROOT, check=True, timeout=120)
    assert {path.name for path in tmp_path.iterdir()} == {"own.png", "reproduction.png"}


def test_a_model_is_not_replaced_by_a_picture_of_its_errors(few, tmp_path):
    (path := tmp_path / "mistakes.png").write_bytes(shipped("tiny").read_bytes())
    trained = load(path, "cpu")
    with pytest.raises(UserError, match="it is read by this command"):
        draw_errors(trained, few, predict_all(trained.model, MnistSum(few.test)), tmp_path)
    assert os.listdir(tmp_path) == ["mistakes.png"] and load(path, "cpu").name == "tiny"
