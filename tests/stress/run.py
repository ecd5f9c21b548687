"""Faults by the thousand, each to be refused in one line or to lose nothing: prints a Markdown table.

    python tests/stress/run.py [--quick] [--seed N]

Exits with 1 if anything was lost, or if anything but a UserError or a usage error came out.
"""

import argparse
import contextlib
import copy
import dataclasses
import hashlib
import io
import json
import math
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout's package, not an installed one

import safetensors.torch  # noqa: E402
import torch  # noqa: E402
from forks import run, start, wait, wait_for  # noqa: E402
from outcome import outcome  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

from mnist_sum import cli, data, images, recipes, training  # noqa: E402
from mnist_sum.console import UserError  # noqa: E402
from mnist_sum.data import download, mnist  # noqa: E402
from mnist_sum.runs import checkpoint  # noqa: E402
from mnist_sum.runs.folder import CHECKPOINT  # noqa: E402
from mnist_sum.system.files import TEMPORARY  # noqa: E402

CPU = torch.device("cpu")
COLUMNS = ("fault", "cases", "caught", "harmless", "lost", "tracebacks")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the cases (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="decides every case (default: 0)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        ("SIGKILL at a random moment of train.py --save, then --resume", interrupt_runs, 100),
        ("SIGKILL during a save of train.py, then --resume", partial(interrupt_runs, saving=True), 100),
        ("SIGKILL in a loop of saves", kill_saves, 200),
        ("SIGTERM or SIGINT, then --resume", partial(interrupt_runs, signals=STOPS), 40),
        ("checkpoint: bytes changed, cut, added, moved", partial(fuzz_checkpoint, mutated), 10_000),
        ("checkpoint: the same, SHA-256 made correct", partial(fuzz_checkpoint, change_parts), 10_000),
        ("checkpoint: entries of its JSON, SHA-256 correct", partial(fuzz_checkpoint, change_json), 10_000),
        ("checkpoint: fields and tensors, saved as ours", partial(fuzz_checkpoint, change_fields), 5_000),
        ("IDX files: bytes changed, cut, added, moved", fuzz_idx, 5_000),
        ("flags of train.py", partial(fuzz_flags, cli.parse_train), 5_000),
        ("flags of inference.py", partial(fuzz_flags, cli.parse_inference), 5_000),
        ("own images: bytes of PNG and JPEG files changed, cut, added, moved", fuzz_images, 2_000),
    ]
    print("| " + " | ".join(COLUMNS) + " |\n|---|" + "---:|" * 5, flush=True)
    total = Counter()
    for number, (fault, check, cases) in enumerate(rows):
        draw = random.Random(f"{arguments.seed}/{number}")
        with tempfile.TemporaryDirectory() as scratch:
            counts = check(draw, cases // 10 if arguments.quick else cases, Path(scratch))
        total += counts
        print_row(fault, counts)
    print_row("all", total)
    return 1 if total["lost"] or total["tracebacks"] else 0


def print_row(fault, counts):
    numbers = (f"{counts[name]:,}" for name in COLUMNS[2:])
    print(f"| {fault} | {sum(counts.values()):,} | {' | '.join(numbers)} |", flush=True)


def report(what, evidence):
    """A case that should not have been, on stderr; returns what."""
    print(f"{what}: {evidence}", file=sys.stderr, flush=True)
    return what


def verdict(attempt, names, fits):
    """What becomes of a case: "caught" if attempt() raises a UserError of one line with all the names in it,
    "harmless" if it returns what fits, else "lost" or "tracebacks"."""
    try:
        result = attempt()
        return "harmless" if fits(result) else report("lost", f"{names}: {repr(result).splitlines()[0]:.300}")
    except UserError as error:
        one_line = len(str(error).splitlines()) == 1 and all(name in str(error) for name in names)
        return "caught" if one_line else report("lost", repr(error))
    except BaseException as error:
        return report("tracebacks", repr(error)[:500])


# Interrupted runs. "Caught" is a signal after which nothing was missing.

SHORT = ("--save", "--data", "sample", "--limit", "256", "--epochs", "4", "--batch-size", "32")
STOPS = (signal.SIGTERM, signal.SIGINT)


def interrupt_runs(draw, cases, scratch, signals=(signal.SIGKILL,), saving=False):
    """Runs sent a signal and resumed until they are done; each end compared with the uninterrupted run's.

    A signal is lost if what it left could not be resumed, or if its run ended otherwise.
    """
    counts, pending, runs, folder, out, err = Counter(), 0, 0, None, scratch / "out", scratch / "err"
    while counts.total() < cases or folder:
        if folder is None:
            model = draw.choice(("compact", "channel_fusion"))
            flags = (*SHORT, "--seed", str(draw.randrange(2**32)), "--model", model)
            expected, span = uninterrupted(scratch / f"uninterrupted-{runs}", flags)
            folder, runs, pending = scratch / f"run-{runs}", runs + 1, 0
        for path in (out, err):
            path.write_text("")
        resumed = ("--resume", folder) if (folder / CHECKPOINT).exists() else (*flags, "--output-dir", folder)
        pid, signum = start("train.py", resumed, out, err), draw.choice(signals)
        if counts.total() + pending < cases:
            if saving:
                wait_for_save(folder, draw)
            else:
                if signum in STOPS:  # which the run handles from before it prints the head of its table
                    wait_for(lambda: "epoch " in out.read_text() or err.read_text())
                time.sleep(draw.uniform(0, 0.7 * span))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        code = wait(pid)
        interrupted = code == (128 + signum if signum in STOPS else -signum)
        problem = err.read_text() or unfit_checkpoint(folder / CHECKPOINT)
        if interrupted and not problem:
            pending += 1
            continue
        if code or problem:
            end = report("tracebacks" if "Traceback" in str(problem) else "lost", f"{code}: {problem}")
        else:
            same = outcome(folder) == expected
            end = "caught" if same else report("lost", f"{folder.name} ended otherwise, {flags}")
        counts[end] += max(pending, end != "caught")
        shutil.rmtree(folder)
        folder = None
    return counts


def uninterrupted(folder, flags):
    """(outcome, seconds) of a run that nobody disturbs."""
    began = time.monotonic()
    code, _, stderr = run("train.py", *flags, "--output-dir", folder)
    if code:
        sys.exit(f"the uninterrupted run failed: {stderr}")
    return outcome(folder), time.monotonic() - began


def wait_for_save(folder, draw):
    """Return as soon as one of the next few writes into the folder has its temporary file open."""

    def writing():
        return any(folder.glob(TEMPORARY.format("*")))

    for _ in range(draw.randint(1, 3)):
        end = time.monotonic() + 5
        while not writing() and time.monotonic() < end:
            pass
        while draw.random() < 0.5 and writing():
            pass


def unfit_checkpoint(path):
    """What is wrong with the checkpoint of an interrupted run, if there is one; None if nothing is."""
    try:
        return None if not path.exists() or checkpoint.load(path) else "empty"
    except Exception as error:
        return repr(error)


SAVES = """
import sys, torch
from mnist_sum.runs import checkpoint
state, content = checkpoint.load_state(sys.argv[1], torch.device("cpu"))
while True:
    state.seed = 1 - state.seed
    checkpoint.save(sys.argv[1], state, content["data"])
"""


def kill_saves(draw, cases, scratch):
    """A process that saves two contents in turn, killed: the file is one of the two, whole."""
    (state, described), path, counts = small_state(), scratch / CHECKPOINT, Counter()
    (scratch / "saves.py").write_text(SAVES)
    checkpoint.save(path, dataclasses.replace(state, seed=0), described)
    for _ in range(cases):
        pid = start(scratch / "saves.py", [path], scratch / "out", scratch / "err")
        time.sleep(draw.uniform(0.02, 0.12))
        os.kill(pid, signal.SIGKILL)
        ended = wait(pid) != -signal.SIGKILL and f"it ended by itself: {(scratch / 'err').read_text()}"
        problem = ended or unfit_checkpoint(path)
        counts[report("lost", problem) if problem else "caught"] += 1
    return counts


# Checkpoints. One that loads is harmless if its every field is fit by a second, independent check.


def small_state():
    """A state in the middle of its second epoch, and what its checkpoint says of its data."""
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (48, 28, 28), dtype=torch.uint8, generator=draw)
    split = data.Split(pixels, torch.arange(48) % 10)
    recipe = dataclasses.replace(recipes.RECIPES["compact"], epochs=3, batch_size=16)
    state = training.new_state("compact", recipe, 3, CPU, "fp32")
    state.optimizer.register_step_post_hook(
        lambda *_: setattr(state, "stop_signal", 15 if (state.epoch, state.step) == (1, 1) else None)
    )
    list(training.fit(state, split, split.first(10)))
    return state, checkpoint.describe_data(data.Data("noise", split, split.first(10)))


