"""A PNG or JPEG file, or an image of any mode, -> an RGB image."""

import os
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_sum.console import UserError

FORMATS = ("PNG", "JPEG")
LARGEST = 50_000_000  # pixels of a file; checked before any of them is decoded
SMALLEST = 8  # pixels of a file's shorter side


def decode(path):
    """Decode a PNG or JPEG, a path or an open file, into an RGB image (PIL), turned as its EXIF data says.

    Of an animation the first picture. Transparent parts become white, or black if the visible part is
    light. Raises UserError where there is no image, or one that is too large, too small or damaged.
    """
    if isinstance(path, (str, os.PathLike)) and os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"cannot read {path}: it is a folder or a device, not a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of sizes and metadata: checked here
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > LARGEST:
                    raise Image.DecompressionBombError  # as Pillow does above a limit of its own
                if min(width, height) < SMALLEST:
                    raise UserError(f"{path} has {width} x {height} pixels; a digit needs at least "
                                f"{SMALLEST} x {SMALLEST}")  # fmt: skip
                image.load()
                return to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise UserError(f"{path} is not a PNG or JPEG image") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path} has more than {LARGEST // 10**6} million pixels; scale it down") from None
    except OSError as error:  # Pillow's own have no strerror: a truncated or damaged file
        raise UserError(f"cannot read {path}: {error.strerror or 'the image is damaged'}") from None
    except (SyntaxError, ValueError, EOFError, MemoryError, OverflowError):
        raise UserError(f"cannot read {path}: the image is damaged") from None


def to_rgb(image):
    """A PIL image of any mode as RGB; transparent parts white, or black if the visible part is light."""
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
