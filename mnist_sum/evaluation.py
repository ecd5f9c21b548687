"""The exhaustive test, every test image with each of the ten numbers, and where a model errs in it."""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mnist_sum.cli import UserError
from mnist_sum.data import Data, Split, normalize, one_hot
from mnist_sum.device import shard, world_size
from mnist_sum.loss import summed_loss

CLASSES = {"digit": 10, "sum": 19}
BINS = 15  # of equal width; Guo et al. 2017, "On calibration of modern neural networks"
Z95 = 1.959964  # the normal distribution's 97.5% point


@torch.no_grad()
def exhaustive_logits(model: nn.Module, split: Split) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (digit_logits (B, 10, 10), sum_logits (B, 10, 19), digits (B,)); the middle axis is the number."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    numbers = one_hot(torch.arange(10, device=device))
    parts = split.images.unsqueeze(1).to(device).split(200), split.digits.to(device).split(200)
    for images, digits in zip(*parts, strict=True):
        image = normalize(images)  # (B, 1, 28, 28)
        number = numbers.repeat(len(image), 1)  # (10 B, 10)
        if hasattr(model, "encode") and hasattr(model, "join"):  # encode each image only once
            digit_logits, sum_logits = model.join(model.encode(image).repeat_interleave(10, 0), number)  # type: ignore[operator]
        else:
            digit_logits, sum_logits = model(image.repeat_interleave(10, 0), number)
        yield digit_logits.float().view(-1, 10, 10), sum_logits.float().view(-1, 10, 19), digits
    model.train(training)


def exhaustive_test(model: nn.Module, split: Split) -> dict[str, float]:
    """As loss_and_accuracy; the processes of torchrun share the images."""
    batches = []
    for digit_logits, sum_logits, digits in exhaustive_logits(model, split[shard(len(split))]):
        digit = digits.repeat_interleave(10)
        total = digit + torch.arange(10, device=digits.device).repeat(len(digits))
        batches.append((digit_logits.flatten(0, 1), sum_logits.flatten(0, 1), digit, total))
    return loss_and_accuracy(batches)


def loss_and_accuracy(batches: Sequence[tuple[Tensor, ...]]) -> dict[str, float]:
    """Losses in nats and accuracies as fractions: means over the cases of all processes, and over members.

    Each batch: digit_logits (..., B, 10), sum_logits (..., B, 19), digit (B,), total (B,).
    """
    digit_logits, sum_logits, digit, total = (
        torch.cat(column, -2 if column[0].dim() > 1 else 0) for column in zip(*batches, strict=True)
    )
    sums = [len(digit) * loss.item() for loss in summed_loss(digit_logits, sum_logits, digit, total)[1:]]
    for logits, true in (digit_logits, digit), (sum_logits, total):
        members = logits.shape[:-2].numel()
        sums.append((logits.argmax(-1) == true).sum().item() / members)
    table = torch.tensor([*sums, len(digit)], dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(table)
    names = "digit_loss", "sum_loss", "digit_accuracy", "sum_accuracy"
    return dict(zip(names, (table[:4] / table[4]).tolist(), strict=True))


@dataclass(frozen=True)
class Predictions:
    """All cases of the exhaustive test: true digits (N,); predicted classes and their probabilities (N, 10)."""

    digits: Tensor
    digit: Tensor
    sum: Tensor
    digit_probability: Tensor
    sum_probability: Tensor

    @property
    def totals(self) -> Tensor:
        return self.digits.unsqueeze(1) + torch.arange(10)

    @property
    def digit_correct(self) -> Tensor:
        return self.digit == self.digits.unsqueeze(1)

    @property
    def sum_correct(self) -> Tensor:
        return self.sum == self.totals

    @property
    def added(self) -> Tensor:
        """Whether the predicted sum is the predicted digit plus the number."""
        return self.sum == self.digit + torch.arange(10)


def predict_all(model: nn.Module, split: Split) -> Predictions:
    parts = []
    for digit_logits, sum_logits, digits in exhaustive_logits(model, split):
        digit_probability, digit = digit_logits.softmax(2).max(2)
        sum_probability, total = sum_logits.softmax(2).max(2)
        parts.append((digits, digit, total, digit_probability, sum_probability))
    predictions = Predictions(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))
    if predictions.sum_probability.isnan().any():
        raise UserError("the model's outputs are NaN: its weights are damaged, or training diverged")
    return predictions


def evaluate(model: nn.Module, data: Data) -> dict[str, Any]:
    """The exhaustive test of any model of the contract on the test split; accuracies are fractions."""
    return summarize(predict_all(model, data.test), data.name)