def fuzz_checkpoint(change, draw, cases, scratch):
    """Load a good checkpoint's bytes after change(draw, bytes), again and again."""
    path, counts, (state, described) = scratch / "case.safetensors", Counter(), small_state()
    checkpoint.save(path, state, described, str(scratch))
    good, kinds = path.read_bytes(), kinds_of(state)
    for case in range(cases + 1):
        path.write_bytes(change(draw, good) if case else good)
        end = verdict(lambda: checkpoint.load_state(path, CPU), [str(path)], lambda both: fit(*both, kinds))
        if case:
            counts[end] += 1
        elif end != "harmless":
            sys.exit("the untouched checkpoint does not load, so nothing would be shown")
    return counts


def fit(state, content, kinds):
    """Whether a loaded checkpoint can be one, written without a look at checkpoint.py."""
    history, recipe, described, sums = content["history"], state.recipe, content["data"], state.sums
    facts = {
        "tensors": kinds_of(state) == kinds,
        "format": type(content["format"]) is int and content["format"] == 2,
        "model": state.model_name == "compact" and state.precision in ("fp32", "bf16"),
        "seed": type(state.seed) is int and 0 <= state.seed < 2**63,
        "epoch": type(state.epoch) is int and 0 <= state.epoch <= recipe.epochs,
        "step": type(state.step) is int and 0 <= state.step <= 10**4 and (sums is None) == (state.step == 0),
        "seconds": type(state.seconds) is float and 0 <= state.seconds < math.inf,
        "sums": sums is None or (sums.shape == (6,) and sums.isfinite().all() and sums[-1].item() > 0),
        "history": [row["epoch"] for row in history] == list(range(1, state.epoch + 1)),
        "rows": all(tuple(row) == training.ROW and all(map(math.isfinite, row.values())) for row in history),
        "recipe": 0 < recipe.batch_size < 2**63 and 0 < recipe.learning_rate < math.inf,
        "choices": all(getattr(recipe, name) in choices for name, choices in recipes.CHOICES.items()),
        "data": all(type(described[f"{part}_images"]) is int for part in ("train", "test")),
        "texts": all(map(str.isprintable, (described["name"], described["fingerprint"]))),
        "data_dir": type(content["data_dir"]) in (str, type(None)),
        "environment": set(content["environment"]) == {"mnist_sum", "torch", "device", "threads"},
    }
    unfit = [name for name, fact in facts.items() if not fact]
    return not unfit or report("unfit", unfit) is None


