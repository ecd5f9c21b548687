"""Own images: realistic pages that handwriting.py draws, and every odd file."""

import io
import os

import numpy as np
import pytest
import torch
from handwriting import drawn
from PIL import Image, ImageOps, PngImagePlugin

from mnist_sum import checkpoint, images, runs
from mnist_sum.errors import Fault
from mnist_sum.evaluation import probabilities


@pytest.fixture(scope="module")
def shipped():
    """The model that inference.py takes when nothing else is there."""
    return checkpoint.load_model(runs.shipped_checkpoint(), torch.device("cpu"))[0]


def read_digit(model, seen):
    return probabilities(model, seen, 0)[0].argmax().item()


def seven(size=200):
    """A plain page with a 7, RGB."""
    page = np.full((size, size, 3), 250, np.uint8)
    page[size // 4 : size // 4 + size // 16, size // 4 : 3 * size // 4] = 20
    for row in range(size // 4, 4 * size // 5):
        column = round(0.72 * size - 0.55 * (row - size // 4))
        page[row, column - size // 30 : column + size // 30] = 20
    return Image.fromarray(page)


def test_nearly_all_photographs_and_drawings_are_read(shipped):
    right = 0
    for i in range(100):
        image = drawn(i % 10, np.random.default_rng([2026, i]))
        right += read_digit(shipped, images.prepare(image)) == i % 10
    assert right >= 95, f"{right} of 100"


def test_mnists_own_images_come_out_much_as_they_went_in(mnist_folder, shipped):
    from mnist_sum import dataset

    test = dataset.load("mnist", mnist_folder).test
    as_they_are = prepared = 0
    for image, digit in zip(test.images[:50], test.digits[:50].tolist(), strict=True):
        as_they_are += read_digit(shipped, image) == digit
        page = Image.fromarray(image.numpy()).convert("RGB")
        prepared += read_digit(shipped, images.prepare(page)) == digit
    assert prepared >= as_they_are - 2


@pytest.mark.parametrize("spoil", ["shadow", "thumb", "ruled", "edge"])
def test_what_lies_around_a_digit_does_not_matter(spoil, shipped):
    right = 0
    for i in range(20):
        page = np.asarray(drawn(i % 10, np.random.default_rng([7, i]))).astype(np.float32)
        height, width, _ = page.shape
        if spoil == "shadow":
            page[:, : width // 3] *= 0.7
        elif spoil == "thumb":
            page[-height // 9 :, : width // 5] = (200, 150, 120)
        elif spoil == "ruled":
            page[:: max(10, width // 18)] -= 25
        else:
            page[:, -width // 12 :] = (90, 60, 40)
        image = Image.fromarray(page.clip(0, 255).astype(np.uint8))
        right += read_digit(shipped, images.prepare(image)) == i % 10
    assert right >= 18, f"{right} of 20"


def test_the_result_is_made_as_mnists_images_are():
    seen = images.prepare(seven())
    assert seen.shape == (28, 28)
    assert seen.dtype == torch.uint8
    assert seen.max() == 255
    rows, columns = (seen > 40).any(1).nonzero(), (seen > 40).any(0).nonzero()
    height, width = (int(x[-1] - x[0]) + 1 for x in (rows, columns))
    assert max(height, width) in (19, 20, 21)
    assert abs(height / width - 0.55 / 0.5) < 0.25  # its proportions are kept
    weight = seen.float() / seen.sum()
    place = torch.arange(28.0)
    assert (weight.sum(1) @ place).item() == pytest.approx(13.5, abs=0.6)
    assert (weight.sum(0) @ place).item() == pytest.approx(13.5, abs=0.6)


def test_place_size_polarity_and_colour_do_not_matter():
    plain = images.prepare(seven()).float()
    page = Image.new("RGB", (900, 700), (250, 250, 250))
    page.paste(seven(), (600, 30))
    yellow = np.asarray(seven()).copy()
    yellow[yellow[..., 0] < 100] = (250, 220, 60)
    for other in (page, ImageOps.invert(seven()), seven(600), Image.fromarray(yellow)):
        difference = (images.prepare(other).float() - plain).abs().mean().item()
        assert difference < 12, difference


def saved(image, path, **options):
    image.save(path, **options)
    return path


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    return saved(seven().rotate(90), path.with_suffix(".jpg"), exif=exif)


def animated(path):
    return saved(seven(), path, save_all=True, append_images=[Image.new("RGB", (200, 200))])


def sixteen_bits(path):
    grey = np.asarray(seven().convert("L")).astype(np.uint16) * 257
    return saved(Image.fromarray(grey), path)


def transparent(path, ink):
    image = seven().convert("L")
    layer = Image.new("RGBA", image.size, ink)
    layer.putalpha(ImageOps.invert(image).point(lambda value: 255 if value > 100 else 0))
    return saved(layer, path)


FILES = {
    "turned by EXIF": turned,
    "16 bits": sixteen_bits,
    "grey": lambda path: saved(seven().convert("L"), path),
    "1 bit": lambda path: saved(seven().convert("1"), path),
    "palette": lambda path: saved(seven().quantize(8), path),
    "dark on transparent": lambda path: transparent(path, "black"),
    "light on transparent": lambda path: transparent(path, "white"),
    "opaque alpha": lambda path: saved(seven().convert("RGBA"), path),
    "CMYK": lambda path: saved(seven().convert("CMYK"), path.with_suffix(".jpg")),
    "animated": animated,
    "large": lambda path: saved(seven(3000), path.with_suffix(".jpg")),
    "small": lambda path: saved(seven().resize((24, 24), Image.Resampling.BOX), path),
    "metadata": lambda path: saved(seven(), path, pnginfo=text()),
}


def text():
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "a seven")
    return info


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_this_kind_shows_the_same_seven(kind, tmp_path):
    plain = images.prepare(seven()).float()
    _, seen = images.load(FILES[kind](tmp_path / "seven.png"))
    difference = (seen.float() - plain).abs().mean().item()
    assert difference < (20 if kind == "small" else 8), difference


def png_of(width, height):
    """A PNG whose header names this size and whose pixels are missing."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def jpeg():
    file = io.BytesIO()
    seven().save(file, "JPEG")
    return file.getvalue()


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
        (jpeg()[:900], "damaged"),
        (None, "No such file"),
        ("folder", "not a file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line_with_its_name(content, words, tmp_path):
    path = tmp_path / "odd.png"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(Fault) as caught:
        images.load(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def blank(rng):
    return np.full((300, 400, 3), 240.0) + rng.normal(0, 6, (300, 400, 3))


def half_lit(rng):
    page = blank(rng)
    page[:, 200:] *= 0.6
    return page


def two_digits(rng):
    both = Image.new("RGB", (400, 200))
    both.paste(seven(), (0, 0))
    both.paste(seven(), (200, 0))
    return np.asarray(both)


def spot(rng):
    page = blank(rng)
    page[100:110, 200:210] = 0
    return page


def noise(rng):
    return rng.uniform(0, 255, (300, 300, 3))


def many(rng):
    page = Image.new("RGB", (600, 600), (250, 250, 250))
    for place in range(16):
        page.paste(seven(120), (20 + 140 * (place % 4), 20 + 140 * (place // 4)))
    return np.asarray(page)


def ruled(rng):
    page = blank(rng)
    page[20::30] -= 60
    page[:, 60:62] = (220, 120, 120)
    return page


def sloping_light(rng):
    return blank(rng) * np.linspace(1, 0.4, 400)[:, None]


NOTHING, SEVERAL, OTHER = "nothing to be seen", "more than one", "clutter|no clear|more than one"
PAGES = {
    blank: NOTHING,
    half_lit: "nothing|no clear",
    sloping_light: NOTHING,
    ruled: f"{NOTHING}|{OTHER}",
    two_digits: SEVERAL,
    spot: "no clear",
    noise: "nothing|clutter|no clear",
    many: OTHER,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
def test_a_page_without_one_clear_digit_is_said_to_be_so(page):
    for seed in range(5):
        image = Image.fromarray(page(np.random.default_rng(seed)).clip(0, 255).astype(np.uint8))
        with pytest.raises(Fault, match=PAGES[page]):
            images.prepare(image)


def test_a_device_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(Fault, match="not a file"):  # and no waiting for someone to write into it
        images.load(tmp_path / "pipe.png")
