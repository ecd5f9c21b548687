"""`tiny` (7,274 parameters), `quick` (50,810) and `large` (465,930), ours: addition is exact and needs no parameter.

P(sum = s | image, n) = P(digit = s - n | image), so the sum's logits are the digit's, shifted by the number, and
every sum that the number rules out is impossible. All parameters serve the digit, and a sum is correct exactly
when its digit is. The digit's layers, with the widths of `tiny`:

    Conv2d 5x5, stride 2, BatchNorm, ReLU      1 -> 8     28 -> 13     200 + 16
    Conv2d 3x3, BatchNorm, ReLU                8 -> 12    13 -> 11     864 + 24
    Conv2d 3x3, BatchNorm, ReLU               12 -> 16    11 -> 9    1,728 + 32
    Conv2d 3x3, stride 2, BatchNorm, ReLU     16 -> 16     9 -> 4    2,304 + 32
    Conv2d 3x3, BatchNorm, ReLU               16 -> 12     4 -> 4    1,728 + 24
    WeightedMean                              12 -> 12     4 -> 1      192
    Linear                                    12 -> 10                 130         the digit

`quick` has widths 16, 16, 32, 48, 64, and `large` is an ensemble of five such classifiers, of widths
24, 40, 48, 64, 64. Strides and missing padding make the maps small early, which is fast; a weighted mean keeps where a
stroke was, a plain one forgets it.

In evaluation the digit's logits are a mean: of `tiny` and `quick` over the image and two copies shifted by a pixel
along the diagonal (test-time augmentation); of `large` over its members, one of which deskews the image first. In
training every member sees the image once and has a loss of its own.
"""

import torch
from torch import Tensor, nn

from mnist_sum.models.digit_classifier import digit_classifier

IMPOSSIBLE = -1e4  # a logit whose probability is exactly 0 in every float type, and still finite
DIAGONAL = (0, 0), (1, 1), (-1, -1)  # in pixels


def add_exactly(digit_logits: Tensor, number: Tensor) -> Tensor:
    """(..., B, 10), one-hot (B, 10) -> (..., B, 19): sum_logits[s] = digit_logits[s - n], else IMPOSSIBLE."""
    digit = torch.arange(19, device=number.device) - number.argmax(1, keepdim=True)  # (B, 19)
    possible = (digit >= 0) & (digit < 10)
    source = digit.clamp(0, 9).expand(*digit_logits.shape[:-1], 19)
    return digit_logits.gather(-1, source).masked_fill(~possible, IMPOSSIBLE)


class ExactAddition(nn.Module):
    """An ensemble of one member for each entry of deskewed; shifts: the views of an image, in pixels."""

    def __init__(
        self,
        *widths: int,
        deskewed: tuple[bool, ...] = (False,),
        shifts: tuple[tuple[int, int], ...] = ((0, 0),),
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(digit_classifier(*widths, deskewed=each) for each in deskewed)
        self.shifts = shifts

    def encode(self, image: Tensor) -> Tensor:
        """(B, 1, 28, 28) -> digit logits: in training each member's (members, B, 10), else their mean (B, 10)."""
        # roll() wraps around, but MNIST's border is almost always background
        views = image if self.training else torch.cat([image.roll(shift, (2, 3)) for shift in self.shifts])
        outputs = torch.stack([member(views) for member in self.members]).view(-1, image.shape[0], 10)
        return outputs if self.training else outputs.mean(0)

    def join(self, digit_logits: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        return digit_logits, add_exactly(digit_logits, number)

    def forward(self, image: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        return self.join(self.encode(image), number)


def tiny() -> ExactAddition:
    return ExactAddition(8, 12, 16, 16, 12, shifts=DIAGONAL)


def quick() -> ExactAddition:
    return ExactAddition(16, 16, 32, 48, 64, shifts=DIAGONAL)


def large() -> ExactAddition:
    return ExactAddition(24, 40, 48, 64, 64, deskewed=(False, False, False, False, True))
