"""`line_adder` (7,296 parameters): a learned adder that generalises to pairs that it has never seen.

One linear layer learns P(sum | digit, number): it takes both as one-hot to a position on the line of the
sums, and a sum's logit falls with the square of its distance from there. Built in is that the sums lie on a
line at equal distances, and that a digit and a number each move the position. Which way and how far are 20
learned weights; from other labels the same layer learns digit - number as well. Over the ten digits
P(sum) is the mean, weighted by the digit's probabilities.
"""

import torch
from torch import nn

from mnist_sum.models.digit_classifier import digit_classifier

RECIPE = {  # tiny's, but for the rate: at 0.25 the positions overshoot
    "epochs": 60, "batch_size": 128, "learning_rate": 0.1, "schedule": "onecycle", "optimizer": "nesterov",
    "augmentation": "affine", "averaging": "ema", "weight_decay": 1e-3, "smallest_batch": 128,
}  # fmt: skip


class LineAdder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = digit_classifier(8, 12, 16, 16, 12)
        self.position = nn.Linear(10 + 10, 1)
        self.log_sharpness = nn.Parameter(torch.tensor(-3.0))  # blurred at first, so that all positions move
        self.register_buffer("digits", torch.eye(10), persistent=False)
        self.register_buffer("sums", torch.arange(19.0) - 9, persistent=False)  # their places on the line

    def join(self, digit_logits, number):
        digits, numbers = torch.broadcast_tensors(self.digits, number.unsqueeze(1))  # (B, 10, 10)
        position = self.position(torch.cat((digits, numbers), 2))  # (B, 10, 1), for each digit
        adder = (-self.log_sharpness.exp() * (position - self.sums) ** 2).log_softmax(2)  # (B, 10, 19)
        return digit_logits, (digit_logits.log_softmax(1).unsqueeze(2) + adder).logsumexp(1)

    def forward(self, image, number):
        return self.join(self.encode(image), number)
