"""A shape's ink -> an image as MNIST's are: white on black, fitted into 20x20, centered by mass in 28x28."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

Ink = NDArray[np.float32]
Mask = NDArray[np.bool_]

INK = 0.4  # of a shape's usual ink: what is as dark as this is all ink
PREPARED = 100  # pixels of the longer side from which a shape is scaled to 20
THINNEST = 0.11  # of the longer side: the width of MNIST's thinnest strokes; finer ones are made as wide
LEAN = 0.3  # columns a row: what leans more than two in three of MNIST's digits is sheared until it does not
EIGHT = np.ones((3, 3), bool)


def stroke_width(mask: Mask) -> float:
    """The mean width of the mask's strokes: the area over half the outline."""
    area = int(np.count_nonzero(mask))
    return 2 * area / max(1, area - int(np.count_nonzero(ndimage.binary_erosion(mask, EIGHT))))


def mnist_like(ink: Ink, mask: Mask) -> Tensor:
    """ink (H, W), 1 where it is as usual, of a shape whose mask (H, W) fills it -> uint8 (28, 28)."""
    size = [max(1, round(side * PREPARED / max(mask.shape))) for side in mask.shape[::-1]]
    pictures = (Image.fromarray(each.astype(np.float32)) for each in (ink, mask))
    resized = (np.asarray(each.resize(size, Image.Resampling.BICUBIC)) for each in pictures)
    ink, cover = (np.pad(each, PREPARED // 8) for each in resized)  # a margin to make strokes wider in
    mask = cover > 0.5
    ink = (ink / INK).clip(0, 1) * ndimage.binary_dilation(mask, EIGHT)
    if (wider := THINNEST * PREPARED - stroke_width(mask)) > 0:
        ink = ndimage.grey_dilation(ink, [1 + 2 * round(wider / 2)] * 2, mode="nearest")
    # fitted into 20x20
    picture = Image.fromarray((ink * 255).round().astype(np.uint8))
    picture = picture.crop(Image.fromarray(ink > 0.5).getbbox())
    size = [max(1, round(side * 20 / max(picture.size))) for side in picture.size]
    small = np.asarray(picture.resize(size, Image.Resampling.LANCZOS), np.float32)
    # centered by mass in 28x28
    total = max(small.sum(), 1)
    y, x = (small.sum(1 - axis) @ np.arange(side) / total for axis, side in enumerate(small.shape))
    top, left = (min(max(round(13.5 - at), 0), 28 - n) for at, n in zip((y, x), small.shape, strict=True))
    placed = np.pad(small, ((top, 28 - top - len(small)), (left, 28 - left - small.shape[1])))
    # upright
    down, right = np.arange(28)[:, None] - (top + y), np.arange(28) - (left + x)
    lean = (placed * down * right).sum() / max((placed * down**2).sum(), 1)
    if excess := lean - np.clip(lean, -LEAN, LEAN):
        placed = ndimage.affine_transform(placed, [[1, 0], [excess, 1]], (0, -excess * (top + y)), order=1)
    return torch.from_numpy((placed * (255 / max(placed.max(), 1))).round().astype(np.uint8))
