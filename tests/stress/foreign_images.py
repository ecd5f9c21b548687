"""Own images with hostile metadata or structure,."""

import io
import struct
import zlib
from collections import Counter
from functools import partial

import numpy as np
from PIL import Image, ImageDraw
from verdict import mutated, verdict

from mnist_sum import images
from mnist_sum.console import UserError
from mnist_sum.images.decode import LARGEST, decode

PNG, JPEG, SOI, EOI = "PNG", "JPEG", b"\xff\xd8", b"\xff\xd9"
BYTES_A_PIXEL = 10  # 1.5 times that is what decoding may take, as decode() says
NUMBERS = (0, 1, 2, 7, 8, 255, 256, 65535, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
BOMB = zlib.compress(bytes(60_000_000), 9)  # 58 kB


# Metadata. "Harmless" is the picture as it was, turned as EXIF data may have it; nothing else is right.


def fuzz_metadata(draw, cases, scratch):
    """Half of the cases add hostile metadata to a good file, the other half change what its pixels need."""
    path, counts, files = scratch / "page", Counter(), good_files()
    for case in range(cases):
        kind, parts, pixels = draw.choice(files)
        if case % 2:
            content = metadata_added(draw, kind, parts)
            turns = turned(pixels) if b"Exif\0\0" in content or b"eXIf" in content else [pixels]
            attempt, fits, size = partial(read, path), partial(is_one_of, turns), pixels.size
        else:
            content, size = pixels_changed(draw, kind, parts)
            attempt, fits = partial(images.load_page, path), is_page
        path.write_bytes(content)
        most = len(content) + BYTES_A_PIXEL * min(size, LARGEST)
        counts[verdict(attempt, [str(path)], fits, most)] += 1
    return counts


def read(path):
    """The image at the path, or the reason why not as a text: pixels that are intact have to be read."""
    try:
        return decode(path.read_bytes())
    except UserError as error:
        return str(error)


def is_one_of(turns, image):
    return isinstance(image, Image.Image) and any(np.array_equal(image, turn) for turn in turns)


def is_page(loaded):
    image, digits = loaded
    return image.mode == "RGB" and all(found.pixels.shape == (28, 28) for found in digits)


def turned(pixels):
    """The pixels (height, width, 3) in the eight orientations that EXIF data can name."""
    return [np.rot90(side, quarter) for side in (pixels, pixels[:, ::-1]) for quarter in range(4)]


def good_files():
    """(PNG or JPEG, parts, the pixels as they are read) of files of several kinds, all of one page."""
    page = Image.new("RGB", (90, 110), "white")
    ImageDraw.Draw(page).line(((20, 25), (65, 25), (40, 90)), fill="black", width=7)
    several = dict(save_all=True, append_images=[page.rotate(180)])
    kinds = [(PNG, mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    kinds += [(PNG, "P", {"transparency": bytes(range(0, 256, 16))}), (PNG, "RGB", several)]
    kinds += [(JPEG, mode, {"progressive": each}) for mode in ("L", "RGB", "CMYK") for each in (0, 1)]
    files = []
    for kind, mode, options in [*kinds, ("MPO", "RGB", several)]:
        file = io.BytesIO()
        page.convert(mode).save(file, kind, **options)
        parts = chunks(file.getvalue()) if kind == PNG else segments(file.getvalue())
        files.append((PNG if kind == PNG else JPEG, parts, np.asarray(decode(file.getvalue()))))
    return files


def chunks(content):
    """[(kind, data)] of a PNG."""
    found, at = [], 8
    while at < len(content):
        (size,) = struct.unpack_from(">I", content, at)
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def segments(content):
    """[(marker, data)] of a JPEG; the last has all that begins with the first scan."""
    found, at = [], 2
    while content[at + 1] != 0xDA:
        (size,) = struct.unpack_from(">H", content, at + 2)
        found.append((content[at + 1], content[at + 4 : at + 2 + size]))
        at += 2 + size
    return [*found, (0xDA, content[at:])]


def joined(kind, parts):
    """The file of these parts; lengths and CRCs are correct."""
    if kind == PNG:
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in parts
        )
    return SOI + b"".join(
        data if marker == 0xDA else struct.pack(">BBH", 255, marker, len(data[:65533]) + 2) + data[:65533]
        for marker, data in parts
    )


def metadata_added(draw, kind, parts):
    parts, first = list(parts), 1 if kind == PNG else 0
    some = png_metadata if kind == PNG else jpeg_metadata
    for _ in range(draw.choice((1, 1, 2, 5, 40))):
        scan = next(i for i, (name, _) in enumerate(parts) if name in (b"IDAT", 0xDA))
        place = draw.randint(first, scan)
        if kind == PNG and draw.random() < 0.2:
            place = len(parts) - 1
        parts.insert(place, some(draw))
    content = joined(kind, parts)
    if draw.random() < 0.1:
        content += draw.choice((draw.randbytes(1000), content, joined(JPEG, [(0xE1, exif(draw))]) + EOI))
    return content


def png_metadata(draw):
    kind = draw.choice((
        *("tEXt", "zTXt", "iTXt", "eXIf", "iCCP"), *("tEXt", "zTXt", "iTXt", "eXIf", "iCCP"),
        *("gAMA", "cHRM", "sRGB", "sBIT", "bKGD", "hIST", "pHYs", "sPLT", "tIME", "oFFs", "cICP"),
        *("acTL", "fcTL", "fdAT", "prVt", "caNv", "vpAg", "iDOT", "mdCV", "cLLi", "xxxx"),
    ))  # fmt: skip
    size = {"gAMA": 4, "cHRM": 32, "sRGB": 1, "pHYs": 9, "tIME": 7, "acTL": 8, "fcTL": 26}
    data = struct.pack(">9I", *draw.choices(NUMBERS, k=9))[: size.get(kind)]
    if kind == "eXIf":
        data = exif(draw)
    elif kind == "iCCP":
        data = draw.choice((b"icc\0\0", b"\0\0", b"icc\0\1", b"icc")) + compressed(draw)
    elif "T" in kind and kind.endswith("Xt"):
        name = draw.choice(NAMES)
        data = name + {
            "tEXt": b"\0" + text(draw),
            "zTXt": b"\0" + draw.choice((b"\0", b"\1", b"")) + compressed(draw),
            "iTXt": b"\0" + draw.choice((b"\0\0", b"\1\0", b"\1\1", b"\2", b"")) + draw.choice((
                b"en\0name\0", b"\0\0", b"\xff\0\xff\0", b"")) + draw.choice((text, compressed))(draw),
        }[kind]  # fmt: skip
    return kind.encode(), spoilt(draw, data)


NAMES = tuple(name.encode() for name in (
    "xmp", "exif", "transparency", "interlace", "gamma", "dpi", "icc_profile", "srgb", "chromaticity",
    "aspect", "loop", "duration", "bbox", "blend", "disposal", "default_image", "timestamp", "mp", "jfif",
    "Raw profile type exif", "Raw profile type xmp", "XML:com.adobe.xmp", "Comment", "", "\n", "\xe9" * 90,
))  # fmt: skip


def text(draw):
    laughs = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]><x>&b;</x>'
    turns = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    length = draw.choice((10, 1000, 100_000))
    return draw.choice((b"", b"0", b"-1", b"1.5", b"None", turns, laughs, b"\nexif\n 8\n4d4d002a00",
                        b"\nexif\n99999999\nzz", b"\0", b"\xff" * 9, draw.randbytes(length)))  # fmt: skip


def compressed(draw):
    return draw.choice((b"", BOMB, BOMB[:1000], zlib.compress(text(draw)), draw.randbytes(50)))


def exif(draw):
    """A TIFF structure whose directories may loop, overlap, lie outside, or count what is not there."""
    order = draw.choice("<>")
    entries, count = [], draw.choice((0, 1, 1, 3, 12, 500))
    for _ in range(count):
        tag = draw.choice((0x0112, 0x0112, 0x8769, 0x8825, 0xA005, 0x011A, 0x0128, 0x02BC, 0x014A, 0x927C,
                           0x0201, 0x0111, draw.randrange(2**16)))  # fmt: skip
        type_ = draw.choice((3, 3, 4, draw.randrange(20), 65535))
        value = draw.choice((draw.randrange(10), draw.randrange(10) << 16, 8, draw.randrange(200), *NUMBERS))
        entries.append(struct.pack(order + "HHII", tag, type_, draw.choice((1, 1, 4, *NUMBERS)), value))
    start = draw.choice((8, 8, 8, 8, *NUMBERS))
    said = draw.choice((count, count, count, 0, 65535))
    magic = draw.choice((42, 42, 42, 42, 43, 0))
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", magic, start)
    after = struct.pack(order + "I", draw.choice((0, 8, *NUMBERS)))
    tiff = (
        head
        + struct.pack(order + "H", said)
        + b"".join(entries)
        + after
        + draw.randbytes(draw.choice((0, 90)))
    )
    return draw.choice((b"", b"Exif\0\0", b"Exif\0\0" * 900)) + tiff


def jpeg_metadata(draw):
    number = struct.pack(">4I", *draw.choices(NUMBERS, k=4))
    marker, data = draw.choice((
        *[(0xE1, b"Exif\0\0" + exif(draw))] * 4,
        *[(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + text(draw))] * 2,
        *[(0xE2, b"MPF\0" + exif(draw))] * 2,
        *[(0xE2, b"ICC_PROFILE\0" + draw.choice((b"", b"\1", b"\1\1", b"\2\1", b"\0\xff")) + number)] * 2,
        (0xE0, b"JFIF\0" + number[: draw.randrange(12)]),
        (0xE0, b"JFXX\0" + number),
        (0xE2, b"FPXR\0" + number),
        (0xED, b"Photoshop 3.0\0" + b"8BIM" * draw.randrange(3) + number),
        (0xFE, text(draw)),
        (draw.choice((*range(0xE0, 0xEE), *range(0xEF, 0xFF))), draw.randbytes(draw.choice((0, 1, 60_000)))),
    ))  # fmt: skip
    return marker, spoilt(draw, data)


def spoilt(draw, data):
    """The data or, in one case of three, a part of it or some other bytes."""
    return draw.choice(
        (data, data, data, data, data[: draw.randrange(len(data) + 1)], mutated(draw, data or b"x"))
    )


# What the pixels need. "Caught" is a line, "harmless" an image.


def pixels_changed(draw, kind, parts):
    """(a file, the pixels it may claim to have)."""
    parts = list(parts)
    for _ in range(draw.choice((1, 1, 2, 4))):
        change_part(draw, kind, parts)
    content = joined(kind, parts)
    if kind == PNG and draw.random() < 0.1:  # a length or a checksum that is wrong
        at = draw.choice([content.find(name) for name, _ in parts])
        content = content[: at - 4] + struct.pack(">I", draw.choice(NUMBERS)) + content[at:]
    return content, max((claimed(kind, *part) for part in parts), default=0)


def claimed(kind, name, data):
    """The pixels that a part says there are."""
    if kind == PNG and name == b"IHDR" and len(data) >= 8:
        width, height = struct.unpack_from(">II", data)
    elif kind == JPEG and name in range(0xC0, 0xD0) and len(data) >= 5:
        height, width = struct.unpack_from(">HH", data, 1)
    else:
        return 0
    return width * height


def change_part(draw, kind, parts):
    place = draw.randrange(len(parts))
    name, data = parts[place]
    what = draw.choice(("fields", "fields", "fields", "bytes", "add", "remove", "repeat", "exchange", "many"))
    if what == "remove" and len(parts) > 1:
        del parts[place]
    elif what == "repeat":
        parts[place:place] = [parts[place]] * draw.choice((1, 2, 1000))
    elif what == "exchange":
        other = draw.randrange(len(parts))
        parts[place], parts[other] = parts[other], parts[place]
    elif what == "many" and draw.random() < 0.1:
        more = (b"tEXt", b"a\0b") if kind == PNG else (0xFE, b"a")
        parts[place:place] = [more] * draw.choice((9_000, 200_000))
    elif what == "add":
        kinds = (
            (b"PLTE", b"tRNS", b"IDAT", b"IHDR")
            if kind == PNG
            else (0xEE, 0xC4, 0xDB, 0xDD, 0xC0, 0xC9, 0xDC)
        )
        sizes = (0, 1, 2, 3, 6, 7, 13, 256, 300, 768, 769)
        parts.insert(place, (draw.choice(kinds), draw.randbytes(draw.choice(sizes))))
    elif what == "fields" and kind == PNG:
        change_chunk(draw, parts)
    elif what == "fields":
        change_segment(draw, parts)
    else:
        parts[place] = name, mutated(draw, data or b"x")


SIDES = (0, 1, 7, 8, 28, 90, 110, 111, 1000, 65500)


def change_chunk(draw, parts):
    """The header, the palette, the transparency or the compressed pixels of a PNG."""
    name = draw.choice((b"IHDR", b"IHDR", b"PLTE", b"tRNS", b"IDAT"))
    here = [i for i, part in enumerate(parts) if part[0] == name]
    if not here:
        return
    data = parts[here[0]][1]
    if name == b"IHDR" and len(data) == 13:
        width, height, *rest = struct.unpack(">IIBBBBB", data)
        changes = {
            0: (draw.choice((*SIDES, *NUMBERS)), height, *rest),
            1: (width, draw.choice((*SIDES, *NUMBERS)), *rest),
            2: (width, height, draw.choice((1, 2, 4, 8, 16, 3)), draw.choice((0, 2, 3, 4, 6, 1)), *rest[2:]),
            3: (width, height, *rest[:2], *draw.choices((0, 1, 2, 255), k=3)),
            4: (width, height, *rest[:4], 1),
            5: (7000, 7000, *rest) if draw.random() < 0.05 else (60_000, 60_000, *rest),
        }
        data = struct.pack(">IIBBBBB", *changes[draw.randrange(6)])
    elif name == b"IDAT":
        raw = draw.choice((b"", bytes(10), bytes(100_000), draw.randbytes(50_000)))
        data = draw.choice((zlib.compress(raw), BOMB, data[: len(data) // 2], data + BOMB, b""))
        if draw.random() < 0.3:
            step = draw.choice((1, 7, 100))
            data = [(b"IDAT", data[i : i + step]) for i in range(0, min(len(data), 20_000), step)]
            parts[here[0] : here[0] + 1] = data
            return
    else:
        data = draw.randbytes(draw.choice((0, 1, 2, 3, 5, 6, 12, 255, 256, 257, 768, 5000)))
    parts[here[0]] = name, data


def change_segment(draw, parts):
    """The frame, the tables, the colours or the scans of a JPEG."""
    place = draw.randrange(len(parts))
    marker, data = parts[place]
    if marker in (0xC0, 0xC2) and len(data) > 6:
        data = bytearray(data)
        change = draw.choice(("size", "large", "kind", "sampling", "any"))
        if change == "size":
            struct.pack_into(">H", data, draw.choice((1, 3)), draw.choice((*SIDES, 300)))
        elif change == "large":
            struct.pack_into(">HH", data, 1, *((7000, 7000) if draw.random() < 0.05 else (65500, 65500)))
        elif change == "kind":
            marker = draw.choice((0xC0, 0xC1, 0xC2, 0xC3, *range(0xC5, 0xD0)))
        else:
            at = draw.randrange(6, len(data)) if change == "sampling" else draw.randrange(len(data))
            data[at] = draw.choice((0, 1, 2, 4, 8, 9, 12, 0x11, 0x22, 0x41, 0x44, 255))
        data = bytes(data)
    elif marker == 0xDA and data.startswith(SCAN):
        scans = [SCAN + scan for scan in data.removesuffix(EOI).split(SCAN)[1:]]
        kind = draw.choice(("repeat", "repeat", "shuffle", "cut", "bytes", "fill", "markers"))
        if kind == "repeat":
            scans += [draw.choice(scans)] * draw.choice((1, 5, 20, 30, 100, 5000))
        elif kind == "shuffle":
            draw.shuffle(scans)
        data = b"".join(scans) + draw.choice((EOI, EOI, b"", EOI + draw.randbytes(500) + SCAN * 90))
        if kind == "cut":
            data = data[: draw.randrange(2, len(data))]
        elif kind == "bytes":
            data = data[:2] + mutated(draw, data[2:])
        elif kind == "fill":
            data = draw.choice((b"\xff" * 100_000, bytes(1000))) + data
        elif kind == "markers":
            more = draw.choice(
                (b"\xff\xd0", b"\xff\xd8", b"\xff\xfe\0\2", b"\xff\xc4\0\2", b"\xff\xd9", b"\xff\1")
            )
            at = draw.randrange(2, len(data))
            data = data[:at] + more * draw.choice((1, 1, 1000)) + data[at:]
    elif marker == 0xEE:
        data = data[:11] + bytes([draw.choice((0, 1, 2, 3, 255))])
    else:
        data = spoilt(draw, data)
    parts[place] = marker, data


SCAN = b"\xff\xda"


ROWS = [
    ("own images: metadata and structure, lengths and CRCs correct", fuzz_metadata, 5_000),
]
