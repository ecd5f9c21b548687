"""Things that are no digits, drawn by this program or cut from pictures that Python packages ship.

make(kind, part, count, seed, digits) draws some and prepares them as images.mnist_like does a user's picture:
uint8 (count, 28, 28).

part is "develop", what the detector of images/novelty.py may be trained on, or "report", what its
figures are of: other fonts, symbols, scribbles, photographs and digits; KINDS says which kinds are in
neither or only in one. Letters that have a digit's shape, LOOKALIKES, are in none.
"""

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch.nn.functional import grid_sample, interpolate

from mnist_sum.images.mnist_like import INK, mnist_like
from tests.tools.handwriting import _curve as curve

SIDE = 160  # pixels of a drawing
SMALLEST, LARGEST = 0.012, 0.62  # of the drawing's area: what is drawn smaller is a dot, larger a surface

# Decided before anything was measured: in some hand or font these are 0 0 1 1 2 2 5 5 8 6 9 9.
LOOKALIKES = "OoIlZzSsBbqg"
LETTERS = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in LOOKALIKES]
FOREIGN = "ΓΔΘΛΞΠΣΦΨΩαγηλμξπφψωБГДЖИЙЛПЦШЩЫЭЮЯжйлмфцшщыюя"
PUNCTUATION = '?&@#%$*+=<>{}~^"€§£¥¶©®«»'  # | / \ ! ( ) ' , are 1s; - . _ : ; are dots and bars
SYMBOLS = {
    "develop": [*range(0x2190, 0x2200), *range(0x25A0, 0x2600)],  # arrows, geometric shapes
    "report": [*range(0x2200, 0x2300), *range(0x2600, 0x2776), *range(0x2794, 0x27BF)],  # operators, dingbats
}
# 0, 1 or a dot in shape, or a bar: circles, ovals, bullets, verticals, minus, slashes.
SYMBOLS_LIKE_DIGITS = {
    *(0x25CB, 0x25CF, 0x25EF, 0x25E6, 0x25CC, 0x25CD, 0x2B2D, 0x25D0, 0x25D1, 0x25D2, 0x25D3, 0x25D8, 0x25D9),
    *(0x25AE, 0x25AF, 0x25AC, 0x25AD, 0x2212, 0x2215, 0x2216, 0x2218, 0x2219, 0x2223, 0x2224, 0x22C5, 0x2236),
    *(0x2758, 0x2759, 0x275A, 0x26AA, 0x26AB, 0x26AC, 0x274D, 0x26AD, 0x25C6, 0x25C7, 0x25CA, 0x223C, 0x2758),
    *(0x2502, 0x275B, 0x275C, 0x275F, 0x220A, 0x2205, 0x223D, 0x2240, 0x2222, 0x2758, 0x2191, 0x2193, 0x2195),
}
FONTS = {
    "develop": [f"DejaVu{name}" for name in (
        "Sans", "Sans-Bold", "Sans-Oblique", "SansMono", "SansMono-Oblique", "Serif", "Serif-Bold",
        "Serif-Italic")],
    "report": ["STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta", "cmr10", "cmb10",
               "cmss10", "cmtt10", "cmmi10", "cmti10"],
}  # fmt: skip
PHOTOGRAPHS = {"develop": ("flower.jpg", "grace_hopper.jpg"), "report": ("china.jpg",)}

