"""Own images: a photograph, scan or drawing of one digit -> a 28x28 image made as MNIST's were.

MNIST's were white on black, cropped, fitted into 20x20 with their proportions kept, and centred by
mass in 28x28 (LeCun, Cortes, Burges). A photograph has to be understood first: where the paper is,
what on it is ink, and which ink is the digit. All sizes below are in pixels of the working copy,
whose longer side is SIDE, unless they say otherwise.
"""

import os
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn.functional import avg_pool2d, max_pool2d

from mnist_sum.errors import Fault

FORMATS = ("PNG", "JPEG")
LARGEST = 50_000_000  # pixels of a file; checked before any of them is decoded
SMALLEST = 8  # pixels of a file's shorter side
SIDE = 160
WIDEST_PEN = 41  # what is wider than this is no stroke but an area
FAINTEST = 20  # of 255: ink has to differ from its paper by this much
INK = 0.4  # of the darkest ink's difference from the paper: what counts as ink
SPECK = 0.04  # of the largest shape's area: smaller ones are dirt
RIVAL = 0.25  # of the largest shape's area: a shape that stands apart and is larger makes two
BLOB = 0.4  # of the longer side: what is thicker than this is no stroke
HOLES = 3  # of a digit at most: two loops, and a slip of the pen
NEAR = 0.35  # of the digit's longer side: how far its parts can lie apart
BLANK = "there is nothing to be seen on the page; a digit has to stand out from its paper"
CLUTTER = "the page is cluttered; crop the image to one digit on plain paper"
UNCLEAR = "there is no clear digit on the page"
PEN = 0.11, 0.2  # stroke widths of MNIST's digits, thinnest and thickest, as shares of their longer side


def load(path):
    """(the image in the file (PIL, RGB), the same prepared (uint8 (28, 28))); Fault names the path."""
    image = read(path)
    try:
        return image, prepare(image)
    except Fault as fault:
        raise Fault(f"{path}: {fault}") from None


