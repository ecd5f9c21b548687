"""MNIST's files, flags and own images."""

import contextlib
import hashlib
import io
import math
import os
import struct
import sys
from collections import Counter
from functools import partial

from PIL import Image, ImageDraw
from verdict import mutated, verdict

from mnist_sum import cli, data, images, recipes
from mnist_sum.console import UserError
from mnist_sum.data import download, mnist


def fuzz_idx(draw, cases, scratch):
    raw, contents, counts = scratch / "MNIST" / "raw", {}, Counter()
    raw.mkdir(parents=True)
    for name in mnist.RAW_FILES:
        count = 20 if name.startswith("train") else 10
        if "images" in name:
            contents[name] = struct.pack(">4I", 0x803, count, 28, 28) + draw.randbytes(count * 784)
        else:
            contents[name] = struct.pack(">2I", 0x801, count) + bytes(i % 10 for i in range(count))
        (raw / name).write_bytes(contents[name])
    mnist.RAW_FILES.update({name: hashlib.md5(content).hexdigest() for name, content in contents.items()})
    os.environ[download.MIRROR_VARIABLE] = "http://127.0.0.1:9"
    if len(data.load("mnist", scratch).train) != 20:
        sys.exit("the untouched files do not load, so nothing would be shown")
    for _ in range(cases):
        name = draw.choice(list(contents))
        (raw / name).write_bytes(mutated(draw, contents[name]))
        counts[verdict(lambda: data.load("mnist", scratch), [name], lambda loaded: False)] += 1
        (raw / name).write_bytes(contents[name])
    return counts


# Flags. "Caught" is exit code 2 with one line after the usage, "harmless" a Namespace in which
# every value is one that a run can have.

VALUES = (
    *("0", "1", "-1", "64", "1.5", "1e-3", "1e999", "-0", "nan", "inf", "-inf", "0x10", "1_0", "٣"),
    *("", " ", " 7 ", "auto", "cpu", "cuda", "compact", "sample", "mnist", "constant", "pooled", "fp32"),
    *("--", "-", "---", "--lr", "-x", "\n", "\x1b[31m", "é", "\udcff", "a" * 5000, "9" * 5000),
    *(str(2**63 - 1), str(2**63), str(2**64), "../..", "/dev/null", "None", "True", "[]", "@file"),
)


def flags_of(parse):
    """All flags that the parser's --help names."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        parse(["--help"])
    words = text.getvalue().replace(",", " ").replace("[", " ").replace("]", " ").split()
    return sorted({word for word in words if word.startswith("--")} - {"--help", "--version"})


def fuzz_flags(parse, draw, cases, _scratch):
    counts, flags = Counter(), flags_of(parse)
    for _ in range(cases):
        argv = []
        for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
            flag = draw.choice(flags)
            flag = draw.choice((flag, flag, flag, flag, flag[:-1], flag + "x", flag.upper()))
            value = draw.choice(VALUES)
            argv += draw.choice(([flag, value], [flag, value], [flag], [f"{flag}={value}"], [value]))
        counts[verdict(partial(usage_error_raised, parse, argv), [" error: "], possible)] += 1
    return counts


def usage_error_raised(parse, argv):
    """The parsed arguments; raises exit code 2 as a UserError with what was printed."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            return parse(argv)
    except SystemExit as end:
        if end.code != 2:
            raise
        raise UserError(printed.getvalue()) from None


def possible(arguments):
    """Whether a run can have all of these values."""
    counts = ("epochs", "batch_size", "limit", "total")
    checks = {
        **dict.fromkeys(counts, lambda number: type(number) is int and 0 < number < 2**63),
        "lr": lambda rate: type(rate) is float and 0 < rate < math.inf,
        "seed": lambda number: type(number) is int and 0 <= number < 2**63,
        "number": range(10).__contains__,
        "model": recipes.RECIPES.__contains__,
        **{name: choices.__contains__ for name, choices in recipes.CHOICES.items()},
    }
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    return all(check(given[name]) for name, check in checks.items() if name in given)


# Own images. "Caught" is a UserError of one line that names the file, "harmless" 28x28 images.


def fuzz_images(draw, cases, scratch):
    page, contents = Image.new("RGB", (90, 110), "white"), []
    ImageDraw.Draw(page).line(((20, 25), (65, 25), (40, 90)), fill="black", width=7)
    for image in (page, page.convert("RGBA"), page.quantize(4), page):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG" if len(contents) == 3 else "PNG")
        contents.append(buffer.getvalue())
    path, counts = scratch / "page", Counter()

    def are_digits(loaded):
        return all(found.pixels.shape == (28, 28) for found in loaded[1])

    for _ in range(cases):
        path.write_bytes(mutated(draw, draw.choice(contents)))
        counts[verdict(partial(images.load_page, path), [str(path)], are_digits)] += 1
    return counts


ROWS = [
    ("IDX files: bytes changed, cut, added, moved", fuzz_idx, 5_000),
    ("flags of train.py", partial(fuzz_flags, cli.parse_train), 5_000),
    ("flags of inference.py", partial(fuzz_flags, cli.parse_inference), 5_000),
    ("own images: bytes of PNG and JPEG files changed, cut, added, moved", fuzz_images, 2_000),
]
