"""Checkpoints as an attacker writes them: headers that say what is not so, or cost much to read."""

import contextlib
import json
import math
from functools import partial
from types import SimpleNamespace

from checkpoints import change_entry, fuzz_checkpoint, packed, some_value, unpacked

from mnist_sum.runs.checkpoint import KEY, LARGEST_FILE, LARGEST_HEADER


def construct(draw, good):
    """A file of parts, one or two of them false or costly; the SHA-256 is correct where it can be."""
    entries, text, body = unpacked(good)
    parts = SimpleNamespace(entries=entries, text=text, body=body, literals=[], metadata=None)
    parts.before, parts.after, parts.tail, parts.length = "", "", b"", None
    first, second = draw.sample(CONSTRUCTIONS, 2)
    first(draw, parts)
    if draw.random() < 0.4:
        # The first may have left nothing of what the second would change.
        with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError):
            second(draw, parts)
    right = written(parts, parts.text)
    if parts.metadata is not None:
        parts.entries["__metadata__"] = parts.metadata(right)
    else:
        with contextlib.suppress(KeyError, TypeError):  # where the metadata has gone
            parts.entries["__metadata__"][KEY] = right
    header = f"{parts.before}{written(parts, parts.entries)}{parts.after}".encode()
    raw = packed(header, parts.body) + parts.tail
    if parts.length is not None:
        sizes = {"header": len(header), "file": len(raw), "limit": LARGEST_HEADER, "nothing": 0}
        what, more = parts.length
        raw = (sizes[what] + more).to_bytes(9, "little", signed=True)[:8] + raw[8:]
    return raw


def literal(parts, text):
    """A value that is written as this text, which json.dumps() itself would not write, or only slowly."""
    parts.literals.append(text)
    return f"literal {len(parts.literals) - 1};"


def written(parts, value):
    """The value as JSON, with its literals."""
    text = json.dumps(value)
    for number, instead in enumerate(parts.literals):
        text = text.replace(f'"literal {number};"', instead)
    return text


def a_tensor(draw, parts):
    """The header's entry of one of the tensors."""
    return draw.choice([entry for name, entry in parts.entries.items() if name != "__metadata__"])


def false_length(draw, parts):
    """The header is said to be shorter or longer than it is."""
    parts.length = draw.choice((
        *[("header", more) for more in (-2, -1, 1, 2, 8, 2**32, 2**63)],
        *[("file", more) for more in (-9, -8, -7, 0, 1)],
        *[("limit", more) for more in (-1, 0, 1)],
        *[("nothing", more) for more in (0, 1, 2, 7, 2**31, 2**32, 2**63, -1)],
    ))  # fmt: skip


def padding(draw, parts):
    """Spaces or more after the header, within its length, or bytes after the file's end."""
    count = draw.choice((1, 7, 1000, 10**5, LARGEST_HEADER - 9000, LARGEST_HEADER, 4 << 20))
    kind = draw.choice(("spaces", "text", "tail", "cut"))
    if kind == "spaces":
        parts.after = draw.choice(" \n\t\0") * count
    elif kind == "text":
        parts.before, parts.after = draw.choice(
            ((" ", ""), ("\n", ""), ("\ufeff", ""), ("[", "]"), ("", "{}"), ("", ","), ("", "//"), ("", "\0"))
        )
    elif kind == "cut":
        parts.body = parts.body[: -min(count, 10**5)]
    else:
        large = draw.choice((8 << 20, LARGEST_FILE - len(parts.body) - 10_000, LARGEST_FILE))
        parts.tail = draw.choice((b"\0", b" ", b"PK\3\4")) * (large if draw.random() < 0.1 else count)