# Letters and icons by strokes, in the unit square, y down; "L" first: straight lines, else a curve.
STROKE_LETTERS = {
    "A": [["L", (0.5, 0), (0.05, 1)], ["L", (0.5, 0), (0.95, 1)], ["L", (0.22, 0.62), (0.78, 0.62)]],
    "C": [[(0.9, 0.15), (0.5, 0), (0.1, 0.5), (0.5, 1), (0.9, 0.85)]],
    "D": [["L", (0.1, 0), (0.1, 1)], [(0.1, 0), (0.7, 0.1), (0.9, 0.5), (0.7, 0.9), (0.1, 1)]],
    "E": [["L", (0.9, 0), (0.1, 0), (0.1, 1), (0.9, 1)], ["L", (0.1, 0.5), (0.75, 0.5)]],
    "F": [["L", (0.9, 0), (0.1, 0), (0.1, 1)], ["L", (0.1, 0.5), (0.7, 0.5)]],
    "G": [[(0.9, 0.15), (0.5, 0), (0.1, 0.5), (0.5, 1), (0.9, 0.8)],
          ["L", (0.9, 0.8), (0.9, 0.55), (0.6, 0.55)]],
    "H": [["L", (0.1, 0), (0.1, 1)], ["L", (0.9, 0), (0.9, 1)], ["L", (0.1, 0.5), (0.9, 0.5)]],
    "J": [["L", (0.3, 0), (0.95, 0)], [(0.7, 0), (0.7, 0.7), (0.55, 0.97), (0.3, 1), (0.1, 0.8)]],
    "K": [["L", (0.1, 0), (0.1, 1)], ["L", (0.9, 0), (0.1, 0.55)], ["L", (0.35, 0.4), (0.9, 1)]],
    "L": [["L", (0.1, 0), (0.1, 1), (0.9, 1)]],
    "M": [["L", (0.05, 1), (0.15, 0), (0.5, 0.65), (0.85, 0), (0.95, 1)]],
    "N": [["L", (0.1, 1), (0.1, 0), (0.9, 1), (0.9, 0)]],
    "P": [["L", (0.1, 0), (0.1, 1)], [(0.1, 0), (0.75, 0.05), (0.85, 0.3), (0.6, 0.52), (0.1, 0.55)]],
    "Q": [[(0.5, 0), (0.1, 0.5), (0.5, 1), (0.9, 0.5), (0.5, 0)], ["L", (0.6, 0.7), (1, 1.1)]],
    "R": [["L", (0.1, 0), (0.1, 1)], [(0.1, 0), (0.75, 0.05), (0.85, 0.3), (0.6, 0.52), (0.1, 0.55)],
          ["L", (0.4, 0.54), (0.9, 1)]],
    "T": [["L", (0, 0), (1, 0)], ["L", (0.5, 0), (0.5, 1)]],
    "U": [[(0.1, 0), (0.1, 0.6), (0.25, 0.95), (0.5, 1), (0.75, 0.95), (0.9, 0.6), (0.9, 0)]],
    "V": [["L", (0.05, 0), (0.5, 1), (0.95, 0)]],
    "W": [["L", (0, 0), (0.25, 1), (0.5, 0.3), (0.75, 1), (1, 0)]],
    "X": [["L", (0.05, 0), (0.95, 1)], ["L", (0.95, 0), (0.05, 1)]],
    "Y": [["L", (0.05, 0), (0.5, 0.5)], ["L", (0.95, 0), (0.5, 0.5), (0.5, 1)]],
    "a": [[(0.85, 0.2), (0.45, 0), (0.08, 0.5), (0.4, 1), (0.85, 0.7)], [(0.87, 0.05), (0.85, 0.8), (1, 1)]],
    "d": [[(0.8, 0.5), (0.4, 0.4), (0.1, 0.7), (0.4, 1), (0.8, 0.8)], ["L", (0.82, 0), (0.82, 1)]],
    "e": [[(0.1, 0.5), (0.9, 0.45), (0.5, 0), (0.08, 0.5), (0.5, 1), (0.9, 0.8)]],
    "f": [[(0.8, 0.05), (0.55, 0), (0.42, 0.25), (0.42, 1)], ["L", (0.15, 0.4), (0.75, 0.4)]],
    "h": [["L", (0.15, 0), (0.15, 1)], [(0.15, 0.6), (0.5, 0.42), (0.78, 0.6), (0.8, 1)]],
    "k": [["L", (0.15, 0), (0.15, 1)], ["L", (0.75, 0.4), (0.15, 0.7), (0.8, 1)]],
    "m": [["L", (0.05, 0), (0.05, 1)], [(0.05, 0.3), (0.3, 0.02), (0.5, 0.3), (0.5, 1)],
          [(0.5, 0.3), (0.75, 0.02), (0.95, 0.3), (0.95, 1)]],
    "n": [["L", (0.1, 0), (0.1, 1)], [(0.1, 0.35), (0.5, 0), (0.85, 0.3), (0.87, 1)]],
    "p": [["L", (0.15, 0), (0.15, 1)], [(0.15, 0.1), (0.6, 0), (0.85, 0.3), (0.6, 0.6), (0.15, 0.5)]],
    "r": [["L", (0.2, 0), (0.2, 1)], [(0.2, 0.4), (0.5, 0.05), (0.9, 0.1)]],
    "t": [[(0.45, 0), (0.45, 0.8), (0.6, 1), (0.85, 0.9)], ["L", (0.1, 0.3), (0.85, 0.3)]],
    "u": [[(0.1, 0), (0.12, 0.7), (0.4, 1), (0.8, 0.7)], ["L", (0.82, 0), (0.84, 1)]],
    "y": [["L", (0.1, 0), (0.5, 0.55)], ["L", (0.9, 0), (0.3, 1)]],
}  # fmt: skip
RING = [
    (0.5, 0),
    (0.15, 0.15),
    (0, 0.5),
    (0.15, 0.85),
    (0.5, 1),
    (0.85, 0.85),
    (1, 0.5),
    (0.85, 0.15),
    (0.5, 0),
]
ICONS = {
    "scale": [["L", (0, 0), (1, 0), (1, 1), (0, 1), (0, 0)],
              ["L", (0.25, 0.12), (0.75, 0.12), (0.75, 0.32), (0.25, 0.32), (0.25, 0.12)]],
    "scale with a dial": [["L", (0, 0.05), (0.1, 0), (0.9, 0), (1, 0.05), (1, 1), (0, 1), (0, 0.05)],
                          [(0.25, 0.4), (0.35, 0.15), (0.65, 0.15), (0.75, 0.4)],
                          ["L", (0.25, 0.4), (0.75, 0.4)], ["L", (0.5, 0.38), (0.58, 0.22)]],
    "house": [["L", (0, 0.45), (0.5, 0), (1, 0.45)], ["L", (0.12, 0.4), (0.12, 1), (0.88, 1), (0.88, 0.4)],
              ["L", (0.4, 1), (0.4, 0.65), (0.6, 0.65), (0.6, 1)]],
    "face": [RING, ["L", (0.33, 0.33), (0.33, 0.42)], ["L", (0.67, 0.33), (0.67, 0.42)],
             [(0.25, 0.62), (0.5, 0.8), (0.75, 0.62)]],
    "clock": [RING, ["L", (0.5, 0.15), (0.5, 0.5), (0.78, 0.62)]],
    "cup": [["L", (0, 0.2), (0.1, 1), (0.6, 1), (0.7, 0.2), (0, 0.2)],
            [(0.69, 0.35), (0.95, 0.35), (0.95, 0.65), (0.64, 0.7)]],
    "tree": [[(0.5, 0), (0.1, 0.15), (0.1, 0.55), (0.5, 0.65), (0.9, 0.55), (0.9, 0.15), (0.5, 0)],
             ["L", (0.42, 0.65), (0.42, 1)], ["L", (0.58, 0.65), (0.58, 1)]],
    "man": [[(0.5, 0), (0.35, 0.12), (0.5, 0.25), (0.65, 0.12), (0.5, 0)], ["L", (0.5, 0.25), (0.5, 0.65)],
            ["L", (0.15, 0.4), (0.85, 0.4)], ["L", (0.2, 1), (0.5, 0.65), (0.8, 1)]],
    "heart": [[(0.5, 0.25), (0.25, 0), (0, 0.3), (0.5, 1), (1, 0.3), (0.75, 0), (0.5, 0.25)]],
    "fish": [[(1, 0.1), (0.4, 0.85), (0, 0.5), (0.4, 0.15), (1, 0.9)], ["L", (1, 0.1), (1, 0.9)]],
    "letter": [["L", (0, 0.15), (1, 0.15), (1, 0.85), (0, 0.85), (0, 0.15), (0.5, 0.55), (1, 0.15)]],
    "umbrella": [[(0, 0.5), (0.15, 0.15), (0.5, 0), (0.85, 0.15), (1, 0.5)], ["L", (0, 0.5), (1, 0.5)],
                 [(0.5, 0.5), (0.5, 0.85), (0.62, 1), (0.75, 0.85)]],
    "sun": [[(0.5, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.5), (0.5, 0.3)], ["L", (0.5, 0.3), (0.5, 0)],
            ["L", (0.5, 0.7), (0.5, 1)], ["L", (0.3, 0.5), (0, 0.5)], ["L", (0.7, 0.5), (1, 0.5)],
            ["L", (0.35, 0.35), (0.12, 0.12)], ["L", (0.65, 0.65), (0.88, 0.88)]],
    "car": [["L", (0, 0.75), (0, 0.5), (0.2, 0.45), (0.32, 0.2), (0.7, 0.2), (0.82, 0.45), (1, 0.5),
             (1, 0.75), (0, 0.75)], [(0.2, 0.75), (0.28, 0.9), (0.36, 0.75)],
            [(0.64, 0.75), (0.72, 0.9), (0.8, 0.75)]],
    "key": [[(0.25, 0.3), (0, 0.5), (0.25, 0.7), (0.45, 0.5), (0.25, 0.3)], ["L", (0.45, 0.5), (1, 0.5)],
            ["L", (0.8, 0.5), (0.8, 0.7)], ["L", (0.95, 0.5), (0.95, 0.7)]],
    "ladder": [["L", (0.2, 0), (0.2, 1)], ["L", (0.8, 0), (0.8, 1)], ["L", (0.2, 0.2), (0.8, 0.2)],
               ["L", (0.2, 0.5), (0.8, 0.5)], ["L", (0.2, 0.8), (0.8, 0.8)]],
}  # fmt: skip


