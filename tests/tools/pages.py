"""Synthetic pages of several digits, and how many of them are found and read: `python -m tests.tools.pages`.

The digits are MNIST's; pen, paper, lines, light, shadow, skew, specks, noise and JPEG's loss are this
program's. No page was written, laid out or photographed by a person. It needs the full MNIST.
"""

import argparse
import io
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter

from mnist_sum.cli import UserError
from mnist_sum.data import Split
from mnist_sum.images import Digit, read_page
from tests.tools.handwriting import BOARDS, CHALK, INKS, PAPERS

KINDS = ("clean", "ruled", "squared", "shadow", "skewed", "noisy", "table", "chalk", "photograph")
TABLES = ((70, 48, 32), (35, 35, 38), (150, 110, 75), (60, 80, 95))

Box = tuple[int, int, int, int]


class Placed(NamedTuple):
    """A digit as it was drawn; line, place and box as images.Digit has them."""

    line: int
    place: int
    box: Box
    digit: int


def page(kind, pixels, digits, rng, lines=None, per_line=None):
    """Draw one page (PIL, RGB) with the digits in MNIST's images -> (the page, [Placed, ...]).

    kind: one of KINDS. pixels: uint8 (N, 28, 28); digits: (N,). lines, per_line: how many, at most, of the
    page's lines and of the digits in each (by default rng decides). All else comes from rng.
    """
    lines, per_line = lines or int(rng.integers(1, 8)), per_line or int(rng.integers(1, 9))
    height = rng.uniform(36, 110) if lines * per_line < 40 else rng.uniform(30, 50)  # of a digit
    cover, placed = _written(pixels, digits, lines, per_line, height, rng)
    dark = kind == "chalk"
    ink = np.array((CHALK if dark else INKS)[rng.integers(3 if dark else len(INKS))], np.float32)
    paper = (BOARDS if dark else PAPERS)[rng.integers(3 if dark else len(PAPERS))]
    sheet = np.full((*cover.shape, 3), paper, np.float32)
    lined = {"ruled": "ruled", "squared": "squared", "photograph": rng.choice(["ruled", "squared", ""])}
    _draw_lines(sheet, lined.get(kind), height, rng)
    if rng.random() < 0.3:  # pencil and chalk leave gaps
        cover = cover * rng.uniform(0.6, 1, cover.shape).astype(np.float32)
    sheet = sheet * (1 - cover[..., None]) + ink * cover[..., None]
    if kind in ("noisy", "photograph"):
        _draw_specks(sheet, ink, height, rng)
    image = Image.fromarray(sheet.clip(0, 255).astype(np.uint8))
    if kind in ("skewed", "table", "photograph"):
        angle = rng.uniform(-10, 10) if kind != "table" else rng.uniform(-3, 3)
        image, placed = _on_table(image, placed, angle, kind != "skewed", rng)
    placed = [Placed(line, place, _box(points), digit) for line, place, points, digit in placed]
    return _photographed(image, kind, rng), placed


def _written(pixels, digits, lines, per_line, height, rng):
    """The ink's cover, float (H, W), and (line, place, the ink's points (2, M), digit) of each digit."""
    places, left, widest = [], rng.uniform(0.5, 2) * height, 0
    top = rng.uniform(0.5, 2) * height
    leading, spacing, gap = rng.uniform(1.35, 2.2), rng.uniform(0.15, 1.0), rng.uniform(0.4, 0.65)
    number = 0
    for line in range(1, lines + 1):
        x = left + rng.uniform(0, 0.8) * height
        for place in range(1, int(rng.integers(1, per_line + 1)) + 1):
            glyph = _glyph(pixels[number % len(pixels)], height * rng.uniform(0.85, 1.1), gap)
            y = top + (height - glyph.shape[0]) / 2 + rng.uniform(-0.07, 0.07) * height
            places.append((line, place, round(x), round(y), glyph, int(digits[number % len(pixels)])))
            x += glyph.shape[1] + (spacing + rng.uniform(0.05, 0.35)) * height
            number += 1
        widest = max(widest, x)
        top += leading * height
    size = round(top + rng.uniform(0.3, 2) * height), round(widest + rng.uniform(0.3, 2) * height)
    cover, written = np.zeros(size, np.float32), []
    for line, place, x, y, glyph, digit in places:
        inked = np.array(np.nonzero(glyph > 0.5))
        cover[y : y + glyph.shape[0], x : x + glyph.shape[1]] = glyph
        written.append((line, place, inked[::-1] + np.array([[x], [y]]), digit))
    return cover, written


