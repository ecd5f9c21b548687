"""`tiny` (ours, 7,274 parameters) and `large` (465,930): addition that is exact and has no parameters.

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

That is `tiny`'s one reader; `large` has five, of widths 24, 40, 48, 64, 64. Strides and missing padding
make the maps small early, hence the speed; a weighted mean keeps where a stroke was, a plain one forgets.

The answer is the mean of several readings' logits: `tiny` reads the image at three places, a pixel
apart (test-time augmentation), each of `large`'s readers once (an ensemble), the last after setting it
upright, since readers that see differently err differently. In training each reader reads the image
once, unmoved, and answers for itself alone: so it learns to read by itself.
"""

from functools import partial

import torch
from torch import nn

from mnist_sum.models.reader import reader

IMPOSSIBLE = -1e4  # a logit whose probability is exactly 0 in every float type, and still a number
AS_IT_IS = ((0, 0),)  # one place, in pixels down and right


def add_exactly(digit_logits, number):
    """sum_logits (B, 19): sum_logits[s] = digit_logits[s - n], and IMPOSSIBLE outside 0 <= s - n < 10.

    digit_logits (..., B, 10); number (B, 10) one-hot. Entries are moved, never computed with.
    """
    digit = torch.arange(19, device=number.device) - number.argmax(1, keepdim=True)  # (B, 19)
    possible = (digit >= 0) & (digit < 10)
    source = digit.clamp(0, 9).expand(*digit_logits.shape[:-1], 19)
    return digit_logits.gather(-1, source).masked_fill(~possible, IMPOSSIBLE)


class ExactAddition(nn.Module):
    def __init__(self, *widths, upright=(False,), places=AS_IT_IS):
        """A reader of the widths for each entry of upright, which says whether it has a Deskew."""
        super().__init__()
        self.readers = nn.ModuleList(reader(*widths, upright=each) for each in upright)
        self.places = places

    def encode(self, image):
        """Digit logits: in training each reader's own, (readers, B, 10); then their mean, (B, 10)."""
        # What rolls out on one side and in on the other is background in 99 of 100 MNIST images.
        # All places go through the layers in one call, so that a summary lists each layer once.
        views = image if self.training else torch.cat([image.roll(place, (2, 3)) for place in self.places])
        readings = torch.stack([read(views) for read in self.readers]).view(-1, image.shape[0], 10)
        return readings if self.training else readings.mean(0)

    def join(self, digit_logits, number):
        return digit_logits, add_exactly(digit_logits, number)

    def forward(self, image, number):
        return self.join(self.encode(image), number)


tiny = partial(ExactAddition, 8, 12, 16, 16, 12, places=(*AS_IT_IS, (1, 1), (-1, -1)))
large = partial(ExactAddition, 24, 40, 48, 64, 64, upright=(False, False, False, False, True))
