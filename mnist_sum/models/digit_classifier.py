"""The digit classifier of `tiny`, `quick` and `large`, row by row as the table in exact_addition.py has it."""

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from mnist_sum.data import BACKGROUND


def digit_classifier(*widths: int, deskewed: bool = False) -> nn.Sequential:
    """image (B, 1, 28, 28) -> digit_logits (B, 10); five widths; deskewed: with a Deskew first."""
    w0, w1, w2, w3, w4 = widths
    return nn.Sequential(
        *([Deskew()] if deskewed else []),
        layer(1, w0, 5, stride=2, padding=1),
        *(layer(w0, w1), layer(w1, w2)),
        *(layer(w2, w3, stride=2), layer(w3, w4, padding=1)),
        WeightedMean(w4, 4),
        nn.Linear(w4, 10),
    )


def layer(channels_in: int, channels_out: int, size: int = 3, stride: int = 1, padding: int = 0) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, size, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


class Deskew(nn.Module):
    """Shear each image (B, 1, 28, 28) until its digit no longer leans, by at most 45 degrees; no parameters.

    The slope is that of the regression line of the ink's columns on its rows (second moments, as LeCun et al.
    1998 deslanted MNIST).
    """

    centers: Tensor

    def __init__(self) -> None:
        super().__init__()
        centers = (torch.arange(28) * 2 + 1) / 28 - 1  # of the pixels, in grid_sample's coordinates
        self.register_buffer("centers", centers, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        ink, centers = image - BACKGROUND, self.centers
        by_row, moment = ink.sum(3).squeeze(1), (ink * centers).sum(3).squeeze(1)  # (B, 28)
        total = by_row.sum(1, keepdim=True).clamp(min=1e-3)  # a blank image has slope 0
        rows = centers - (by_row * centers).sum(1, keepdim=True) / total  # from the center of mass
        slope = (moment * rows).sum(1) / (by_row * rows**2).sum(1).clamp(min=1e-3)
        columns = centers + (slope.clamp(-1, 1).unsqueeze(1) * rows).unsqueeze(2)  # (B, 28, 28)
        grid = torch.stack((columns, centers.unsqueeze(1).expand_as(columns)), 3)
        return grid_sample(ink, grid, align_corners=False) + BACKGROUND


class WeightedMean(nn.Module):
    """Maps (B, C, size, size) -> (B, C); a plain mean to begin with."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, size, size), 1 / size**2))

    def forward(self, maps: Tensor) -> Tensor:
        return (maps * self.weight).sum((2, 3))
