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
SMALLEST_SIDE = 200  # of the working copy's longer side; what is smaller is enlarged
FAINTEST = 0.08  # of the paper's brightness: by how much ink is darker
STRONG = 0.45  # of the darkest ink: every digit has some that is as dark
LEVELS = 0.15, 0.3, 0.45, 0.6, 0.75  # of the darkest ink: what hangs on strong ink is ink; higher ones part digits
GRAIN, BORDER = 12, 3  # pixels of a shape, or it is noise; pixels along the page's border, where shapes are cut
LINE = 2.5  # usual heights: the length of a ruled line
DIRT, FAINT = 0.04, 0.5  # of the usual area and darkness: what is smaller or fainter is no digit's stroke
PART, GAP = 0.75, 0.15  # of the usual height: a digit's part is lower, and no farther from the rest of it
WIDE, TALL = 1.25, 1.6  # of the usual height: what is wider or taller than this may be several digits
LEAST, FLATTEST, TALLEST, WIDEST = 0.5, 0.25, 2.2, 5.0  # of the usual height: longer side, heights, width

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

    def is_in(self, other: "Shape") -> bool:
        return all(other.box[i] < self.box[i] and self.box[i + 2] < other.box[i + 2] for i in (0, 1))

    def is_plus(self) -> bool:
        """Whether there is ink in the middle (a 0 has none there) and of each side, but none in the corners."""
        picture = Image.fromarray(self.mask.astype(np.uint8) * 255)
        cells = np.asarray(picture.resize((5, 5), Image.Resampling.BOX)) / 255
        corners = [cells[y : y + 2, x : x + 2].mean() for y in (0, 3) for x in (0, 3)]
        arms = cells[0, 2], cells[2, 0], cells[4, 2], cells[2, 4], cells[2, 2]
        return max(corners) < 0.2 < min(arms) and self.novelty > 0.05

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
    """Find the digits in a picture: a path, a file's bytes or PIL's.

    Raises UserError, with the path if there is one, where it cannot be read or has no digits, or over MOST.
    """
    try:
        image, scale = decode(source)
        # one digit that fills the picture is never taken for a page's lines, nor cut
        ink, shapes, turned = _look(image, alone=True)
        fills = len(shapes) == 1 and shapes[0].longer > 0.15 * max(ink.shape)
        if not fills or shapes[0].novelty > THRESHOLD:
            page = _look(image, alone=False)
            ink, shapes, turned = page if page[1] or not fills else (ink, shapes, turned)  # one, in doubt
        if not shapes:
            raise UserError("no digit found: nothing stands out from the paper; use a darker pen or more light")
        if len(shapes) > MOST:
            raise UserError(f"there are more than {MOST} shapes on the page; photograph a part of it")
    except UserError as error:
        raise UserError(f"{source}: {error}" if isinstance(source, str | os.PathLike) else str(error)) from None
    scale_to_box, digits = scale * max(image.size) / max(ink.shape), []
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