# What an entry can be that json.dumps() does not write, with n elements, levels or digits, or just odd.
REPEATED = (
    lambda n: "[" * n + "]" * n,
    lambda n: '{"a":' * n + "1" + "}" * n,
    lambda n: "[" * n,
    lambda n: '[{"":' * n,
    lambda n: f"[{','.join(['0'] * n)}]",
    lambda n: f"[{','.join(['[]'] * n)}]",
    lambda n: f"[{','.join(['{}'] * n)}]",
    lambda n: f"[{','.join(['1.5'] * n)}]",
    lambda n: f"[{','.join(['NaN'] * n)}]",
    lambda n: "{" + ",".join(['"":{}'] * n) + "}",
    lambda n: "{" + ",".join(f'"{each}":[]' for each in range(n)) + "}",
    lambda n: "9" * n,
    lambda n: f"-{'1' * n}.5",
    lambda n: f"0.{'1' * n}",
    lambda n: f"1e{'9' * n}",
    lambda n: f"[{','.join(['8' * 4000] * (n // 1000))}]",
    lambda n: f'"{"x" * n}"',
    lambda n: '"' + r"\u0000" * n + '"',
    lambda n: '"' + r"\ud83d\ude00" * (n // 2) + '"',
)
ODD = (
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-0",
        "-0.0",
        "1e-999",
        "01",
        "1.",
        "+1",
        "0x1",
        "1_0",
        "nul",
        "",
    ),
    *(r'"\ud800"', r'"\udc00\ud800"', r'"\u202e"', r'"\u0000"', r'"\u001b[2J"', '"\u202e"', '"\u2028\x7f"'),
    *('"\n"', '"\x1b"', "'a'", "/**/1", "[1,]", '{"a":1,}', '{"a"}', "{1:1}", r'"\x"', '"', "]", "}", "1,2"),
)


def odd_json(draw, parts):
    """An entry is nested deeply, has very many elements, or is nothing that all programs read alike."""
    repeated = draw.choice(REPEATED)(draw.choice((1, 100, 900, 1100, 4000, 4400, 30_000, 160_000)))
    value = literal(parts, draw.choice((repeated, draw.choice(ODD))))
    change_entry(draw, draw.choice((parts.entries, parts.text)), lambda _: value)


def twice(draw, parts):
    """A key stands there twice, with its value and another one, in any order."""
    entry = draw.choice((parts.entries, parts.text, *filter(dict.__instancecheck__, parts.text.values())))
    key = draw.choice(list(entry))
    values = [json.dumps(entry[key]), json.dumps(draw.choice((entry[key], some_value(draw))))]
    draw.shuffle(values)
    entry[key] = literal(parts, f", {json.dumps(key)}: ".join(values * draw.choice((1, 1, 1000))))


def false_offsets(draw, parts):
    """Tensors overlap, leave gaps, have exchanged places, or are where the file has no bytes."""
    one, other = a_tensor(draw, parts), a_tensor(draw, parts)
    here, there, end = one["data_offsets"], other["data_offsets"], len(parts.body)
    by = draw.choice((-8, -4, -1, 1, 4, 8, 1000, 2**31, 2**32, 2**63))
    kind = draw.choice(("same", "exchanged", "gap", "moved", "odd"))
    if kind == "same":
        one["data_offsets"] = there
    elif kind == "exchanged":
        one["data_offsets"], other["data_offsets"] = there, here
    elif kind == "gap":  # or an overlap, of all that lie behind
        parts.body = parts.body[: here[1]] + bytes(min(max(by, 0), 1000)) + parts.body[here[1] :]
        for name in parts.entries.keys() - {"__metadata__"}:
            begin, stop = parts.entries[name]["data_offsets"]
            if begin >= here[1]:
                parts.entries[name]["data_offsets"] = [begin + by, stop + by]
    elif kind == "moved":
        one["data_offsets"] = [here[0] + by * draw.randrange(2), here[1] + by]
    else:
        one["data_offsets"] = draw.choice((
            here[::-1], [end, end + 4], [0, end], [end, end], [0, 0], [2**64 - 4, 2**64], [2**64 - 1, 3],
            [-4, 0],
            [float(here[0]), float(here[1])], here[:1], [*here, 8], [], None, "04", {"0": 4}, [True, False],
        ))  # fmt: skip


