"""`learned_table` (7,374 parameters): `tiny`, but what each number means is learned, not known.

Row n of a table (10, 10) is P(m | n), how probable it is that number n stands for the digit m; all are
equal to begin with. The sum's probabilities are those of digit + m, by an exact convolution. So the model
knows how to add and has to learn what to add; `tiny` knows both, the published models neither.
"""

import torch
from torch import nn

from mnist_sum.models.addition import add_log_probabilities
from mnist_sum.models.exact_addition import ExactAddition, tiny

RECIPE = {  # tiny's
    "epochs": 60, "batch_size": 128, "learning_rate": 0.25, "schedule": "onecycle", "optimizer": "nesterov",
    "augmentation": "affine", "averaging": "ema", "weight_decay": 1e-3, "smallest_batch": 128,
}  # fmt: skip


class LearnedTable(ExactAddition):
    def __init__(self):
        super().__init__(*tiny.args, **tiny.keywords)
        self.meaning = nn.Parameter(torch.zeros(10, 10))  # logits

    def join(self, digit_logits, number):
        meaning = self.meaning.log_softmax(1)[number.argmax(1)]  # (B, 10)
        return digit_logits, add_log_probabilities(digit_logits.float().log_softmax(-1), meaning)
