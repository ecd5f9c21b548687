"""Random affine augmentation of a whole batch at once, on its device."""

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from mnist_sum.data import BACKGROUND

# the largest amounts, in either direction
ROTATION = math.radians(8)
SCALE = 0.08  # of width and height, each by itself
SHEAR = 0.1  # sideways, as a fraction of the height
SHIFT = 1.5 / 14  # 1.5 pixels, in units of half an image


def random_matrices(count: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
    """Affine maps (count, 2, 3), as affine_grid takes them; drawn on the CPU, so the same on every device."""
    draws = torch.rand(6, count, generator=generator) * 2 - 1
    angle, shear = ROTATION * draws[0], SHEAR * draws[1]
    width, height = 1 + SCALE * draws[2], 1 + SCALE * draws[3]
    cos, sin = angle.cos(), angle.sin()
    rows = (
        torch.stack((cos / width, (shear - sin) / height, SHIFT * draws[4]), 1),
        torch.stack((sin / width, cos / height, SHIFT * draws[5]), 1),
    )
    return torch.stack(rows, 1).to(device)


def affine(image: Tensor, matrices: Tensor) -> Tensor:
    """Transform each normalized image (B, 1, 28, 28) by its matrix of (B, 2, 3)."""
    # where each output pixel is sampled; affine_grid gives the same by a matrix product, three times slower
    centers = (torch.arange(28, device=image.device) * 2 + 1) / 28 - 1
    by_column, by_row, shift = matrices.permute(2, 1, 0).unsqueeze(3)  # (2, B, 1) each
    grid = (by_column * centers).unsqueeze(2) + (by_row * centers + shift).unsqueeze(3)  # (2, B, 28, 28)
    # grid_sample pads with zeros: shift the background to zero and back
    moved = grid_sample(image - BACKGROUND, grid.permute(1, 2, 3, 0), align_corners=False)
    return moved.add_(BACKGROUND)
