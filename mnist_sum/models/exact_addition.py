"""`tiny` (ours, 7,274 parameters) and `large` (465,930): addition that is exact and has no parameters.

P(sum = s | image, n) = P(digit = s - n | image), so the sum's logits are the digit's, shifted by the
number, and every sum that the number rules out is impossible. All parameters serve the digit, and a sum
is correct exactly when its digit is.

    Conv2d 5x5, stride 2, BatchNorm, ReLU      1 -> 8     28 -> 13     200 + 16
    Conv2d 3x3, BatchNorm, ReLU                8 -> 12    13 -> 11     864 + 24
    Conv2d 3x3, BatchNorm, ReLU               12 -> 16    11 -> 9    1,728 + 32
    Conv2d 3x3, stride 2, BatchNorm, ReLU     16 -> 16     9 -> 4    2,304 + 32
    Conv2d 3x3, BatchNorm, ReLU               16 -> 12     4 -> 4    1,728 + 24
    WeightedMean                              12 -> 12     4 -> 1      192
    Linear                                    12 -> 10                 130         the digit

This is the digit classifier of `tiny`; `large` is an ensemble of five, of widths 24, 40, 48, 64, 64.
Strides and missing padding make the maps small early, which makes it fast; a weighted mean keeps where a
stroke was, a plain one forgets it.

The digit's logits are a mean: of `tiny` over three views of the image, as it is and shifted by a pixel
along the diagonal either way (test-time augmentation, TTA); of `large` over its members, the last of which
deskews the image first, since members that see an image differently err differently. In training every
member sees the image once, unshifted, and has a loss of its own.
"""

from functools import partial

import torch
from torch import nn

from mnist_sum.models.digit_classifier import digit_classifier

IMPOSSIBLE = -1e4  # a logit whose probability is exactly 0 in every float type, and still finite
UNSHIFTED = ((0, 0),)  # one view; shifts are in pixels, down and right


def add_exactly(digit_logits, number):
    """sum_logits (..., B, 19): sum_logits[s] = digit_logits[s - n], and IMPOSSIBLE outside 0 <= s - n < 10.

    digit_logits (..., B, 10); number (B, 10) one-hot. Entries are moved, never computed with.
    """
    digit = torch.arange(19, device=number.device) - number.argmax(1, keepdim=True)  # (B, 19)
    possible = (digit >= 0) & (digit < 10)
    source = digit.clamp(0, 9).expand(*digit_logits.shape[:-1], 19)
    return digit_logits.gather(-1, source).masked_fill(~possible, IMPOSSIBLE)


class ExactAddition(nn.Module):
    def __init__(self, *widths, deskewed=(False,), shifts=UNSHIFTED):
        """An ensemble of as many members as deskewed has entries, which say whether each has a Deskew."""
        super().__init__()
        self.members = nn.ModuleList(digit_classifier(*widths, deskewed=each) for each in deskewed)
        self.shifts = shifts

    def encode(self, image):
        """Digit logits: in training each member's own, (members, B, 10); else their mean, (B, 10)."""
        # What rolls out on one side and in on the other is background in 99 of 100 MNIST images.
        # All views go through the layers in one call, so that a summary lists each layer once.
        views = image if self.training else torch.cat([image.roll(shift, (2, 3)) for shift in self.shifts])
        outputs = torch.stack([member(views) for member in self.members]).view(-1, image.shape[0], 10)
        return outputs if self.training else outputs.mean(0)

    def join(self, digit_logits, number):
        return digit_logits, add_exactly(digit_logits, number)

    def forward(self, image, number):
        return self.join(self.encode(image), number)


tiny = partial(ExactAddition, 8, 12, 16, 16, 12, shifts=(*UNSHIFTED, (1, 1), (-1, -1)))
large = partial(ExactAddition, 24, 40, 48, 64, 64, deskewed=(False, False, False, False, True))
