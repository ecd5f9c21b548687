"""One digit on an image -> a 28x28 image like those of MNIST.

MNIST's images are white on black, cropped, fitted into 20x20 with their proportions kept, and centred
by mass in 28x28 (LeCun, Cortes, Burges). A photograph has to be understood first: where the paper is,
what on it is ink, and which ink is the digit. All sizes below are in pixels of the working copy,
whose longer side is SIDE, unless they say otherwise.
"""

from collections import namedtuple

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, max_pool2d

from mnist_sum.console import UserError

SIDE = 160
WIDEST_STROKE = 41  # what is wider than this is no stroke but an area
FAINTEST = 20  # of 255: ink has to differ from its paper by this much
INK = 0.4  # of the darkest ink's difference from the paper: what counts as ink
SPECK = 0.04  # of the largest shape's area: smaller ones are dirt
RIVAL = 0.25  # of the largest shape's area: a shape that stands apart and is larger makes two
BLOB = 0.4  # of the longer side: what is thicker than this is no stroke
HOLES = 3  # of a digit at most: two loops, and a slip of the pen
NEAR = 0.35  # of the digit's longer side: how far its parts can lie apart
BLANK = "no digit found: nothing stands out from the paper; use a darker pen or more light"
CLUTTER = "the page is cluttered; crop the image to one digit on plain paper"
UNCLEAR = "there is no clear digit on the page; crop closer to the digit"
STROKE_WIDTHS = 0.11, 0.2  # of MNIST's digits, thinnest and thickest, as shares of their longer side


def prepare(image):
    """Find the digit on an RGB image (PIL) -> uint8 (28, 28), white on black, like an image of MNIST.

    Raises UserError where the page shows nothing, or more than one thing.
    """
    return single_digit(image).pixels


class Single(namedtuple("Single", "pixels box stroke dark")):
    """The one digit on an image: pixels and box as images.Found has them, the mean width of its strokes in
    pixels of the image, and whether it is dark on light."""


def single_digit(image):
    """The one digit on an RGB image (PIL) -> its Single; raises UserError as prepare() does."""
    corner = 0, 0  # of what is looked at, in the image
    for attempt in range(4):
        try:
            ink, digit, dark = _ink_and_digit(_working_copy(image))
        except UserError:
            if attempt == 0:
                raise
            raise UserError(UNCLEAR) from None  # a spot, which is no stroke when seen closer
        top, left, bottom, right = _box(digit)
        longer = max(bottom - top, right - left)
        if longer > 0.45 * SIDE:
            break
        # A small digit on a large page: look again, closer.
        scale, margin = max(image.size) / SIDE, 0.4 * longer
        closer = (
            max(0, round((left - margin) * scale)), max(0, round((top - margin) * scale)),
            min(image.width, round((right + margin) * scale)),
            min(image.height, round((bottom + margin) * scale)),
        )  # fmt: skip
        corner = corner[0] + closer[0], corner[1] + closer[1]
        image = image.crop(closer)
    scale = max(image.size) / SIDE
    box = [round(side * scale) for side in (left, top, right, bottom)]
    box = tuple(side + start for side, start in zip(box, 2 * corner, strict=True))
    return Single(as_mnist(ink, digit), box, _stroke_width(digit) * scale, dark)


def _working_copy(image):
    """The image as float (3, height, width) in [0, 255], its longer side SIDE, slightly smoothed."""
    scale = SIDE / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    return avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)


def _ink_and_digit(pixels):
    """The ink, float (height, width) in [0, 1], the mask of the digit in it, bool (height, width), and
    whether it is dark on light.

    Dark strokes on light paper and light ones on dark are both tried. The holes of a digit look like
    strokes of the other kind, but they are as bright as what lies around the digit. So the kind that
    stands out more from its surroundings is taken.
    """
    candidates, error, refused = [], UserError(BLANK), 0.0  # refused: the strongest ink of what was no digit
    for sign in (1, -1):
        ink = _ink(sign * pixels)
        # Where light falls off, ink seems to lie along the border: what touches it has to be strong.
        for view, smallest, faintest in ((_off_border(ink), 0.08 * SIDE, 0), (ink, 0, 3 * FAINTEST)):
            try:
                scaled = _scaled(view)
                digit = _digit_mask(scaled)
            except UserError as reason:
                if reason.args != (BLANK,):
                    error, refused = reason, max(refused, ink.max().item())
                continue
            contrast = _contrast(pixels, digit).item()
            if _longer_side(digit) >= smallest and contrast >= faintest:
                candidates.append((contrast, scaled, digit, sign > 0))
                break
    if not candidates:
        raise error
    contrast, *found = max(candidates, key=lambda candidate: candidate[0])
    if contrast < max(FAINTEST, refused / 2):
        raise error
    return found


def _ink(pixels):
    """How much darker each pixel is than the paper around it, (height, width), of 255.

    The largest difference of the three channels counts. The paper is what is left when all that is
    dark and narrower than WIDEST_STROKE is filled in from its sides (a morphological closing). This
    keeps the light's slopes and the edges of shadows.
    """
    paper = _eroded(_dilated(pixels, WIDEST_STROKE), WIDEST_STROKE)
    return (paper - pixels).amax(0)


def _off_border(ink):
    """The ink without what is connected to the image's border: a table, a thumb, the paper's edge."""
    inner = ink.clone()
    for shape in _shapes(ink > INK / 2 * ink.max()):
        if _touches_border(shape):
            inner[_dilated(shape.float()[None], 9)[0] > 0] = 0
    return inner


