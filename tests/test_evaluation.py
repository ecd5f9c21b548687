import pytest
import torch
from torch import nn

from mnist_sum import models
from mnist_sum.dataset import MnistSum, Split, normalised, one_hot
from mnist_sum.evaluation import accuracy_interval, evaluate, exhaustive_logits, predictions
from mnist_sum.loss import digit_and_sum_loss
from mnist_sum.metrics import averages
from mnist_sum.recipes import RECIPES


class Oracle(nn.Module):
    """Reads the digit from the first pixel and adds; wrong where the second or third pixel says so."""

    def encode(self, image):
        pixels = (image * 0.3081 + 0.1307).mul(255).round().long().flatten(1)
        return pixels[:, :3].float()

    def join(self, features, number):
        digit, digit_wrong, sum_wrong = features.long().unbind(1)
        read = (digit + digit_wrong) % 10
        total = (digit + number.argmax(1) + sum_wrong) % 19
        return one_hot(read), nn.functional.one_hot(total, 19).float()


def split_for_oracle(digits, digit_wrong=(), sum_wrong=()):
    images = torch.zeros(len(digits), 28, 28, dtype=torch.uint8)
    images[:, 0, 0] = torch.tensor(digits, dtype=torch.uint8)
    images[list(digit_wrong), 0, 1] = 1
    images[list(sum_wrong), 0, 2] = 1
    return MnistSum(Split(images, torch.tensor(digits)))


def test_accuracies_count_every_image_with_every_number():
    items = split_for_oracle([0, 1, 2, 3, 4, 5, 6, 7], digit_wrong=[1, 2], sum_wrong=[2, 3, 4])
    right = predictions(Oracle(), items).right
    assert right.shape == (3, 8, 10)
    assert right.sum((1, 2)).tolist() == [60, 50, 40]
    figures = averages(evaluate(Oracle(), items))
    assert [figures[f"{name}_accuracy"] for name in ("digit", "sum", "joint")] == [0.75, 0.625, 0.5]


@pytest.mark.parametrize("name", RECIPES)
def test_the_exhaustive_test_equals_ten_plain_passes(name, few):
    torch.manual_seed(0)
    model = models.build(name).eval()
    images, digits = normalised(few.test.images.unsqueeze(1)), few.test.digits
    exhaustive = list(exhaustive_logits(model, MnistSum(few.test)))
    digit_logits, sum_logits, seen = (torch.cat(parts) for parts in zip(*exhaustive, strict=True))
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
    for output, name in enumerate(("digit_loss", "sum_loss")):
        mean = sum(loss[output].item() for loss in losses) / 10
        assert figures[name] == pytest.approx(mean, rel=1e-4)


def test_images_that_do_not_fill_the_last_chunk_are_counted_once():
    assert evaluate(Oracle(), split_for_oracle([3] * 250)).tolist()[-1] == 2500


def test_no_images_make_no_sums(few):
    """The share of a process, where there are fewer test images than processes."""
    assert evaluate(Oracle(), MnistSum(few.test[:0])).tolist() == [0] * 6


def test_the_interval_of_independent_images_is_wilsons():
    right = torch.zeros(1000, 10, dtype=torch.bool)
    right[:950] = True  # all ten cases of an image agree: a thousand units, not ten thousand
    accuracy, low, high = accuracy_interval(right)
    assert accuracy == pytest.approx(0.95)
    assert (low, high) == (pytest.approx(0.93471, abs=2e-4), pytest.approx(0.96187, abs=2e-4))


def test_the_interval_narrows_when_the_cases_of_an_image_differ():
    draw = torch.Generator().manual_seed(0)
    independent = torch.rand(1000, 10, generator=draw) < 0.95
    images = torch.rand(1000, 1, generator=draw) < 0.95
    _, low, high = accuracy_interval(independent)
    _, image_low, image_high = accuracy_interval(images.expand(-1, 10))
    assert (high - low) < 0.5 * (image_high - image_low)


@pytest.mark.parametrize("value", [True, False])
def test_the_interval_of_unanimous_cases_stays_inside_0_and_1(value):
    accuracy, low, high = accuracy_interval(torch.full((50, 10), value))
    assert accuracy == float(value)
    assert 0 <= low <= accuracy <= high <= 1
    assert high - low > 0.05
