"""A picture with one or several digits -> each digit, in reading order, as an image like MNIST's.

Lengths are in pixels of a working copy. "Usual" is the median of a page's shapes, weighted by their areas.
"""

import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from mnist_sum.cli import UserError
from mnist_sum.images.decode import Source, decode
from mnist_sum.images.lines import line_pixels
from mnist_sum.images.mnist_like import EIGHT, Ink, Mask, mnist_like, stroke_width
from mnist_sum.images.novelty import THRESHOLD, novelty

MOST = 200  # digits on a page
FAINTEST = 0.08  # of the paper's brightness: by how much ink is darker
WEAK, STRONG = (0.15, 0.3), 0.45  # of the darkest ink: weak ink (of a page, of one digit) on strong ink is ink
GRAIN, BORDER = 12, 3  # pixels of a shape, or it is noise; pixels along the page's border, where shapes are cut
LINE = 2.5  # usual heights: the length of a ruled line
DIRT = 0.04  # of the usual area: what is smaller is no digit's stroke
PART, GAP = 0.75, 0.15  # of the usual height: a digit's part is lower, and no farther from the rest of it
WIDE, TALL = 1.25, 1.6  # of the usual height: what is wider or taller than this may be several digits
LEAST, FLATTEST, TALLEST = 0.5, 0.25, 2.2  # of the usual height: the bounds of a digit's longer side and height

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Digit:
    """A digit of a page."""

    line: int  # from 1, as place
    place: int
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels of the full-size upright picture
    pixels: Tensor  # uint8 (28, 28), like MNIST's
    doubt: str  # why it may be no digit, or ""


@dataclass(frozen=True)
class Page:
    """A picture that was read."""

    image: Image.Image  # RGB, upright, reduced
    scale: float  # pixels of the full-size picture per pixel of the image
    digits: list[Digit]  # in reading order
    turned: int  # degrees clockwise, beyond what the file says of its orientation