def _scaled(ink):
    """The ink scaled to [0, 1], the grain of the paper subtracted; raises UserError on a blank page."""
    grain = ink.flatten().quantile(0.3)
    strongest = ink.flatten().topk(max(8, ink.numel() // 400)).values.mean() - grain
    if strongest < max(FAINTEST, 3 * grain):
        raise UserError(BLANK)
    return ((ink - grain) / strongest).clamp(0, 1)


def _contrast(pixels, digit):
    """The difference between the digit's colour and that of its surroundings, of 255."""
    top, left, bottom, right = _box(digit)
    margin = max(3, (bottom - top + right - left) // 6)
    around = torch.zeros_like(digit)
    around[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = True
    around[top:bottom, left:right] = False
    if not around.any():
        around = ~digit
    inside, outside = (pixels[:, mask].median(1).values for mask in (digit, around))
    return (inside - outside).abs().max()


def _digit_mask(ink):
    """The mask of the digit, bool (height, width): the largest shape of ink and what belongs to it.

    Raises UserError where several shapes could be meant.
    """
    shapes = _shapes(ink > INK)
    largest = shapes[0]
    if largest.float().mean() > 0.5 or _stroke_width(largest) > BLOB * _longer_side(largest):
        raise UserError(UNCLEAR)
    holes = [hole for hole in _shapes(~largest) if hole.sum() > 9 and not _touches_border(hole)]
    if len(holes) > HOLES:
        raise UserError(CLUTTER)
    digit, area = largest.clone(), largest.sum()
    shapes = [shape for shape in shapes[1:] if shape.sum() > SPECK * area]
    if len(shapes) > 8:
        raise UserError(CLUTTER)
    for shape in shapes:
        top, left, bottom, right = _box(largest)
        other_top, other_left, other_bottom, other_right = _box(shape)
        across = max(other_left - right, left - other_right)
        down = max(other_top - bottom, top - other_bottom)
        near = max(across, down) < NEAR * _longer_side(largest)
        if shape.sum() > RIVAL * area and (across > 0 or not near):
            raise UserError("there is more than one shape on the page; crop the image to one digit")
        if near and across < 0.1 * (bottom - top):
            digit |= shape
    return digit


def _shapes(mask):
    """The connected shapes of the mask, as bool masks, largest first."""
    index = torch.arange(mask.numel(), dtype=torch.float32).view_as(mask)
    label = index * mask  # a pixel's label is the index of another pixel of its shape
    while True:
        spread = max_pool2d(label[None], 3, stride=1, padding=1)[0] * mask
        spread = spread.flatten()[spread.long()] * mask  # jump on to that pixel's own label
        if torch.equal(spread, label):
            break
        label = spread
    labels, areas = label[mask].unique(return_counts=True)
    order = areas.argsort(descending=True)[:12]
    return [mask & (label == labels[i]) for i in order]


def _touches_border(shape):
    return bool(shape[0].any() or shape[-1].any() or shape[:, 0].any() or shape[:, -1].any())


def _box(mask):
    """(top, left, bottom, right) of the mask, the last two exclusive."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return rows[0].item(), columns[0].item(), rows[-1].item() + 1, columns[-1].item() + 1


def _longer_side(mask):
    top, left, bottom, right = _box(mask)
    return max(bottom - top, right - left)


def _stroke_width(mask):
    """The mean width of the mask's strokes: the area over half the outline."""
    shape = mask.float()[None]
    outline = shape - _eroded(shape, 3)
    return 2 * (shape.sum() / outline.sum().clamp(min=1)).item()


def as_mnist(ink, digit):
    """The digit's ink fitted into 20x20, its strokes as wide as MNIST's, centred by mass in 28x28."""
    shape = digit.float()[None]
    stroke = _stroke_width(digit)
    ink = (ink / INK).clamp(max=1) * _dilated(shape, 3)
    top, left, bottom, right = _box(digit)
    thin, thick = (share * _longer_side(digit) for share in STROKE_WIDTHS)
    if stroke < thin:
        ink = _dilated(ink, 1 + 2 * round((thin - stroke) / 2))
    elif stroke > thick:
        ink = _eroded(ink, 1 + 2 * round((stroke - thick) / 2))
    ink = ink[0]
    if (ink > 0.5).any():
        top, left, bottom, right = _box(ink > 0.5)
    picture = Image.fromarray(ink[top:bottom, left:right].mul(255).round().byte().numpy())
    scale = 20 / max(picture.size)
    size = [max(1, round(side * scale)) for side in picture.size]
    small = torch.from_numpy(np.array(picture.resize(size, Image.Resampling.LANCZOS))).float()
    height, width = small.shape
    mass = small.sum()
    row = (small.sum(1) @ torch.arange(height).float() / mass).item()
    column = (small.sum(0) @ torch.arange(width).float() / mass).item()
    top = min(max(round(13.5 - row), 0), 28 - height)
    left = min(max(round(13.5 - column), 0), 28 - width)
    placed = torch.zeros(28, 28)
    placed[top : top + height, left : left + width] = small * (255 / small.max())
    return placed.round().byte()


def _dilated(values, size):
    """Dilation: each pixel becomes the largest of the size x size around it; size is odd."""
    values = values.unsqueeze(0)
    values = max_pool2d(values, (size, 1), stride=1, padding=(size // 2, 0))
    return max_pool2d(values, (1, size), stride=1, padding=(0, size // 2)).squeeze(0)


def _eroded(values, size):
    """Erosion: each pixel becomes the smallest of the size x size around it; size is odd."""
    return -_dilated(-values, size)
