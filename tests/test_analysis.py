"""Where a model errs, against cases counted by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnist_sum import analysis
from mnist_sum.evaluation import Predictions

NUMBERS = torch.arange(10)


def predicted(digits, digit=None, total=None, confidence=0.9):
    """Predictions that are right, but for the given changes {(image, number): class}."""
    digits = torch.tensor(digits)
    read = digits.unsqueeze(1).repeat(1, 10)
    added = read + NUMBERS
    for wanted, where in ((digit or {}, read), (total or {}, added)):
        for (image, number), value in wanted.items():
            where[image, number] = value
    sure = torch.full(read.shape, confidence)
    return Predictions(digits, read, added, sure, sure.clone())


def test_confusion_counts_every_case_once_by_true_and_predicted_class():
    found = predicted([3, 3, 5], digit={(0, 0): 5, (0, 1): 5}, total={(2, 9): 13})
    digit, total = analysis.confusion(found, "digit"), analysis.confusion(found, "sum")
    assert digit.sum() == total.sum() == 30
    assert (digit[3, 3], digit[3, 5], digit[5, 5]) == (18, 2, 10)
    assert (total[14, 14], total[14, 13]) == (0, 1)
    assert total.diag().sum() == 29


def test_the_grid_has_the_accuracy_of_each_digit_and_number():
    grid = analysis.sum_grid(predicted([3, 3, 5], total={(0, 7): 0}))
    assert grid[3, 7] == 0.5
    assert grid[5].tolist() == [1.0] * 10
    assert grid[0].isnan().all()


def test_every_wrong_sum_has_one_cause():
    found = predicted(
        [4, 4, 4, 4],
        digit={(0, 1): 9, (1, 2): 9, (2, 3): 9},
        total={(0, 1): 10, (1, 2): 0, (3, 4): 0},
    )
    # Image 0: 4 read as 9, and 9 + 1 = 10. Image 1: read as 9, and neither sum. Image 2: read as 9,
    # yet 4 + 3 = 7 (left as it is). Image 3: the digit is right and the sum is not.
    assert analysis.attribution(found) == {
        "digit_misread": 1, "addition_wrong": 1, "both_wrong": 1, "errors_cancel": 1,
    }  # fmt: skip
    assert analysis.consistency(found) == pytest.approx(37 / 40)


@given(st.integers(0, 2**32))
def test_the_causes_add_up_to_the_wrong_sums(seed):
    draw = torch.Generator().manual_seed(seed)
    digits, digit = torch.randint(10, (7,), generator=draw), torch.randint(10, (7, 10), generator=draw)
    total, sure = torch.randint(19, (7, 10), generator=draw), torch.rand(2, 7, 10, generator=draw)
    found = Predictions(digits, digit, total, *sure)
    causes = analysis.attribution(found)
    wrong = causes["digit_misread"] + causes["addition_wrong"] + causes["both_wrong"]
    assert wrong == (~found.sum_right).sum()
    assert causes["errors_cancel"] == (found.sum_right & ~found.digit_right).sum()
    assert analysis.confusion(found, "sum").diag().sum() == found.sum_right.sum()
    for output in analysis.OUTPUTS:
        confidence, accuracy, share = analysis.reliability(found, output)
        assert share.sum().item() == pytest.approx(1)
        right = getattr(found, f"{output}_right").double().mean().item()
        assert (accuracy.nan_to_num() * share).sum().item() == pytest.approx(right)
        mean = getattr(found, f"{output}_probability").double().mean().item()
        assert (confidence.nan_to_num() * share).sum().item() == pytest.approx(mean)


def test_calibration_error_is_the_distance_from_confidence_to_accuracy():
    half_right = predicted([1], total={(0, number): 0 for number in range(5)}, confidence=0.9)
    assert analysis.calibration_error(half_right, "sum") == pytest.approx(0.4, abs=1e-6)
    assert analysis.calibration_error(half_right, "digit") == pytest.approx(0.1, abs=1e-6)
    certain = predicted([1], confidence=1.0)
    assert analysis.calibration_error(certain, "digit") == 0
    confidence, _, share = analysis.reliability(certain, "digit")
    assert share[-1] == 1
    assert math.isnan(confidence[0])


def test_the_most_confident_mistakes_come_first_and_one_an_image():
    found = predicted([2, 2, 2], digit={(0, 0): 7, (0, 1): 7, (1, 5): 7}, total={(1, 5): 12})
    found.digit_probability[0, 1] = 0.95
    found.sum_probability[1, 5] = 0.99
    first, second = analysis.confident_mistakes(found, 20)
    assert first == {
        "image": 1, "number": 5, "digit": 2, "sum": 7, "predicted_digit": 7, "predicted_sum": 12,
        "probability": pytest.approx(0.99),
    }  # fmt: skip
    assert (second["image"], second["number"], second["predicted_sum"]) == (0, 1, 3)
    assert len(analysis.confident_mistakes(found, 1)) == 1
    assert analysis.confident_mistakes(predicted([2]), 20) == []
