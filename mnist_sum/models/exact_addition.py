"""`tiny` (ours, 7,070 parameters): addition that is exact and has no parameters.

P(sum = s | image, n) = P(digit = s - n | image), so the sum's logits are the digit's, shifted by
the number, and every sum that the number rules out gets none. All parameters serve reading the
digit, and a sum is right exactly when its digit is.

    Conv2d 3x3, pool, BatchNorm, ReLU      1 -> 8     28 -> 14      72 + 16
    Conv2d 3x3, BatchNorm, ReLU            8 -> 12    14x14        864 + 24
    Conv2d 3x3, pool, BatchNorm, ReLU     12 -> 14    14 -> 7    1,512 + 28
    Conv2d 3x3, BatchNorm, ReLU           14 -> 16     7x7       2,016 + 32
    Conv2d 3x3, BatchNorm, ReLU           16 -> 16     7x7       2,304 + 32
    mean over the 7x7, Linear             16 -> 10                 170         the digit

Pooling before BatchNorm and ReLU leaves them a quarter of the work.
"""

import torch
from torch import nn

IMPOSSIBLE = -1e4  # a logit whose probability is exactly 0 in every float type, and still a number


def add_exactly(digit_logits, number):
    """sum_logits (B, 19): sum_logits[s] = digit_logits[s - n], and IMPOSSIBLE outside 0 <= s - n < 10.

    digit_logits (B, 10); number (B, 10) one-hot. Differentiable in digit_logits; the entries are
    moved, never computed with, so the result is exact in every float type.
    """
    digit = torch.arange(19, device=number.device) - number.argmax(1, keepdim=True)  # (B, 19)
    possible = (digit >= 0) & (digit < 10)
    return digit_logits.gather(1, digit.clamp(0, 9)).masked_fill(~possible, IMPOSSIBLE)


def layer(width_in, width_out, pool=False):
    pooling = [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, 3, padding=1, bias=False),
        *pooling,
        nn.BatchNorm2d(width_out),
        nn.ReLU(),
    )


class ExactAddition(nn.Module):
    def __init__(self, widths):
        super().__init__()
        w0, w1, w2, w3, w4 = widths
        self.reader = nn.Sequential(
            layer(1, w0, pool=True),
            layer(w0, w1),
            layer(w1, w2, pool=True),
            layer(w2, w3),
            layer(w3, w4),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(w4, 10),
        )

    def encode(self, image):
        return self.reader(image)

    def join(self, digit_logits, number):
        return digit_logits, add_exactly(digit_logits, number)

    def forward(self, image, number):
        return self.join(self.encode(image), number)


def tiny():
    return ExactAddition((8, 12, 14, 16, 16))
