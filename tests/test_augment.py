import pytest
import torch
from torch.nn.functional import affine_grid, grid_sample

from mnist_sum import augment
from mnist_sum.augment import affine, affine_matrices, random_matrices
from mnist_sum.dataset import BACKGROUND, MEAN, STD
from mnist_sum.system.randomness import generator


@pytest.fixture
def images():
    """Eight white squares of 8x8 in the middle of black, normalised."""
    pixels = torch.zeros(8, 1, 28, 28)
    pixels[:, :, 10:18, 10:18] = 1
    return (pixels - MEAN) / STD


def augmented(images, *key):
    return affine(images, random_matrices(len(images), generator(*key), images.device))


def test_augmentation_is_a_pure_function_of_the_generator(images):
    first = augmented(images, 1, "affine", 2)
    assert torch.equal(first, augmented(images, 1, "affine", 2))
    assert not torch.equal(first, augmented(images, 1, "affine", 3))


def test_random_matrices_reach_every_amount_in_either_direction_and_no_further():
    *_, shift = random_matrices(1000, generator(0, "affine"), torch.device("cpu")).unbind(2)
    assert 0.99 * augment.SHIFT < shift.max() < augment.SHIFT
    assert -augment.SHIFT <= shift.min() < -0.99 * augment.SHIFT


def test_every_image_gets_its_own_transformation(images):
    moved = augmented(images, 0, "affine")
    assert moved.shape == images.shape
    assert len(torch.unique(moved.flatten(1), dim=0)) == 8


def test_padding_is_background_and_the_ink_is_about_conserved(images):
    moved = augmented(images, 0, "affine")
    corners = moved[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    torch.testing.assert_close(corners, torch.full_like(corners, BACKGROUND))
    ink, before = (moved - BACKGROUND).sum((1, 2, 3)), (images - BACKGROUND).sum((1, 2, 3))
    assert ((ink / before - 1).abs() < (1 + augment.SCALE) ** 2 * 1.1 - 1).all()


def test_amounts_of_zero_leave_the_images_unchanged(images):
    same = affine(images, affine_matrices(torch.zeros(6, 8)))
    torch.testing.assert_close(same, images, atol=1e-4, rtol=0)


def test_a_shift_by_whole_pixels_moves_the_ink_left_and_up(images, monkeypatch):
    monkeypatch.setattr(augment, "SHIFT", 2 / 14)
    draws = torch.tensor([0.0, 0, 0, 0, 1, 1]).unsqueeze(1).expand(6, 8)
    moved = affine(images, affine_matrices(draws))
    torch.testing.assert_close(moved[..., :-2, :-2], images[..., 2:, 2:], atol=1e-4, rtol=0)


def test_it_is_the_map_that_affine_grid_makes_of_the_same_matrices(images):
    matrices = random_matrices(8, generator(5, "affine"), images.device)
    grid = affine_grid(matrices, list(images.shape), align_corners=False)
    expected = grid_sample(images - BACKGROUND, grid, align_corners=False) + BACKGROUND
    torch.testing.assert_close(affine(images, matrices), expected, atol=1e-4, rtol=0)
