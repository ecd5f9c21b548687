"""Predictions for pictures of handwriting, or for random test images."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from mnist_sum.checkpoint import find_checkpoint, load_model
from mnist_sum.cli import UserError
from mnist_sum.data import MnistSum, Split, normalize, one_hot
from mnist_sum.device import choose_device, generator
from mnist_sum.images import Page, read_page
from mnist_sum.occlusion import occlusion_maps

if TYPE_CHECKING:
    from PIL.Image import Image


class Prediction(NamedTuple):
    """The most probable digit and total, and the probabilities of all classes, (10,) and (19,), on the CPU."""

    digit: int
    total: int
    digit_probabilities: Tensor
    sum_probabilities: Tensor


@torch.no_grad()
def predict_batch(model: nn.Module, pixels: Tensor, number: int) -> list[Prediction]:
    """Predict images uint8 (N, 28, 28), each with the same number, by a model in evaluation mode."""
    device = next(model.parameters()).device
    image = normalize(pixels.unsqueeze(1).to(device))  # (N, 1, 28, 28)
    logits = model(image, one_hot(torch.tensor([number], device=device)).expand(len(image), -1))
    if any(output.isnan().any() for output in logits):
        raise UserError("the model's outputs are NaN: its weights are damaged, or training diverged")
    probabilities = zip(*(output.float().softmax(1).cpu() for output in logits), strict=True)
    return [Prediction(int(digit.argmax()), int(total.argmax()), digit, total) for digit, total in probabilities]


@dataclass(frozen=True)
class TrainedModel:
    """A model in evaluation mode, the path of its checkpoint, and the checkpoint's metadata."""

    name: str
    model: nn.Module
    path: Path
    info: dict[str, Any]

    def predict(self, image: "str | os.PathLike[str] | Image | Tensor", number: int) -> Prediction:
        """Predict one digit: a picture's path, a PIL image, or a tensor like MNIST's, uint8 (28, 28)."""
        if number not in range(10):
            raise UserError(f"the number to add has to be from 0 to 9, not {number!r}")
        if isinstance(image, Tensor):
            if image.dtype != torch.uint8 or image.numel() != 28 * 28:
                raise UserError(f"a tensor has to be uint8 (28, 28), not {image.dtype} {tuple(image.shape)}")
            pixels = image.view(1, 28, 28)
        else:
            digits = read_page(image).digits
            if len(digits) > 1:
                raise UserError(f"there are {len(digits)} digits on the page; crop it, or use inference.py --image")
            pixels = digits[0].pixels.unsqueeze(0)
        return predict_batch(self.model, pixels, number)[0]

    def __str__(self) -> str:
        data = self.info["data"]
        return (
            f"{self.name} from {self.path}, trained for {len(self.info['history'])} epochs on {data['name']} "
            f"({data['train_images']:,} images)"
        )


def load(checkpoint: str | Path = "tiny", device: str = "auto", custom: str | Sequence[str] = ()) -> TrainedModel:
    """Load a checkpoint: a file, a run's folder, or "tiny", "compact" or "large", which ship.

    custom: FILE.py:NAME of a custom model that it may hold; the file is imported.
    """
    path = find_checkpoint(checkpoint)
    custom = [custom] if isinstance(custom, str) else custom
    model, info = load_model(path, choose_device(device), custom)
    return TrainedModel(info["model"], model, path, info)


@dataclass(frozen=True)
class PageResult:
    """A picture with what was predicted of its digits; maps: occlusion_maps, of a single digit only."""

    file: str
    page: Page
    number: int
    predictions: list[Prediction]
    maps: tuple[Tensor, Tensor] | None

    def cases(self) -> list[dict[str, Any]]:
        """A dict of JSON values for each digit."""
        return [
            {
                "file": self.file,
                "line": digit.line,
                "place": digit.place,
                "box": list(digit.box),
                "digit": prediction.digit,
                "number": self.number,
                "sum": prediction.total,
                "digit_probability": prediction.digit_probabilities.max().item(),
                "sum_probability": prediction.sum_probabilities.max().item(),
                "unsure": bool(digit.doubt),
            }
            for digit, prediction in zip(self.page.digits, self.predictions, strict=True)
        ]

    def __str__(self) -> str:
        """A line, or for several digits a line each below a heading."""
        answers = [
            f"digit {p.digit} ({p.digit_probabilities.max():.1%}), {p.digit} + {self.number} = {p.total} "
            f"({p.sum_probabilities.max():.1%})  {digit.doubt}".rstrip()
            for digit, p in zip(self.page.digits, self.predictions, strict=True)
        ]
        turned = f" (turned by {self.page.turned} degrees)" if self.page.turned else ""
        if len(answers) == 1:
            return f"{self.file}{turned}: {answers[0]}"
        lines = [f"{self.file}{turned}: {len(answers)} digits in {self.page.digits[-1].line} line(s)"]
        for digit, answer in zip(self.page.digits, answers, strict=True):
            lines.append(f"  {f'line {digit.line}' if digit.place == 1 else '':8} {digit.place:3}  {answer}")
        return "\n".join(lines)


def predict_file(model: nn.Module, file: str, number: int) -> PageResult:
    """Raises UserError where the file cannot be read or shows no digit."""
    page = read_page(file)
    predictions = predict_batch(model, torch.stack([digit.pixels for digit in page.digits]), number)
    maps = occlusion_maps(model, page.digits[0].pixels, number) if len(predictions) == 1 else None
    return PageResult(file, page, number, predictions, maps)


@torch.no_grad()
def predict_random(model: nn.Module, split: Split, total: int, seed: int) -> list[dict[str, int]]:
    """Predict `total` random images with random numbers -> image (its index), digit, number, sum, predicted_..."""
    if total > len(split):
        raise UserError(f"--total {total} is more than the {len(split):,} test images")
    device = next(model.parameters()).device
    dataset = MnistSum(split, device=device)
    dataset.fix_numbers(seed, 0)
    index = torch.randperm(len(dataset), generator=generator(seed, "images"))[:total].to(device)
    (image, number), (digit, sums) = dataset[index]
    digit_logits, sum_logits = model(image, number)
    columns = {
        "image": index,
        "number": number.argmax(1),
        "digit": digit,
        "predicted_digit": digit_logits.argmax(1),
        "sum": sums,
        "predicted_sum": sum_logits.argmax(1),
    }
    rows: Iterator[tuple[int, ...]] = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]
