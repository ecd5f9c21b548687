"""Occlusion maps: of models whose answer rests on known pixels, and of every registered one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mnist_sum import models
from mnist_sum.console import UserError
from mnist_sum.dataset import MEAN, STD
from mnist_sum.evaluation import occlusion
from mnist_sum.evaluation.occlusion import PATCH, occlusion_maps
from mnist_sum.evaluation.predict import predict
from mnist_sum.figures.plots import opacity
from mnist_sum.recipes import RECIPES

HALF = PATCH // 2


class FromPixels(nn.Module):
    """Digit 3 by the pixel at (9, 12); the sum by the pixel at (20, 3 + number). Nothing but forward."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, image, number):
        ink = (image * STD + MEAN).squeeze(1) * self.scale  # 0 to 1
        digit, total = torch.zeros(len(image), 10), torch.zeros(len(image), 19)
        digit[:, 3] = 4 * ink[:, 9, 12]
        total[:, 5] = 4 * ink[torch.arange(len(image)), 20, 3 + number.argmax(1)]
        return digit, total


def stroke():
    """An image with a horizontal and a vertical stroke, one into the border."""
    pixels = torch.zeros(28, 28, dtype=torch.uint8)
    pixels[8:11, 6:22] = 255
    pixels[11:, 14:17] = 200
    return pixels


def without_patch(pixels, row, column):
    pixels = pixels.clone()
    pixels[max(0, row - HALF) : row + HALF + 1, max(0, column - HALF) : column + HALF + 1] = 0
    return pixels


@pytest.mark.parametrize("number", [0, 9])
def test_a_map_peaks_at_the_one_pixel_that_the_answer_rests_on_and_is_zero_elsewhere(number):
    digit_map, sum_map = occlusion_maps(FromPixels(), torch.full((28, 28), 255).byte(), number)
    for each, classes, (row, column) in ((digit_map, 10, (9, 12)), (sum_map, 19, (20, 3 + number))):
        fall = math.log(math.exp(4) / (math.exp(4) + classes - 1)) - math.log(1 / classes)
        expected = torch.zeros(28, 28)
        expected[row - HALF : row + HALF + 1, max(0, column - HALF) : column + HALF + 1] = fall
        torch.testing.assert_close(each, expected)


def test_a_sum_of_the_number_alone_has_an_empty_map():
    model = FromPixels()
    forward, weight = model.forward, torch.randn(10, 19)
    model.forward = lambda image, number: (forward(image, number)[0], number @ weight)
    digit_map, sum_map = occlusion_maps(model, torch.full((28, 28), 255).byte(), 4)
    assert digit_map.max() > 0 and not sum_map.any()


@pytest.mark.parametrize("name", RECIPES)
def test_every_model_has_finite_maps_that_say_how_far_predict_falls(name):
    torch.manual_seed(0)
    model, pixels = models.build(name).eval(), stroke()
    maps = occlusion_maps(model, pixels, 7)
    whole = predict(model, pixels, 7)
    for row, column in ((9, 12), (27, 15), (8, 20)):
        hidden = predict(model, without_patch(pixels, row, column), 7)
        for each, answer, before, after in zip(maps, whole[:2], whole[2:], hidden[2:], strict=True):
            assert each.shape == (28, 28) and each.dtype == torch.float32 and each.isfinite().all()
            fall = (before[answer] / after[answer]).log()
            torch.testing.assert_close(each[row, column], fall, atol=1e-4, rtol=1e-4)


def test_maps_do_not_depend_on_how_many_images_a_batch_has(monkeypatch):
    model = models.build("compact").eval()
    whole = occlusion_maps(model, stroke(), 2)
    monkeypatch.setattr(occlusion, "AT_ONCE", 1)
    for one, other in zip(whole, occlusion_maps(model, stroke(), 2), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 27), st.integers(0, 27)), max_size=6))
def test_hiding_background_changes_nothing(ink):
    torch.manual_seed(0)
    model, pixels = nn.Linear(784, 29), torch.zeros(28, 28, dtype=torch.uint8)
    model.forward = lambda image, number: (image.flatten(1) @ model.weight.T).split((10, 19), 1)
    for place in ink:
        pixels[place] = 255
    near = torch.nn.functional.max_pool2d(pixels[None].float(), PATCH, stride=1, padding=HALF)[0] > 0
    for each in occlusion_maps(model, pixels, 0):
        assert not each[~near].any() and each.any() == bool(ink)


def test_outputs_that_are_no_numbers_are_one_line():
    model = FromPixels()
    model.scale.data.fill_(math.nan)
    with pytest.raises(UserError, match="not numbers"):
        occlusion_maps(model, stroke(), 1)


def test_the_colour_says_which_share_of_the_probability_is_lost():
    covered = opacity(torch.tensor([-1.0, 0, math.log(2), 100]))
    np.testing.assert_allclose(covered / covered[3], [0, 0, 0.5, 1])
