"""The exhaustive test: every test image with each of the ten numbers.

No figure depends on a draw. A model's encode() reads each image once, and join() adds each of the
ten numbers to what was read.
"""

import math

import torch

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
    for start in range(0, len(dataset), IMAGES_AT_ONCE):
        stop = start + IMAGES_AT_ONCE
        images = normalised(dataset.images[start:stop])
        features = model.encode(images)
        digit_logits, sum_logits = model.join(
            features.repeat_interleave(10, 0), numbers.repeat(len(images), 1)
        )
        yield (
            digit_logits.float().view(-1, 10, 10),
            sum_logits.float().view(-1, 10, 19),
            dataset.digits[start:stop],
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


def right_cases(model, dataset):
    """Whether each case is right, bool (3, N, 10): digit, sum, and both at once."""
    parts = []
    for digit_logits, sum_logits, digits in exhaustive_logits(model, dataset):
        digit, total = digits_and_totals(digits)
        digit_right = digit_logits.argmax(2) == digit
        sum_right = sum_logits.argmax(2) == total
        parts.append(torch.stack((digit_right, sum_right, digit_right & sum_right)))
    return torch.cat(parts, dim=1).cpu()


def accuracy_interval(right):
    """(accuracy, low, high) of right (N, 10) bool: the mean and its 95% Wilson interval.

    The ten cases of an image are not independent, so the image is the unit: the interval is that of
    n independent cases, with n such that their variance is the one seen between images.
    """
    images = right.double().mean(1)
    accuracy = images.mean().item()
    if len(images) < 2:
        return accuracy, 0.0, 1.0
    variance = images.var().item() / len(images)
    n = accuracy * (1 - accuracy) / variance if variance > 0 else len(images)
    centre = (accuracy + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(accuracy * (1 - accuracy) / n + Z95**2 / (4 * n**2))
    return accuracy, max(0.0, min(accuracy, centre - half)), min(1.0, max(accuracy, centre + half))
