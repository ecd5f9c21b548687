"""The exhaustive test, where a model errs against cases counted by hand, and predicting images."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mnist_sum import models
from mnist_sum.console import UserError
from mnist_sum.data import Split
from mnist_sum.dataset import MnistSum, normalised, one_hot
from mnist_sum.evaluation import errors, exhaustive, predict, text
from mnist_sum.evaluation.exhaustive import Predictions, accuracy_interval, evaluate, predict_all
from mnist_sum.loss import digit_and_sum_loss
from mnist_sum.metrics import averages
from mnist_sum.recipes import RECIPES


class Oracle(nn.Module):
    """Takes the digit from the first pixel and adds; wrong where the second or third pixel says so."""

    def encode(self, image):
        return (image * 0.3081 + 0.1307).mul(255).round().flatten(1)[:, :3]

    def join(self, features, number):
        digit, digit_wrong, sum_wrong = features.long().unbind(1)
        total = (digit + number.argmax(1) + sum_wrong) % 19
        return one_hot((digit + digit_wrong) % 10), nn.functional.one_hot(total, 19).float()


def split_for_oracle(digits, digit_wrong=(), sum_wrong=()):
    images = torch.zeros(len(digits), 28, 28, dtype=torch.uint8)
    images[:, 0, 0] = torch.tensor(digits, dtype=torch.uint8)
    images[list(digit_wrong), 0, 1] = 1
    images[list(sum_wrong), 0, 2] = 1
    return MnistSum(Split(images, torch.tensor(digits, dtype=torch.int64)))


def predictions_of(digits, digit=None, total=None, confidence=0.9):
    """Predictions that are correct, but for the given changes {(image, number): class}."""
    digits = torch.tensor(digits)
    predicted = digits.unsqueeze(1).repeat(1, 10)
    added = predicted + torch.arange(10)
    for changes, where in ((digit or {}, predicted), (total or {}, added)):
        for (image, number), value in changes.items():
            where[image, number] = value
    probability = torch.full(predicted.shape, confidence)
    return Predictions(digits, predicted, added, probability, probability.clone())


def test_accuracies_count_every_image_with_every_number():
    items = split_for_oracle([0, 1, 2, 3, 4, 5, 6, 7], digit_wrong=[1, 2], sum_wrong=[2, 3, 4])
    correct = predict_all(Oracle(), items).correct
    assert correct.shape == (3, 8, 10)
    assert correct.sum((1, 2)).tolist() == [60, 50, 40]
    figures = averages(evaluate(Oracle(), items))
    assert [figures[f"{name}_accuracy"] for name in ("digit", "sum", "joint")] == [0.75, 0.625, 0.5]


@pytest.mark.parametrize("name", RECIPES)
def test_the_exhaustive_test_equals_ten_plain_passes(name, few):
    torch.manual_seed(0)
    model = models.build(name).eval()
    images, digits = normalised(few.test.images.unsqueeze(1)), few.test.digits
    parts = zip(*exhaustive.exhaustive_logits(model, MnistSum(few.test)), strict=True)
    digit_logits, sum_logits, seen = map(torch.cat, parts)
    assert torch.equal(seen, digits)
    losses = []
    with torch.no_grad():
        for number in range(10):
            numbers = torch.full_like(digits, number)
            plain = model(images, one_hot(numbers))
            torch.testing.assert_close(digit_logits[:, number], plain[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(sum_logits[:, number], plain[1], rtol=1e-4, atol=1e-4)
            losses.append(digit_and_sum_loss(*plain, digits, digits + numbers))
    figures = averages(evaluate(model, MnistSum(few.test)))
    means = [sum(column).item() / 10 for column in zip(*losses, strict=True)]
    assert [figures["digit_loss"], figures["sum_loss"]] == pytest.approx(means, rel=1e-4)


@pytest.mark.parametrize("images", [0, 250])
def test_images_that_do_not_fill_the_last_batch_are_counted_once(images):
    """None are the shard of a process where there are fewer test images than processes."""
    assert evaluate(Oracle(), split_for_oracle([3] * images)).tolist()[-1] == 10 * images


def test_interval_of_independent_images_is_wilsons():
    correct = torch.zeros(1000, 10, dtype=torch.bool)
    correct[:950] = True  # all ten cases of an image agree: a thousand units, not ten thousand
    assert accuracy_interval(correct) == pytest.approx((0.95, 0.93471, 0.96187), abs=2e-4)


def test_interval_narrows_when_the_cases_of_an_image_differ():
    draw = torch.Generator().manual_seed(0)
    _, low, high = accuracy_interval(torch.rand(1000, 10, generator=draw) < 0.95)
    same = (torch.rand(1000, 1, generator=draw) < 0.95).expand(-1, 10)
    _, image_low, image_high = accuracy_interval(same)
    assert (high - low) < 0.5 * (image_high - image_low)


@pytest.mark.parametrize("images", [1, 50])
@pytest.mark.parametrize("value", [True, False])
def test_interval_of_unanimous_cases_stays_inside_0_and_1(value, images):
    accuracy, low, high = accuracy_interval(torch.full((images, 10), value))
    assert accuracy == float(value)
    assert 0 <= low <= accuracy <= high <= 1
    assert high - low > 0.05


def test_confusion_counts_every_case_once_by_true_and_predicted_class():
    predictions = predictions_of([3, 3, 5], digit={(0, 0): 5, (0, 1): 5}, total={(2, 9): 13})
    digit, total = (errors.confusion(predictions, output) for output in ("digit", "sum"))
    assert digit.sum() == total.sum() == 30
    assert (digit[3, 3], digit[3, 5], digit[5, 5]) == (18, 2, 10)
    assert (total[14, 14], total[14, 13], total.diag().sum()) == (0, 1, 29)


def test_sum_grid_has_the_accuracy_of_each_digit_and_number():
    grid = errors.sum_grid(predictions_of([3, 3, 5], total={(0, 7): 0}))
    assert (grid[3, 7], grid[5].tolist()) == (0.5, [1.0] * 10)
    assert grid[0].isnan().all()


def test_every_wrong_sum_has_one_cause():
    predictions = predictions_of(
        [4, 4, 4, 4],
        digit={(0, 1): 9, (1, 2): 9, (2, 3): 9},
        total={(0, 1): 10, (1, 2): 0, (3, 4): 0},
    )
    # Image 0: 9 for 4, and 9 + 1 = 10. Image 1: 9 for 4, and neither sum. Image 2: 9 for 4, yet
    # 4 + 3 = 7 (left as it is). Image 3: the digit is correct and the sum is not.
    assert errors.attribution(predictions) == {
        "digit_misread": 1, "addition_wrong": 1, "both_wrong": 1, "errors_cancel": 1,
    }  # fmt: skip
    assert errors.consistency(predictions) == pytest.approx(37 / 40)


@given(st.integers(0, 2**32))
def test_causes_add_up_to_the_wrong_sums_and_bins_to_the_cases(seed):
    draw = torch.Generator().manual_seed(seed)
    digits, digit = torch.randint(10, (7,), generator=draw), torch.randint(10, (7, 10), generator=draw)
    total, probability = torch.randint(19, (7, 10), generator=draw), torch.rand(2, 7, 10, generator=draw)
    predictions = Predictions(digits, digit, total, *probability)
    causes = errors.attribution(predictions)
    wrong = causes["digit_misread"] + causes["addition_wrong"] + causes["both_wrong"]
    assert wrong == (~predictions.sum_correct).sum()
    assert causes["errors_cancel"] == (predictions.sum_correct & ~predictions.digit_correct).sum()
    assert errors.confusion(predictions, "sum").diag().sum() == predictions.sum_correct.sum()
    for output in errors.OUTPUTS:
        confidence, accuracy, share = errors.reliability(predictions, output)
        assert share.sum().item() == pytest.approx(1)
        for binned, each in ((accuracy, "correct"), (confidence, "probability")):
            mean = getattr(predictions, f"{output}_{each}").double().mean().item()
            assert (binned.nan_to_num() * share).sum().item() == pytest.approx(mean)


def test_calibration_error_is_the_distance_from_confidence_to_accuracy():
    half_correct = predictions_of([1], total={(0, number): 0 for number in range(5)}, confidence=0.9)
    assert errors.calibration_error(half_correct, "sum") == pytest.approx(0.4, abs=1e-6)
    assert errors.calibration_error(half_correct, "digit") == pytest.approx(0.1, abs=1e-6)
    certain = predictions_of([1], confidence=1.0)
    assert errors.calibration_error(certain, "digit") == 0
    confidence, _, share = errors.reliability(certain, "digit")
    assert share[-1] == 1 and math.isnan(confidence[0])


def test_most_confident_mistakes_come_first_and_one_an_image():
    predictions = predictions_of([2, 2, 2], digit={(0, 0): 7, (0, 1): 7, (1, 5): 7}, total={(1, 5): 12})
    predictions.digit_probability[0, 1] = 0.95
    predictions.sum_probability[1, 5] = 0.99
    first, second = errors.confident_mistakes(predictions, 20)
    assert first == {
        "image": 1, "number": 5, "digit": 2, "sum": 7, "predicted_digit": 7, "predicted_sum": 12,
        "probability": pytest.approx(0.99),
    }  # fmt: skip
    assert (second["image"], second["number"], second["predicted_sum"]) == (0, 1, 3)
    assert len(errors.confident_mistakes(predictions, 1)) == 1
    assert errors.confident_mistakes(predictions_of([2]), 20) == []


def test_predictions_are_the_models_softmax_and_random_ones_distinct_images_decided_by_the_seed(few):
    torch.manual_seed(0)
    model = models.build("channel_fusion").eval()
    cases = predict.predict_random(model, few.test, 30, 5)
    assert sorted(case["image"] for case in cases) == list(range(30))
    for case in cases:
        pixels, number = few.test.images[case["image"]], case["number"]
        assert case["digit"] == few.test.digits[case["image"]] == case["sum"] - number
        logits = model(normalised(pixels.view(1, 1, 28, 28)), one_hot(torch.tensor([number])))
        prediction = predict.predict(model, pixels, number)
        assert prediction[:2] == (case["predicted_digit"], case["predicted_sum"])
        for probabilities, output in zip(prediction[2:], logits, strict=True):
            torch.testing.assert_close(probabilities, output.softmax(1)[0])
    assert cases[:9] == predict.predict_random(model, few.test, 9, 5)
    assert cases != predict.predict_random(model, few.test, 30, 6)
    with pytest.raises(UserError, match="--total 31 is more than the 30 test images"):
        predict.predict_random(model, few.test, 31, 5)


def test_comparison_of_any_models_fits_100_columns():
    row = {"model": "channel_fusion", "parameters": 465_930, "images_per_second": 1e6, "gap": -1.0}
    row |= {f"{output}_accuracy": 1.0 for output in ("digit", "sum", "joint")}
    row |= {f"{output}_interval": (0.9996, 1.0) for output in ("digit", "sum", "joint")}
    row |= {"consistency": 1.0, "digit_misread": 700_000, "addition_wrong": 700_000}
    row |= {"both_wrong": 700_000, "errors_cancel": 700_000}
    lines = text.comparison_text([{**row, "digit_accuracy": 0.0473}] + [row] * 9).splitlines()
    assert "  4.73 (99.96-100.0)  100.0 (99.96-100.0)  " in lines[1] and "10 channel_fusion" in lines[10]
    assert max(map(len, lines)) <= 100


def test_outputs_that_are_not_numbers_are_one_line_and_no_prediction(few):
    class Spoilt(Oracle):
        def join(self, features, number):
            return tuple(logits * torch.nan for logits in super().join(features, number))

        def forward(self, image, number):
            return self.join(self.encode(image), number)

    model = Spoilt()
    model.weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(UserError, match="not numbers"):
        predict.predict(model, few.test.images[0], 3)
    with pytest.raises(UserError, match="not numbers"):
        predict.predict_random(model, few.test, 3, seed=0)
    with pytest.raises(UserError, match="not numbers"):
        predict_all(model, MnistSum(few.test))