# --- drawing: each gives ink, float32 (SIDE, SIDE) in [0, 1] ------------------------------------------------


def stroked(lines, rng, jitter=0.025, wide=None):
    """Strokes in the unit square as ink, with a jittered place, slant, turn, proportion and pen."""
    picture = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(picture)
    width, height = 100 * rng.uniform(0.65, 1.05), 100 * rng.uniform(0.85, 1.05)
    slant, turn = rng.uniform(-0.1, 0.25), math.radians(rng.uniform(-10, 10))
    pen = rng.uniform(7, 20) if wide is None else wide
    ends = {}  # strokes that meet go on meeting
    for stroke in lines:
        for point in stroke[stroke[0] == "L" :]:
            ends.setdefault(point, [c + rng.normal(0, jitter) for c in point])
    for stroke in lines:
        straight = stroke[0] == "L"
        points = [ends[point] for point in stroke[straight:]]
        placed = []
        for x, y in points if straight else curve(points):
            x, y = (x - 0.5) * width - slant * height * (y - 0.5), (y - 0.5) * height
            placed.append((SIDE / 2 + x * math.cos(turn) - y * math.sin(turn),
                           SIDE / 2 + x * math.sin(turn) + y * math.cos(turn)))  # fmt: skip
        for start, end in zip(placed, placed[1:], strict=False):
            draw.line((start, end), fill=255, width=round(pen))
        for x, y in placed:
            draw.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)
    return np.asarray(picture, dtype=np.float32) / 255