class Shape:
    """A stroke, a digit or a line on a page: mask says which of the ink in its box is its own."""

    def __init__(self, page: Ink, mask: Mask, top: int, left: int) -> None:
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        self.mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        self.height, self.width = self.mask.shape
        self.left, self.top = left + int(columns[0]), top + int(rows[0])
        self.box = self.left, self.top, self.left + self.width, self.top + self.height
        self.page, self.part = page, np.s_[self.top : self.box[3], self.left : self.box[2]]
        self.ink, self.longer, self.area = page[self.part], max(self.mask.shape), np.count_nonzero(self.mask)
        self.darkness = float(np.quantile(self.ink[self.mask], 0.7, method="lower"))
        self.stroke = stroke_width(self.mask)

    @cached_property
    def pixels(self) -> Tensor:
        return mnist_like(self.ink / max(self.darkness, 1e-6), self.mask)

    @cached_property
    def novelty(self) -> float:
        return novelty(self.pixels[None]).item()

    def apart(self, other: "Shape") -> int:
        """How far the boxes are apart, negative where they overlap."""
        return max(max(self.box[i] - other.box[i + 2], other.box[i] - self.box[i + 2]) for i in (0, 1))

    def is_around(self, other: "Shape") -> bool:
        inside = all(self.box[i] < other.box[i] and other.box[i + 2] < self.box[i + 2] for i in (0, 1))
        return inside and other.longer > 0.3 * self.longer  # no speck

    def is_plus(self) -> bool:
        """Whether there is ink in the middle (a 0 has none there) and of each side, but none in the corners."""
        cells = self.pixels[4:24, 4:24].numpy().reshape(5, 4, 5, 4).mean((1, 3)) / 255
        corners = [cells[y : y + 2, x : x + 2].mean() for y in (0, 3) for x in (0, 3)]
        arms = cells[0, 2], cells[2, 0], cells[4, 2], cells[2, 4], cells[2, 2]
        return max(corners) < 0.2 and min(arms) > 0.1 and self.novelty > 0.2

    def contrast(self, pixels: Pixels) -> float:
        """The relative difference in color to the side where it is least: a sheet's edge has one like the sheet."""
        (left, top, right, bottom), far = self.box, max(3, self.longer // 3)
        rows, columns = self.part
        sides = [pixels[rows, max(0, left - far) : left], pixels[rows, right : right + far]]
        sides += [pixels[max(0, top - far) : top, columns], pixels[bottom : bottom + far, columns]]
        inside = np.median(pixels[self.part][self.mask], axis=0)
        colors = [np.median(side, axis=(0, 1)) for side in sides if side.size]
        return min(((np.abs(inside - c) / np.maximum(inside, c).clip(32)).max() for c in colors), default=0)

    def joined(self, other: "Shape") -> "Shape":
        mask = np.zeros(self.page.shape, bool)
        for shape in (self, other):
            mask[shape.part] |= shape.mask
        return Shape(self.page, mask, 0, 0)


def read_page(source: Source) -> Page:
    """Find the digits in a picture (a path, a file's bytes or PIL's): one that fills it or, if in doubt, a page's.

    Raises UserError, with the path if there is one, where it cannot be read or has no digits, or over MOST.
    """
    try:
        image, scale = decode(source)
        shapes, turned = _look(image, alone=True), 0
        fills = len(shapes) == 1 and shapes[0].longer > 0.15 * max(shapes[0].page.shape)
        if not fills or _doubt(shapes) > 0.2:
            page = _look(image, alone=False)
            if len(shapes) != 1 or page and _doubt(page) < _doubt(shapes) + (-0.3 if fills else 0.2):
                shapes = page
            # a page mostly in doubt may lie on its side; a single digit is never turned
            for degrees in (90, 180, 270) if len(shapes) > 1 and _doubt(shapes) > 0.4 else ():
                turn = _look(image.rotate(-degrees, expand=True), alone=False)
                if len(turn) >= len(shapes) and _doubt(turn) < _doubt(shapes) - 0.2:
                    shapes, turned = turn, degrees
        if not shapes:
            raise UserError("no digit found: nothing stands out from the paper; use a darker pen or more light")
        if len(shapes) > MOST:
            raise UserError(f"there are more than {MOST} shapes on the page; photograph a part of it")
    except UserError as error:
        raise UserError(f"{source}: {error}" if isinstance(source, str | os.PathLike) else str(error)) from None
    scale_to_box, digits = scale * max(image.size) / max(shapes[0].page.shape), []
    height = _usual(shapes, "height")
    for line, members in enumerate(reading_order([shape.box for shape in shapes]), 1):
        for place, shape in enumerate((shapes[i] for i in members), 1):
            reason = "perhaps no digit" if shape.novelty > THRESHOLD else ""
            several = shape.width > max(WIDE * height, 1.1 * shape.height) or shape.height > TALL * height
            if several and (len(shapes) > 1 or reason):
                reason = "touching: perhaps several digits"
            left, top, right, bottom = (round(side * scale_to_box) for side in shape.box)
            digits.append(Digit(line, place, (left, top, right, bottom), shape.pixels, reason))
    return Page(image.rotate(-turned, expand=True), scale, digits, turned)


def _look(image: Image.Image, alone: bool) -> list[Shape]:
    """The digits of a page; alone: of a picture that one digit may fill, so nothing is too long or too wide for it."""
    scale = min(300 if alone else 1600, max(200, *image.size)) / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    pixels = ndimage.uniform_filter(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0), (3, 3, 1))
    found = []  # of dark ink and of light ink
    for view in (pixels, 255 - pixels):
        ink, readings = _ink(view, 0.3 if alone else 0.13), []
        for ruled in (False, True) if alone else (True,):  # alone: without lines where one digit is clearer so
            shapes = _digits(ink, pixels, alone, ruled)
            crosses = len(shapes) == 1 and max(np.divide(shapes[0].mask.shape, ink.shape)) > 0.97
            rank = len(shapes) != 1, crosses, round(_doubt(shapes), 1)
            readings.append((rank, shapes))
            if not any(rank):
                break
        found.append(min(readings, key=lambda reading: reading[0])[1])
    # a sheet's edge is longer than any digit: no more than 15 strokes' widths count
    evidence = [sum(s.contrast(pixels) * (1.1 - s.novelty) * min(s.longer / s.stroke, 15) for s in o) for o in found]
    return found[int(evidence[1] > evidence[0])]


def _doubt(shapes: list[Shape]) -> float:
    return float(np.mean([shape.novelty for shape in shapes])) if shapes else 0.0


