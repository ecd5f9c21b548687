"""A picture of any common format, from a path, a file's bytes or PIL, -> an upright RGB image."""

import glob
import io
import os
import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps, ImageStat, UnidentifiedImageError

from mnist_sum.cli import UserError

LARGEST = 2000  # pixels of the longer side of the image that is kept
SUFFIXES = ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif"
Source = str | os.PathLike | bytes | Image.Image


def decode(source: Source) -> tuple[Image.Image, float]:
    """The source as RGB, upright, at most LARGEST pixels a side, and how many of its pixels are one of these."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of odd metadata and of more than 89 megapixels
            if not isinstance(source, Image.Image | bytes):
                source = Path(source).read_bytes()
            image = Image.open(io.BytesIO(source)) if isinstance(source, bytes) else source.copy()
            size = max(image.size)
            if image.mode not in ("L", "RGB", "RGBA", "CMYK"):
                image = _to_rgb(image)
            image.thumbnail((LARGEST, LARGEST))  # decodes a large JPEG at 1/2, 1/4 or 1/8 of its size
            return _to_rgb(ImageOps.exif_transpose(image)), size / max(image.size)
    except UnidentifiedImageError:
        raise UserError("no picture that can be read (PNG, JPEG, ...; HEIC after pip install -e '.[heic]')") from None
    except Exception as error:  # decoders raise all kinds
        reason = getattr(error, "strerror", None) or error or "there is too little memory for it"
        raise UserError(f"cannot be read, or is damaged: {reason}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB; transparent parts become white, or black if the visible part is light."""
    if image.mode.startswith(("I", "F")):  # 16 bits, or 12 of them in use; Pillow would cut them off at 255
        values = np.asarray(image, np.float32)
        most = next((most for most in (1, 255, 4095, 65535) if values.max() <= most), values.max())
        rgb = Image.fromarray((values * (255 / most)).clip(0, 255).astype(np.uint8)).convert("RGB")
    elif image.has_transparency_data:
        layers = image.convert("RGBA")
        alpha = layers.getchannel("A")
        light = ImageChops.multiply(layers.convert("L"), alpha)
        visible, bright = (ImageStat.Stat(part).mean[0] for part in (alpha, light))
        rgb = Image.new("RGB", image.size, "black" if visible < 254 and bright > visible / 2 else "white")
        rgb.paste(layers, mask=alpha)
    else:
        return image.convert("RGB")
    rgb.info = image.info  # the orientation
    return rgb


def image_files(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """The files to read of files, folders and patterns like photos/*.jpg, and a line for each problem.

    A folder's are its pictures, by name, without hidden files and subfolders; a note says what else is left out.
    """
    files, problems = [], []
    for path in paths:
        if not os.path.isdir(path):
            files += (not os.path.exists(path) and sorted(filter(os.path.isfile, glob.glob(path)))) or [path]
            continue
        names = sorted(e.name for e in os.scandir(path) if not e.is_dir() and not e.name.startswith("."))
        pictures = [name for name in names if name.lower().endswith(SUFFIXES)]
        others = [name for name in names if name not in pictures]
        files += [os.path.join(path, name) for name in pictures]
        if not pictures:
            problems.append(f"{path} is a folder without pictures")
        elif others:
            shown = ", ".join(others[:3] + ["..."] * (len(others) > 3))
            print(f"note: {path}: {len(others)} of {len(names)} files left out, no pictures: {shown}", file=sys.stderr)
    return files, problems