@cache
def font(name):
    """A font by its file's name among matplotlib's, or by its path; with the characters that it has."""
    import matplotlib
    from fontTools.ttLib import TTFont

    path = name if "/" in name else f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf"
    return ImageFont.truetype(path, 100), frozenset(TTFont(path, fontNumber=0).getBestCmap())


def written(characters, fonts, rng):
    """A random character that a random font has, as ink."""
    while True:
        face, has = font(fonts[rng.integers(len(fonts))])
        character = characters[rng.integers(len(characters))]
        if ord(character) in has:
            break
    picture = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = draw.textbbox((0, 0), character, font=face)
    size = max(right - left, bottom - top, 1)
    face = face.font_variant(size=max(20, min(400, round(100 * 105 / size))))
    draw.text((SIDE / 2, SIDE / 2), character, font=face, fill=255, anchor="mm")
    box = picture.getbbox()
    if box:  # "mm" centres the line, not the character
        shift = [round(SIDE / 2 - (box[i] + box[i + 2]) / 2) for i in (0, 1)]
        picture = picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, -shift[0], 0, 1, -shift[1]))
    return distorted(np.asarray(picture, dtype=np.float32) / 255, rng)


def distorted(ink, rng, amount=1.0):
    """The ink turned, sheared and bent a little, as no two things by hand are alike."""
    turn, shear = math.radians(rng.uniform(-12, 12)) * amount, rng.uniform(-0.15, 0.25) * amount
    wide, high = (1 + rng.uniform(-0.05, 0.25) * amount for _ in range(2))
    matrix = torch.tensor([[wide * math.cos(turn), -math.sin(turn) + shear, 0],
                           [math.sin(turn), high * math.cos(turn), 0]], dtype=torch.float32)  # fmt: skip
    grid = torch.nn.functional.affine_grid(matrix[None], [1, 1, SIDE, SIDE], align_corners=False)
    bend = torch.from_numpy(rng.normal(0, 0.045 * amount * rng.random(), (1, 2, 5, 5)).astype(np.float32))
    bend = interpolate(bend, size=(SIDE, SIDE), mode="bicubic", align_corners=True)
    grid = grid + bend.permute(0, 2, 3, 1)
    return grid_sample(torch.from_numpy(ink)[None, None], grid, align_corners=False)[0, 0].numpy()


