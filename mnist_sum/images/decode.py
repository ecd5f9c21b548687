"""A PNG's or JPEG's bytes, or an image of any mode, -> an RGB image.

A file says more than its pixels: texts, colour profiles, previews. Of all that only how the camera was held
is used. The rest is left out before anything parses it, so it may be damaged.
"""

import io
import re
import warnings
from contextlib import contextmanager, suppress
from itertools import islice

from PIL import Image, ImageChops, ImageOps, ImageStat

from mnist_sum.console import UserError

PNG, JPEG, END = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd9"
SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xda-\xfe]")
SCAN, APP1, EXIF, ORIENTATION = b"\xda", b"\xe1", b"Exif\0\0", 0x0112
# What holds the pixels. Of JPEG as browsers have it: none with arithmetic coding, none that is lossless.
CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
SEGMENTS = {b"\xc0", b"\xc1", b"\xc2", b"\xc4", SCAN, b"\xdb", b"\xdd", b"\xee"}
MOST_PARTS = 100_000  # chunks or segments; what follows them is dropped
MOST_SCANS = 32  # of a JPEG, each a pass over all its pixels; a progressive one has 10
LARGEST = 50_000_000  # pixels; checked before any of them is decoded
LARGEST_FILE = 100_000_000  # bytes
SMALLEST = 8  # pixels of the shorter side


@contextmanager
def _in_one_line():
    """Within it whatever a decoder raises becomes a UserError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's
            yield
    except UserError:
        raise
    except MemoryError:
        raise UserError("there is too little memory for this image; scale it down") from None
    except Exception:
        raise UserError("the image is damaged, or of a rare kind") from None


@_in_one_line()
def decode(content):
    """Decode a PNG or JPEG (bytes) into an RGB image (PIL), turned as intact EXIF data says.

    Of an animation the still picture. Transparent parts become white, or black if the visible
    part is light. Takes at most 15 bytes of memory a pixel and twice the file's size, and 5 seconds on one
    core of an AMD EPYC. Raises UserError where there is no image, or one too large, too small or damaged.
    """
    if len(content) > LARGEST_FILE:
        raise UserError(f"this file has more than {LARGEST_FILE // 10**6} MB; scale the image down")
    pixels, exif = _without_metadata(content)
    try:
        image = Image.open(io.BytesIO(pixels), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError:  # above a limit of Pillow's own
        image = None
    if image is None or image.width * image.height > LARGEST:
        raise UserError(f"the image has more than {LARGEST // 10**6} million pixels; scale it down")
    if min(image.size) < SMALLEST:
        raise UserError(f"the image has {image.width} x {image.height} pixels; a digit needs at least "
                        f"{SMALLEST} x {SMALLEST}")  # fmt: skip
    image.decodermaxblock = len(pixels)  # in one block, as Pillow's decoder starts again at each
    image.load()
    if (orientation := _orientation(exif)) in range(2, 9):
        image.getexif()[ORIENTATION] = orientation
        ImageOps.exif_transpose(image, in_place=True)
    return to_rgb(image)


def _without_metadata(content):
    """Of a PNG's or JPEG's bytes: (those that its pixels need, its EXIF data or b"")."""
    if content.startswith(PNG):
        kept, parts, needed = [PNG], _chunks(content), CHUNKS
    elif content.startswith(JPEG):
        kept, parts, needed = [JPEG], _segments(content), SEGMENTS
    else:
        raise UserError("this is not a PNG or JPEG image")
    view, exif = memoryview(content), b""
    for kind, start, end in islice(parts, MOST_PARTS):
        if kind in needed:
            kept.append(view[start:end])
        elif kind == b"eXIf":
            exif = content[start + 8 : end - 4]
        elif kind == APP1 and content.startswith(EXIF, start + 4):
            exif = content[start + 4 : end]
        if kind == SCAN and content.count(b"\xff" + SCAN, start, end) > MOST_SCANS:
            raise UserError(f"the image is a JPEG of more than {MOST_SCANS} scans; save it anew")
    return b"".join(kept), exif


def _chunks(content):
    """(kind, start, end) of each chunk of a PNG."""
    start = len(PNG)
    while start + 8 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4])
        yield content[start + 4 : start + 8], start, end
        start = end


def _segments(content):
    """(kind, start, end) of each segment of a JPEG's header, then of all its scans as one.

    What follows those, a second picture or a film, is left out.
    """
    end = len(JPEG)
    while marker := SEGMENT.search(content, end):
        start, kind = marker.start(), content[marker.end() - 1 : marker.end()]
        if kind == SCAN:
            end = content.find(END, start) + len(END)
            yield kind, start, end if end > start else len(content)
            return
        end = start + 2 + int.from_bytes(content[start + 2 : start + 4])
        yield kind, start, end


def _orientation(exif):
    """The number of an image's orientation; None where the EXIF data is damaged or has none."""
    with suppress(Exception):
        tags = Image.Exif()
        tags.load(exif[:4096])  # it is among the first tags; of many large ones each is copied
        return tags.get(ORIENTATION)


@_in_one_line()
def to_rgb(image):
    """A PIL image of any mode as RGB; transparent parts white, or black if the visible part is light."""
    if image.mode.startswith(("I", "F")):  # 16 bits; Pillow would cut them off at 255
        return image.convert("I").point(lambda value: value / 257).convert("L").convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    light = ImageChops.multiply(image.convert("L"), alpha)
    alphas_mean, lights_mean = (ImageStat.Stat(part).mean[0] for part in (alpha, light))
    black = alphas_mean < 254 and lights_mean > alphas_mean / 2
    paper = Image.new("RGB", image.size, "black" if black else "white")
    paper.paste(image, mask=alpha)
    return paper
