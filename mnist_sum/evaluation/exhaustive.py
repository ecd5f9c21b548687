"""The exhaustive test: every test image with each of the ten numbers.

No figure depends on a draw. A model with encode() and join() encodes each image once and joins the
features with each of the ten numbers; any other is called with every pair.
"""

import math
import statistics
import time
from dataclasses import dataclass

import torch

from mnist_sum import console
from mnist_sum.console import UserError
from mnist_sum.dataset import normalised, one_hot
from mnist_sum.loss import digit_and_sum_loss
from mnist_sum.metrics import batch_sums, no_sums

IMAGES_AT_ONCE = 100  # with ten numbers each, a thousand cases
Z95 = 1.959964  # the normal distribution's 97.5% point


@torch.no_grad()
def exhaustive_logits(model, dataset):
    """Yield (digit_logits (N, 10, 10), sum_logits (N, 10, 19), digits (N,)), N images at a time.

    The middle axis is the number. In float32 and evaluation mode, whatever the training's were.
    """
    model.eval()
    device = dataset.digits.device
    numbers = one_hot(torch.arange(10, device=device))
    starts = range(0, len(dataset), IMAGES_AT_ONCE)
    for start in console.progress(starts, desc="exhaustive test", unit="batch", delay=2):
        part = slice(start, start + IMAGES_AT_ONCE)
        image = normalised(dataset.images[part])
        number = numbers.repeat(len(image), 1)
        if hasattr(model, "encode") and hasattr(model, "join"):
            digit_logits, sum_logits = model.join(model.encode(image).repeat_interleave(10, 0), number)
        else:
            digit_logits, sum_logits = model(image.repeat_interleave(10, 0), number)
        yield (
            digit_logits.float().view(-1, 10, 10),
            sum_logits.float().view(-1, 10, 19),
            dataset.digits[part],
        )


def evaluate(model, dataset):
    """The sums (metrics.no_sums) of the exhaustive test over the dataset's images."""
    sums = no_sums(dataset.digits.device)
    for digit_logits, sum_logits, digits in exhaustive_logits(model, dataset):
        digit, total = digits_and_totals(digits)
        flat = digit_logits.flatten(0, 1), sum_logits.flatten(0, 1), digit.flatten(), total.flatten()
        sums += batch_sums(*digit_and_sum_loss(*flat), *flat)
    return sums


def digits_and_totals(digits):
    """digits (N,) -> digit (N, 10) and total (N, 10), the number along the second axis."""
    numbers = torch.arange(10, device=digits.device)
    digit = digits.unsqueeze(1).expand(-1, 10)
    return digit, digit + numbers


def require_numbers(*outputs):
    """Raise UserError where a model's outputs hold NaN, which finite weights can give."""
    if any(output.isnan().any() for output in outputs):
        raise UserError("the model's outputs are not numbers; its weights are damaged: train it again")


@dataclass(frozen=True)
class Predictions:
    """What a model predicts in every case of the exhaustive test: N images by ten numbers.

    digits (N,) are the true ones. digit and sum (N, 10) are the predicted classes, and
    digit_probability and sum_probability (N, 10) what the model's softmax gives them.
    """

    digits: torch.Tensor
    digit: torch.Tensor
    sum: torch.Tensor
    digit_probability: torch.Tensor
    sum_probability: torch.Tensor

    @property
    def totals(self):
        """The true sums (N, 10)."""
        return self.digits.unsqueeze(1) + torch.arange(10)

    @property
    def digit_correct(self):
        return self.digit == self.digits.unsqueeze(1)

    @property
    def sum_correct(self):
        return self.sum == self.totals

    @property
    def correct(self):
        """bool (3, N, 10): the digit, the sum, and both at once."""
        return torch.stack((self.digit_correct, self.sum_correct, self.digit_correct & self.sum_correct))


def predict_all(model, dataset):
    """The Predictions of the exhaustive test, on the CPU; raises UserError where an output is NaN."""
    parts = []
    for digit_logits, sum_logits, digits in exhaustive_logits(model, dataset):
        digit_probability, digit = digit_logits.softmax(2).max(2)
        sum_probability, total = sum_logits.softmax(2).max(2)
        parts.append((digits, digit, total, digit_probability, sum_probability))
    columns = [torch.cat(column).cpu() for column in zip(*parts, strict=True)]
    require_numbers(*columns[3:])
    return Predictions(*columns)


@torch.no_grad()
def images_per_second(model, split, count=1000, repeats=5):
    """Images of the split that the model predicts in a second, `count` at once, each paired with a number.

    Of `repeats` timed passes the median; the first pass, which warms up, is not one of them.
    """
    model.eval()
    device = next(model.parameters()).device
    images = split.images[:count].unsqueeze(1).to(device)
    numbers = one_hot(torch.arange(len(images), device=device) % 10)
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        _, sum_logits = model(normalised(images), numbers)
        sum_logits.argmax(1).cpu()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return len(images) / statistics.median(seconds[1:])


def accuracy_interval(correct):
    """(accuracy, low, high) of correct (N, 10) bool: the mean and its 95% Wilson interval.

    The ten cases of an image are not independent, so the image is the unit: the interval is that of
    n independent cases, with n such that their variance is the one seen between images.
    """
    images = correct.double().mean(1)
    accuracy = images.mean().item()
    if len(images) < 2:
        return accuracy, 0.0, 1.0
    variance = images.var().item() / len(images)
    n = accuracy * (1 - accuracy) / variance if variance > 0 else len(images)
    centre = (accuracy + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(accuracy * (1 - accuracy) / n + Z95**2 / (4 * n**2))
    return accuracy, max(0.0, min(accuracy, centre - half)), min(1.0, max(accuracy, centre + half))