def false_shape(draw, parts):
    """A shape whose product is another one or needs more than 64 bits, or of very many dimensions."""
    one, many = a_tensor(draw, parts), draw.choice((10, 64, 65, 1000, 10**5, 5 * 10**5))
    shape = one["shape"]
    count = math.prod(shape)
    one["shape"] = draw.choice((
        [2**32, 2**32], [2**63, 2], [2**62, 4], [2**64 - 1], [2**64], [2**62], [2**33, 2**31, count],
        [10**30],
        [0], [0, 2**63], [2**62, 2**62, 0], [-1], [-1, -count], [count], [count, 1], [1, *shape],
        shape[::-1], [],
        [count + 1], [count, literal(parts, ",".join("1" * many))], [literal(parts, ",".join("0" * many))],
        [1.0], [float(count)], [None], [[count]], "1", None, count, [True], ["1"],
    ))  # fmt: skip
    if draw.random() < 0.3:  # of no bytes
        one["data_offsets"] = one["data_offsets"][:1] * 2


def more_tensors(draw, parts):
    """As many tensors as a header holds, of no bytes, or one with most of what a file may have."""
    end, count = len(parts.body), draw.choice((1, 10, 100, 1000, 1000, 1000, 15_000))
    stem = draw.choice(
        ("", "model.", "raw.", "sums.", "optimizer.0.", "optimizer.0.x.", "x" * (10**5 // count))
    )
    shape = draw.choice(([0], [0, 2**40], [0] * (10**5 if count == 1 else 20)))
    entry = {"dtype": draw.choice(("F32", "F64", "U8", "BOOL")), "shape": shape, "data_offsets": [end, end]}
    parts.entries |= {f"{stem}{each}": entry for each in range(count)}
    if draw.random() < 0.06:
        size = draw.choice((1 << 20, 8 << 20, LARGEST_FILE - end - LARGEST_HEADER, LARGEST_FILE))
        name = draw.choice(("more", "model.more", "history", "sums", "optimizer.0.more"))
        parts.entries[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        parts.body += bytes(size)


def false_type(draw, parts):
    """A type that is unknown, or of another size, less than eight bits among them; the bytes may fit."""
    one = a_tensor(draw, parts)
    one["dtype"], times = draw.choice((
        ("F4", 8), ("F6_E2M3", 1), ("F6_E3M2", 1), ("F8_E8M0", 4), ("F8_E4M3", 4), ("F8_E5M2", 4),
        ("F8_E4M3FNUZ", 4), ("BOOL", 4), ("U8", 4), ("I8", 4), ("I16", 2), ("U16", 2), ("F16", 2), ("BF16",
        2),
        ("I32", 1), ("U32", 1), ("C64", 1), ("U64", 1), ("I64", 1), ("F64", 1), ("F32", 1), ("F128", 1),
        ("f32", 1),
        ("float32", 1), ("", 1), (" F32", 1), ("F32\0", 1), (None, 1), (32, 1), (["F32"], 1), ({"F32": 1}, 1),
        ("x" * 10**5, 1), (literal(parts, r'"\ud800"'), 1),
    ))  # fmt: skip
    if draw.random() < 0.7:
        one["shape"] = [*one["shape"], times]


NAMES = (
    *(
        "x" * 10**5,
        "\x1b[2J" * 1000,
        "\0",
        "\n",
        "a\nb",
        "\u2028",
        "\u202e",
        "\ud800",
        "\udfff\ud800",
        "\x7f\x9b",
        "",
    ),
    *(
        ".",
        "..",
        "/etc/passwd",
        "model.",
        "model",
        "model.\u202e",
        "raw.",
        "optimizer.",
        "optimizer..",
        "sums.",
    ),
    *(
        "optimizer.-1.step",
        "optimizer.x.step",
        "optimizer.0.step.x",
        f"optimizer.{'9' * 5000}.step",
        "history\0",
    ),
    *("optimizer.\u0663.step", "__metadata__", "__class__", "sha256", "architecture", "HISTORY", "%s", "{0}"),
    *(f"model.{'a.' * 1000}", "数" * 10_000),
)


def false_name(draw, parts):
    """A tensor or a field has another name, or is there once more under it."""
    entry = draw.choice((parts.entries, parts.entries, parts.text))
    old, new = draw.choice(list(entry)), draw.choice(NAMES)
    entry[new] = entry.pop(old) if draw.random() < 0.5 else entry[old]


def false_metadata(draw, parts):
    """The metadata is no map of texts, has more of them, or its text is no object."""
    count = draw.choice((10, 1000, 10**5))
    many = {str(each): "" for each in range(min(count, 70_000))}
    metadata = draw.choice((
        *[lambda right, value=value: value for value in (None, [], "", 1, {}, {KEY: None}, {KEY: 1},
        {KEY: {}})],
        lambda right: right, lambda right: [right], lambda right: {KEY: [right]},
        lambda right: {KEY: parts.text},
        lambda right: {"MNIST_SUM": right}, lambda right: {KEY: right, "more": 1},
        lambda right: {KEY: right, **many},
        lambda right: {KEY: right, "\x1b[2J": "\u202e", "\ud800": "\ud800"},
    ))  # fmt: skip
    text = draw.choice((
        *[lambda right, text=text: text for text in ("", " ", "null", "[]", "1", '"sha256"', "NaN", "{}")],
        *[lambda right, text=text: f'{{"sha256": {text}}}' for text in ("null", "{}", "NaN", '""',
        '"\\ud800"')],
        lambda right: f"[{right}]", json.dumps, lambda right: right * 2, lambda right: right[:-1],
        lambda right: f"\ufeff{right}", lambda right: right + " " * count,
        lambda right: "[" * count + "]" * count,
        lambda right: '{"sha256":' * (count // 2) + "1" + "}" * (count // 2), lambda right: json.dumps(many),
        lambda right: f"{right[:-1]}, {json.dumps(many)[1:]}",
    ))  # fmt: skip
    parts.metadata = draw.choice((metadata, lambda right: {KEY: text(right)}))


def false_claim(draw, parts):
    """Epochs, steps or images that nobody has, alone or in agreement with each other; other formats."""
    text, count = parts.text, draw.choice((0, -1, 2, 10**4, 2**31 - 1, 2**31, 2**62, 2**63, 2**64, 10**400))
    kind = draw.choice(("one", "one", "epochs", "rows", "format", "model"))
    if kind == "one":
        inside = draw.choice((text, text["recipe"], text["data"], text["environment"]))
        numbers = [name for name, value in inside.items() if type(value) in (int, float)]
        inside[draw.choice(numbers)] = draw.choice((count, float(min(count, 2**64)), str(count)[:9]))
    elif kind == "epochs":
        text["epoch"] = text["recipe"]["epochs"] = count
        parts.entries["history"]["shape"] = draw.choice(([count, 0], [0, count], [count, 11], [count]))
        if draw.random() < 0.5:
            parts.entries["history"]["data_offsets"] = [0, 0]
    elif kind == "rows":  # a history as long as it is said to be
        rows, end = draw.choice((10, 1000, 10**5)), len(parts.body)
        columns = parts.entries["history"]["shape"][1]
        text["epoch"], text["recipe"]["epochs"] = rows, rows + draw.randrange(2)
        offsets = [end, end + 8 * rows * columns]
        parts.entries["history"] = {"dtype": "F64", "shape": [rows, columns], "data_offsets": offsets}
        parts.body += bytes(8 * rows * columns)
    elif kind == "format":
        text["format"] = draw.choice((0, 1, 3, -2, 2.0, "2", True, None, [2], 2**62, 10**300, {"format": 2}))
    else:
        text["model_name"] = draw.choice((
            "compact.py:Net", "/etc/x.py:Net", "../x.py:Net", "x.py:Net\n", "\x1b[2J.py:Net",
            "x.py:os.system",
            "x" * 10**5, "x.py:" + "y" * 10**5, "tiny", "large", "compact ", "", "\ud800.py:Net",
            "$(x).py:Net",
        ))  # fmt: skip
        text["source_sha256"] = draw.choice((None, "0" * 64, "", "x" * 10**5, "\n"))


CONSTRUCTIONS = (
    *(
        false_length,
        padding,
        odd_json,
        odd_json,
        twice,
        false_offsets,
        false_offsets,
        false_shape,
        false_shape,
    ),
    *(more_tensors, false_type, false_name, false_metadata, false_claim, false_claim),
)
ROWS = [("checkpoint: headers and metadata of the format", partial(fuzz_checkpoint, construct), 10_000)]
