"""Pages of several digits: synthetic ones that pages.py draws, what touches or is broken, reading order."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from handwriting import drawn
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from test_images import ON_ITS_SIDE, page_without_one_digit, seven

from mnist_sum import data, images
from mnist_sum.console import UserError
from mnist_sum.evaluation.predict import predict_batch
from mnist_sum.images.page import MOST
from mnist_sum.images.reading_order import reading_order
from mnist_sum.models import shipped
from mnist_sum.recipes import DEFAULT_MODEL
from mnist_sum.runs.checkpoint import load_model
from mnist_sum.runs.trained import load
from tests import pages


@pytest.mark.parametrize("kind", pages.KINDS)
def test_digits_on_synthetic_pages_are_found_and_predicted_in_reading_order(kind, mnist_folder):
    model, _ = load_model(shipped(DEFAULT_MODEL), torch.device("cpu"))
    counts = pages.measure(kind, 2, data.load("mnist", mnist_folder).test, model, seed=2026)
    assert counts["found"] >= 0.95 * counts["digits"] and counts["read"] >= 0.9 * counts["digits"]
    assert counts["false"] <= 1 and counts["in_order"] == 2


@pytest.mark.parametrize("digit", range(0, 10, 3))
def test_single_digit_is_prepared_as_ever_and_its_box_holds_it(digit):
    page = drawn(digit, np.random.default_rng([7, digit]))
    (found,) = images.find_digits(page)
    assert torch.equal(found.pixels, images.prepare(page))
    assert (found.line, found.place, found.touching) == (1, 1, False)
    left, top, right, bottom = found.box
    assert 0 <= left < right <= page.width and 0 <= top < bottom <= page.height
    around = page.crop((left - 9, top - 9, right + 9, bottom + 9))
    again = images.prepare(around)
    assert (again.float() - found.pixels.float()).abs().mean() < 20


def strokes(*lines, size=(420, 200), width=9):
    page = Image.new("RGB", size, (250, 250, 245))
    for line in lines:
        ImageDraw.Draw(page).line(line, fill=(20, 20, 60), width=width)
    return page


FIVE = [[(60, 40), (60, 80), (95, 85), (105, 115), (90, 140), (50, 140)], [(66, 30), (110, 26)]]
FOUR = [[(240, 30), (215, 90), (268, 90)], [(278, 40), (276, 140)]]
ZERO = [(40, 60), (70, 40), (105, 60), (105, 120), (70, 140), (40, 120), (40, 60)]
ONE = [[(360, 30), (356, 140)]]


def test_a_digit_in_two_strokes_is_one_digit():
    found = images.find_digits(strokes(*FIVE, *FOUR, *ONE))
    assert [digit.box[0] for digit in found] == pytest.approx([45, 210, 350], abs=8)
    assert [digit.box[3] - digit.box[1] for digit in found] == pytest.approx([120, 110, 110], abs=12)
    assert not any(digit.touching for digit in found)


def test_digits_that_touch_are_one_shape_and_flagged():
    for apart, touching in ((65, [True, False, False]), (80, [False] * 4)):
        found = images.find_digits(strokes(ZERO, [(x + apart, y) for x, y in ZERO], *FOUR, *ONE))
        assert [digit.touching for digit in found] == touching


def test_digits_that_only_just_touch_are_parted():
    sevens = np.asarray(seven())
    page = np.tile(sevens, (1, 3, 1)).copy()
    page[50, 150:250] = 130  # a faint line from the first to the second
    found = images.find_digits(Image.fromarray(page))
    assert [(digit.place, digit.touching) for digit in found] == [(1, False), (2, False), (3, False)]


def test_two_tall_digits_side_by_side_fill_the_drawing():
    found = images.find_digits(
        strokes([(80, 20), (70, 290)], [(180, 20), (280, 20), (210, 290)], size=(320, 320))
    )
    assert [digit.box[0] for digit in found] == pytest.approx([65, 178], abs=6)


@pytest.mark.parametrize("kind", ["blank", "half lit", "sloping light", "ruled", "spot", "noise"])
def test_page_without_digits_is_refused(kind):
    for seed in range(3):
        with pytest.raises(UserError):
            images.find_digits(page_without_one_digit(kind, np.random.default_rng(seed)))


def test_as_many_digits_as_allowed_are_found_and_one_more_is_refused():
    digit = np.asarray(seven(60))
    rows = [np.tile(digit, (1, 20, 1)) for _ in range(MOST // 20)]
    page = Image.fromarray(np.concatenate(rows))
    found = images.find_digits(page)
    assert [(f.line, f.place) for f in found] == [(1 + i // 20, 1 + i % 20) for i in range(MOST)]
    larger = Image.new("RGB", (page.width, page.height + 60), (250, 250, 250))
    larger.paste(page)
    larger.paste(seven(60), (0, page.height))
    with pytest.raises(UserError, match="more than 200 shapes"):
        images.find_digits(larger)


def test_boxes_are_in_pixels_of_a_large_image_which_takes_seconds_not_minutes():
    page = Image.new("RGB", (4000, 3000), (245, 245, 240))
    corners = [(300, 400), (1700, 500), (400, 1700)]
    for corner in corners:
        page.paste(seven(800), corner)
    start = time.perf_counter()
    found = images.find_digits(page)
    assert time.perf_counter() - start < 20  # alone on two cores below 1
    for digit, (left, top) in zip(found, corners, strict=True):
        assert digit.box == pytest.approx((left + 200, top + 200, left + 600, top + 640), abs=30)


@given(
    lines=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    degrees=st.floats(-10, 10),
    seed=st.integers(0, 2**32 - 1),
)
def test_reading_order_is_by_lines_though_the_page_is_askew(lines, degrees, seed):
    rng = np.random.default_rng(seed)
    lines[rng.integers(len(lines))] = int(rng.integers(5, 10))  # one line at least shows how askew it is
    places = np.array([(x, y) for y, count in enumerate(lines) for x in range(count)], dtype=float)
    centres = places * (90, 150) + rng.uniform(-1, 1, places.shape) * (15, 6)
    angle = np.radians(degrees)
    centres = centres @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    half = rng.uniform(0.8, 1.0, (len(centres), 1)) * (25, 45)
    shuffled = rng.permutation(len(centres))
    found = reading_order(np.hstack((centres - half, centres + half))[shuffled])
    assert [len(line) for line in found] == lines
    assert [shuffled[i] for line in found for i in line] == list(range(len(centres)))


def page_of_sevens():
    """Two in a line and one below -> the page, and their boxes."""
    page, corners = Image.new("RGB", (300, 280), (250, 250, 250)), [(20, 10), (160, 20), (40, 150)]
    for corner in corners:
        page.paste(seven(120), corner)
    return page, [(left + 30, top + 30, left + 90, top + 96) for left, top in corners]


def test_of_a_folder_the_images_are_read_by_name_a_page_line_by_line(script, tmp_path):
    folder, empty = tmp_path / "folder", tmp_path / "empty"
    folder.mkdir()
    empty.mkdir()
    page, boxes = page_of_sevens()
    page.save(folder / "b.PNG")
    page.rotate(90, expand=True).save(folder / "c.jpg", exif=ON_ITS_SIDE)
    drawn(4, np.random.default_rng(4)).save(folder / "a.jpeg")
    (folder / "damaged.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    flags = ("--image", folder, empty, "--number", 7, "--output", tmp_path / "own.png")
    done, as_json = (script("inference.py", *flags, *more) for more in ((), ("--json",)))
    assert done.returncode == as_json.returncode == 1
    assert done.stderr.splitlines() == [
        f"inference.py: error: {empty} is a folder without PNG or JPEG files",
        f"inference.py: error: {folder / 'damaged.png'}: this is not a PNG or JPEG image",
    ]
    cases = [json.loads(line) for line in as_json.stdout.splitlines()]
    read = [(Path(case["file"]).name, case["line"], case["place"], case["digit"]) for case in cases]
    three = [(1, 1, 7), (1, 2, 7), (2, 1, 7)]
    assert read == [("a.jpeg", 1, 1, 4), *((name, *case) for name in ("b.PNG", "c.jpg") for case in three)]
    for case, box in zip(cases[1:], 2 * boxes, strict=True):
        assert case["box"] == pytest.approx(box, abs=5)
        assert (case["sum"], case["unsure"]) == (14, False)
    single, *lines, _ = done.stdout.splitlines()[2:]
    assert single.startswith(f"{folder / 'a.jpeg'}: digit 4 ")
    assert [line.partition(" digit ")[0].rstrip() for line in lines[1:4]] == [
        "  line 1     1", "             2", "  line 2     1",
    ]  # fmt: skip
    assert lines[0] == f"{folder / 'b.PNG'}: 3 digits in 2 lines" and len(lines) == 8
    assert Image.open(tmp_path / "own.png").height > 1500  # the pages are drawn beside the single digit


def test_a_picture_never_replaces_an_image_of_the_folder(script, tmp_path):
    drawn(4, np.random.default_rng(4)).save(tmp_path / "predictions.png")
    before = (tmp_path / "predictions.png").read_bytes()
    done = script("inference.py", "--image", ".", "--number", 7, cwd=tmp_path)
    assert done.returncode == 1 and "it is read by this command; give another name" in done.stderr
    assert (tmp_path / "predictions.png").read_bytes() == before


def test_from_python_a_page_of_several_digits_is_refused_with_their_number(tmp_path):
    page, _ = page_of_sevens()
    with pytest.raises(UserError, match="there are 3 digits on the page, and predict\\(\\) takes one"):
        load("tiny").predict(page, 5)


@pytest.mark.parametrize("table", [(30, 30, 30), (70, 48, 32)])
def test_a_sheet_that_lies_askew_on_a_dark_table_is_no_digit(table):
    sheet = Image.new("RGB", (800, 1080), (235, 235, 228))
    pen = ImageDraw.Draw(sheet)
    for left in (200, 400):
        pen.line(((left, 500), (left + 90, 500), (left + 40, 640)), (25, 30, 60), 14)
    page = Image.new("RGB", (1300, 1700), table)
    turned = sheet.rotate(6, expand=True, fillcolor=table, resample=Image.Resampling.BICUBIC)
    page.paste(turned, (200, 250))
    assert [found.touching for found in images.find_digits(page)] == [False, False]


@pytest.mark.parametrize("enlarged", [1, 8])
def test_an_image_of_mnist_is_one_digit_on_a_page_too(sample, enlarged):
    model, _ = load_model(shipped(DEFAULT_MODEL), torch.device("cpu"))
    correct = 0
    for pixels, digit in zip(sample.test.images[:20], sample.test.digits[:20].tolist(), strict=True):
        image = Image.fromarray(pixels.numpy()).resize((28 * enlarged,) * 2).convert("RGB")
        found = images.find_digits(image)
        correct += len(found) == 1 and predict_batch(model, found[0].pixels[None], 0)[0].digit == digit
    assert correct >= 19


def test_unsure_answers_are_printed_with_the_reason_and_do_not_fail(script, tmp_path):
    strokes(ZERO, [(x + 65, y) for x, y in ZERO], *FOUR, *ONE).save(tmp_path / "page.png")
    flags = ("--image", "page.png", "--number", 0)
    done, as_json = (script("inference.py", *flags, *more, cwd=tmp_path) for more in ((), ("--json",)))
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = (
        line for line in done.stdout.splitlines() if line.endswith("  touching: perhaps several digits")
    )
    assert line.startswith("  line 1     1  digit ")
    assert [json.loads(line)["unsure"] for line in as_json.stdout.splitlines()] == [True, False, False]


def test_digits_of_a_page_are_predicted_as_one_by_one(mnist_folder):
    model, _ = load_model(shipped(DEFAULT_MODEL), torch.device("cpu"))
    pixels = data.load("mnist", mnist_folder, limit=5).test.images
    together = predict_batch(model, pixels, 4)
    for each, prediction in zip(pixels, together, strict=True):
        (alone,) = predict_batch(model, each[None], 4)
        assert alone[:2] == prediction[:2]
        torch.testing.assert_close(alone.sum_probabilities, prediction.sum_probabilities)