def _glyph(pixels, height, level):
    """One digit of MNIST as cover in [0, 1], its longer side this high; a higher level: a finer pen."""
    rows, columns = (np.nonzero(np.asarray(pixels).max(axis) > 60)[0] for axis in (1, 0))
    ink = np.asarray(pixels)[rows[0] - 1 : rows[-1] + 2, columns[0] - 1 : columns[-1] + 2]
    scale = height / max(ink.shape)
    size = [max(3, round(side * scale)) for side in ink.shape[::-1]]
    grey = np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BICUBIC), dtype=np.float32) / 255
    return ((grey - level) * min(4, 0.12 * height) + 0.5).clip(0, 1)


def _draw_lines(sheet, lined, height, rng):
    if not lined:
        return
    step = height * (rng.uniform(1.2, 2.0) if lined == "ruled" else rng.uniform(0.45, 1.1))
    colour = np.array([(90, 60, 20), (60, 60, 60), (100, 40, 40)][rng.integers(3)], np.float32)
    colour = colour * rng.uniform(0.25, 0.9)  # what the line takes away
    thick = max(1, round(height * rng.uniform(0.015, 0.05)))
    for axis in range(1 if lined == "ruled" else 2):
        for at in np.arange(rng.uniform(0, step), sheet.shape[axis] - thick, step).astype(int):
            (sheet if axis == 0 else sheet.swapaxes(0, 1))[at : at + thick] -= colour
    if lined == "ruled" and rng.random() < 0.5:  # the margin
        at = int(rng.uniform(0.05, 0.4) * height)
        sheet[:, at : at + thick] -= np.array((10, 90, 90), np.float32)


def _draw_specks(sheet, ink, height, rng):
    for _ in range(int(rng.integers(2, 12))):
        size = max(1, int(height * rng.uniform(0.02, 0.12)))
        y, x = (int(rng.integers(side - size)) for side in sheet.shape[:2])
        sheet[y : y + size, x : x + size] = ink


def _on_table(image, placed, angle, visible, rng):
    """The sheet turned by the angle in degrees, on a table that is visible around it."""
    table = TABLES[rng.integers(len(TABLES))]
    turned = image.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor=table)
    border = [int(rng.uniform(0, 0.12) * turned.width) * visible for _ in range(4)]
    size = turned.width + border[0] + border[2], turned.height + border[1] + border[3]
    whole = Image.new("RGB", size, table)
    whole.paste(turned, (border[0], border[1]))
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.array([[cos, sin], [-sin, cos]])
    old, new = (np.array(each.size)[:, None] / 2 for each in (image, turned))
    shift = new + np.array(border[:2])[:, None]
    return whole, [(line, place, turn @ (points - old) + shift, digit) for line, place, points, digit in placed]


def _box(points):
    (left, top), (right, bottom) = points.min(1), points.max(1) + 1
    return round(left), round(top), round(right), round(bottom)


def _photographed(image, kind, rng):
    """The page under light, with the camera's blur, noise and JPEG's loss."""
    values = np.asarray(image).astype(np.float32)
    height, width, _ = values.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle, fall = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.3)
    light = 1 - fall * (x * math.cos(angle) + y * math.sin(angle) + 1) / 2
    light -= rng.uniform(0, 0.15) * (x**2 + y**2) / 2  # the corners are darker
    if kind == "shadow" or kind == "photograph" and rng.random() < 0.5:
        angle, edge = rng.uniform(0, 2 * math.pi), rng.uniform(0.005, 0.15)
        distance = x * math.cos(angle) + y * math.sin(angle) - rng.uniform(-0.5, 0.5)
        light *= 1 - rng.uniform(0.2, 0.5) / (1 + np.exp((distance / edge).clip(-50, 50)))
    noise, blur = (rng.uniform(10, 22), rng.uniform(0, 1.2)) if kind == "noisy" else (rng.uniform(0, 6), 0.5)
    values = values * light[..., None] + rng.normal(0, noise, values.shape)
    image = Image.fromarray(values.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(blur))
    if kind in ("noisy", "photograph") or rng.random() < 0.5:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(rng.integers(35, 95)))
        image = Image.open(io.BytesIO(file.getvalue())).convert("RGB")
    return image


