"""What reads the digit in `tiny` and `large`, row by row as the table in exact_addition.py has it."""

import torch
from torch import nn


def reader(w0, w1, w2, w3, w4):
    return nn.Sequential(
        layer(1, w0, 5, stride=2, padding=1),
        *(layer(w0, w1), layer(w1, w2)),
        *(layer(w2, w3, stride=2), layer(w3, w4, padding=1)),
        WeightedMean(w4, 4),
        nn.Linear(w4, 10),
    )


def layer(width_in, width_out, size=3, **placing):
    convolution = nn.Conv2d(width_in, width_out, size, bias=False, **placing)
    return nn.Sequential(convolution, nn.BatchNorm2d(width_out), nn.ReLU())


class WeightedMean(nn.Module):
    """Each channel's map (B, C, size, size) to one value (B, C), a plain mean to begin with."""

    def __init__(self, channels, size):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, size, size), 1 / size**2))

    def forward(self, maps):
        return (maps * self.weight).sum((2, 3))
