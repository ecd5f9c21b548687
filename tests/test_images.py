"""Pictures of handwriting: which files are read, that a digit is one digit, that a page is read in order."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mnist_sum.cli import UserError
from mnist_sum.images import image_files, read_page
from mnist_sum.images.novelty import THRESHOLD, novelty
from mnist_sum.images.page import MOST, reading_order
from mnist_sum.predict import load, predict_batch
from tests.tools import no_digits, pages
from tests.tools.handwriting import drawn

SEVEN = [[(50, 50), (150, 50)], [(150, 50), (90, 150)]]
FOUR = [[(75, 30), (50, 100), (150, 100)], [(120, 60), (120, 170)]]
PLUS = [[(100, 60), (100, 140)], [(60, 100), (140, 100)]]


@pytest.fixture(scope="module")
def read():
    """The digits that the shipped tiny reads in a picture, line by line: "12/7"."""
    model = load("tiny", "cpu").model

    def digits_of(source):
        page = read_page(source)
        found = predict_batch(model, torch.stack([digit.pixels for digit in page.digits]), 0)
        lines = {digit.line: "" for digit in page.digits}
        for digit, prediction in zip(page.digits, found, strict=True):
            lines[digit.line] += str(prediction.digit)
        return "/".join(lines.values())

    return digits_of


def strokes(*digits, size=200, width=14, ink=20, paper=250):
    """The digits side by side, each a list of lines in a square of 200."""
    image = Image.new("L", (200 * len(digits), 200), paper)
    for place, lines in enumerate(digits):
        for line in lines:
            ImageDraw.Draw(image).line([(x + 200 * place, y) for x, y in line], fill=ink, width=width)
    return image.resize((size * len(digits), size))


MODES = {
    "grey.png": lambda image: image,
    "color.jpg": lambda image: image.convert("RGB"),
    "cmyk.jpg": lambda image: image.convert("CMYK"),
    "palette.png": lambda image: image.convert("RGB").quantize(8),
    "one bit.png": lambda image: image.convert("1"),
    "lossless.webp": lambda image: image.convert("RGB"),
    "old.bmp": lambda image: image.convert("RGB"),
    "scan.tiff": lambda image: image,
    "still.gif": lambda image: image.convert("P"),
    "sixteen bits.png": lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) * 257),
    "twelve bits.tiff": lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) * 16),
    "transparent.png": lambda image: Image.merge("LA", [Image.eval(image, f) for f in (lambda _: 0, (255).__sub__)]),
    "phone.heic": lambda image: image.convert("RGB"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODES)
def test_what_peoples_devices_write_is_read(name, read, tmp_path):
    if name.endswith("heic"):
        pytest.importorskip("pillow_heif", reason="needs the extra `heic`").register_heif_opener()
    MODES[name](strokes(SEVEN)).save(tmp_path / name)
    assert read(tmp_path / name) == "7"
    assert read((tmp_path / name).read_bytes()) == "7"


def test_a_picture_is_turned_as_its_exif_data_says(read, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # held on its side
    strokes(SEVEN).rotate(90).save(tmp_path / "a.jpg", exif=exif)
    assert read(tmp_path / "a.jpg") == "7"


def test_a_phones_64_megapixels_are_read(read, tmp_path):
    strokes(SEVEN, size=8000).save(tmp_path / "a.jpg")
    assert read(tmp_path / "a.jpg") == "7"
    left, top, right, bottom = read_page(tmp_path / "a.jpg").digits[0].box
    assert (left, top, right, bottom) == pytest.approx((2000, 1750, 6150, 6150), abs=350)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0half"])
def test_a_file_without_a_picture_is_one_line_with_its_name(content, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match="a.png: ") as error:
        read_page(tmp_path / "a.png")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="missing.png: .*No such file"):
        read_page(tmp_path / "missing.png")


def test_folders_and_patterns_are_expanded_and_what_is_left_out_is_said(tmp_path, capsys):
    for name in ("b.png", "a 1.JPG", "notes.txt", ".hidden.png", "c.webp"):
        (tmp_path / name).write_text("")
    (tmp_path / "empty").mkdir()
    files, problems = image_files([str(tmp_path), str(tmp_path / "empty"), str(tmp_path / "*.png"), "gone.png"])
    assert [os.path.basename(file) for file in files] == ["a 1.JPG", "b.png", "c.webp", "b.png", "gone.png"]
    assert problems == [f"{tmp_path / 'empty'} is a folder without pictures"]
    assert "1 of 4 files left out, no pictures: notes.txt" in capsys.readouterr().err


@pytest.mark.parametrize("crop", [0, 20, 32])
@pytest.mark.parametrize("kind", ["dark", "light", "thin", "thick", "small", "uneven"])
def test_one_digit_is_one_digit_however_close_it_is_cropped(kind, crop, read):
    options = {"light": {"ink": 240, "paper": 30}, "thin": {"width": 4}, "thick": {"width": 26}}
    image = strokes(SEVEN, **options.get(kind, {}))
    image = image.crop((crop, crop, 200 - crop // 2, 200 - crop // 2))
    if kind == "small":
        image = image.resize((28, 28))
    if kind == "uneven":  # a pencil that is pressed less in the middle
        values = np.asarray(image).astype(float)
        fade = 1 - 0.5 * np.exp(-(((np.arange(len(values)) - len(values) / 2) / 12) ** 2))
        image = Image.fromarray((250 - (250 - values) * fade[:, None]).astype(np.uint8))
    assert read(image) == "7"


@pytest.mark.parametrize("seed", [0, 1000, 2000])
def test_synthetic_pages_of_one_digit_are_read(seed, read):
    found = [read(drawn(k, np.random.default_rng(seed + k))) for k in range(10)]
    assert sum(each == str(k) for k, each in enumerate(found)) >= 9, found


def test_images_of_mnist_are_read_tiny_and_enlarged(sample, read):
    for scale in (1, 8):
        found = []
        for pixels in sample.test.images[:20]:
            image = Image.fromarray(pixels.numpy()).resize((28 * scale, 28 * scale))
            found.append(read(image))
        assert sum(a == str(b) for a, b in zip(found, sample.test.digits[:20].tolist(), strict=True)) >= 19


@pytest.mark.parametrize("kind", pages.KINDS)
def test_synthetic_pages_are_found_read_and_in_order(kind, mnist_folder):
    from mnist_sum.data import load_data

    model = load("tiny", "cpu").model

    def digits(pixels):
        return [each.digit for each in predict_batch(model, pixels, 0)]

    counts = pages.measure(kind, 2, load_data("mnist", mnist_folder).test, digits, seed=2026)
    assert counts["found"] >= 0.95 * counts["digits"]
    assert counts["read"] >= 0.9 * counts["digits"]
    assert counts["false"] <= 1
    assert counts["in_order"] == 2


def test_a_page_on_its_side_is_turned_and_one_digit_never_is(read, mnist_folder):
    from mnist_sum.data import load_data

    test, rng = load_data("mnist", mnist_folder).test, np.random.default_rng(4)
    page, _ = pages.page("clean", test.images[:12], test.digits[:12], rng, lines=3, per_line=4)
    upright = read(page)
    for degrees in (90, 270):
        side = page.rotate(degrees, expand=True)
        assert read_page(side).turned == degrees
        assert read(side) == upright
    assert read_page(strokes(SEVEN).rotate(90)).turned == 0


def test_lines_of_a_form_are_no_digits_and_cut_none(read):
    image = strokes(SEVEN, FOUR, SEVEN)
    draw = ImageDraw.Draw(image)
    for x in range(0, 601, 200):
        draw.line([(x, 10), (x, 190)], fill=60, width=4)
    for y in (12, 188):
        draw.line([(0, y), (260, y)], fill=60, width=4)
        draw.line([(280, y), (600, y)], fill=60, width=4)  # with a gap
    assert read(image) == "747"


@pytest.mark.parametrize("crop", [0, 20, 30])
def test_a_digit_that_fills_squared_paper_is_read(crop, read):
    image = strokes(FOUR, width=22)
    for at in (36, 116, 196):
        ImageDraw.Draw(image).line([(0, at), (200, at)], fill=150, width=5)
        ImageDraw.Draw(image).line([(at, 0), (at, 200)], fill=150, width=5)
    assert read(image.crop((crop, crop, 200 - crop // 2, 200 - crop // 2))) == "4"


def test_a_box_is_no_part_of_the_digit_in_it(read):
    image = Image.new("L", (1200, 1200), 250)
    image.paste(strokes(SEVEN, size=114), (600, 400))
    ImageDraw.Draw(image).rectangle((607, 407, 707, 507), outline=20, width=8)
    assert read(image) == "7"


def test_a_stroke_along_a_paler_line_stays(read):
    image = np.array(strokes(SEVEN, SEVEN, SEVEN, width=6))
    for y in (48, 182):  # the first along the top of each 7
        image[y : y + 5] = image[y : y + 5].clip(max=190)
    assert read(Image.fromarray(image)) == "777"


def test_a_pointed_zero_is_no_plus(read):
    assert read(drawn(0, np.random.default_rng([2026, 110]))) == "0"


def test_signs_are_left_out_or_in_doubt():
    found = read_page(strokes(SEVEN, PLUS, FOUR)).digits
    assert all(digit.doubt for digit in found if 200 < digit.box[0] < 400)
    assert sum(not digit.doubt for digit in found) == 2


@pytest.mark.parametrize("page", ["blank", "noise", "slope"])
def test_a_page_without_digits_is_one_line(page):
    values = np.full((200, 200), 200.0)
    values += {"blank": 0, "noise": np.random.default_rng(0).normal(0, 6, values.shape), "slope": np.arange(200) / 5}[
        page
    ]
    with pytest.raises(UserError, match="no digit found"):
        read_page(Image.fromarray(values.clip(0, 255).astype(np.uint8)))


def test_as_many_digits_as_allowed_are_found_and_more_are_refused(monkeypatch):
    one = np.asarray(strokes(SEVEN, size=40))
    digits = read_page(Image.fromarray(np.tile(one, (10, 20)))).digits
    assert len(digits) == MOST
    assert (digits[-1].line, digits[-1].place) == (10, 20)
    monkeypatch.setattr("mnist_sum.images.page.MOST", 5)
    with pytest.raises(UserError, match="more than 5 shapes"):
        read_page(Image.fromarray(np.tile(one, (2, 3))))


@given(lines=st.lists(st.integers(1, 8), min_size=1, max_size=6), degrees=st.floats(-9, 9))
@settings(deadline=None, max_examples=30)
def test_reading_order_is_by_lines_though_the_page_is_askew(lines, degrees):
    boxes, expected = [], []
    slope = np.tan(np.radians(degrees))
    for line, count in enumerate(lines):
        expected.append(list(range(len(boxes), len(boxes) + count)))
        for place in range(count):
            x, y = 60 * place, 90 * line + slope * 60 * place
            boxes.append((round(x), round(y), round(x) + 30, round(y) + 40))
    if len(set(lines)) == 1 or max(lines) * 60 * abs(slope) < 40:
        assert reading_order(boxes) == expected


def test_the_detector_flags_few_digits_and_most_of_what_is_none(sample):
    assert (novelty(sample.test.images) > THRESHOLD).float().mean() < 0.02
    shares = [
        (novelty(no_digits.make(kind, "report", 12, 2, sample.test)) > THRESHOLD).float().mean().item()
        for kind in no_digits.kinds("report")
    ]
    assert sum(shares) / len(shares) > 0.85
