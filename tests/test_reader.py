"""What `tiny` and `large` read with: the image set upright."""

import pytest
import torch

from mnist_sum.dataset import BACKGROUND, normalised
from mnist_sum.models.reader import Deskew

MIDDLE = 13.5  # of 28 rows, or columns


def lean(image):
    """By how many columns the ink of one image (28, 28) moves to the right from a row to the next, added
    up pixel by pixel."""
    ink = (image.double() - BACKGROUND).tolist()
    pixels = [(value, y, x) for y, row in enumerate(ink) for x, value in enumerate(row)]
    total = sum(value for value, _, _ in pixels)
    middle_y = sum(value * y for value, y, _ in pixels) / total
    covariance = sum(value * (y - middle_y) * x for value, y, x in pixels)
    return covariance / sum(value * (y - middle_y) ** 2 for value, y, _ in pixels)


@pytest.fixture
def bars():
    """(3, 1, 28, 28) normalised: a bar, 4 wide and 16 tall, upright and leaning by 0.5 each way."""
    pixels = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    for bar, slope in zip(pixels, (0, 0.5, -0.5), strict=True):
        for y in range(6, 22):
            left = round(11.5 + slope * (y - MIDDLE))
            bar[0, y, left : left + 4] = 255
    return normalised(pixels)


def test_what_leans_is_set_upright(bars):
    assert [round(lean(bar[0]), 1) for bar in bars] == [0, 0.5, -0.5]
    upright = Deskew()(bars)
    assert all(abs(lean(bar[0])) < 0.01 for bar in upright)
    ink, before = (upright - BACKGROUND).sum((1, 2, 3)), (bars - BACKGROUND).sum((1, 2, 3))
    torch.testing.assert_close(ink, before)


def test_digits_as_written_are_set_upright_and_stay_at_their_height(sample):
    images = normalised(sample.test.images[:200].unsqueeze(1))
    images = images[[abs(lean(image[0])) < 1 for image in images]]  # none needs more than 45 degrees
    upright = Deskew()(images)
    assert max(abs(lean(image[0])) for image in images) > 0.5
    assert max(abs(lean(image[0])) for image in upright) < 0.05
    torch.testing.assert_close(upright.sum(3), images.sum(3), atol=1, rtol=0)  # white adds 3.2


def test_a_symmetric_image_and_a_blank_one_stay_as_they_are(bars):
    blank = torch.full((1, 1, 28, 28), BACKGROUND)
    for image in (bars[:1], blank):
        torch.testing.assert_close(Deskew()(image), image)


def test_nothing_leans_further_than_45_degrees():
    flat = torch.full((1, 1, 28, 28), BACKGROUND)
    flat[0, 0, 13, :14] = flat[0, 0, 14, 14:] = 0  # two rows: ever so flat a stroke, lean 14
    for image in (flat, flat.flip(3)):
        before, after = ((shown[0] - BACKGROUND).squeeze(0) for shown in (image, Deskew()(image)))
        for row in (13, 14):
            at = [(ink[row] * torch.arange(28)).sum() / ink[row].sum() for ink in (before, after)]
            assert abs(at[1] - at[0]) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("axis", [2, 3])
def test_what_stands_beside_the_middle_is_set_upright_in_its_place(axis, bars):
    moved = Deskew()(bars.roll(2, axis))
    torch.testing.assert_close(moved, Deskew()(bars).roll(2, axis), atol=1e-4, rtol=0)


def test_each_image_of_a_batch_is_sheared_by_itself(bars):
    together = Deskew()(bars)
    for place in range(3):
        torch.testing.assert_close(together[place], Deskew()(bars[place : place + 1])[0])