def kinds_of(state):
    """{name: (shape, type)} of its weights and optimizer state; False for one that is not finite."""
    groups = {"model": state.model.state_dict(), "raw": state.raw.state_dict()}
    groups |= state.optimizer.state_dict()["state"]
    tensors = {f"{group}.{name}": tensor for group in groups for name, tensor in groups[group].items()}
    return {name: bool(t.isfinite().all()) and (t.shape, t.dtype) for name, t in tensors.items()}


def mutated(draw, content):
    """The bytes with one to three changes, each of one of six kinds, and never the same bytes."""
    changed = content
    while changed == content:
        for _ in range(draw.choice((1, 1, 2, 3))):
            changed = changed_once(draw, changed or b"\0")
    return changed


def changed_once(draw, content):
    at, until = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    until = min(until, at + draw.choice((1, 4, 100, 10**9)))
    bit, there = min(at, len(content) - 1), draw.randrange(len(content))
    until_here, piece, from_there = draw.choice((
        *[(bit, bytes([content[bit] ^ 1 << draw.randrange(8)]), bit + 1)] * 2,  # flipped
        (at, b"", len(content)),  # cut
        (at, b"", until),  # removed
        (at, draw.randbytes(draw.randint(1, 40)), at),  # inserted
        (at, draw.randbytes(min(until - at, 40)), until),  # replaced
        (there, content[at:until], there + until - at),  # moved
    ))  # fmt: skip
    return content[:until_here] + piece + content[from_there:]


def unpacked(raw):
    """(header, text, tensors' bytes) of a good checkpoint's bytes."""
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    return header, json.loads(header["__metadata__"]["mnist_sum"]), raw[end:]


