"""A page with one or several digits -> each digit, in reading order.

Found in five steps: what is darker than the paper; the connected shapes of that, parted from the lines of
the paper that they touch; which of these are strokes, and large and dark enough for a digit; the strokes of
a broken digit together; the digits in lines. All sizes below are in pixels of the working copy, whose
longer side is at most SIDE, unless they say otherwise. "Usual" is the median of the page's shapes, weighted
by their areas.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch.nn.functional import pad

from mnist_sum.console import UserError
from mnist_sum.images.novelty import unlike_digits
from mnist_sum.images.prepare import BLOB, HOLES, as_mnist, single_digit
from mnist_sum.images.reading_order import reading_order

SIDE, LEAST = 1600, 200  # an image that is smaller is enlarged
MOST = 200  # digits on a page
TOO_MANY = f"there are more than {MOST} shapes on the page; photograph a part of it"

WINDOW = 0.13  # of the longer side: what is narrower than this may be a stroke
DARKEST = 400  # pixels whose mean is the darkest ink
FAINTEST = 0.08  # of the paper's brightness: by how much the darkest ink is darker
LEVELS = 0.3, 0.45, 0.6, 0.75  # of the darkest ink: what is ink; the higher ones part what is too large
GRAIN = 12  # pixels of a shape: smaller ones are noise
NET = 0.4  # of the longer side: a shape larger than this may be lines of the paper with digits on them
BORDER = 2  # pixels from the image's border: what comes closer is cut by it, a table say

DIRT, FAINT = 0.04, 0.6  # of the usual area and darkness: what is smaller or fainter is no digit's stroke
PART, GAP = 0.75, 0.15  # of the usual height: a digit's part is lower, and no farther from the rest of it
WIDE, TALL = 1.25, 1.6  # of the usual height: what is wider or taller than this is several digits, touching
SMALLEST, FLATTEST = 0.5, 0.25  # of the usual height: a digit's longer side, and its height
TALLEST, WIDEST = 2.2, 5.0  # of the usual height: what is taller or wider are no digits, touching or not
CONTRAST = 20  # of 255: between a digit and the paper around it
WIDEST_STROKE = 0.08  # of the longer side, on a page of several digits
PARTS = 3  # of a single digit with wider strokes
RIVAL = 0.5  # of the tallest digit's height: a lower one does not make the page one of several
PREPARED = 100  # the longer side from which a digit is scaled to 28x28
EIGHT = np.ones((3, 3))  # a pixel's neighbours


@dataclass(frozen=True)
class Found:
    """A digit on a page.

    line, and place within the line, count from 1. box: (left, top, right, bottom), right and bottom
    exclusive, in pixels of the image. pixels: uint8 (28, 28), like an image of MNIST. touching: whether
    these are, by their shape, several digits that touch.
    """

    line: int
    place: int
    box: tuple
    pixels: torch.Tensor
    touching: bool


def find_digits(image):
    """Find the digits on an RGB image (PIL) -> a list of Found, in reading order.

    A single one is prepared as prepare() does. Raises UserError where there is none, or more than MOST.
    """
    shapes, scale, dark = _digits_of(image)
    if len(shapes) > MOST:
        raise UserError(TOO_MANY)
    try:
        single = single_digit(image)
    except UserError:
        if not shapes:
            raise
    else:
        if _is_alone(single, shapes, dark, image.size):
            return [Found(1, 1, single.box, single.pixels, False)]
    found = []
    for line, members in enumerate(reading_order([shape.box for shape in shapes]), 1):
        for place, shape in enumerate((shapes[member] for member in members), 1):
            box = tuple(round(side * scale) for side in shape.box)
            found.append(Found(line, place, box, shape.pixels(), shape.touching))
    return found


def _is_alone(single, shapes, dark, size):
    """Whether the single digit is all there is on an image of this (width, height), and the shapes are not.

    dark: whether the shapes are dark on light.
    """
    if not shapes:
        return True
    if single.dark != dark:  # the shapes are what its strokes enclose, or it is the sheet that they are on
        parts = unlike_digits(torch.stack([shape.pixels() for shape in shapes]))
        return parts.float().mean() > 0.5 and not unlike_digits(single.pixels[None]).item()
    tallest = max(shape.height for shape in shapes)
    if sum(shape.height > RIVAL * tallest for shape in shapes) < 2:
        return True
    thick = single.stroke > WIDEST_STROKE * max(size) and _is_inside(single.box, size)  # it fell apart
    return thick and len(shapes) <= PARTS and not unlike_digits(single.pixels[None]).item()


@dataclass
class _Shape:
    """Connected ink: its box, as Found has it, the ink in the box, [0, 1], and which of that is its own."""

    box: tuple
    ink: np.ndarray
    mask: np.ndarray
    touching: bool = False

    def __post_init__(self):
        self.height, self.width = self.mask.shape
        self.longer, self.area = max(self.mask.shape), int(self.mask.sum())
        self.darkness = float(self.ink[self.mask].mean())

    @property
    def thickness(self):
        """The mean width of its strokes, the area over half the outline, as a share of its longer side."""
        outline = self.area - ndimage.binary_erosion(self.mask, EIGHT).sum()
        return 2 * self.area / outline / self.longer

    def is_stroke(self, size):
        """Whether it may be a pen's on a page of this (height, width): no blob, and not cut by the border."""
        return _is_inside(self.box, size[::-1]) and self.thickness < BLOB

    def is_net(self, size):
        """Whether it may be the lines of a page of this (height, width), and digits on them."""
        if self.longer < NET * max(size):
            return False
        if not _is_inside(self.box, size[::-1]) or self.width > WIDE * self.height:
            return True
        labels, _ = ndimage.label(np.pad(~self.mask, 1, constant_values=True))
        return (np.bincount(labels.ravel())[2:] > GRAIN).sum() > HOLES  # 0: the shape, 1: around it

    def apart(self, other):
        """How far the boxes are apart, negative where they overlap."""
        return max(max(self.box[i] - other.box[i + 2], other.box[i] - self.box[i + 2]) for i in (0, 1))

    def joined(self, other):
        """Both as one shape."""
        left, top = (min(self.box[i], other.box[i]) for i in (0, 1))
        right, bottom = (max(self.box[i], other.box[i]) for i in (2, 3))
        ink, mask = (
            np.zeros((bottom - top, right - left), np.float32),
            np.zeros((bottom - top, right - left), bool),
        )
        for shape in (self, other):
            x, y = shape.box[0] - left, shape.box[1] - top
            part = np.s_[y : y + shape.height, x : x + shape.width]
            ink[part] = np.maximum(ink[part], shape.ink)
            mask[part] |= shape.mask
        return _Shape((left, top, right, bottom), ink, mask)

    def pixels(self):
        """uint8 (28, 28), like an image of MNIST."""
        size = [max(1, round(side * PREPARED / self.longer)) for side in (self.width, self.height)]
        pictures = (Image.fromarray(values.astype(np.float32)) for values in (self.ink, self.mask))
        ink, mask = (
            torch.from_numpy(np.array(each.resize(size, Image.Resampling.BICUBIC))) for each in pictures
        )
        margin = [PREPARED // 8] * 4  # thin strokes are made wider
        return as_mnist(pad(ink.clamp(0, 1), margin), pad(mask, margin) > 0.5)


def _is_inside(box, size):
    """Whether the border of a page of this (width, height) does not cut what is in the box."""
    left, top, right, bottom = box
    return min(left, top, size[0] - right, size[1] - bottom) > BORDER


def _digits_of(image):
    """The digits on the image, a list of _Shape in no order; how many pixels of the image are one of their
    boxes'; and whether they are dark on light."""
    scale = max(image.size) / min(SIDE, max(LEAST, *image.size))
    size = [max(1, round(side / scale)) for side in image.size]
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
    pixels = ndimage.uniform_filter(pixels, (3, 3, 1))
    # Dark strokes on light paper, or light ones on dark: those that stand out more, and are thinner, are
    # ink; the others are what it encloses.
    kinds = []
    for view in (pixels, 255 - pixels):
        kinds.append([(_contrast(pixels, shape), shape) for shape in _digits(_ink(view))])
    digits = max(kinds, key=lambda kind: sum(contrast / s.thickness for contrast, s in kind))
    return [shape for contrast, shape in digits if contrast > CONTRAST], scale, digits is kinds[0]


def _ink(pixels):
    """How much darker each pixel is than the paper around it, float32 (H, W); 1: as the darkest ink.

    The paper is what is left when all that is dark and narrow is filled in (a morphological closing), which
    keeps the edges of shadows. In a shadow ink differs less from its paper, so the ratio counts.
    """
    window = 2 * round(WINDOW * max(pixels.shape) / 2) + 1
    # A table along the border goes on beyond it ("nearest"), else it would be as narrow as a stroke.
    paper = ndimage.grey_closing(pixels, (window, window, 1), mode="nearest").astype(np.float32)
    ink = ((paper - pixels) / paper.clip(64)).max(2)
    grain, count = np.median(ink), max(1, min(DARKEST, ink.size // 400))
    darkest = np.partition(ink.ravel(), -count)[-count:].mean() - grain
    if darkest < max(FAINTEST, 3 * grain):
        return np.zeros_like(ink)
    return ((ink - grain) / darkest).clip(0, 1)


def _contrast(pixels, shape):
    """The difference between the shape's colour and that of what is around it, of 255, where that is least.

    It is looked at on each side: what lies along the edge of a sheet is on one side like the sheet.
    """
    left, top, right, bottom = shape.box
    margin = max(3, shape.longer // 3)
    rows, columns = slice(top, bottom), slice(left, right)
    sides = (
        pixels[rows, max(0, left - margin) : left], pixels[rows, right : right + margin],
        pixels[max(0, top - margin) : top, columns], pixels[bottom : bottom + margin, columns],
    )  # fmt: skip
    inside = np.median(pixels[rows, columns][shape.mask], axis=0)
    return min(np.abs(inside - np.median(side, axis=(0, 1))).max() for side in sides if side.size)


def _digits(ink):
    """Those shapes of the ink that are digits, each with its parts."""
    size = ink.shape
    sure = _shapes(ink, LEVELS[1:], lambda shape: shape.is_net(size))
    sure = [shape for shape in sure if shape.is_stroke(size) and not shape.is_net(size)]
    if not sure:
        return []
    usual, darkness, area = (
        _weighted_median([getattr(shape, name) for shape in sure], [shape.area for shape in sure])
        for name in ("height", "darkness", "area")
    )
    strokes = [
        shape for shape in _shapes(ink, LEVELS, lambda s: s.width > WIDE * usual or s.height > TALL * usual)
        if shape.area > DIRT * area and shape.darkness > FAINT * darkness and shape.is_stroke(size)
    ]  # fmt: skip
    if len(strokes) > 4 * MOST:
        raise UserError(TOO_MANY)
    digits = []
    for stroke in sorted(strokes, key=lambda shape: -shape.area):
        whole = [digit for digit in digits if _is_part(stroke, digit, usual)]
        if whole:
            nearest = min(whole, key=stroke.apart)
            digits[digits.index(nearest)] = nearest.joined(stroke)
        else:
            digits.append(stroke)
    digits = [
        digit for digit in digits
        if digit.longer > SMALLEST * usual and FLATTEST * usual < digit.height < TALLEST * usual
        and digit.width < WIDEST * usual
    ]  # fmt: skip
    for digit in digits:
        digit.touching = digit.width > max(WIDE * usual, 1.1 * digit.height) or digit.height > TALL * usual
    return digits


def _shapes(ink, levels, several, corner=(0, 0)):
    """The connected shapes of ink above the first level; of one that is several, those above the next.

    several(shape): whether it is too large, say, for a digit.
    """
    level, *higher = levels
    labels, _ = ndimage.label(ink > level, EIGHT)
    areas, shapes = np.bincount(labels.ravel()), []
    for number, part in enumerate(ndimage.find_objects(labels), 1):
        if areas[number] < GRAIN:
            continue
        mask = labels[part] == number
        top, left = (side.start + start for side, start in zip(part, corner, strict=True))
        shape = _Shape((left, top, left + mask.shape[1], top + mask.shape[0]), ink[part], mask)
        if higher and several(shape):
            shapes += _shapes(np.where(mask, ink[part], 0), higher, several, (top, left))
        else:
            shapes.append(shape)
    return shapes


def _is_part(stroke, digit, usual):
    """Whether the stroke and the digit, or what is there of it, are one digit."""
    if min(stroke.height, digit.height) > PART * usual or stroke.apart(digit) > GAP * usual:
        return False
    width, height = (
        max(stroke.box[i + 2], digit.box[i + 2]) - min(stroke.box[i], digit.box[i]) for i in (0, 1)
    )
    return height < 1.3 * max(usual, digit.height) and width < 1.2 * max(usual, digit.width)


def _weighted_median(values, weights):
    order = np.argsort(values)
    total = np.cumsum(np.asarray(weights)[order])
    return float(np.asarray(values)[order][np.searchsorted(total, total[-1] / 2)])
