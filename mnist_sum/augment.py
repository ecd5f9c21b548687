"""Random affine augmentation of a whole batch at once, as tensor operations on its device."""

import math

import torch
from torch.nn.functional import affine_grid, grid_sample

from mnist_sum.dataset import BACKGROUND

ROTATION = math.radians(8)  # each way, as all of these
SCALE = 0.08  # of the size
SHEAR = 0.1  # of the height, sideways
SHIFT = 1.5 / 14  # one and a half pixels, in units of half an image


def affine_draws(count, generator, device):
    """What decides how far each of `count` images is moved: (6, count) in [-1, 1), on the device.

    Drawn by the (CPU) generator, so they are the same on every device. From page-locked memory they
    go to a GPU without waiting for the steps that it has still to do.
    """
    draws = torch.rand(6, count, generator=generator, pin_memory=device.type == "cuda")
    return draws.mul_(2).sub_(1).to(device, non_blocking=True)


def random_affine(images, draws):
    """Rotate, scale, shear and shift each of the images (B, 1, 28, 28) by its own random amounts.

    draws (6, B): see affine_draws.
    """
    angle, shear = ROTATION * draws[0], SHEAR * draws[1]
    width, height = 1 + SCALE * draws[2], 1 + SCALE * draws[3]
    cosine, sine = angle.cos(), angle.sin()
    rows = (
        torch.stack((cosine / width, (shear - sine) / height, SHIFT * draws[4]), 1),
        torch.stack((sine / width, cosine / height, SHIFT * draws[5]), 1),
    )
    grid = affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = grid_sample(images - BACKGROUND, grid, align_corners=False)  # zeros outside
    return moved + BACKGROUND
