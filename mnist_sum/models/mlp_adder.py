"""`mlp_adder` (source 2, 40,493 parameters): convolutions down to 1x1x10, then a few linear layers.

The source describes the path (image -> 1x1x10 -> ten values, concatenated with the ten-wide number to
1x20, "a few Fully connected layers" to 19) without a size. All sizes are chosen here:

    Conv2d 3x3, ReLU, BatchNorm    1 -> 16    28x28
    Conv2d 3x3, ReLU, BatchNorm   16 -> 16    28x28, pool to 14
    Conv2d 3x3, ReLU, BatchNorm   16 -> 32    14x14
    Conv2d 3x3, ReLU, BatchNorm   32 -> 32    14x14, pool to 7
    Conv2d 3x3, ReLU, BatchNorm   32 -> 32     7 -> 5
    Conv2d 5x5                    32 -> 10     5 -> 1      the digit
    Linear, ReLU                  20 -> 64                 ten logits, ten-wide number
    Linear, ReLU                  64 -> 64
    Linear                        64 -> 19                 the sum
"""

import torch
from torch import Tensor, nn


def convolution(channels_in: int, channels_out: int, padding: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=padding, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(channels_out),
    )


class MlpAdder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            convolution(1, 16),
            convolution(16, 16),
            nn.MaxPool2d(2),
            convolution(16, 32),
            convolution(32, 32),
            nn.MaxPool2d(2),
            convolution(32, 32, padding=0),
            nn.Conv2d(32, 10, 5),
        )
        self.adder = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 19))

    def encode(self, image: Tensor) -> Tensor:
        return self.trunk(image).flatten(1)

    def join(self, digit_logits: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        return digit_logits, self.adder(torch.cat((digit_logits, number), dim=1))

    def forward(self, image: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        return self.join(self.encode(image), number)
