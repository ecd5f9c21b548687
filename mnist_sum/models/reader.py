"""What reads the digit in `tiny` and `large`, row by row as the table in exact_addition.py has it."""

import torch
from torch import nn
from torch.nn.functional import grid_sample

from mnist_sum.dataset import BACKGROUND

LEAST = 1e-3  # to divide by, where an image is blank


def reader(w0, w1, w2, w3, w4, upright=False):
    """Images (B, 1, 28, 28) to digit logits (B, 10); upright: as Deskew leaves them."""
    return nn.Sequential(
        *([Deskew()] if upright else []),
        layer(1, w0, 5, stride=2, padding=1),
        *(layer(w0, w1), layer(w1, w2)),
        *(layer(w2, w3, stride=2), layer(w3, w4, padding=1)),
        WeightedMean(w4, 4),
        nn.Linear(w4, 10),
    )


def layer(width_in, width_out, size=3, **placing):
    convolution = nn.Conv2d(width_in, width_out, size, bias=False, **placing)
    return nn.Sequential(convolution, nn.BatchNorm2d(width_out), nn.ReLU())


class Deskew(nn.Module):
    """Each image (B, 1, 28, 28) sheared so that what is written in it stands upright; no parameters.

    An image leans by the covariance of its ink's columns and rows over the variance of the rows, the slope
    of the columns' regression line on the rows; a blank one by 0. What leans by more than 45 degrees is
    sheared by 45. (LeCun et al. 1998 had MNIST "deslanted" by second moments, too.)
    """

    def __init__(self):
        super().__init__()
        pixels = (torch.arange(28) * 2 + 1) / 28 - 1  # their centres, as grid_sample has them
        self.register_buffer("at", pixels, persistent=False)

    def forward(self, image):
        ink, at = image - BACKGROUND, self.at
        by_row, moment = ink.sum(3).squeeze(1), (ink * at).sum(3).squeeze(1)  # of each row, (B, 28)
        total = by_row.sum(1, keepdim=True).clamp(min=LEAST)
        rows = at - (by_row * at).sum(1, keepdim=True) / total  # from the centre of mass
        lean = (moment * rows).sum(1) / (by_row * rows**2).sum(1).clamp(min=LEAST)
        columns = at + (lean.clamp(-1, 1).unsqueeze(1) * rows).unsqueeze(2)  # (B, 28, 28)
        grid = torch.stack((columns, at.unsqueeze(1).expand_as(columns)), 3)
        return grid_sample(ink, grid, align_corners=False) + BACKGROUND


class WeightedMean(nn.Module):
    """Each channel's map (B, C, size, size) to one value (B, C), a plain mean to begin with."""

    def __init__(self, channels, size):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, size, size), 1 / size**2))

    def forward(self, maps):
        return (maps * self.weight).sum((2, 3))
