"""Pictures: that they are drawn, of the size and in the place asked for, and show the data."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from mnist_sum import models, plots
from mnist_sum.errors import Fault
from mnist_sum.recipes import RECIPES
from mnist_sum.summary import layer_inputs, layer_rows
from mnist_sum.training import ROW

READ_THE_IMAGE = {"large": [0, 17, 34, 51, 68]}  # readers of 17 rows, the last with one more


def has_colour(path, colour):
    """Whether some pixel of the picture is of about the colour "#rrggbb"."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return (abs(pixels - wanted).max(2) < 25).any()


def test_history_shows_both_outputs(tmp_path):
    history = [dict.fromkeys(ROW, 0.5) | {"epoch": epoch} for epoch in (1, 2, 3)]
    plots.draw_history(history, "test", "a run", tmp_path / "testing.png")
    assert has_colour(tmp_path / "testing.png", plots.DIGIT)
    assert has_colour(tmp_path / "testing.png", plots.SUM)


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_wrong_prediction_is_marked_and_a_right_one_is_not(wrong, few, tmp_path):
    case = {"number": 3, "digit": 4, "sum": 7, "predicted_digit": 4, "predicted_sum": 7 + wrong}
    plots.draw_predictions(few.test.images[:1], [case], "one image", tmp_path / "grid.png")
    assert has_colour(tmp_path / "grid.png", plots.WRONG) == bool(wrong)
    assert has_colour(tmp_path / "grid.png", plots.RIGHT) != bool(wrong)


@pytest.mark.parametrize("count", [1, 4, 26])
def test_samples_of_any_count_are_drawn(count, few, tmp_path):
    images, digits = few.train.images[:count], few.train.digits[:count].tolist()
    plots.draw_samples(images, digits, [9] * count, tmp_path / "samples.png")
    width, height = Image.open(tmp_path / "samples.png").size
    assert min(width, height) > 150


@pytest.mark.parametrize("name", RECIPES)
def test_the_models_picture_shows_where_the_number_joins(name, tmp_path):
    model = models.build(name)
    rows, inputs = layer_rows(model), layer_inputs(model)
    plots.draw_model(rows, inputs, name, tmp_path / "model.png")
    assert has_colour(tmp_path / "model.png", plots.SUM)
    reads_image, sees_number = map(list, zip(*inputs, strict=True))
    assert [row for row, reads in enumerate(reads_image) if reads] == READ_THE_IMAGE.get(name, [0])
    if name == "channel_fusion":
        assert sees_number == [False] + [True] * 10
    if name in ("tiny", "large"):
        assert not any(sees_number), "its addition is no layer"
    if name == "compact":
        width, height = Image.open(tmp_path / "model.png").size
        assert width > height, "34 blocks stand in two columns"
        assert sees_number == [False] * 29 + [True] * 4


def test_a_full_column_and_a_block_that_begins_one_go_on_in_the_next():
    assert plots.in_columns([False] * 5, 3) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert plots.in_columns([False, False, True, True, False], 3) == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]


def test_each_of_several_readers_has_its_column_and_the_image(monkeypatch, tmp_path):
    labels = []
    annotate = Axes.annotate

    def noted(axes, text, at, *rest, **kind):
        labels.append((text, int(at[0])))
        return annotate(axes, text, at, *rest, **kind)

    monkeypatch.setattr(Axes, "annotate", noted)
    model = models.build("large")
    plots.draw_model(layer_rows(model), layer_inputs(model), "large", tmp_path / "model.png")
    assert labels == [*(("image", column) for column in range(1, 5)), ("number\n[10]", 4)]


def test_a_picture_that_cannot_be_written_is_a_fault(few, tmp_path):
    for path in (tmp_path / "none" / "p.png", tmp_path / "picture.nosuch"):
        with pytest.raises(Fault, match=path.name):
            plots.draw_samples(few.train.images[:1], [1], [2], path)