def packed(header, body):
    """The bytes of a checkpoint with this header, and the SHA-256 of what they hold if they can be parsed."""
    raw = len(header).to_bytes(8, "little") + header + body
    with contextlib.suppress(Exception):
        _, text, _ = unpacked(raw)
        stored = text.pop("sha256")
        return raw.replace(stored.encode(), checkpoint.digest(safetensors.torch.load(raw), text).encode())
    return raw


def change_parts(draw, good):
    """Bytes of the header, of the text in it or of the tensors; the lengths and the SHA-256 are correct."""
    entries, text, body = unpacked(good)
    part, header = draw.choice(("header", "text", "tensors")), json.dumps(entries).encode()
    if part == "header":
        header = mutated(draw, header)
    elif part == "text":
        text = mutated(draw, json.dumps(text).encode()).decode(errors="replace")
        header = json.dumps({**entries, "__metadata__": {"mnist_sum": text}}).encode()
    else:
        body = mutated(draw, body)[: len(body)].ljust(len(body), b"\0")
    return packed(header, body)


def change_json(draw, good):
    """Entries of the header, or of the text in it, set to other values, left out, added or exchanged."""
    header, text, body = unpacked(good)
    for _ in range(draw.choice((1, 1, 2, 3))):
        change_entry(draw, draw.choice((header, text)), some_value)
    with contextlib.suppress(KeyError, TypeError):  # where the metadata has gone
        header["__metadata__"]["mnist_sum"] = json.dumps(text)
    return packed(json.dumps(header).encode(), body)


def change_fields(draw, good):
    """The same with the text's fields and whole tensors, encoded as ours are."""
    (_, text, _), tensors = unpacked(good), safetensors.torch.load(good)
    del text["sha256"]
    for _ in range(draw.choice((1, 1, 2, 3))):
        change_entry(draw, *draw.choice(((text, some_value), (tensors, partial(some_tensor, tensors)))))
    return checkpoint.encode(tensors, text)


def change_entry(draw, entry, value):
    """One entry of nested dicts and lists, at any depth; value(draw) is what it may become."""
    while True:
        keys = list(entry) if isinstance(entry, dict) else list(range(len(entry)))
        if not keys:
            return
        key = draw.choice(keys)
        if not isinstance(entry[key], (dict, list)) or draw.random() < 0.2:
            break
        entry = entry[key]
    kind = draw.choice(("set", "set", "set", "leave out", "add", "exchange"))
    if kind == "leave out":
        del entry[key]
    elif kind == "add" and isinstance(entry, dict):
        entry[draw.choice(("more", "a\nb", "", "optimizer.0.x", "model.x", "sums", "history"))] = value(draw)
    elif kind == "exchange":
        other = draw.choice(keys)
        entry[key], entry[other] = entry[other], entry[key]
    else:
        entry[key] = value(draw)


def some_value(draw):
    """A value of any kind that JSON can hold."""
    return copy.deepcopy(draw.choice((
        None, True, False, 0, 1, -1, 2, 3, 8, 2**31, 2**40, 2**63, 10**400, 0.0, 1.0, -0.5, 1e-300, 1e300,
        math.nan, math.inf, "", "compact", "mlp_adder", "sample", "fp32", "none", "adam", "a\nb", "\x1b[2J",
        "\0", "\ud800", "x" * 1000, "F32", "F64", "I64", "BF16", "F8_E4M3", "BOOL", [], [1], [0, 8], [8, 0],
        [2**62, 2**62], [-1, 4], {}, {"a": 1}, [[[]]], {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
    )))  # fmt: skip


def some_tensor(tensors, draw):
    """A tensor of any kind, or one of the checkpoint's with a number changed."""
    tensor = draw.choice(list(tensors.values()))
    changed, flat = tensor.clone(), tensor.reshape(-1)
    if len(flat):
        worst = (0, -1, 1e30, math.nan, math.inf) if tensor.is_floating_point() else (0, -1, 2**62)
        changed.view(-1)[draw.randrange(len(flat))] = draw.choice(worst)
    types = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.bool)
    others = (tensor[None], flat, flat[:1], flat[:0], torch.zeros(0, 11).double(), torch.ones(6).double())
    return draw.choice((changed, changed, tensor.to(draw.choice(types)), draw.choice(others)))


# Data. Tiny files with sums of their own stand in for MNIST's, and no mirror answers.


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


if __name__ == "__main__":
    sys.exit(main())
