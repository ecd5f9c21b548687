"""`channel_fusion` (source 1, 48,639 parameters): the number becomes one more channel of the image.

    Conv2d 3x3               1 -> 7      28 -> 26        70
    Linear                  10 -> 676                  7,436    the number, as a 26x26 channel
    Conv2d 3x3               8 -> 16     26 -> 24     1,168    seven channels and the number's
    pool, BatchNorm                      24 -> 12        32
    Conv2d 3x3              16 -> 32     12 -> 10     4,640
    pool, BatchNorm                      10 ->  5        64
    Conv2d 3x3              32 -> 64      5 ->  3    18,496
    Linear                 576 -> 10                  5,770    the digit
    Linear                 576 -> 19                 10,963    the sum

Not published, chosen here: ReLU after each convolution; and raw pixels of 0 to 255, as the source's data
frame holds them. In the source's log the sum lags over the first three epochs (training accuracy 11, 25,
85%); here raw pixels give 10, 46, 93%, normalized ones 27, 88, 95%.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from mnist_sum.data import MEAN, STD


class ChannelFusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 7, 3)
        self.number_channel = nn.Linear(10, 26 * 26)
        self.conv2 = nn.Conv2d(8, 16, 3)
        self.pool2 = nn.MaxPool2d(2)
        self.norm2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 32, 3)
        self.pool3 = nn.MaxPool2d(2)
        self.norm3 = nn.BatchNorm2d(32)
        self.conv4 = nn.Conv2d(32, 64, 3)
        self.digit_head = nn.Linear(576, 10)
        self.sum_head = nn.Linear(576, 19)

    def encode(self, image: Tensor) -> Tensor:
        return relu(self.conv1(255 * (STD * image + MEAN)))

    def join(self, features: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        channel = self.number_channel(number.unsqueeze(1)).view(-1, 1, 26, 26)
        fused = torch.cat((features, channel), dim=1)
        fused = self.norm2(self.pool2(relu(self.conv2(fused))))
        fused = self.norm3(self.pool3(relu(self.conv3(fused))))
        fused = relu(self.conv4(fused)).flatten(1)
        return self.digit_head(fused), self.sum_head(fused)

    def forward(self, image: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        return self.join(self.encode(image), number)
