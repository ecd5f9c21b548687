"""Pictures show the data, keep their texts apart, and are written whole or refused in one line."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from mnist_sum import plots
from mnist_sum.cli import UserError
from mnist_sum.evaluation import predict_all
from mnist_sum.images import Digit, Page
from mnist_sum.layers import layer_rows
from mnist_sum.models import build_model
from mnist_sum.predict import PageResult, Prediction
from mnist_sum.recipes import RECIPES

CASE = {"number": 9, "digit": 4, "sum": 13, "predicted_digit": 4, "predicted_sum": 13, "probability": 1.0}


def share_of_color(picture, color):
    pixels = np.asarray(Image.open(picture).convert("RGB")) / 255
    return (abs(pixels - to_rgb(color)).max(2) < 0.08).mean()


@pytest.fixture
def draw(tmp_path):
    """draw(plots.draw_X, ...) -> the path of the picture."""
    return lambda function, *a, **b: (function(*a, tmp_path / "p.png", **b), tmp_path / "p.png")[1]


@pytest.fixture
def figure_of(monkeypatch, draw):
    figures, save = [], plots.Figure.savefig
    monkeypatch.setattr(plots.Figure, "savefig", lambda *a, **b: (figures.append(a[0]), save(*a, **b)))
    return lambda *a, **b: (draw(*a, **b), figures[-1])[1]  # as laid out to be saved


def box(artist):
    return np.array(artist.get_window_extent().extents)  # (left, bottom, right, top) in pixels


def inside_and_apart(figure, texts, others=()):
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert all(min(b.x0, b.y0, figure.bbox.x1 - b.x1, figure.bbox.y1 - b.y1) >= 0 for b in boxes)
    return not any(b.overlaps(other) for k, b in enumerate(boxes) for other in [*boxes[:k], *others])


def result(file="4.jpg", doubt="", digits=1):
    """A PageResult; each digit's box is 40 x 60 pixels of a picture that is twice as large as it is shown."""
    pixels, maps = torch.zeros(28, 28, dtype=torch.uint8), (torch.zeros(28, 28),) * 2
    found = [Digit(1, k + 1, (100 * k + 20, 40, 100 * k + 60, 100), pixels, doubt) for k in range(digits)]
    prediction = Prediction(4, 7, torch.eye(10)[4], torch.eye(19)[7])
    page = Page(Image.new("RGB", (50 * digits + 30, 80), "white"), 2.0, found, 0)
    return PageResult(file, page, 3, [prediction] * digits, maps if digits == 1 else None)


def test_history_shows_both_curves_where_they_coincide_and_its_legends_cover_none(figure_of, draw):
    row = {f"test_{output}_{figure}": 0.5 for output in ("digit", "sum") for figure in ("loss", "accuracy")}
    history = [row | {"epoch": epoch} for epoch in range(1, 31)]
    for axes in figure_of(plots.draw_history, history, "test", "a run").axes:
        assert box(axes.get_legend())[1] >= box(axes.patch)[3]
    picture = draw(plots.draw_history, history, "test", "a run")
    assert share_of_color(picture, plots.DIGIT) > 0.001
    assert share_of_color(picture, 0.6 * np.array(to_rgb(plots.SUM)) + 0.4) > 0.001  # on white


def test_wrong_predictions_are_red_and_correct_ones_green(few, draw):
    for total, color, other in (13, plots.CORRECT, plots.WRONG), (8, plots.WRONG, plots.CORRECT):
        picture = draw(plots.draw_cases, few.test.images[:1], [CASE | {"predicted_sum": total}], "one image")
        assert share_of_color(picture, color) > 0 == share_of_color(picture, other)


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (4, 1), (6, 1), (1, 3), (11, 3)])
def test_titles_and_captions_lie_inside_the_picture_and_cover_nothing(count, rows, few, figure_of):
    title, maps = "channel_fusion: the most confident mistakes " * 3, [torch.zeros(2, 28, 28)] * count
    images, cases = few.train.images[:count], [CASE | {"predicted_sum": 14}] * count
    figure = figure_of(plots.draw_cases, images, cases, title, maps=maps if rows > 1 else None)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == rows * count
    texts = [figure._suptitle, figure._supxlabel, *(axes.title for axes in shown), shown[0].yaxis.label]
    assert inside_and_apart(figure, texts, [axes.bbox for axes in shown])