def enlarged(pixels):
    """An MNIST image, uint8 (28, 28), as ink."""
    picture = Image.fromarray(np.asarray(pixels)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.float32) / 255


def a_letter_from_a_font(part, rng, digits):
    return written(LETTERS, FONTS[part], rng)


def a_letter_by_strokes(part, rng, digits):
    return stroked(list(STROKE_LETTERS.values())[rng.integers(len(STROKE_LETTERS))], rng)


def a_foreign_letter(part, rng, digits):
    return written(FOREIGN, [*FONTS["develop"], *FONTS["report"][:4]], rng)


def a_symbol(part, rng, digits):
    symbols = [chr(code) for code in SYMBOLS[part] if code not in SYMBOLS_LIKE_DIGITS]
    return written(symbols, FONTS["develop"] if part == "develop" else ["STIXGeneral", "DejaVuSans"], rng)


def a_punctuation_mark(part, rng, digits):
    return written(PUNCTUATION, FONTS["develop"] if part == "develop" else FONTS["report"][:4], rng)


def an_icon(part, rng, digits):
    return stroked(list(ICONS.values())[rng.integers(len(ICONS))], rng)


def a_scale(part, rng, digits):
    """A bathroom scale from above: a filled body with a window, or its outline."""
    if rng.random() < 0.4:
        return stroked(ICONS["scale" if rng.random() < 0.5 else "scale with a dial"], rng)
    picture = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(picture)
    wide, high = 50 * rng.uniform(0.85, 1), 50 * rng.uniform(0.85, 1)
    box = (SIDE / 2 - wide, SIDE / 2 - high, SIDE / 2 + wide, SIDE / 2 + high)
    draw.rounded_rectangle(box, rng.uniform(3, 22), fill=255)
    half, top = wide * rng.uniform(0.3, 0.75), box[1] + high * rng.uniform(0.1, 0.3)
    window = (SIDE / 2 - half, top, SIDE / 2 + half, top + high * rng.uniform(0.25, 0.5))
    draw.rounded_rectangle(window, rng.uniform(1, 9), fill=0)
    if rng.random() < 0.5:
        face = font("DejaVuSans")[0].font_variant(size=16)
        middle = SIDE / 2, (window[1] + window[3]) / 2
        draw.text(middle, f"{rng.uniform(40, 110):.1f}", font=face, fill=255, anchor="mm")
    return distorted(np.asarray(picture, dtype=np.float32) / 255, rng, 0.6)


