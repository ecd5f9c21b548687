"""Whether an image is unlike a digit: a detector that looks at the image alone, so it serves every model.

    Conv2d 7x7, stride 3, ReLU     1 -> 16    28 -> 8       800
    Conv2d 4x4, stride 2, ReLU    16 -> 40     8 -> 3    10,280
    Linear, ReLU                 360 -> 32               11,552
    Linear                        32 -> 11                  363     ten digits and "no digit"

It was trained on MNIST's digits against things that a program draws and that are none (outlier exposure,
Hendrycks, Mazeika and Dietterich 2019, arXiv 1812.04606), all prepared as a user's image is. The threshold
is where 1% of the last 10,000 training images are flagged. There 94.4% of what is no digit is (AUROC 0.997),
with the test images 93.9% at 1.0% (0.996); novelty.md beside this file has it by kind, and other measures.
`python -m tests.make_novelty` makes the weights, `python -m tests.measure_novelty` the figures.
"""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

THRESHOLD = 0.5  # the last bias was shifted until this flags 1% of held-out digits
WEIGHTS = Path(__file__).with_name("novelty.safetensors")
STRIDES = 3, 2
FEW = 16  # images; conv2d, made for many, is the slower way for fewer


def unlike_digits(pixels):
    """Which images are unlike digits: pixels, uint8 (N, 28, 28), white on black -> bool (N,), on the CPU."""
    return scores(pixels) > THRESHOLD


@torch.inference_mode()
def scores(pixels):
    """How unlike a digit each image is: pixels, uint8 (N, 28, 28) -> float32 (N,) in [0, 1], on the CPU.

    The share that "no digit" has in the softmax over eleven classes: it orders images and has a threshold,
    but is no probability for your images, which nobody knows the mixture of.
    """
    return logits(pixels.cpu().unsqueeze(1) / 255, _weights()).softmax(1)[:, -1]


def logits(image, weights):
    """The detector's logits, (N, 11), for image, float32 (N, 1, 28, 28) in [0, 1]; weights by name."""
    features = image
    for number, stride in enumerate(STRIDES, 1):
        layer = weights[f"conv{number}.weight"], weights[f"conv{number}.bias"]
        features = _convolved(features, *layer, stride).relu()
    hidden = torch.addmm(weights["linear1.bias"], features.flatten(1), weights["linear1.weight"].t()).relu()
    return torch.addmm(weights["linear2.bias"], hidden, weights["linear2.weight"].t())


def _convolved(image, weight, bias, stride):
    if len(image) >= FEW:
        return torch.conv2d(image, weight, bias, stride)
    size = weight.shape[-1]
    windows = image.unfold(2, size, stride).unfold(3, size, stride).permute(0, 2, 3, 1, 4, 5)
    rows = windows.reshape(windows.shape[:3].numel(), weight[0].numel())
    maps = torch.addmm(bias, rows, weight.flatten(1).t())
    return maps.view(*windows.shape[:3], len(weight)).permute(0, 3, 1, 2)


@cache
def _weights():
    return load_file(WEIGHTS)
