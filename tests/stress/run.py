"""The faults of tests/test_faults_*.py, by the thousand: prints one Markdown table.

    python tests/stress/run.py [--quick] [--seed N]

Exits with 1 if anything was lost, or if anything but a Fault or a usage error came out.
"""

import argparse
import contextlib
import copy
import dataclasses
import hashlib
import io
import math
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from stress import forks  # noqa: E402
from stress.outcome import outcome  # noqa: E402

from mnist_sum import checkpoint, cli, dataset, download, images, recipes, training  # noqa: E402
from mnist_sum.errors import Fault  # noqa: E402

CPU = torch.device("cpu")
COLUMNS = ("fault", "cases", "caught", "harmless", "lost", "tracebacks")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the cases (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="decides every case (default: 0)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    share = 10 if arguments.quick else 1
    rows = [
        ("SIGKILL at a random moment of train.py --save, then --resume", kill_training, 100),
        ("SIGKILL during a save of train.py, then --resume", partial(kill_training, saving=True), 100),
        ("SIGKILL in a loop of saves", kill_saves, 200),
        ("SIGTERM or SIGINT, then --resume", stop_training, 40),
        ("checkpoint: bytes changed, cut, added, moved", fuzz_bytes, 10_000),
        ("checkpoint: the same, checksum made right again", partial(fuzz_bytes, reseal=True), 10_000),
        ("checkpoint: pickle changed, zip and checksum made right again", fuzz_pickle, 10_000),
        ("checkpoint: values changed, packed and sealed as ours", fuzz_values, 5_000),
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
            counts = check(draw, cases // share, Path(scratch))
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


# Kills. "Caught" is a kill after which nothing was missing.

SHORT = ("--save", "--data", "sample", "--limit", "256", "--epochs", "4", "--batch-size", "32")


def start_or_resume(folder, scratch, flags):
    begun = (folder / "checkpoint.pt").exists()
    argv = ["--resume", folder] if begun else [*flags, "--output-dir", folder]
    return forks.start("train.py", argv, scratch / "out", scratch / "err")


def unbroken(folder, flags):
    code, _, stderr = forks.run("train.py", *flags, "--output-dir", folder)
    if code:
        sys.exit(f"the unbroken run failed: {stderr}")
    return outcome(folder)


def kill_training(draw, cases, scratch, saving=False):
    """Runs killed again and again until they are done; each end compared with the unbroken run's.

    A kill is lost if what it left could not be gone on with, or if its run ended otherwise.
    """
    counts, open_kills, runs = Counter(), 0, 0
    folder, wanted, flags = None, None, None
    while counts.total() < cases or folder:
        if folder is None:
            seed = draw.randrange(2**32)
            flags = (*SHORT, "--seed", str(seed), "--model", draw.choice(("compact", "channel_fusion")))
            began = time.monotonic()
            wanted = unbroken(scratch / f"unbroken-{runs}", flags)
            span = time.monotonic() - began
            folder, runs, open_kills = scratch / f"run-{runs}", runs + 1, 0
        pid = start_or_resume(folder, scratch, flags)
        if counts.total() + open_kills < cases:
            if saving:
                wait_for_part(folder, draw)
            else:
                time.sleep(draw.uniform(0, 0.7 * span))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        code = forks.wait(pid)
        if code == -signal.SIGKILL:
            open_kills += 1
            problem = unfit_folder(folder)
            if problem is None:
                continue
            verdict = report("lost", problem)
        elif code:
            error = (scratch / "err").read_text()
            verdict = report("tracebacks" if "Traceback" in error else "lost", error)
        else:
            same = outcome(folder) == wanted
            verdict = "caught" if same else report("lost", f"{folder.name} ended otherwise, {flags}")
        counts[verdict] += open_kills or (verdict != "caught")
        shutil.rmtree(folder)
        folder = None
    return counts


def wait_for_part(folder, draw):
    """Return as soon as one of the next few saves has its temporary file open."""
    for _ in range(draw.randint(1, 3)):
        end = time.monotonic() + 5
        while not (folder / ".checkpoint.pt.part").exists() and time.monotonic() < end:
            pass
        while draw.random() < 0.5 and (folder / ".checkpoint.pt.part").exists():
            pass


def unfit_folder(folder):
    """What is wrong with the checkpoint of a killed run, if there is one; None if nothing is."""
    path = folder / "checkpoint.pt"
    try:
        if path.exists():
            checkpoint.load(path)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def kill_saves(draw, cases, scratch):
    """A process that saves two contents in turn, killed: the file is one of the two, whole."""
    script, folder = scratch / "saves.py", scratch / "saves"
    folder.mkdir()
    path = folder / "checkpoint.pt"
    script.write_text(
        "import sys\n"
        "import torch\n"
        "from mnist_sum import checkpoint\n"
        "run, content = checkpoint.load_run(sys.argv[1], torch.device('cpu'))\n"
        "while True:\n"
        "    run.seed = 1 - run.seed\n"
        "    checkpoint.save(sys.argv[1], run, content['data'])\n"
    )
    run, data = small_run()
    run.seed = 0
    checkpoint.save(path, run, data)
    counts = Counter()
    for _ in range(cases):
        pid = forks.start(script, [path], scratch / "out", scratch / "err")
        time.sleep(draw.uniform(0.02, 0.12))
        os.kill(pid, signal.SIGKILL)
        if forks.wait(pid) != -signal.SIGKILL:
            counts[report("tracebacks", (scratch / "err").read_text())] += 1
            continue
        try:
            whole = checkpoint.load(path)["seed"] in (0, 1)
        except Exception as error:
            whole = report("unreadable", error) is None
        counts["caught" if whole else "lost"] += 1
    return counts


def stop_training(draw, cases, scratch):
    """A signal, the right exit code, and on: the run ends as the unbroken one."""
    counts = Counter()
    flags = (*SHORT, "--seed", "1")
    began = time.monotonic()
    wanted = unbroken(scratch / "unbroken", flags)
    span = time.monotonic() - began
    for case in range(cases):
        folder = scratch / f"run-{case}"
        pid = start_or_resume(folder, scratch, flags)
        while not (folder / "history.csv").exists():
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.8 * span))
        signum = draw.choice((signal.SIGTERM, signal.SIGINT))
        os.kill(pid, signum)
        codes, texts = [forks.wait(pid)], [(scratch / "err").read_text()]
        code, _, text = forks.run("train.py", "--resume", folder)
        codes, texts = [*codes, code], [*texts, text]
        if any("Traceback" in text for text in texts):
            counts[report("tracebacks", texts)] += 1
        elif codes[0] in (0, 128 + signum) and codes[1] == 0 and outcome(folder) == wanted:
            counts["caught"] += 1
        else:
            counts[report("lost", f"{signum!r}: exit codes {codes}, {texts}")] += 1
    return counts


# Checkpoints. "Caught" is a Fault of one line, "harmless" one that loads and whose every field is
# fit by a second, independent check; one that loads unfit is lost.


def small_run():
    """A run in the middle of its second epoch, and what its checkpoint says of its data."""
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (48, 28, 28), dtype=torch.uint8, generator=draw)
    split = dataset.Split(images, torch.arange(48) % 10)
    recipe = dataclasses.replace(recipes.RECIPES["compact"], epochs=3, batch_size=16)
    run = training.new_run("compact", recipe, 3, CPU, "fp32")
    run.optimizer.register_step_post_hook(
        lambda *_: setattr(run, "stop_signal", 15 if (run.epoch, run.step) == (1, 1) else None)
    )
    with contextlib.suppress(training.Stopped):
        list(training.fit(run, split, split.first(10)))
    return run, checkpoint.describe_data(dataset.Data("noise", split, split.first(10)))