def a_scribble(part, rng, digits):
    if part == "develop":  # a curve or line through random points
        points = [tuple(point) for point in rng.random((rng.integers(5, 16), 2))]
        return stroked([points if rng.random() < 0.7 else ["L", *points]], rng, wide=rng.uniform(4, 14))
    form = rng.integers(4)
    steps = np.linspace(0, 1, 60)
    if form == 0:  # a spiral
        turns, radius = rng.uniform(2, 4) * 2 * math.pi, 0.5 * steps
        points = 0.5 + np.stack((radius * np.cos(turns * steps), radius * np.sin(turns * steps)), 1)
    elif form == 1:  # hatching
        count = rng.integers(5, 11)
        points = np.stack((np.arange(count) % 2, np.linspace(0, 1, count)), 1)
        points = points[:, :: rng.choice([-1, 1])] + rng.normal(0, 0.05, points.shape)
        return stroked([["L", *map(tuple, points)]], rng, wide=rng.uniform(4, 10))
    elif form == 2:  # a coil
        turns = rng.uniform(3, 6) * 2 * math.pi
        points = np.stack((0.8 * steps + 0.25 * np.cos(turns * steps), 0.5 + 0.35 * np.sin(turns * steps)), 1)
    else:  # a random walk that turns smoothly
        turn = np.cumsum(rng.normal(0, 0.6, 60)) + rng.uniform(0, 6)
        points = np.stack((np.cumsum(np.cos(turn)), np.cumsum(np.sin(turn))), 1)
        points = (points - points.min(0)) / np.ptp(points, 0).max()
    return stroked([["L", *map(tuple, points)]], rng, jitter=0.005, wide=rng.uniform(4, 10))


def a_shape(part, rng, digits):
    """A polygon, star, cross, arch or grid, outlined or filled."""
    form, count = rng.integers(6), int(rng.integers(3, 9))
    angles = np.sort(rng.uniform(0, 2 * math.pi, count)) if form == 0 else np.arange(count) * 2 * math.pi / count
    radius = np.full(count, 0.5)
    if form == 1:  # a star
        angles, radius = np.arange(2 * count) * math.pi / count, np.tile([0.5, 0.22], count)
    points = [tuple(p) for p in 0.5 + np.stack((radius * np.sin(angles), -radius * np.cos(angles)), 1)]
    if form in (0, 1, 2):
        if form == 2 and count > 6:  # a ring is a 0
            return a_shape(part, rng, digits)
        if rng.random() < 0.3:
            picture = Image.new("L", (SIDE, SIDE))
            ImageDraw.Draw(picture).polygon([(30 + 100 * x, 30 + 100 * y) for x, y in points], fill=255)
            return distorted(np.asarray(picture, dtype=np.float32) / 255, rng)
        lines = [["L", *points, points[0]]]
    elif form == 3:  # lines that cross
        lines = [["L", *(tuple(p) for p in rng.random((2, 2)))] for _ in range(rng.integers(3, 7))]
    elif form == 4:  # a grid
        places = np.linspace(0, 1, rng.integers(2, 5))
        lines = [["L", (x, 0.0), (x, 1.0)] for x in places]
        lines += [["L", (0.0, y), (1.0, y)] for y in np.linspace(0, 1, rng.integers(2, 5))]
    else:  # arcs from side to side
        lines = [[(0.0, rng.random()), (0.5, rng.random()), (1.0, rng.random())] for _ in range(rng.integers(2, 5))]
        lines += [["L", (0.5, 0.0), (0.5, 1.0)]]
    return stroked(lines, rng)


