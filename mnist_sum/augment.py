"""Random affine augmentation of a whole batch at once, as tensor operations on its device."""

import math

import torch
from torch.nn.functional import affine_grid, grid_sample

from mnist_sum.dataset import BACKGROUND

# The largest amounts, in either direction.
ROTATION = math.radians(8)
SCALE = 0.08  # of the size, as a fraction; of width and height each by itself
SHEAR = 0.1  # sideways, as a fraction of the height
SHIFT = 1.5 / 14  # one and a half pixels, in units of half an image


def affine_draws(count, generator, device):
    """The random amounts of `count` images: (6, count) float32 in [-1, 1), on the device.

    Drawn by a generator on the CPU, so that they are the same on every device. They reach a GPU from
    page-locked memory, without waiting for the steps that it still has to do.
    """
    draws = torch.rand(6, count, generator=generator, pin_memory=device.type == "cuda")
    return draws.mul_(2).sub_(1).to(device, non_blocking=True)


def random_affine(image, draws):
    """image (B, 1, 28, 28), normalised, each rotated, scaled, sheared and shifted by its own amounts.

    draws (6, B), see affine_draws: for the angle, the shear, the width, the height, and the shift to the
    left and up, 1 being the largest amount.
    """
    angle, shear = ROTATION * draws[0], SHEAR * draws[1]
    width, height = 1 + SCALE * draws[2], 1 + SCALE * draws[3]
    cosine, sine = angle.cos(), angle.sin()
    rows = (
        torch.stack((cosine / width, (shear - sine) / height, SHIFT * draws[4]), 1),
        torch.stack((sine / width, cosine / height, SHIFT * draws[5]), 1),
    )  # from where in the image each pixel of the result is taken
    grid = affine_grid(torch.stack(rows, 1), list(image.shape), align_corners=False)
    moved = grid_sample(image - BACKGROUND, grid, align_corners=False)  # zeros outside
    return moved + BACKGROUND
