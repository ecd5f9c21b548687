"""Synthetic pages: digits that this program draws, no person's handwriting and no photograph.

drawn(digit, rng) gives one such page, an RGB PIL image: strokes on paper under light. All of it comes
from rng: the digit's shape, pen, ink, paper, light, rotation, place, size, noise, blur and JPEG's loss.
"""

import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

# Each digit in the unit square, y down, as alternative lists of strokes; a stroke is a list of points
# that a smooth curve runs through ("L" first: straight lines).
SHAPES = {
    0: [[[(0.5, 0.02), (0.15, 0.2), (0.05, 0.55), (0.25, 0.95), (0.6, 0.95), (0.9, 0.6), (0.8, 0.2),
          (0.5, 0.02)]]],
    1: [[["L", (0.5, 0.0), (0.5, 1.0)]], [["L", (0.3, 0.22), (0.55, 0.0), (0.55, 1.0)]]],
    2: [[[(0.1, 0.25), (0.3, 0.03), (0.7, 0.05), (0.85, 0.3), (0.6, 0.6), (0.1, 0.97)],
         ["L", (0.1, 0.97), (0.92, 0.95)]]],
    3: [[[(0.12, 0.12), (0.5, 0.0), (0.85, 0.2), (0.45, 0.47)],
         [(0.45, 0.47), (0.9, 0.65), (0.75, 0.93), (0.4, 1.0), (0.08, 0.88)]]],
    4: [[["L", (0.35, 0.0), (0.08, 0.6), (0.9, 0.6)], ["L", (0.7, 0.25), (0.66, 1.0)]],
        [["L", (0.68, 0.0), (0.05, 0.68), (0.95, 0.68)], ["L", (0.68, 0.0), (0.68, 1.0)]]],
    5: [[["L", (0.85, 0.02), (0.25, 0.04), (0.2, 0.43)],
         [(0.2, 0.43), (0.55, 0.36), (0.88, 0.6), (0.75, 0.92), (0.4, 1.0), (0.1, 0.88)]]],
    6: [[[(0.72, 0.02), (0.35, 0.22), (0.1, 0.6), (0.2, 0.92), (0.5, 1.0), (0.8, 0.82), (0.72, 0.58),
          (0.45, 0.52), (0.14, 0.72)]]],
    7: [[["L", (0.08, 0.05), (0.9, 0.05), (0.4, 1.0)]],
        [["L", (0.08, 0.05), (0.9, 0.05), (0.4, 1.0)], ["L", (0.3, 0.52), (0.82, 0.5)]]],
    8: [[[(0.5, 0.48), (0.18, 0.25), (0.5, 0.0), (0.82, 0.24), (0.5, 0.48), (0.1, 0.75), (0.5, 1.0),
          (0.9, 0.76), (0.5, 0.48)]]],
    9: [[[(0.82, 0.25), (0.5, 0.02), (0.15, 0.25), (0.4, 0.5), (0.78, 0.36), (0.84, 0.2)],
         [(0.84, 0.2), (0.82, 0.55), (0.66, 1.0)]]],
}  # fmt: skip
INKS = [(25, 25, 30), (30, 45, 140), (150, 25, 35), (20, 90, 50), (90, 90, 95), (95, 40, 120)]
PAPERS = [(252, 252, 250), (240, 233, 214), (226, 230, 235), (200, 190, 175)]
CHALK = [(245, 245, 240), (255, 230, 120), (150, 220, 255)]
BOARDS = [(0, 0, 0), (25, 45, 35), (40, 40, 48)]


def _curve(points):
    """Points along a Catmull-Rom curve through the given ones."""
    padded = [points[0], *points, points[-1]]
    out = []
    for before, start, end, after in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for t in np.linspace(0, 1, 12):
            out.append(tuple(
                0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
                       + (3 * b - a - 3 * c + d) * t**3)
                for a, b, c, d in zip(before, start, end, after, strict=True)
            ))  # fmt: skip
    return out


def strokes(digit, rng):
    """The digit's strokes as lists of points about the origin, its height about 1."""
    shape = SHAPES[digit][rng.integers(len(SHAPES[digit]))]
    width, slant, turn = rng.uniform(0.5, 0.8), rng.uniform(-0.05, 0.3), math.radians(rng.uniform(-9, 9))
    ends = {}  # strokes that meet go on meeting
    for stroke in shape:
        for point in stroke[stroke[0] == "L" :]:
            ends.setdefault(point, [c + rng.normal(0, 0.022) for c in point])
    lines = []
    for stroke in shape:
        straight = stroke[0] == "L"
        points = [ends[point] for point in stroke[straight:]]
        line = []
        for x, y in points if straight else _curve(points):
            x, y = (x - 0.5) * width - slant * (y - 0.5), y - 0.5
            line.append((x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)))
        lines.append(line)
    return lines


def drawn(digit, rng):
    """Draw one synthetic page with the digit (PIL, RGB), 200 to 900 pixels wide; rng decides the rest."""
    dark = rng.random() < 0.25  # chalk on a board, or a drawing on black
    ink = (CHALK if dark else INKS)[rng.integers(3 if dark else len(INKS))]
    paper = (BOARDS if dark else PAPERS)[rng.integers(3 if dark else len(PAPERS))]
    width = int(rng.integers(200, 900))
    height = int(width * rng.uniform(0.7, 1.4))
    size = min(width, height) * rng.uniform(0.3, 0.8)
    pen = size * float(rng.choice([0.025, 0.05, 0.08, 0.12])) * rng.uniform(0.8, 1.2)
    middle = [side / 2 + rng.uniform(-0.5, 0.5) * max(0, side - 1.35 * size) for side in (width, height)]
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    for line in strokes(digit, rng):
        points = [(middle[0] + size * x, middle[1] + size * y) for x, y in line]
        for i, (start, end) in enumerate(zip(points, points[1:], strict=False)):
            wide = pen * (1 + 0.2 * math.sin(i / 5))
            draw.line((start, end), fill=255, width=max(1, round(wide)))
            for x, y in (start, end):
                draw.ellipse((x - wide / 2, y - wide / 2, x + wide / 2, y + wide / 2), fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(0.4 + rng.uniform(0, 0.12) * pen))
    cover = np.asarray(mask, dtype=np.float32)[..., None] / 255
    if rng.random() < 0.3:  # pencil and chalk leave gaps
        cover = cover * rng.uniform(0.55, 1, (height, width, 1)).astype(np.float32)
    page = np.full((height, width, 3), paper, np.float32)
    if not dark and rng.random() < 0.3:  # ruled paper
        step = int(max(12, width * rng.uniform(0.06, 0.12)))
        page[step::step] -= rng.uniform(15, 35)
    page = page * (1 - cover) + np.array(ink, np.float32) * cover
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle, fall = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.3)
    light = 1 - fall * (x * math.cos(angle) + y * math.sin(angle) + 1) / 2
    light -= rng.uniform(0, 0.2) * (x**2 + y**2) / 2  # the corners are darker
    page = page * light[..., None] + rng.normal(0, rng.uniform(0, 9), page.shape)
    image = Image.fromarray(page.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.004) * width))
    if rng.random() < 0.5:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(rng.integers(25, 95)))
        image = Image.open(io.BytesIO(file.getvalue()))
    return image.convert("RGB")