def matched(found: list[Digit], placed: list[Placed]) -> list[int | None]:
    """For each found digit the index of the placed one that it shows, or None; each is shown once at most."""
    pairs = sorted(
        ((_overlap(f.box, p.box), i, j) for i, f in enumerate(found) for j, p in enumerate(placed)), reverse=True
    )
    result: list[int | None] = [None] * len(found)
    for overlap, i, j in pairs:
        if overlap > 0.5 and result[i] is None and j not in result:
            result[i] = j
    return result


def _overlap(box: Box, other: Box) -> float:
    """The intersection over the union of two boxes (left, top, right, bottom)."""
    width, height = (min(box[i + 2], other[i + 2]) - max(box[i], other[i]) for i in (0, 1))
    if min(width, height) <= 0:
        return 0.0
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (box, other)]
    return width * height / (sum(areas) - width * height)


def measure(kind: str, pages: int, split: Split, read: Callable[[torch.Tensor], list[int]], seed: int) -> Counter:
    """Count what is found and read on this many pages of the kind; read: pixels (N, 28, 28) -> their digits."""
    counts: Counter = Counter(pages=pages)
    for number in range(pages):
        rng = np.random.default_rng([seed, KINDS.index(kind), number])
        chosen = rng.integers(len(split), size=64)
        image, placed = page(kind, split.images[chosen], split.digits[chosen], rng)
        start = time.perf_counter()
        try:
            result = read_page(image)
            found, turned = result.digits, result.turned
        except UserError:
            found, turned = [], 0
        counts["seconds"] += time.perf_counter() - start
        at = matched(found, placed)
        digits = read(torch.stack([f.pixels for f in found])) if found else []
        order = [(j, f.line, placed[j].line) for f, j in zip(found, at, strict=True) if j is not None]
        counts["digits"] += len(placed)
        counts["found"] += len(order)
        counts["read"] += sum(j is not None and placed[j].digit == d for j, d in zip(at, digits, strict=True))
        counts["false"] += at.count(None)
        for f, j in zip(found, at, strict=True):
            counts["unsure" if j is not None else "false_unsure"] += bool(f.doubt)
        lines = {each[1:] for each in order}
        counts["in_order"] += order == sorted(order) and len(lines) == len({line for pair in lines for line in pair})
        counts["turned"] += turned != 0
    return counts


def main() -> None:
    from mnist_sum.data import load_data
    from mnist_sum.predict import load, predict_batch

    parser = argparse.ArgumentParser(prog="python -m tests.tools.pages", description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--split", choices=("validation", "standard"), default="validation",
                        help="whose digits: of held-out training images, or MNIST's test images")  # fmt: skip
    parser.add_argument("--pages", type=int, default=40, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    split = load_data("mnist", args.data_dir, args.split).test
    model = load("tiny", "cpu").model
    show(args, split, lambda pixels: [each.digit for each in predict_batch(model, pixels, 0)])


def show(args: argparse.Namespace, split: Split, read: Callable[[torch.Tensor], list[int]]) -> None:
    print("kind        pages  digits   found     read  unsure  false  of these unsure  in order  turned  s/page")
    for kind in KINDS:
        c = measure(kind, args.pages, split, read, args.seed)
        print(f"{kind:11} {c['pages']:5}  {c['digits']:6}  {c['found'] / c['digits']:6.2%}  "
              f"{c['read'] / c['digits']:6.2%}  {c['unsure']:6}  {c['false']:5}  {c['false_unsure']:15}  "
              f"{c['in_order'] / c['pages']:8.1%}  {c['turned']:6}  {c['seconds'] / c['pages']:6.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
