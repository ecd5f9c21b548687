"""Pictures: that they are drawn, of the size and in the place asked for, and show the data."""

import numpy as np
import pytest
from PIL import Image

from mnist_sum import models, plots
from mnist_sum.errors import Fault
from mnist_sum.recipes import RECIPES
from mnist_sum.summary import layer_rows, sees_number
from mnist_sum.training import ROW


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
    rows, seen = layer_rows(model), sees_number(model)
    plots.draw_model(rows, seen, name, tmp_path / "model.png")
    assert has_colour(tmp_path / "model.png", plots.SUM)
    if name == "channel_fusion":
        assert seen == [False] + [True] * 10
    if name in ("tiny", "large"):
        assert not any(seen), "its addition is no layer"
    if name == "compact":
        assert seen == [False] * 29 + [True] * 4


def test_a_picture_that_cannot_be_written_is_a_fault(few, tmp_path):
    for path in (tmp_path / "none" / "p.png", tmp_path / "picture.nosuch"):
        with pytest.raises(Fault, match=path.name):
            plots.draw_samples(few.train.images[:1], [1], [2], path)