def summarize(p: Predictions, data_name: str) -> dict[str, Any]:
    """The figures of the predictions, as JSON values, the causes of wrong sums as counts of cases."""
    values: dict[str, Any] = {"data": data_name, "images": len(p.digits), "cases": p.digit.numel()}
    digit, total = p.digit_correct, p.sum_correct
    for output, correct in {"digit": digit, "sum": total, "joint": digit & total}.items():
        values[f"{output}_accuracy"], *values[f"{output}_interval"] = accuracy_interval(correct)
    values["gap"] = values["digit_accuracy"] - values["sum_accuracy"]
    values["consistency"] = p.added.float().mean().item()
    causes = {
        "digit_misread": ~total & ~digit & p.added,  # and the number was added to it correctly
        "addition_wrong": ~total & digit,
        "both_wrong": ~total & ~digit & ~p.added,
        "errors_cancel": total & ~digit,  # a correct sum, by chance
    }
    values |= {cause: cases.sum().item() for cause, cases in causes.items()}
    return values | {f"{output}_calibration_error": calibration_error(p, output) for output in CLASSES}


def accuracy_interval(correct: Tensor) -> tuple[float, float, float]:
    """(accuracy, low, high) of correct (N, 10) bool: the mean and its 95% Wilson interval.

    The ten cases of an image are not independent, so the image is the unit: the interval is that of n independent
    cases, with n such that their variance is the one seen between images.
    """
    images = correct.double().mean(1)
    accuracy = images.mean().item()
    if len(images) < 2:
        return accuracy, 0.0, 1.0
    variance = images.var().item() / len(images)
    n = accuracy * (1 - accuracy) / variance if variance > 0 else len(images)
    center = (accuracy + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(accuracy * (1 - accuracy) / n + Z95**2 / (4 * n**2))
    return accuracy, max(0.0, min(accuracy, center - half)), min(1.0, max(accuracy, center + half))


def confusion(p: Predictions, output: str) -> Tensor:
    """Counts (classes, classes) int64: row the true class, column the predicted one."""
    classes = CLASSES[output]
    true = p.totals if output == "sum" else p.digits.unsqueeze(1).expand_as(p.digit)
    cells = true * classes + getattr(p, output)
    return cells.flatten().bincount(minlength=classes**2).view(classes, classes)


def sum_grid(p: Predictions) -> Tensor:
    """The sum's accuracy (10, 10) for each digit (row) and number (column); NaN where there is no image."""
    correct = torch.zeros(10, 10).index_add_(0, p.digits, p.sum_correct.float())
    return correct / p.digits.bincount(minlength=10).unsqueeze(1)


def reliability(p: Predictions, output: str) -> tuple[Tensor, Tensor, Tensor]:
    """(confidence, accuracy, share), each (BINS,), of the cases binned by the probability of the prediction."""
    probability = getattr(p, f"{output}_probability").flatten().double()
    correct = getattr(p, f"{output}_correct").flatten().double()
    place = (probability * BINS).long().clamp(max=BINS - 1)
    count = place.bincount(minlength=BINS)
    confidence, accuracy = (
        torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, values) / count  # NaN in an empty bin
        for values in (probability, correct)
    )
    return confidence, accuracy, count / count.sum()


def calibration_error(p: Predictions, output: str) -> float:
    """Expected calibration error: mean |confidence - accuracy|, bins weighted by share."""
    confidence, accuracy, share = reliability(p, output)
    return ((confidence - accuracy).abs().nan_to_num() * share).sum().item()


def confident_mistakes(p: Predictions, count: int) -> list[dict[str, Any]]:
    """The images with the most confident mistakes, one case each, the most confident first."""
    probability = torch.maximum(p.digit_probability * ~p.digit_correct, p.sum_probability * ~p.sum_correct)
    worst, numbers = probability.max(1)
    images = [i for i in worst.argsort(descending=True).tolist() if worst[i] > 0][:count]
    return [
        {
            "image": i,
            "number": numbers[i].item(),
            "digit": p.digits[i].item(),
            "sum": p.totals[i, numbers[i]].item(),
            "predicted_digit": p.digit[i, numbers[i]].item(),
            "predicted_sum": p.sum[i, numbers[i]].item(),
            "probability": worst[i].item(),
        }
        for i in images
    ]


@torch.no_grad()
def images_per_second(model: nn.Module, split: Split, count: int = 1000, repeats: int = 5) -> float:
    """Images that the model in evaluation mode predicts in a second, `count` at once; a median."""
    device = next(model.parameters()).device
    images = split.images[:count].unsqueeze(1).to(device)
    numbers = one_hot(torch.arange(len(images), device=device) % 10)
    seconds = []
    for _ in range(repeats + 1):  # the first pass warms up
        started = time.perf_counter()
        model(normalize(images), numbers)[1].argmax(1).cpu()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return len(images) / statistics.median(seconds[1:])