def judged(path):
    """What becomes of the checkpoint at the path: caught, harmless, lost or tracebacks."""
    try:
        run, content = checkpoint.load_run(path, CPU)
    except Fault as fault:
        one_line = len(str(fault).splitlines()) == 1 and str(fault).startswith(str(path))
        return "caught" if one_line else report("lost", f"more than a line: {fault!r}")
    except BaseException as error:
        return report("tracebacks", repr(error)[:500])
    problem = oddity(run, content)
    return "harmless" if problem is None else report("lost", f"loaded with {problem}")


def oddity(run, content):
    """The first thing about a loaded checkpoint that cannot be, written without a look at checkpoint.py."""
    tensors = dict(run.model.state_dict())
    tensors |= {f"{i}.{n}": v for i, e in enumerate(run.optimizer.state.values()) for n, v in e.items()}
    shapes = {name: tensor.shape for name, tensor in small_run_shapes().items()}
    numbers = [value for row in content["history"] for value in row.values()]
    facts = {
        "infinite weights": all(tensor.isfinite().all() for tensor in tensors.values()),
        "other shapes": {name: tensor.shape for name, tensor in tensors.items()} == shapes,
        "an odd version": type(content["version"]) is int and content["version"] == 1,
        "an odd seed": type(run.seed) is int and 0 <= run.seed < 2**63,
        "an odd epoch": type(run.epoch) is int and 0 <= run.epoch <= run.recipe.epochs,
        "an odd step": type(run.step) is int and 0 <= run.step <= 10**4,
        "odd seconds": type(run.seconds) is float and 0 <= run.seconds < math.inf,
        "odd sums": run.sums is None or (run.sums.shape == (6,) and run.sums[-1].item() > 0),
        "sums without a step": (run.sums is None) == (run.step == 0),
        "an odd history": len(content["history"]) == run.epoch,
        "odd numbers": all(type(value) in (int, float) for value in numbers),
        "an odd recipe": 0 < run.recipe.batch_size < 2**63 and 0 < run.recipe.learning_rate < math.inf,
        "odd data": all(type(content["data"][f"{part}_images"]) is int for part in ("train", "test")),
        "an odd name of its data": content["data"]["name"].isprintable(),
        "an odd environment": set(content["environment"]) == {"mnist_sum", "torch", "device", "threads"}
        and all(type(value) in (str, int) for value in content["environment"].values()),
    }
    return next((problem for problem, fit in facts.items() if not fit), None)


