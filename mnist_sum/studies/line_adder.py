"""`line_adder` (7,296 parameters): a learned adder that generalizes to pairs that it has never seen.

The sums lie on a line at equal distances. A linear layer maps digit and number, both one-hot, to a position on it, and
a sum's logit falls with the square of its distance from there: P(sum | digit, number). P(sum) is the mean over the ten
digits, weighted by their probabilities. From other labels the 20 weights learn digit - number as well.
"""

from dataclasses import asdict

import torch
from torch import Tensor, nn

from mnist_sum.models.digit_classifier import digit_classifier
from mnist_sum.recipes import RECIPES

RECIPE = asdict(RECIPES["tiny"]) | {"learning_rate": 0.1}  # at tiny's 0.25 the positions overshoot


class LineAdder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = digit_classifier(8, 12, 16, 16, 12)
        self.position = nn.Linear(10 + 10, 1)
        self.log_sharpness = nn.Parameter(torch.tensor(-3.0))  # blurred at first, so that all positions move
        self.register_buffer("digits", torch.eye(10), persistent=False)
        self.register_buffer("sums", torch.arange(19.0) - 9, persistent=False)  # their places on the line

    def join(self, digit_logits: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        digits, numbers = torch.broadcast_tensors(self.digits, number.unsqueeze(1))  # (B, 10, 10)
        position = self.position(torch.cat((digits, numbers), 2))  # (B, 10, 1), for each digit
        adder = (-self.log_sharpness.exp() * (position - self.sums) ** 2).log_softmax(2)  # (B, 10, 19)
        return digit_logits, (digit_logits.log_softmax(1).unsqueeze(2) + adder).logsumexp(1)

    def forward(self, image: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        return self.join(self.encode(image), number)
