"""Your own images: synthetic pages that handwriting.py draws, and every kind of odd file."""

import io
import os
import re
import time
import zlib
from functools import partial

import numpy as np
import pytest
import torch
from handwriting import drawn
from PIL import Image, ImageOps

from mnist_sum import data, images
from mnist_sum.console import UserError
from mnist_sum.evaluation.predict import predict
from mnist_sum.models import shipped
from mnist_sum.recipes import DEFAULT_MODEL
from mnist_sum.runs.checkpoint import load_model


@pytest.fixture(scope="module")
def predicted_digit():
    """The default model's digit for pixels, uint8 (28, 28)."""
    model, _ = load_model(shipped(DEFAULT_MODEL), torch.device("cpu"))
    return lambda pixels: predict(model, pixels, 0).digit


def seven(size=200):
    """A plain page with a 7, RGB."""
    page = np.full((size, size, 3), 250, np.uint8)
    page[size // 4 : size // 4 + size // 16, size // 4 : 3 * size // 4] = 20
    for row in range(size // 4, 4 * size // 5):
        column = round(0.72 * size - 0.55 * (row - size // 4))
        page[row, column - size // 30 : column + size // 30] = 20
    return Image.fromarray(page)


@pytest.mark.parametrize(
    ("surroundings", "pages", "enough"),
    [("plain", 30, 29), ("shadow", 20, 18), ("thumb", 20, 18), ("ruled", 20, 18), ("edge", 20, 18)],
)
def test_digits_on_synthetic_pages_are_predicted_correctly(surroundings, pages, enough, predicted_digit):
    correct = 0
    for i in range(pages):
        page = np.asarray(drawn(i % 10, np.random.default_rng([2026, i]))).astype(np.float32)
        height, width, _ = page.shape
        if surroundings == "shadow":
            page[:, : width // 3] *= 0.7
        elif surroundings == "thumb":
            page[-height // 9 :, : width // 5] = (200, 150, 120)
        elif surroundings == "ruled":
            page[:: max(10, width // 18)] -= 25
        elif surroundings == "edge":
            page[:, -width // 12 :] = (90, 60, 40)
        image = Image.fromarray(page.clip(0, 255).astype(np.uint8))
        correct += predicted_digit(images.prepare(image)) == i % 10
    assert correct >= enough, f"{correct} of {pages}"


def test_mnist_images_are_still_predicted_correctly_after_preparation(mnist_folder, predicted_digit):
    test = data.load("mnist", mnist_folder, limit=30).test
    unprepared = prepared = 0
    for pixels, digit in zip(test.images, test.digits.tolist(), strict=True):
        unprepared += predicted_digit(pixels) == digit
        page = Image.fromarray(pixels.numpy()).convert("RGB")
        prepared += predicted_digit(images.prepare(page)) == digit
    assert prepared >= unprepared - 2


def test_prepared_image_has_mnists_type_size_and_centre_of_mass():
    pixels = images.prepare(seven())
    assert (pixels.shape, pixels.dtype, pixels.max().item()) == ((28, 28), torch.uint8, 255)
    rows, columns = (pixels > 40).any(1).nonzero(), (pixels > 40).any(0).nonzero()
    height, width = (int(x[-1] - x[0]) + 1 for x in (rows, columns))
    assert max(height, width) in (19, 20, 21)
    assert abs(height / width - 0.55 / 0.5) < 0.25  # its proportions are kept
    mass = pixels.float() / pixels.sum()
    index = torch.arange(28.0)
    assert (mass.sum(1) @ index).item() == pytest.approx(13.5, abs=0.6)
    assert (mass.sum(0) @ index).item() == pytest.approx(13.5, abs=0.6)


def difference(pixels, others):
    """The mean absolute difference of two uint8 images."""
    return (pixels.float() - others.float()).abs().mean().item()


def test_position_size_polarity_and_colour_do_not_change_the_prepared_image():
    page = Image.new("RGB", (900, 700), (250, 250, 250))
    page.paste(seven(), (600, 30))
    yellow = np.asarray(seven()).copy()
    yellow[yellow[..., 0] < 100] = (250, 220, 60)
    for other in (page, ImageOps.invert(seven()), seven(600), Image.fromarray(yellow)):
        assert difference(images.prepare(other), images.prepare(seven())) < 12


ON_ITS_SIDE = Image.Exif()
ON_ITS_SIDE[0x0112] = 6  # as the camera was held


def on_transparent(ink, path):
    image = seven().convert("L")
    layer = Image.new("RGBA", image.size, ink)
    layer.putalpha(ImageOps.invert(image).point(lambda value: 255 if value > 100 else 0))
    layer.save(path)


FILES = {
    "turned by EXIF": lambda path: seven().rotate(90).save(path, "JPEG", exif=ON_ITS_SIDE),
    "a PNG that is": lambda path: seven().rotate(90).save(path, exif=ON_ITS_SIDE),
    "16 bits": lambda path: Image.fromarray(np.asarray(seven())[..., 0] * np.uint16(257)).save(path),
    "grey": lambda path: seven().convert("L").save(path),
    "1 bit": lambda path: seven().convert("1").save(path),
    "palette": lambda path: seven().quantize(8).save(path),
    "dark on transparent": partial(on_transparent, "black"),
    "light on transparent": partial(on_transparent, "white"),
    "opaque alpha": lambda path: seven().convert("RGBA").save(path),
    "CMYK": lambda path: seven().convert("CMYK").save(path, "JPEG"),
    "animated": lambda path: seven().save(path, save_all=True, append_images=[Image.new("RGB", (200, 200))]),
    "large": lambda path: seven(3000).save(path, "JPEG"),
    "small": lambda path: seven().resize((24, 24), Image.Resampling.BOX).save(path),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_png_and_jpeg_is_decoded(kind, tmp_path):
    path = tmp_path / "seven.png"
    FILES[kind](path)
    _, pixels = images.load_image(path)
    assert difference(pixels, images.prepare(seven())) < (20 if kind == "small" else 8)


def encoded(image, kind):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def png_of(width, height):
    """A PNG whose header gives this size and whose pixels are missing."""
    content = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a PNG or JPEG"),
        (b"GIF89a" + bytes(100), "not a PNG or JPEG"),
        (b"a letter", "not a PNG or JPEG"),
        (png_of(60_000, 60_000), "scale it down"),
        (png_of(2**31 - 1, 2**31 - 1), "scale it down"),
        (png_of(1, 1), "at least 8 x 8"),
        (png_of(100, 7), "at least 8 x 8"),
        (png_of(100, 100), "damaged"),
        (encoded(seven(), "JPEG")[:900], "damaged"),
        (None, "No such file"),
        (os.mkdir, "not a regular file"),
        (os.mkfifo, "not a regular file"),  # and no waiting for someone to write into it
    ],
)
def test_file_without_an_image_is_one_line_with_its_name(content, words, tmp_path):
    path = tmp_path / "odd.png"
    if callable(content):
        content(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}.*{words}"):
        images.load_image(path)


BOMB = zlib.compress(bytes(30_000_000), 9)
METADATA = {
    "PNG": [
        *[(b"tEXt", name + b"\0?") for name in (b"interlace", b"transparency", b"exif", b"xmp", b"bbox")],
        *[(b"zTXt", b"a\0\0" + BOMB), (b"iTXt", b"a\0\1\0\0\0" + BOMB), (b"iCCP", b"a\0\0" + BOMB)],
        *[(b"eXIf", b"MM\0*\xff"), (b"eXIf", b"II*\0\x08\0\0\0\xff\xff\x12\1"), (b"iCCP", b"")],
        *[(b"acTL", b"\0\0\0\2\0\0\0\0"), (b"fcTL", bytes(26)), (b"gAMA", b""), (b"pHYs", b"\0")],
    ],
    "JPEG": [
        *[(b"\xe0", b"JFIF\0"), (b"\xe1", b"Exif\0\0"), (b"\xe1", b"Exif\0\0MM\0*\xff")],
        *[(b"\xe2", b"ICC_PROFILE\0"), (b"\xe2", b"MPF\0MM\0*\0\0\0\x08\0\0"), (b"\xfe", b"")],
    ],
}  # fmt: skip


def joined(content, kind, data):
    """The PNG or JPEG with one more chunk or segment, whose length and CRC are correct."""
    if len(kind) == 1:
        return content[:2] + b"\xff" + kind + (len(data) + 2).to_bytes(2) + data + content[2:]
    part = len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)
    return content[:33] + part + content[33:]


@pytest.mark.parametrize("kind", METADATA)
def test_damaged_metadata_changes_no_pixel(kind):
    content = encoded(seven(), kind)
    pixels = np.asarray(images.decode(content))
    for part in METADATA[kind]:
        assert np.array_equal(images.decode(joined(content, *part)), pixels), part[0] + part[1][:20]


def test_what_follows_an_image_in_its_file_is_left_out():
    second = encoded(seven().rotate(180), "JPEG")
    for content in (encoded(seven(), "PNG"), encoded(seven(), "JPEG")):
        pixels = np.asarray(images.decode(content))
        assert np.array_equal(images.decode(content + second + b"\xff\xda" * 99), pixels)


def test_a_file_made_to_take_long_is_refused_or_takes_no_longer():
    file = io.BytesIO()
    seven().save(file, "JPEG", progressive=True)
    header, *scans = file.getvalue().removesuffix(b"\xff\xd9").split(b"\xff\xda")
    bomb = b"\xff\xda".join((header, *scans, *scans[-1:] * 5000)) + b"\xff\xd9"
    filled = b"\xff\xda".join((header, scans[0] + b"\xff" * 30_000_000, *scans[1:])) + b"\xff\xd9"
    flood = joined(b"", b"tEXt", b"a\0") * 2_000_000
    content = encoded(seven(), "PNG")
    began = time.process_time()
    with pytest.raises(UserError, match="scans"):
        images.decode(bomb)
    with pytest.raises(UserError, match="damaged"):
        images.decode(content[:33] + flood + content[33:])
    with pytest.raises(UserError, match="100 MB"):
        images.decode(content + bytes(10**8))
    for slow in (filled, content + flood):
        assert np.asarray(images.decode(slow)).shape == (200, 200, 3)
    assert time.process_time() - began < 2.5


def test_too_little_memory_for_an_image_is_one_line(monkeypatch):
    image = seven()
    monkeypatch.setattr(Image.Image, "convert", lambda *_: bytearray(2**62))
    with pytest.raises(UserError, match="too little memory"):
        images.to_rgb(image)


NOTHING, CLUTTER = "nothing stands out", "clutter|no clear|more than one"
PAGES = {
    "blank": NOTHING,
    "half lit": "nothing|no clear",
    "sloping light": NOTHING,
    "ruled": f"{NOTHING}|{CLUTTER}",
    "spot": "no clear",
    "noise": "nothing|clutter|no clear",
    "two digits": "more than one",
    "many digits": CLUTTER,
}


def page_without_one_digit(kind, rng):
    page = 240 + rng.normal(0, 6, (300, 400, 3))
    if kind == "half lit":
        page[:, 200:] *= 0.6
    elif kind == "sloping light":
        page *= np.linspace(1, 0.4, 400)[:, None]
    elif kind == "ruled":
        page[20::30] -= 60
        page[:, 60:62] = (220, 120, 120)
    elif kind == "spot":
        page[100:110, 200:210] = 0
    elif kind == "noise":
        page = rng.uniform(0, 255, (300, 300, 3))
    elif kind == "two digits":
        page = np.tile(seven(), (1, 2, 1))
    elif kind == "many digits":
        page = np.tile(seven(140), (4, 4, 1))
    return Image.fromarray(page.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("kind", PAGES)
def test_page_without_one_clear_digit_is_refused(kind):
    for seed in range(5):
        with pytest.raises(UserError, match=PAGES[kind]):
            images.prepare(page_without_one_digit(kind, np.random.default_rng(seed)))
