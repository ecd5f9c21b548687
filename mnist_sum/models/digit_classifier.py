"""The digit classifier of `tiny` and `large`, row by row as the table in exact_addition.py has it."""

import torch
from torch import nn
from torch.nn.functional import grid_sample

from mnist_sum.dataset import BACKGROUND

LEAST = 1e-3  # to divide by, where an image is blank


def digit_classifier(w0, w1, w2, w3, w4, deskewed=False):
    """An nn.Sequential from image (B, 1, 28, 28) to digit_logits (B, 10); deskewed: with a Deskew first."""
    return nn.Sequential(
        *([Deskew()] if deskewed else []),
        layer(1, w0, 5, stride=2, padding=1),
        *(layer(w0, w1), layer(w1, w2)),
        *(layer(w2, w3, stride=2), layer(w3, w4, padding=1)),
        WeightedMean(w4, 4),
        nn.Linear(w4, 10),
    )


def layer(channels_in, channels_out, size=3, **options):
    convolution = nn.Conv2d(channels_in, channels_out, size, bias=False, **options)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


class Deskew(nn.Module):
    """Each image (B, 1, 28, 28) sheared until its digit no longer leans; no parameters.

    The slope of an image is the covariance of its ink's columns and rows over the variance of the rows,
    that is the columns' regression line on the rows; that of a blank image is 0. More than 45 degrees is
    sheared by 45. (LeCun et al. 1998 deslanted MNIST by second moments, too.)
    """

    def __init__(self):
        super().__init__()
        centres = (torch.arange(28) * 2 + 1) / 28 - 1  # of the pixels, in grid_sample's coordinates
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, image):
        ink, centres = image - BACKGROUND, self.centres
        by_row, moment = ink.sum(3).squeeze(1), (ink * centres).sum(3).squeeze(1)  # (B, 28)
        total = by_row.sum(1, keepdim=True).clamp(min=LEAST)
        rows = centres - (by_row * centres).sum(1, keepdim=True) / total  # from the centre of mass
        slope = (moment * rows).sum(1) / (by_row * rows**2).sum(1).clamp(min=LEAST)
        columns = centres + (slope.clamp(-1, 1).unsqueeze(1) * rows).unsqueeze(2)  # (B, 28, 28)
        grid = torch.stack((columns, centres.unsqueeze(1).expand_as(columns)), 3)
        return grid_sample(ink, grid, align_corners=False) + BACKGROUND


class WeightedMean(nn.Module):
    """Each channel's map, (B, C, size, size), to one value, (B, C); a plain mean to begin with."""

    def __init__(self, channels, size):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, size, size), 1 / size**2))

    def forward(self, maps):
        return (maps * self.weight).sum((2, 3))
