"""`tiny` (ours, 7,274 parameters) and `large` (197,546): addition that is exact and has no parameters.

P(sum = s | image, n) = P(digit = s - n | image), so the sum's logits are the digit's, shifted by
the number, and every sum that the number rules out gets none. All parameters serve reading the
digit, and a sum is right exactly when its digit is.

    Conv2d 5x5, stride 2, BatchNorm, ReLU      1 -> 8     28 -> 13     200 + 16
    Conv2d 3x3, BatchNorm, ReLU                8 -> 12    13 -> 11     864 + 24
    Conv2d 3x3, BatchNorm, ReLU               12 -> 16    11 -> 9    1,728 + 32
    Conv2d 3x3, stride 2, BatchNorm, ReLU     16 -> 16     9 -> 4    2,304 + 32
    Conv2d 3x3, BatchNorm, ReLU               16 -> 12     4 -> 4    1,728 + 24
    WeightedMean                              12 -> 12     4 -> 1      192
    Linear                                    12 -> 10                 130         the digit

The table is of `tiny`; `large` has the widths 32, 64, 64, 96, 96. Strides and missing padding make
the maps small early, hence the speed; a weighted mean keeps where a stroke was, a plain one forgets.
"""

from functools import partial

import torch
from torch import nn

IMPOSSIBLE = -1e4  # a logit whose probability is exactly 0 in every float type, and still a number


def add_exactly(digit_logits, number):
    """sum_logits (B, 19): sum_logits[s] = digit_logits[s - n], and IMPOSSIBLE outside 0 <= s - n < 10.

    digit_logits (B, 10); number (B, 10) one-hot. Entries are moved, never computed with.
    """
    digit = torch.arange(19, device=number.device) - number.argmax(1, keepdim=True)  # (B, 19)
    possible = (digit >= 0) & (digit < 10)
    return digit_logits.gather(1, digit.clamp(0, 9)).masked_fill(~possible, IMPOSSIBLE)


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


class ExactAddition(nn.Module):
    def __init__(self, w0, w1, w2, w3, w4):
        super().__init__()
        self.reader = nn.Sequential(
            layer(1, w0, 5, stride=2, padding=1),
            *(layer(w0, w1), layer(w1, w2)),
            *(layer(w2, w3, stride=2), layer(w3, w4, padding=1)),
            WeightedMean(w4, 4),
            nn.Linear(w4, 10),
        )

    def encode(self, image):
        return self.reader(image)

    def join(self, digit_logits, number):
        return digit_logits, add_exactly(digit_logits, number)

    def forward(self, image, number):
        return self.join(self.encode(image), number)


tiny = partial(ExactAddition, 8, 12, 16, 16, 12)
large = partial(ExactAddition, 32, 64, 64, 96, 96)
