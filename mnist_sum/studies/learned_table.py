"""`learned_table` (7,374 parameters): `tiny`, but the meaning of each number is learned, not known.

Row n of a table (10, 10) is P(m | n), the probability that number n stands for the digit m; at first all are equal.
The model knows how to add and learns what to add; `tiny` knows both, the published models neither.
"""

from dataclasses import asdict

import torch
from torch import Tensor, nn

from mnist_sum.models.exact_addition import DIAGONAL, ExactAddition
from mnist_sum.recipes import RECIPES
from mnist_sum.studies.addition import add_log_probabilities

RECIPE = asdict(RECIPES["tiny"])


class LearnedTable(ExactAddition):
    def __init__(self) -> None:
        super().__init__(8, 12, 16, 16, 12, shifts=DIAGONAL)  # as tiny
        self.meaning = nn.Parameter(torch.zeros(10, 10))  # logits

    def join(self, digit_logits: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        meaning = self.meaning.log_softmax(1)[number.argmax(1)]  # (B, 10)
        return digit_logits, add_log_probabilities(digit_logits.float().log_softmax(-1), meaning)