def small_run_shapes(known={}):  # noqa: B006  kept between calls: it is asked ten thousand times
    """{name: tensor} of a fresh small run's weights and optimizer state."""
    if not known:
        run, _ = small_run()
        known |= run.model.state_dict()
        entries = enumerate(run.optimizer.state.values())
        known |= {f"{index}.{name}": value for index, entry in entries for name, value in entry.items()}
    return known


def good_bytes(scratch):
    run, data = small_run()
    checkpoint.save(scratch / "good.pt", run, data)
    if judged(scratch / "good.pt") != "harmless":
        sys.exit("the untouched checkpoint does not load, so nothing would be shown")
    return (scratch / "good.pt").read_bytes()


def mutated(draw, content):
    """The bytes with one to three changes, each of one of five kinds, and never the same bytes."""
    changed = content
    while changed == content:
        for _ in range(draw.choice((1, 1, 2, 3))):
            changed = changed_once(draw, changed or b"\0")
    return changed


def changed_once(draw, content):
    at, until = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    until = min(until, at + draw.choice((1, 4, 100, 10**9)))
    kind = draw.choice(("flip", "flip", "cut", "remove", "insert", "replace", "splice"))
    if kind == "flip":
        at = min(at, len(content) - 1)
        return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "remove":
        return content[:at] + content[until:]
    if kind == "insert":
        return content[:at] + draw.randbytes(draw.randint(1, 40)) + content[at:]
    if kind == "replace":
        return content[:at] + draw.randbytes(min(until - at, 40)) + content[until:]
    there = draw.randrange(len(content))
    return content[:there] + content[at:until] + content[there + until - at :]


def fuzz_bytes(draw, cases, scratch, reseal=False):
    good, path, counts = good_bytes(scratch), scratch / "case.pt", Counter()
    unsealed = good[: good.rindex(checkpoint.DIGEST_MARK)]
    for _ in range(cases):
        path.write_bytes(checkpoint.sealed(mutated(draw, unsealed)) if reseal else mutated(draw, good))
        counts[judged(path)] += 1
    return counts