def read(path):
    """The image in the file as an upright RGB image; raises Fault where there is none to be had.

    PNG and JPEG; of an animation the first picture. What is transparent lies on white paper, or on
    black where the visible part is light.
    """
    if isinstance(path, (str, os.PathLike)) and os.path.exists(path) and not os.path.isfile(path):
        raise Fault(f"cannot read {path}: it is a folder or a device, not a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of sizes and metadata: checked here
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > LARGEST:
                    raise Image.DecompressionBombError  # as Pillow does above a limit of its own
                if min(width, height) < SMALLEST:
                    raise Fault(f"{path} has {width} x {height} pixels; a digit needs at least "
                                f"{SMALLEST} x {SMALLEST}")  # fmt: skip
                image.draft("RGB", (8 * SIDE, 8 * SIDE))  # a JPEG decodes at a fraction of its size
                image.load()
                return _rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise Fault(f"{path} is not a PNG or JPEG image") from None
    except Image.DecompressionBombError:
        raise Fault(f"{path} has more than {LARGEST // 10**6} million pixels; scale it down") from None
    except OSError as error:  # Pillow's own have no strerror: a truncated or damaged file
        raise Fault(f"cannot read {path}: {error.strerror or 'the image is damaged'}") from None
    except (SyntaxError, ValueError, EOFError, MemoryError, OverflowError):
        raise Fault(f"cannot read {path}: the image is damaged") from None


def _rgb(image):
    if image.mode.startswith(("I", "F")):  # 16 bits; Pillow would cut them off at 255
        values = np.asarray(image, dtype=np.float32)
        return Image.fromarray((values / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if not (image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info):
        return image.convert("RGB")
    image = image.convert("RGBA")
    *_, alpha = image.split()
    grey, weight = (np.asarray(part, dtype=np.float32) for part in (image.convert("L"), alpha))
    light = weight.sum() > 0 and (grey * weight).sum() / weight.sum() > 127
    transparent = weight.mean() < 254
    paper = Image.new("RGBA", image.size, "black" if light and transparent else "white")
    return Image.alpha_composite(paper, image).convert("RGB")


def prepare(image):
    """An RGB image with one digit on it -> uint8 (28, 28), white on black, as MNIST has them.

    Raises Fault where there is nothing on the page, or more than one thing.
    """
    for look in range(4):
        try:
            ink, figure = _ink_and_figure(_working_copy(image))
        except Fault:
            if look == 0:
                raise
            raise Fault(UNCLEAR) from None  # a spot, which seen closer is no stroke
        top, left, bottom, right = _box(figure)
        longer = max(bottom - top, right - left)
        if longer > 0.45 * SIDE:
            break
        # A small digit on a large page: look again, closer.
        scale, margin = max(image.size) / SIDE, 0.4 * longer
        image = image.crop((
            max(0, round((left - margin) * scale)), max(0, round((top - margin) * scale)),
            min(image.width, round((right + margin) * scale)),
            min(image.height, round((bottom + margin) * scale)),
        ))  # fmt: skip
    return _as_mnist(ink, figure)


def _working_copy(image):
    """The image as float (3, height, width) in [0, 255], its longer side SIDE, slightly smoothed."""
    scale = SIDE / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    return avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)


def _ink_and_figure(pixels):
    """The ink, float (height, width) in [0, 1], and the mask of the digit in it.

    Dark strokes on light paper and light ones on dark are both looked for. The holes of a digit
    look like strokes of the other kind, but they are as bright as what lies around the digit: so
    the kind that stands out more from its surroundings is taken.
    """
    found, fault, refused = [], Fault(BLANK), 0.0  # refused: the strongest ink of what was no digit
    for sign in (1, -1):
        ink = _ink(sign * pixels)
        # Where light falls off, ink seems to lie along the border: what touches it has to be strong.
        for view, smallest, faintest in ((_off_border(ink), 0.08 * SIDE, 0), (ink, 0, 3 * FAINTEST)):
            try:
                scaled = _scaled(view)
                figure = _figure(scaled)
            except Fault as reason:
                if reason.args != (BLANK,):
                    fault, refused = reason, max(refused, ink.max().item())
                continue
            contrast = _contrast(pixels, figure).item()
            if _longer(figure) >= smallest and contrast >= faintest:
                found.append((contrast, scaled, figure))
                break
    if not found:
        raise fault
    contrast, ink, figure = max(found, key=lambda kind: kind[0])
    if contrast < max(FAINTEST, refused / 2):
        raise fault
    return ink, figure


def _ink(pixels):
    """How much darker each pixel is than the paper around it, (height, width), of 255.

    In whatever colour channel. The paper is what is left when all that is dark and narrower than
    WIDEST_PEN is filled in from its sides (a morphological closing), which keeps the light's slopes
    and the edges of shadows.
    """
    paper = _shrunk(_grown(pixels, WIDEST_PEN), WIDEST_PEN)
    return (paper - pixels).amax(0)


def _off_border(ink):
    """The ink without what is joined to the picture's border: a table, a thumb, the paper's edge."""
    left = ink.clone()
    for shape in _shapes(ink > INK / 2 * ink.max()):
        if _touches_border(shape):
            left[_grown(shape.float()[None], 9)[0] > 0] = 0
    return left


def _scaled(ink):
    """The ink scaled to [0, 1], the grain of the paper taken off; raises Fault on a blank page."""
    grain = ink.flatten().quantile(0.3)
    strongest = ink.flatten().topk(max(8, ink.numel() // 400)).values.mean() - grain
    if strongest < max(FAINTEST, 3 * grain):
        raise Fault(BLANK)
    return ((ink - grain) / strongest).clamp(0, 1)


def _contrast(pixels, figure):
    """How far the figure's colour is from that of what surrounds it, of 255."""
    top, left, bottom, right = _box(figure)
    margin = max(3, (bottom - top + right - left) // 6)
    around = torch.zeros_like(figure)
    around[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = True
    around[top:bottom, left:right] = False
    if not around.any():
        around = ~figure
    inside, outside = (pixels[:, mask].median(1).values for mask in (figure, around))
    return (inside - outside).abs().max()


def _figure(ink):
    """The mask of the digit, bool (height, width): the largest shape of ink and what belongs to it.

    Raises Fault where several shapes could be meant.
    """
    shapes = _shapes(ink > INK)
    largest = shapes[0]
    if largest.float().mean() > 0.5 or _pen(largest) > BLOB * _longer(largest):
        raise Fault(UNCLEAR)
    holes = [hole for hole in _shapes(~largest) if hole.sum() > 9 and not _touches_border(hole)]
    if len(holes) > HOLES:
        raise Fault(CLUTTER)
    figure, area = largest.clone(), largest.sum()
    shapes = [shape for shape in shapes[1:] if shape.sum() > SPECK * area]
    if len(shapes) > 8:
        raise Fault(CLUTTER)
    for shape in shapes:
        top, left, bottom, right = _box(largest)
        other_top, other_left, other_bottom, other_right = _box(shape)
        across = max(other_left - right, left - other_right)
        down = max(other_top - bottom, top - other_bottom)
        near = max(across, down) < NEAR * _longer(largest)
        if shape.sum() > RIVAL * area and (across > 0 or not near):
            raise Fault("there is more than one figure on the page; crop the image to one digit")
        if near and across < 0.1 * (bottom - top):
            figure |= shape
    return figure


def _shapes(mask):
    """The connected shapes of the mask, as bool masks, largest first."""
    place = torch.arange(mask.numel(), dtype=torch.float32).view_as(mask)
    label = place * mask  # a pixel's label is the place of another pixel of its shape
    while True:
        spread = max_pool2d(label[None], 3, stride=1, padding=1)[0] * mask
        spread = spread.flatten()[spread.long()] * mask  # jump on to that pixel's own label
        if torch.equal(spread, label):
            break
        label = spread
    labels, areas = label[mask].unique(return_counts=True)
    order = areas.argsort(descending=True)[:12]
    return [mask & (label == labels[index]) for index in order]


def _touches_border(shape):
    return bool(shape[0].any() or shape[-1].any() or shape[:, 0].any() or shape[:, -1].any())


def _box(mask):
    """(top, left, bottom, right) of the mask, the last two exclusive."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return rows[0].item(), columns[0].item(), rows[-1].item() + 1, columns[-1].item() + 1


def _longer(mask):
    top, left, bottom, right = _box(mask)
    return max(bottom - top, right - left)


def _pen(mask):
    """The mean width of the mask's strokes: the area over half the outline."""
    shape = mask.float()[None]
    outline = shape - _shrunk(shape, 3)
    return 2 * (shape.sum() / outline.sum().clamp(min=1)).item()


def _as_mnist(ink, figure):
    """The figure's ink fitted into 20x20, its strokes as wide as MNIST's, centred by mass in 28x28."""
    shape = figure.float()[None]
    pen = _pen(figure)
    ink = (ink / INK).clamp(max=1) * _grown(shape, 3)
    top, left, bottom, right = _box(figure)
    thin, thick = (share * _longer(figure) for share in PEN)
    if pen < thin:
        ink = _grown(ink, 1 + 2 * round((thin - pen) / 2))
    elif pen > thick:
        ink = _shrunk(ink, 1 + 2 * round((pen - thick) / 2))
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


def _grown(values, size):
    """Each pixel the largest of the size x size around it; size is odd."""
    values = values.unsqueeze(0)
    values = max_pool2d(values, (size, 1), stride=1, padding=(size // 2, 0))
    return max_pool2d(values, (1, size), stride=1, padding=(0, size // 2)).squeeze(0)


def _shrunk(values, size):
    """Each pixel the smallest of the size x size around it; size is odd."""
    return -_grown(-values, size)