def an_invented_letter(part, rng, digits):
    """Three to five lines, arcs, hooks and rings between the points of a grid, as letters are built."""
    grid = [(x, y) for x in (0.0, 0.5, 1.0) for y in (0.0, 0.33, 0.67, 1.0)]
    lines = []
    for _ in range(rng.integers(3, 6)):
        start, end = (np.array(grid[i]) for i in rng.choice(len(grid), 2, replace=False))
        across = np.array((end - start)[::-1]) * (1, -1)
        form = rng.integers(5)
        if form < 2:
            lines.append(["L", tuple(start), tuple(end)])
        elif form == 2:  # an arc
            lines.append([tuple(start), tuple((start + end) / 2 + across * rng.uniform(-0.6, 0.6)), tuple(end)])
        elif form == 3:  # a hook
            middle = start + 0.7 * (end - start)
            lines.append([tuple(start), tuple(middle), tuple(end + 0.3 * across * rng.choice([-1, 1]))])
        else:
            size = rng.uniform(0.25, 0.7)
            corner = rng.random(2) * (1 - size)
            lines.append([tuple(corner + size * np.array(point)) for point in RING])
    return stroked(lines, rng)


# Digits whose half may be a digit in shape: the upper one of a 9 is a 0, the right one of a 4 a 1.
HALVES_LIKE_DIGITS = {
    "upper": {0, 1, 4, 6, 8, 9},
    "lower": {0, 1, 2, 3, 4, 6, 7, 8, 9},
    "left": {0, 1, 3, 7, 9},
    "right": {0, 1, 3, 4, 6, 7, 8, 9},
}


def a_half(part, rng, digits):
    while True:
        pixels, digit = pick(digits, rng)
        side = list(HALVES_LIKE_DIGITS)[rng.integers(4)]
        if digit not in HALVES_LIKE_DIGITS[side]:
            break
    ink = enlarged(pixels)
    rows, columns = (np.flatnonzero((ink > 0.3).any(axis)) for axis in (1, 0))
    row, column = (round(rng.uniform(0.42, 0.58) * (x[0] + x[-1])) for x in (rows, columns))
    part = {"upper": np.s_[row:, :], "lower": np.s_[:row, :], "left": np.s_[:, column:],
            "right": np.s_[:, :column]}  # fmt: skip
    ink = ink.copy()
    ink[part[side]] = 0
    return ink


def two_over_each_other(part, rng, digits):
    """Two different digits; neither is a 1, which hides on another's stroke."""
    (first, digit), (second, other) = (pick(digits, rng, without=(1,)) for _ in range(2))
    if digit == other:
        return two_over_each_other(part, rng, digits)
    shift = tuple(rng.integers(-2, 3, 2))
    return np.maximum(enlarged(first), enlarged(np.roll(np.asarray(second), shift, (0, 1))))


def two_side_by_side(part, rng, digits):
    """Two digits that touch, so that no page can part them."""
    pair = [enlarged(pick(digits, rng)[0]) for _ in range(2)]
    pair = [ink[:, (ink > 0.3).any(0)] for ink in pair]
    wide = pair[0].shape[1] + pair[1].shape[1]
    canvas = np.zeros((2 * SIDE, 2 * SIDE), np.float32)
    left = SIDE - wide // 2
    overlap = rng.integers(0, 12)
    drop = rng.integers(-15, 16)
    for i, ink in enumerate(pair):
        start, top = left + i * (pair[0].shape[1] - overlap), SIDE // 2 + i * drop
        place = canvas[top : top + SIDE, start : start + ink.shape[1]]
        np.maximum(place, ink, out=place)
    picture = Image.fromarray((canvas * 255).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float32) / 255


def a_turned_digit(part, rng, digits):
    """A digit on its side, on its head or mirrored, unless that is a digit again (2 and 5, 6 and 9, 0, 8)."""
    form = ["side", "head", "mirror"][rng.integers(3)]
    fits = {"side": (2, 3, 4, 5, 6, 7, 8, 9), "head": (3, 4, 7), "mirror": (3, 4, 6, 7, 9)}[form]
    ink = enlarged(pick(digits, rng, without=set(range(10)) - set(fits))[0])
    turned = {"side": np.rot90(ink, rng.choice([1, 3])), "head": np.rot90(ink, 2), "mirror": ink[:, ::-1]}
    return np.ascontiguousarray(turned[form])