def fuzz_pickle(draw, cases, scratch):
    """Every record but the pickle stays; the zip's own sums are right, so torch gets to see it."""
    good, path, counts = good_bytes(scratch), scratch / "case.pt", Counter()
    with zipfile.ZipFile(io.BytesIO(good)) as file:
        records = {name: file.read(name) for name in file.namelist()}
    (name,) = (name for name in records if name.endswith("data.pkl"))
    for _ in range(cases):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as file:
            for other, record in {**records, name: mutated(draw, records[name])}.items():
                file.writestr(other, record)
        path.write_bytes(checkpoint.sealed(packed.getvalue()))
        counts[judged(path)] += 1
    return counts


def some_value(draw):
    """A value of any kind that a checkpoint could hold."""
    return draw.choice((
        None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**400, 0.0, -0.5, 1e-300, math.nan, math.inf,
        "", "compact", "mlp_adder", "sample", "fp32", "a\nb", "\x1b[2J", "x" * 1000, b"bytes",
        [], [1], {}, {"a": 1}, {0: {}}, (), (1, 2), (1.0, 2.0), {1, 2}, [[[]]],
        torch.tensor(1.0), torch.zeros(6), torch.ones(6, dtype=torch.float64), torch.zeros(0),
        torch.zeros(8, 1, 3, 3), torch.zeros(8, 1, 3, 3, dtype=torch.float16), torch.zeros(3, 1),
        torch.full((8, 1, 3, 3), math.nan), torch.zeros(1).expand(8, 1, 3, 3),
        torch.zeros(8, 1, 3, 3, device="meta"), torch.zeros(8, 1, 3, 3).to_sparse(),
        torch.nn.Parameter(torch.zeros(8, 1, 3, 3)), torch.Size([2]), torch.float32,
    ))  # fmt: skip


def fuzz_values(draw, cases, scratch):
    """One to three entries, at any depth, set to another value, left out, added or exchanged."""
    good, path, counts = good_bytes(scratch), scratch / "case.pt", Counter()
    original = torch.load(io.BytesIO(good), weights_only=True)
    for _ in range(cases):
        content = copy.deepcopy(original)
        for _ in range(draw.choice((1, 1, 2, 3))):
            change_entry(draw, content)
        buffer = io.BytesIO()
        torch.save(content, buffer)
        path.write_bytes(checkpoint.sealed(buffer.getvalue()))
        counts[judged(path)] += 1
    return counts


def change_entry(draw, entry):
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
        entry[draw.choice(("more", "a\nb", 99, None, (1, 2)))] = some_value(draw)
    elif kind == "exchange":
        other = draw.choice(keys)
        entry[key], entry[other] = entry[other], entry[key]
    else:
        entry[key] = some_value(draw)


# Data. Tiny files with sums of their own stand in for MNIST's, and no mirror answers.


def fuzz_idx(draw, cases, scratch):
    raw = scratch / "MNIST" / "raw"
    raw.mkdir(parents=True)
    contents = {}
    for name in dataset.RAW_FILES:
        count = 20 if name.startswith("train") else 10
        if "images" in name:
            contents[name] = struct.pack(">4I", 0x803, count, 28, 28) + draw.randbytes(count * 784)
        else:
            contents[name] = struct.pack(">2I", 0x801, count) + bytes(i % 10 for i in range(count))
        (raw / name).write_bytes(contents[name])
    sums = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    dataset.RAW_FILES.update(sums)
    os.environ[download.MIRROR_VARIABLE] = "http://127.0.0.1:9"
    if len(dataset.load("mnist", scratch).train) != 20:
        sys.exit("the untouched files do not load, so nothing would be shown")
    counts = Counter()
    for _ in range(cases):
        name = draw.choice(list(contents))
        (raw / name).write_bytes(mutated(draw, contents[name]))
        try:
            dataset.load("mnist", scratch)
            counts[report("lost", f"a wrong {name} was read")] += 1
        except Fault as fault:
            fine = name in str(fault) and len(str(fault).splitlines()) == 1
            counts["caught" if fine else report("lost", fault)] += 1
        except BaseException as error:
            counts[report("tracebacks", repr(error))] += 1
        (raw / name).write_bytes(contents[name])
    return counts


