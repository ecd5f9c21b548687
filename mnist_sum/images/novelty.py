"""How unlike a digit an image is: a small network that looks at the image alone, so it serves every model.

    Conv2d 7x7, stride 3, ReLU     1 -> 16    28 -> 8       800
    Conv2d 4x4, stride 2, ReLU    16 -> 40     8 -> 3    10,280
    Linear, ReLU                 360 -> 32               11,552
    Linear                        32 -> 11                  363     ten digits and "no digit"

Trained on MNIST's digits against drawings of other things (outlier exposure, Hendrycks, Mazeika and
Dietterich 2019, arXiv 1812.04606); `python -m tests.tools.novelty` trains and measures it.
"""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

THRESHOLD = 0.5  # the last bias was shifted until this flags 1% of held-out digits
WEIGHTS = Path(__file__).with_name("novelty.safetensors")
_weights = cache(load_file)


@torch.inference_mode()
def novelty(pixels: Tensor) -> Tensor:
    """How unlike a digit each image is: uint8 (N, 28, 28), white on black -> float32 (N,) in [0, 1]."""
    return novelty_logits(pixels.unsqueeze(1) / 255, _weights(WEIGHTS)).softmax(1)[:, -1]


def novelty_logits(image: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """float32 (N, 1, 28, 28) in [0, 1] -> (N, 11)"""
    features = torch.conv2d(image, weights["conv1.weight"], weights["conv1.bias"], 3).relu()
    features = torch.conv2d(features, weights["conv2.weight"], weights["conv2.bias"], 2).relu().flatten(1)
    hidden = torch.addmm(weights["linear1.bias"], features, weights["linear1.weight"].t()).relu()
    return torch.addmm(weights["linear2.bias"], hidden, weights["linear2.weight"].t())