@cache
def photograph(name):
    import matplotlib
    import sklearn.datasets

    folders = f"{matplotlib.get_data_path()}/sample_data", f"{Path(sklearn.datasets.__file__).parent}/images"
    path = name if "/" in name else next(p for p in (Path(f, name) for f in folders) if p.exists())
    return Image.open(path).convert("L")


def a_piece_of_a_photograph(part, rng, digits, names=None):
    """What is darker, or lighter, than the rest in a piece of a photograph: its largest connected shape."""
    names = names or PHOTOGRAPHS[part]
    while True:
        picture = photograph(names[rng.integers(len(names))])
        size = int(min(picture.size) * rng.uniform(0.05, 0.5))
        left, top = (rng.integers(side - size) for side in picture.size)
        piece = picture.crop((left, top, left + size, top + size)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        grey = ndimage.gaussian_filter(np.asarray(piece, dtype=np.float32), rng.uniform(1, 4))
        grey = grey - ndimage.gaussian_filter(grey, 30)
        grey *= rng.choice([-1, 1])
        labels, count = ndimage.label(grey > np.quantile(grey, rng.uniform(0.6, 0.92)), np.ones((3, 3)))
        if count:
            largest = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
            rows, columns = largest.any(1).sum(), largest.any(0).sum()
            if max(rows, columns) > 50 and columns > rows / 3:  # an upright bar is a 1
                return largest.astype(np.float32)


def pick(digits, rng, without=()):
    """A random (pixels, digit) of a data.Split."""
    while True:
        index = int(rng.integers(len(digits)))
        if int(digits.digits[index]) not in without:
            return digits.images[index].numpy(), int(digits.digits[index])


KINDS = {  # name: what draws it, and the parts that it is in
    "letters from fonts": (a_letter_from_a_font, "develop report"),
    "letters by strokes": (a_letter_by_strokes, "report"),
    "Greek and Cyrillic letters": (a_foreign_letter, "report"),
    "punctuation": (a_punctuation_mark, "develop report"),
    "symbols": (a_symbol, "develop report"),
    "icons by strokes": (an_icon, "report"),
    "bathroom scales": (a_scale, "report"),
    "shapes": (a_shape, "develop"),
    "invented letters": (an_invented_letter, "develop"),
    "scribbles": (a_scribble, "develop report"),
    "halves of digits": (a_half, "develop report"),
    "two digits over each other": (two_over_each_other, "develop report"),
    "two digits side by side": (two_side_by_side, "develop report"),
    "digits turned or mirrored": (a_turned_digit, "develop report"),
    "pieces of photographs": (a_piece_of_a_photograph, "develop report"),
}


def kinds(part):
    return [name for name, (_, parts) in KINDS.items() if part in parts.split()]


def ink_of(kind, part, rng, digits=None):
    """The ink, float32 (SIDE, SIDE) in [0, 1], of one thing of the kind, neither a dot nor a surface."""
    draw = KINDS[kind][0] if isinstance(kind, str) else kind
    while True:
        ink = draw(part, rng, digits)
        if SMALLEST < (ink > INK).mean() < LARGEST:
            return ink


def prepared(ink):
    """The ink as a user's image would be: uint8 (28, 28)."""
    ink = ndimage.uniform_filter(np.asarray(ink), 3, mode="constant")
    mask = ink > INK
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # as a shape on a page
    return mnist_like(ink[part], mask[part])


def make(kind, part, count, seed, digits=None):
    """`count` images, uint8 (count, 28, 28), of a kind of KINDS or of what a function draws."""
    name = f"{part} {kind}" if isinstance(kind, str) else ""
    draws = (np.random.default_rng([seed, i, *map(ord, name)]) for i in range(count))
    return torch.stack([prepared(ink_of(kind, part, rng, digits)) for rng in draws])