# Flags. "Caught" is exit code 2 with one line after the usage, "harmless" a Namespace in which
# every value is one that a run can have.

FLAGS = {
    cli.parse_train: (
        "--model --epochs --batch-size --lr --schedule --split --seed --precision --limit --save "
        "--output-dir --resume --summary --summarize --plot-graph --report --device --data --data-dir --json"
    ),
    cli.parse_inference: (
        "--total --image --number --evaluate --plot-graph --checkpoint --output --seed --device --data "
        "--data-dir --json"
    ),
}
VALUES = (
    *("0", "1", "-1", "64", "1.5", "1e-3", "1e999", "-0", "nan", "inf", "-inf", "0x10", "1_0", "٣"),
    *("", " ", " 7 ", "auto", "cpu", "cuda", "compact", "sample", "mnist", "constant", "pooled", "fp32"),
    *("--", "-", "---", "--lr", "-x", "\n", "\x1b[31m", "é", "\udcff", "a" * 5000, "9" * 5000),
    *(str(2**63 - 1), str(2**63), str(2**64), "../..", "/dev/null", "None", "True", "[]", "@file"),
)


def fuzz_flags(parse, draw, cases, _scratch):
    counts = Counter()
    flags = FLAGS[parse].split()
    for _ in range(cases):
        argv = []
        for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
            flag = draw.choice(flags)
            flag = draw.choice((flag, flag, flag, flag, flag[:-1], flag + "x", flag.upper()))
            value = draw.choice(VALUES)
            argv += draw.choice(([flag, value], [flag, value], [flag], [f"{flag}={value}"], [value]))
        errors = io.StringIO()
        try:
            with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors):
                arguments = parse(argv)
            problem = impossible(vars(arguments))
            counts["harmless" if problem is None else report("lost", f"{argv}: {problem}")] += 1
        except SystemExit as end:
            fine = end.code == 2 and " error: " in errors.getvalue()
            counts["caught" if fine else report("lost", f"{argv}: exit code {end.code}")] += 1
        except BaseException as error:
            counts[report("tracebacks", f"{argv}: {error!r}")] += 1
    return counts


def impossible(values):
    """The first value that no run can have, or None."""
    for name in ("epochs", "batch_size", "limit", "total"):
        value = values.get(name)
        if value is not None and not (type(value) is int and 1 <= value < 2**63):
            return name
    rate, seed = values.get("lr"), values.get("seed")
    if rate is not None and not (type(rate) is float and 0 < rate < math.inf):
        return "lr"
    if seed is not None and not (type(seed) is int and 0 <= seed < 2**63):
        return "seed"
    if values.get("number") is not None and values["number"] not in range(10):
        return "number"
    if values.get("model", "compact") not in recipes.RECIPES:
        return "model"
    for name, choices in recipes.CHOICES.items():
        if values.get(name) is not None and values[name] not in choices:
            return name
    return None


# Own images. "Caught" is a Fault of one line that names the file, "harmless" a 28x28 image.


def fuzz_images(draw, cases, scratch):
    page = Image.new("RGB", (90, 110), "white")
    ImageDraw.Draw(page).line(((20, 25), (65, 25), (40, 90)), fill="black", width=7)
    contents = []
    for kind, image in (
        ("PNG", page),
        ("PNG", page.convert("RGBA")),
        ("PNG", page.quantize(4)),
        ("JPEG", page),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        contents.append(buffer.getvalue())
    path, counts = scratch / "page", Counter()
    for _ in range(cases):
        path.write_bytes(mutated(draw, draw.choice(contents)))
        try:
            _, seen = images.load(path)
            fine = seen.shape == (28, 28) and seen.dtype == torch.uint8
            counts["harmless" if fine else report("lost", seen)] += 1
        except Fault as fault:
            fine = str(path) in str(fault) and len(str(fault).splitlines()) == 1
            counts["caught" if fine else report("lost", fault)] += 1
        except BaseException as error:
            counts[report("tracebacks", repr(error))] += 1
    return counts


if __name__ == "__main__":
    sys.exit(main())
