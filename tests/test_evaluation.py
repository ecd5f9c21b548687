"""The exhaustive test and what is computed from it, checked by hand on small cases."""

import math

import pytest
import torch
from torch import nn

from mnist_sum import evaluate
from mnist_sum.data import Data, Split
from mnist_sum.evaluation import (
    CLASSES,
    Predictions,
    accuracy_interval,
    calibration_error,
    confident_mistakes,
    confusion,
    exhaustive_test,
    images_per_second,
    predict_all,
    sum_grid,
    summarize,
)
from mnist_sum.models import build_model
from mnist_sum.occlusion import occlusion_maps
from mnist_sum.recipes import RECIPES


class Sees(nn.Module):
    """Reads the digit from the image's first pixel, as `wrong` says for some digits, and adds it correctly."""

    def __init__(self, wrong=()):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.wrong = dict(wrong)

    def forward(self, image, number):
        digits = ((image[:, 0, 0, 0] * 0.3081 + 0.1307) * 255).round().long()
        read = torch.tensor([self.wrong.get(d, d) for d in digits.tolist()])
        total = read + number.argmax(1)
        return self.scale * nn.functional.one_hot(read, 10), self.scale * nn.functional.one_hot(total, 19)


@pytest.fixture
def digits_as_pixels():
    digits = torch.arange(10).repeat(25)
    images = torch.zeros(250, 28, 28, dtype=torch.uint8)
    images[:, 0, 0] = digits.byte()
    return Data("pixels", Split(images, digits), Split(images, digits))


def test_every_image_is_tested_with_every_number(digits_as_pixels):
    p = predict_all(Sees({3: 5}), digits_as_pixels.test)
    assert p.digit.shape == p.sum.shape == (250, 10)
    values = summarize(p, "pixels")
    assert (values["images"], values["cases"]) == (250, 2500)
    assert values["digit_accuracy"] == values["sum_accuracy"] == 0.9
    assert values["digit_misread"] == 250
    assert values["addition_wrong"] == values["both_wrong"] == values["errors_cancel"] == 0
    assert values["consistency"] == 1
    assert confusion(p, "digit")[3, 5] == confusion(p, "digit")[4, 4] == 250
    assert confusion(p, "sum").sum() == 2500
    assert sum_grid(p)[3].max() == 0
    assert sum_grid(p)[4].min() == 1
    assert {case["digit"] for case in confident_mistakes(p, 100)} == {3}
    assert len(confident_mistakes(p, 7)) == 7


def test_causes_of_wrong_sums():
    digits = torch.tensor([1])
    digit = torch.tensor([[1] * 5 + [2] * 5])
    total = digit + torch.arange(10)
    total[0, 0] = 9  # digit correct, addition wrong
    total[0, 5] = 6  # digit wrong, sum correct
    total[0, 6] = 18  # both wrong
    values = summarize(Predictions(digits, digit, total, torch.ones(1, 10), torch.ones(1, 10)), "x")
    assert (values["addition_wrong"], values["errors_cancel"], values["both_wrong"]) == (1, 1, 1)
    assert values["digit_misread"] == 3


@pytest.mark.parametrize("name", RECIPES)
def test_encoding_once_gives_what_every_pair_gives(name, few):
    model = build_model(name).eval()
    figures = exhaustive_test(model, few.test)

    class Forward(nn.Module):  # hides encode and join
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, image, number):
            return self.inner(image, number)

    for key, value in exhaustive_test(Forward(), few.test).items():
        assert value == pytest.approx(figures[key], abs=1e-5)


def test_losses_and_accuracies_are_those_of_all_cases(digits_as_pixels):
    figures = exhaustive_test(Sees({3: 5}), digits_as_pixels.test)
    assert figures["digit_accuracy"] == figures["sum_accuracy"] == 0.9
    assert figures["digit_loss"] == pytest.approx(0.1 * 20, rel=1e-4)


def test_evaluate_leaves_the_model_in_its_mode(few):
    model = build_model("compact").train()
    assert 0 <= evaluate(model, few)["sum_accuracy"] <= 1
    assert model.training


@pytest.mark.parametrize(("wrong", "low", "high"), [(0, 0.9962, 1), (500, 0.4691, 0.5309)])
def test_interval_is_wilsons_with_the_image_as_unit(wrong, low, high):
    correct = torch.ones(1000, 10, dtype=torch.bool)
    correct[:wrong] = False
    assert accuracy_interval(correct) == pytest.approx((1 - wrong / 1000, low, high), abs=1e-4)


def test_calibration_error_is_the_gap_between_probability_and_accuracy(digits_as_pixels):
    model = Sees({3: 5})
    with torch.no_grad():
        model.scale.fill_(math.log(9 * 0.8 / 0.2))  # every digit has probability 0.8, and 0.9 are right
    p = predict_all(model, digits_as_pixels.test)
    assert calibration_error(p, "digit") == pytest.approx(0.1, abs=1e-5)
    assert set(CLASSES) == {"digit", "sum"}


def test_occlusion_maps_show_where_the_answer_comes_from():
    pixels = torch.zeros(28, 28, dtype=torch.uint8)
    pixels[0, 0], pixels[20:24, 20:24] = 7, 255
    digit_map, sum_map = occlusion_maps(Sees().eval(), pixels, 4)
    assert digit_map.shape == sum_map.shape == (28, 28)
    assert (digit_map[:3, :3] > 10).all()
    assert digit_map[3:].abs().max() == digit_map[:, 3:].abs().max() == 0
    assert torch.allclose(digit_map, sum_map, atol=1e-4)


def test_speed_is_a_positive_number(few):
    assert images_per_second(build_model("tiny").eval(), few.test, count=10, repeats=1) > 0
