"""`linear_adder` (source 3, 452,678 parameters): a large digit classifier, one linear layer to add.

    Conv2d 3x3, ReLU     1 -> 16     28x28          160
    Conv2d 3x3, ReLU    16 -> 32     28 -> 14     4,640     pool
    Conv2d 3x3, ReLU    32 -> 64     14x14       18,496
    Conv2d 3x3, ReLU    64 -> 64     14 -> 7     36,928     pool
    Conv2d 3x3, ReLU    64 -> 128     7 -> 5     73,856
    Conv2d 3x3, ReLU   128 -> 256     5 -> 3    295,168
    Conv2d 3x3         256 -> 10      3 -> 1     23,050     the digit
    Linear              20 -> 19                    380     the sum: ten raw logits, ten-wide number

The sum stalls far below the digit: one linear layer adds raw logits poorly (see README.md in this folder).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


class LinearAdder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.pool1 = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1)
        self.pool2 = nn.MaxPool2d(2)
        self.conv5 = nn.Conv2d(64, 128, 3)
        self.conv6 = nn.Conv2d(128, 256, 3)
        self.conv7 = nn.Conv2d(256, 10, 3)
        self.layer1 = nn.Linear(20, 19, bias=False)

    def encode(self, image: Tensor) -> Tensor:
        x = self.pool1(relu(self.conv2(relu(self.conv1(image)))))
        x = self.pool2(relu(self.conv4(relu(self.conv3(x)))))
        return self.conv7(relu(self.conv6(relu(self.conv5(x))))).flatten(1)

    def join(self, digit_logits: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        return digit_logits, self.layer1(torch.cat((digit_logits, number), dim=1))

    def forward(self, image: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        return self.join(self.encode(image), number)
