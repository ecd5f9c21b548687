"""The deskewing layer of `large`."""

import pytest
import torch

from mnist_sum.dataset import BACKGROUND, normalised
from mnist_sum.models.digit_classifier import Deskew

MIDDLE = 13.5  # of 28 rows, or columns


def slope(image):
    """By how many columns the ink of one image (28, 28) moves to the right from a row to the next."""
    ink = (image.double() - BACKGROUND).flatten()
    y, x = torch.cartesian_prod(torch.arange(28), torch.arange(28)).T
    y = y - (ink * y).sum() / ink.sum()
    return ((ink * y * x).sum() / (ink * y**2).sum()).item()


@pytest.fixture
def bars():
    """(3, 1, 28, 28) normalised: a bar, 4 wide and 16 tall, vertical and with a slope of 0.5 each way."""
    pixels = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    for bar, skew in zip(pixels, (0, 0.5, -0.5), strict=True):
        for y in range(6, 22):
            left = round(11.5 + skew * (y - MIDDLE))
            bar[0, y, left : left + 4] = 255
    return normalised(pixels)


def test_deskewed_bars_are_vertical_and_keep_their_ink(bars):
    assert [round(slope(bar[0]), 1) for bar in bars] == [0, 0.5, -0.5]
    deskewed = Deskew()(bars)
    assert all(abs(slope(bar[0])) < 0.01 for bar in deskewed)
    ink, before = (deskewed - BACKGROUND).sum((1, 2, 3)), (bars - BACKGROUND).sum((1, 2, 3))
    torch.testing.assert_close(ink, before)


def test_deskewed_digits_have_no_slope_and_keep_the_ink_of_each_row(sample):
    images = normalised(sample.test.images[:200].unsqueeze(1))
    images = images[[abs(slope(image[0])) < 1 for image in images]]  # none needs more than 45 degrees
    deskewed = Deskew()(images)
    assert max(abs(slope(image[0])) for image in images) > 0.5
    assert max(abs(slope(image[0])) for image in deskewed) < 0.05
    torch.testing.assert_close(deskewed.sum(3), images.sum(3), atol=1, rtol=0)  # white adds 3.2


def test_symmetric_and_blank_images_stay_unchanged(bars):
    blank = torch.full((1, 1, 28, 28), BACKGROUND)
    for image in (bars[:1], blank):
        torch.testing.assert_close(Deskew()(image), image)


def test_shear_is_limited_to_45_degrees():
    flat = torch.full((1, 1, 28, 28), BACKGROUND)
    flat[0, 0, 13, :14] = flat[0, 0, 14, 14:] = 0  # a stroke in two rows, of slope 14
    for image in (flat, flat.flip(3)):
        before, after = ((shown[0] - BACKGROUND).squeeze(0) for shown in (image, Deskew()(image)))
        for row in (13, 14):
            at = [(ink[row] * torch.arange(28)).sum() / ink[row].sum() for ink in (before, after)]
            assert abs(at[1] - at[0]) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("axis", [2, 3])
def test_deskewing_is_equivariant_to_shifts(axis, bars):
    moved = Deskew()(bars.roll(2, axis))
    torch.testing.assert_close(moved, Deskew()(bars).roll(2, axis), atol=1e-4, rtol=0)


def test_each_image_of_a_batch_is_deskewed_by_itself(bars):
    for image, deskewed in zip(bars, Deskew()(bars), strict=True):
        torch.testing.assert_close(deskewed, Deskew()(image.unsqueeze(0))[0])