def _ink(pixels: Pixels, window: float) -> Ink:
    """How much darker each pixel is than the paper around it, (H, W); 1: as the darkest ink.

    The paper is what is left when all that is dark and narrower than the window, as a share of the longer side,
    is filled in (a morphological closing), which keeps the edges of shadows.
    """
    width = 2 * round(window * max(pixels.shape) / 2) + 1
    halo = width // 8 | 1  # pixels; a camera's sharpening and JPEG leave narrow bright rims around strokes
    paper = ndimage.grey_opening(pixels, (halo, halo, 1), mode="nearest")
    paper = ndimage.grey_closing(paper, (width, width, 1), mode="nearest").astype(np.float32)
    ink = ((paper - pixels) / paper.clip(64)).max(2)  # a ratio, as in a shadow ink differs less
    count = max(1, min(400, ink.size // 400))
    darkest = np.partition(ink.ravel(), -count)[-count:].mean()
    return (ink / darkest).clip(-1, 1) if darkest > max(FAINTEST, 6 * np.median(np.abs(ink))) else np.zeros_like(ink)


def _digits(ink: Ink, pixels: Pixels, alone: bool, ruled: bool) -> list[Shape]:
    """The shapes of the ink that are digits, each with its parts."""
    noise = 1.48 * np.median(np.abs(ink))
    low, longest = max(WEAK[alone], 4 * noise), max(ink.shape)
    mask, edge = ink > low, np.ones(ink.shape, bool)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    if ruled:  # lines may be fainter than ink; they are long against the height of what is none
        inner = [s for s in _components(ink, mask) if s.longer < 0.7 * longest]
        mask &= ~line_pixels(ink, max(low / 2, 3 * noise), longest if alone else LINE * _usual(inner, "height"))
    # no blobs, and no table, thumb or line that the border cuts; it may cut a part of a digit that fills the picture
    strokes = [s for s in _components(ink, mask) if s.ink[s.mask].max() > STRONG and s.stroke < 0.4 * s.longer]
    cut = {s: np.count_nonzero(edge[s.part] & s.mask) / BORDER for s in strokes}
    strokes = [s for s in strokes if not cut[s] or alone and cut[s] < 0.7 * s.longer]
    boxes = [s for s in strokes if cut[s] or s.novelty > THRESHOLD]
    boxes = [b for b in boxes if any(b.is_around(s) for s in strokes if s.novelty < THRESHOLD)]
    strokes = [s for s in strokes if s not in boxes]
    usual, area = _usual(strokes, "height"), _usual(strokes, "area")
    # the strokes of a broken digit together, large ones first
    digits: list[Shape] = []
    waiting = sorted((s for s in strokes if s.area > DIRT * area), key=lambda s: s.area)
    while waiting:
        stroke = waiting.pop()
        near = sorted((d for d in digits if stroke.apart(d) < GAP * usual), key=stroke.apart)
        whole = next((d for d in near if _belong(stroke, d, d.joined(stroke), usual, alone)), None)
        if whole:
            digits.remove(whole)
            waiting.append(whole.joined(stroke))
        else:
            digits.append(stroke)
    digits = [d for d in digits if d.longer > LEAST * usual and FLATTEST * usual < d.height < TALLEST * usual]
    return [d for d in digits if not d.is_plus() and d.contrast(pixels) > FAINTEST]


def _components(ink: Ink, mask: Mask) -> list[Shape]:
    labels, _ = ndimage.label(mask, EIGHT)
    areas, parts = np.bincount(labels.ravel()), enumerate(ndimage.find_objects(labels), 1)
    return [
        Shape(ink, labels[rows, columns] == number, rows.start, columns.start)
        for number, (rows, columns) in parts
        if areas[number] >= GRAIN
    ]


def _belong(stroke: Shape, digit: Shape, joined: Shape, usual: float, alone: bool) -> bool:
    """Whether a stroke and a digit near it are one: together they are less unlike a digit."""
    largest = max(usual, digit.longer)
    if not alone and (joined.height > 1.3 * largest or joined.width > 1.2 * largest):
        return False
    better, worse = sorted((stroke.novelty, digit.novelty))
    mean = (stroke.novelty * stroke.area + digit.novelty * digit.area) / (stroke.area + digit.area)
    if min(stroke.height, digit.height) > PART * usual:  # two digits, or a 4 of two strokes
        return joined.novelty < (worse if stroke.apart(digit) < 0 else mean - 0.2)
    pieces = better > 0.5 or max(stroke.longer, digit.longer) < LEAST * usual  # of a broken digit
    return pieces or joined.novelty < min(0.5, mean + 0.1)


def _usual(shapes: list[Shape], name: str) -> float:
    """The median, weighted by area, of a property of those shapes that are like digits, or of all."""
    shapes = [s for s in shapes if s.novelty < THRESHOLD] or shapes
    return float(np.median(np.repeat([getattr(s, name) for s in shapes], [s.area for s in shapes]))) if shapes else 0.0


def reading_order(boxes: list[tuple[int, int, int, int]]) -> list[list[int]]:
    """The page's lines from top to bottom, each the indices of its boxes from left to right.

    Seen along its lines, a page's digits cover least of its height, so it may be askew, by up to 12 degrees.
    """
    left, top, right, bottom = np.asarray(boxes, dtype=np.float64).T
    candidates = []
    for degrees in np.arange(-12, 12.1, 0.5):
        middle = (top + bottom) / 2 - (left + right) / 2 * np.tan(np.radians(degrees))
        start, end = (middle + sign * (bottom - top) / 4 for sign in (-1, 1))  # the middle half of each digit
        order = np.argsort(start)
        reach = np.maximum.accumulate(end[order])
        first = np.flatnonzero(start[order][1:] > reach[:-1]) + 1  # of each line but the first
        covered = reach[[*(first - 1), -1]].sum() - start[order][[0, *first]].sum()
        candidates.append((covered / np.median(bottom - top) + 0.05 * abs(degrees), np.split(order, first)))
    _, lines = min(candidates, key=lambda candidate: candidate[0])
    return [sorted(map(int, line), key=lambda i: left[i] + right[i]) for line in lines]
