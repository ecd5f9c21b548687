"""`compact` (source 5, 7,364 parameters): three small blocks for the digit, two layers to add.

Conv2d 3x3, ReLU, BatchNorm   1 -> 8     28x28          72 + 16
Conv2d 3x3, ReLU, BatchNorm   8 -> 16    28x28       1,152 + 32
Conv2d 1x1, pool, dropout    16 -> 8     28 -> 14      136
the same block                8 -> 8     14 ->  7    1,912
the same block                8 -> 8      7 ->  3    1,912
Conv2d 3x3                    8 -> 16     3 ->  1    1,152
Conv2d 1x1                   16 -> 10     1 ->  1      160     the digit
Linear, BatchNorm, ReLU      20 -> 20                400 + 40  ten logits, ten-wide number
Linear                       20 -> 19                  380     the sum
"""

import torch
from torch import Tensor, nn

DROPOUT = 0.1


def block(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 8, 1),
        nn.MaxPool2d(2),
        nn.Dropout(DROPOUT),
    )


class Compact(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            block(1),
            block(8),
            block(8),
            nn.Conv2d(8, 16, 3, bias=False),
            nn.Conv2d(16, 10, 1, bias=False),
        )
        self.adder = nn.Sequential(
            nn.Linear(20, 20, bias=False),
            nn.BatchNorm1d(20),
            nn.ReLU(),
            nn.Linear(20, 19, bias=False),
        )

    def encode(self, image: Tensor) -> Tensor:
        return self.trunk(image).flatten(1)

    def join(self, digit_logits: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        return digit_logits, self.adder(torch.cat((digit_logits, number), dim=1))

    def forward(self, image: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        return self.join(self.encode(image), number)