def test_only_what_an_answer_rests_on_is_magenta(draw):
    black, map_ = torch.zeros(1, 28, 28), torch.full((28, 28), 9.0)
    for each, expected in (-map_, False), (map_, True):
        picture = draw(plots.draw_cases, black, [CASE], "a model", maps=[(black[0], each)])
        assert (share_of_color(picture, 0.85 * np.array(to_rgb(plots.LOOKED_AT))) > 0.01) == expected


def test_a_page_has_a_box_for_each_digit_and_doubts_are_red_and_dashed(figure_of):
    for doubt, color, line in ("", plots.DIGIT, "-"), ("perhaps no digit", plots.WRONG, "--"):
        (axes,) = figure_of(plots.draw_pages, [result(digits=3, doubt=doubt)]).axes
        assert axes.patches[1].get_bbox().extents.tolist() == [60, 20, 80, 50]
        styles = {(patch.get_edgecolor()[:3], patch.get_linestyle()) for patch in axes.patches}
        assert styles == {(to_rgb(color), line)}
        assert [text.get_text() for text in axes.texts] == [f"4{'?' if doubt else ''}", "7"] * 3


def test_a_single_digit_shows_its_doubt_in_red_and_titles_are_apart(figure_of):
    doubtful = result("$x^$ a photograph with a very long name.jpg", "touching: perhaps several digits")
    figure = figure_of(plots.draw_pages, [doubtful, result(), result(digits=2)])
    titles = [axes.title for axes in figure.axes]
    assert [text.get_color() for text in titles].count(plots.WRONG) == 1
    assert inside_and_apart(figure, [figure._supxlabel, *titles])


@pytest.mark.parametrize("name", RECIPES)
def test_layers_are_in_their_boxes_and_the_number_meets_the_first_that_sees_it(name, figure_of):
    axes = figure_of(plots.draw_model, layer_rows(build_model(name)), name).axes[0]
    arrows = [text for text in axes.texts if hasattr(text, "arrow_patch")]
    for text, patch in zip([text for text in axes.texts if text not in arrows], axes.patches, strict=True):
        assert ((box(text) - box(patch)) * (1, 1, -1, -1) > 0).all()
    orange = [patch for patch in axes.patches if patch.get_facecolor()[:3] == to_rgb(plots.NUMBER_LAYER)]
    assert [text.get_text() for text in arrows] == ["image"] * 4 * (name == "large") + ["number\n[10]"]
    assert arrows[-1].xy == pytest.approx((orange[0].get_x(), orange[0].get_y() + 0.3))


def test_pictures_are_written_in_the_format_of_their_suffix_or_refused(few, tmp_path):
    for name, start in ("a.svg", b"<?xml"), ("a.jpg", b"\xff\xd8"), ("a", b"\x89PNG"):
        assert plots.draw_cases(few.train.images[:1], [CASE], "", tmp_path / name) is None
        assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(UserError, match="^cannot write .*a.nosuch: .nosuch is no picture format; use .png"):
        plots.draw_cases(few.train.images[:1], [CASE], "", tmp_path / "a.nosuch")


def test_pictures_of_errors_and_studies_are_drawn(few, tmp_path, figure_of, draw):
    model, data = build_model("tiny").eval(), replace(few, test=few.test[:2])
    names = plots.draw_errors(model, "tiny", data, predict_all(model, data.test), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    row = {"model": "tiny", "checkpoint": "$a^$/" * 30, "parameters": 7274, "images_per_second": 9.0}
    row |= {"digit_accuracy": 0.9, "sum_accuracy": 0.8, "digit_interval": (0.8, 1), "sum_interval": (0.7, 1)}
    draw(plots.draw_comparison, [row, row], "two models")
    draw(plots.draw_sums, {"a": {1: (97.0, 0.1)}}, {"a": {1: 97.1}}, {"a": [(2, 95.0)]})
    held = np.arange(100).reshape(10, 10) == 72
    grids = {"compact": {"a": (held, held)}, "tiny": {"a": (held, ~held), "b": (held, held)}}
    axes = figure_of(plots.draw_pair_grids, grids).axes[:4]
    assert [len(each.patches) for each in axes] == [1, 0, 99, 1]
    assert axes[0].patches[0].get_xy() == (1.5, 6.5), "digit 7, number 2"