def _look(image: Image.Image, alone: bool) -> tuple[Ink, list[Shape], int]:
    """Ink (H, W), the digits on it, and how it had to be turned; alone: look for one that fills the picture."""
    scale = min(300 if alone else 1600, max(SMALLEST_SIDE, *image.size)) / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
    pixels = ndimage.uniform_filter(pixels, (3, 3, 1))
    # dark ink on light paper, or light on dark: the other is what strokes enclose
    inks = [_ink(view, 0.3 if alone else 0.13) for view in (pixels, 255 - pixels)]
    found, evidence = [_digits(ink, pixels, alone) for ink in inks], []
    for own, others in (found, found[::-1]):
        outer = [s for s in own if not any(s.is_in(o) and o.stroke < 2 * s.stroke for o in others)]
        evidence.append(sum(s.contrast(pixels) * (1.1 - s.novelty) * s.longer / s.stroke for s in outer))
    likelier = int(evidence[1] > evidence[0])
    ink, shapes, turned = inks[likelier], found[likelier], 0
    # a page mostly in doubt may lie on its side: the turn with clearly less doubt wins; a single digit is not turned
    least = _doubt(shapes) - 0.2
    for n in (1, 2, 3) if least > 0.2 and len(shapes) > 1 and not alone else ():
        turn = _digits(np.rot90(ink, -n), np.rot90(pixels, -n), alone=False)
        if len(turn) >= len(found[likelier]) and _doubt(turn) < least:
            shapes, turned, least = turn, 90 * n, _doubt(turn)
    return np.rot90(ink, -turned // 90), shapes, turned


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
    # where light falls off the paper itself is darker than the closing: its local level goes
    step = max(1, width // 6)
    level = ndimage.percentile_filter(ink[step // 2 :: step, step // 2 :: step], 40, 2 * width // step)
    level = Image.fromarray(level.clip(0, 0.2 * darkest)).resize(ink.shape[::-1], Image.Resampling.BILINEAR)
    ink -= np.asarray(level)
    is_blank = darkest < max(FAINTEST, 6 * np.median(np.abs(ink)))
    return np.zeros_like(ink) if is_blank else (ink / darkest).clip(-1, 1)


def _digits(ink: Ink, pixels: Pixels, alone: bool) -> list[Shape]:
    """The shapes of the ink that are digits, each with its parts."""
    noise = 1.48 * np.median(np.abs(ink))
    low, longest = max(LEVELS[alone], 4 * noise), max(ink.shape)
    edge = np.pad(np.zeros([side - 2 * BORDER for side in ink.shape], bool), BORDER, constant_values=True)
    # lines, which may be fainter than ink, against the height of what is none
    mask = ink > low
    inner = [s for s in _components(ink, mask) if s.longer < 0.7 * longest and not (edge[s.part] & s.mask).any()]
    usual = _usual(inner, "height")
    if not alone:
        mask &= ~line_pixels(ink, max(low / 2, 3 * noise), LINE * usual)
    strong = [s for s in _components(ink, mask) if s.ink[s.mask].max() > STRONG]
    strokes = [part for s in strong for part in ([s] if alone else _parted(s, usual or 0.4 * longest))]
    strokes = [s for s in strokes if s.stroke < 0.4 * s.longer]  # no blobs
    # what the border cuts is a table, a thumb or a line; of one digit that fills the picture a part may be cut
    cut = {s: np.count_nonzero(edge[s.part] & s.mask) / BORDER for s in strokes}
    strokes = [s for s in strokes if not cut[s] or alone and cut[s] < 0.7 * s.longer]
    usual, darkness, area = (_usual(strokes, name) for name in ("height", "darkness", "area"))
    # the strokes of a broken digit together, large ones first
    digits: list[Shape] = []
    waiting = sorted((s for s in strokes if s.area > DIRT * area), key=lambda s: s.area)
    while waiting:
        stroke = waiting.pop()
        near = sorted((d for d in digits if stroke.apart(d) < GAP * usual), key=stroke.apart)
        whole = next((d for d in near if _belong(stroke, d, d.joined(stroke), usual)), None)
        if whole:
            digits.remove(whole)
            waiting.append(whole.joined(stroke))
        elif stroke.darkness > FAINT * darkness:
            digits.append(stroke)
    high, wide = (FLATTEST * usual, TALLEST * usual), WIDEST * usual
    digits = [d for d in digits if d.longer > LEAST * usual and high[0] < d.height < high[1] and d.width < wide]
    digits = [d for d in digits if not d.is_plus() and d.contrast(pixels) > FAINTEST]
    boxes = [d for d in digits if any(o.is_in(d) and o.novelty < 0.5 and o.longer > 0.3 * d.longer for o in digits)]
    return [d for d in digits if d not in boxes]


def _components(ink: Ink, mask: Mask, top: int = 0, left: int = 0) -> list[Shape]:
    """The connected shapes of a mask whose corner lies at (left, top) of the ink."""
    labels, _ = ndimage.label(mask, EIGHT)
    areas, parts = np.bincount(labels.ravel()), enumerate(ndimage.find_objects(labels), 1)
    return [
        Shape(ink, labels[rows, columns] == number, top + rows.start, left + columns.start)
        for number, (rows, columns) in parts
        if areas[number] >= GRAIN
    ]


def _parted(shape: Shape, usual: float, level: int = 1) -> list[Shape]:
    """The shape or, if it is large and unlike a digit, those of its parts whose ink is more like digits'."""
    large = shape.width >= WIDE * usual or shape.height >= TALL * usual
    if level == len(LEVELS) or not large or shape.novelty < 0.2:
        return [shape]
    parts = _components(shape.page, shape.mask & (shape.ink > LEVELS[level]), shape.top, shape.left)
    return max([shape], [each for part in parts for each in _parted(part, usual, level + 1)], key=_likeness)


def _likeness(shapes: list[Shape]) -> float:
    """The share of the ink that is like digits."""
    return sum(s.area * (1 - s.novelty) for s in shapes) / max(1, sum(s.area for s in shapes))


def _belong(stroke: Shape, digit: Shape, joined: Shape, usual: float) -> bool:
    """Whether a stroke and a digit near it are one: together they are less unlike a digit."""
    largest = usual if digit.longer > TALL * usual else max(usual, digit.longer)
    if joined.height > 1.3 * largest or joined.width > 1.2 * largest:
        return False
    better, worse = sorted((stroke.novelty, digit.novelty))
    mean = (stroke.novelty * stroke.area + digit.novelty * digit.area) / (stroke.area + digit.area)
    if min(stroke.height, digit.height) > PART * usual:  # two digits, or a 4 of two strokes
        return joined.novelty < (worse if stroke.apart(digit) < 0 else mean - 0.2)
    pieces = better > 0.5 or max(stroke.longer, digit.longer) < LEAST * usual  # of a broken digit
    return pieces or joined.novelty < min(0.5, mean + 0.1)


def _usual(shapes: list[Shape], name: str) -> float:
    """The median, weighted by area, of a property of those shapes that are like digits, or of all."""
    least = DIRT / 4 * max((s.area for s in shapes), default=0)
    shapes = [s for s in shapes if s.area > least and s.novelty < 0.5] or shapes
    ordered = sorted(shapes, key=lambda shape: getattr(shape, name))
    total = np.cumsum([shape.area for shape in ordered])
    return float(getattr(ordered[np.searchsorted(total, total[-1] / 2)], name)) if shapes else 0.0


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
