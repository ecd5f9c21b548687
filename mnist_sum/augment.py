"""Random affine augmentation of a whole batch at once, as tensor operations on its device."""

import math

import torch
from torch.nn.functional import grid_sample

from mnist_sum.dataset import BACKGROUND

# The largest amounts, in either direction.
ROTATION = math.radians(8)
SCALE = 0.08  # of the size, as a fraction; of width and height each by itself
SHEAR = 0.1  # sideways, as a fraction of the height
SHIFT = 1.5 / 14  # one and a half pixels, in units of half an image


def affine_matrices(draws):
    """The affine map of each image: (count, 2, 3), as torch.nn.functional.affine_grid takes them.

    draws (6, count) in [-1, 1), 1 being the largest amount: of the angle, the shear, the width, the height,
    and the shift to the left and up.
    """
    angle, shear = ROTATION * draws[0], SHEAR * draws[1]
    width, height = 1 + SCALE * draws[2], 1 + SCALE * draws[3]
    cosine, sine = angle.cos(), angle.sin()
    rows = (
        torch.stack((cosine / width, (shear - sine) / height, SHIFT * draws[4]), 1),
        torch.stack((sine / width, cosine / height, SHIFT * draws[5]), 1),
    )
    return torch.stack(rows, 1)


def random_matrices(count, generator, device):
    """The affine maps of `count` images, (count, 2, 3), drawn on the CPU, so the same on every device."""
    return affine_matrices(torch.rand(6, count, generator=generator) * 2 - 1).to(device)


def affine(image, matrices):
    """image (B, 1, 28, 28), normalised, each moved by its own of the matrices (B, 2, 3)."""
    # The grid says from where in the image each pixel of the result is taken, in [-1, 1]. affine_grid gives
    # the same, by a matrix product that takes far longer than this sum of a column's and a row's part.
    centres = (torch.arange(28, device=image.device) * 2 + 1) / 28 - 1
    of_column, of_row, shift = matrices.permute(2, 1, 0).unsqueeze(3)  # (2, B, 1) each
    grid = (of_column * centres).unsqueeze(2) + (of_row * centres + shift).unsqueeze(3)  # (2, B, 28, 28)
    moved = grid_sample(image - BACKGROUND, grid.permute(1, 2, 3, 0), align_corners=False)  # zeros outside
    return moved + BACKGROUND
