"""Our speed against the baseline's, measured alternately. By hand, on a machine with nothing else to do:

    python tests/benchmarks/run.py --data-dir DIR            # all, about an hour on two cores
    python tests/benchmarks/run.py --data-dir DIR --quick    # some minutes: shows that it runs
    python tests/benchmarks/run.py --data-dir DIR --only epoch growth

The baseline (baseline.py) is torchvision's data set, a DataLoader, one sample at a time. Every measurement
is a process of its own (this file with --worker), so that neither side profits from what the other has
warmed up. Imports are not in the seconds unless a row says so. Prints Markdown tables: the median of the
repetitions, their range, and the ratio of the medians.
"""
# ruff: noqa: E402

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import mean, median

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this checkout is measured, whatever is installed

import torch
from torch import nn

from mnist_sum import models
from mnist_sum.augment import affine, random_matrices
from mnist_sum.data import Split, load
from mnist_sum.dataset import MnistSum, batches
from mnist_sum.evaluation.exhaustive import images_per_second
from mnist_sum.loss import summed_loss
from mnist_sum.metrics import batch_sums, no_sums
from mnist_sum.recipes import RECIPES
from mnist_sum.system.batch_norm import BatchNorm2d
from mnist_sum.system.device import choose_precision, keep_freed_memory, place
from mnist_sum.system.randomness import generator
from mnist_sum.training import fit, new_state, train_epoch

CPU = torch.device("cpu")
BATCH_NORMS = {"pytorch": nn.BatchNorm2d, "ours": BatchNorm2d}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", required=True, help="where MNIST lies")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=f"which of {', '.join(PARTS)} (default: all)")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one repetition on a twentieth of the data")
    parser.add_argument("--worker", nargs="+", type=number_or_text, metavar=("NAME", "PARAMETER"),
                        help="a function of this file's last part, in this process")  # fmt: skip
    args = parser.parse_args()
    if args.worker:
        name, *parameters = args.worker
        print(json.dumps(globals()[name](args.data_dir, *parameters)))
        return
    args.repeats = 1 if args.quick else args.repeats
    args.images = 3_000 if args.quick else 60_000
    print(machine())
    for part in args.only:
        print(f"\n**{part}**\n", flush=True)
        PARTS[part](args)


def number_or_text(text):
    with suppress(ValueError):
        return json.loads(text)
    return text


def machine():
    """The machine in a line."""
    model = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    software = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {gpu}; {software}"


def measured(args, name, *parameters):
    """What the worker returned, run in a fresh process, and what child() says of it."""
    worker = ("--worker", name, *map(str, parameters))
    return child([sys.executable, __file__, "--data-dir", args.data_dir, *worker], parse=True)


def child(command, parse=False, **options):
    """Run the command: {wall: its seconds, cpu: CPU seconds, peak: MB}, and its last line's JSON values."""
    started = time.perf_counter()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, text=True, **pipes, **options)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"failed: {' '.join(command)}")
    return {
        **(json.loads(output.splitlines()[-1]) if parse else {}),
        "wall": time.perf_counter() - started,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss / 1024,
    }


def alternately(args, rows, seeded=False):
    """{row: results} of rows {row: worker}: each row's worker in turn, `repeats` times over.

    seeded: each repetition's number is the worker's last parameter.
    """
    results = {name: [] for name in rows}
    for seed in range(args.repeats):
        for name, worker in rows.items():
            results[name].append(measured(args, *worker, *([seed] if seeded else [])))
    return results


def column(results, figure):
    return [result[figure] for result in results]


def spread(values):
    """Their median and range as text."""
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def print_row(*cells):
    print(f"| {' | '.join(cells)} |", flush=True)


def print_head(*titles):
    print_row(*titles)
    print_row(*["---"] * len(titles))


def compare(args, unit, rows):
    """Print the seconds of each row's worker, and how many times faster than the first row it is."""
    seconds = {name: column(results, "seconds") for name, results in alternately(args, rows).items()}
    base = median(next(iter(seconds.values())))
    print_head("", unit, "times faster")
    for name, values in seconds.items():
        print_row(name, spread(values), f"{base / median(values):.2f}")


# The parts: each prints its table.


def data(args):
    """A pass over the training data with no model, batch 512."""
    compare(args, "s a pass", {name: (f"pass_{name}", args.images) for name in ("baseline", "ours")})


def epoch(args):
    """One training epoch of compact, batch 512, without the test after it."""
    ours = ("epoch_ours", "compact", args.images)
    rows = {"baseline": ("epoch_baseline", args.images)}
    rows |= {f"ours, {precision}": (*ours, precision) for precision in ("fp32", "bf16")}
    compare(args, "s an epoch", rows)


def batch_norm(args):
    """One training epoch with each batch normalisation in the layers whose channels 16 does not divide."""
    print_head("model", "PyTorch's (s an epoch)", "ours", "times faster")
    for model in ("deep_adder", "compact", "tiny", "large"):
        rows = {kind: ("epoch_ours", model, args.images, "auto", 1, kind) for kind in BATCH_NORMS}
        theirs, ours = (column(found, "seconds") for found in alternately(args, rows).values())
        print_row(f"`{model}`", spread(theirs), spread(ours), f"{median(theirs) / median(ours):.2f}")


def growth(args):
    """An epoch of compact on 1, 2, 4 and 8 times the training data: seconds and memory by its size."""
    print_head("images", "s an epoch", "s per 60,000", "of the first", "peak MB")
    workers = {n: ("epoch_ours", "compact", args.images, "auto", n) for n in (1, 2, 4, 8)}
    results = alternately(args, workers)
    first = median(column(results[1], "seconds"))
    for copies, found in results.items():
        seconds, images = median(column(found, "seconds")), args.images * copies
        print_row(f"{images:,}", f"{seconds:.2f}", f"{seconds / images * 60_000:.2f}",
                  f"{seconds / copies / first:.3f}", f"{max(column(found, 'peak')):,.0f}")  # fmt: skip


def profile(args):
    """Where an epoch goes: the loop against forward, backward and update alone on one fixed batch."""
    print_head("model", "ms a step in the loop", "on one fixed batch", "the loop adds", "of a step")
    for model in ("compact", "tiny"):
        found = [measured(args, "loop", model, args.images) for _ in range(args.repeats)]
        loop, fixed = (1e3 * median(column(found, name)) for name in ("loop", "fixed"))
        parts = column(found, "parts")
        shown = (f"{1e3 * median(column(parts, name)):.2f} ms {name}" for name in parts[0])
        print_row(f"`{model}`", f"{loop:.1f}", f"{fixed:.1f}", f"{loop / fixed - 1:.1%}", ", ".join(shown))


def startup(args):
    """Seconds until --help, and until an image of one's own is predicted and drawn."""
    from PIL import Image, ImageDraw

    print_head("command", "CPU s", "wall s")
    with tempfile.TemporaryDirectory() as scratch:  # without runs/, so the shipped model predicts
        page = Image.new("RGB", (600, 600), "white")
        ImageDraw.Draw(page).line(((150, 120), (450, 120), (280, 500)), fill="black", width=30)
        page.save(Path(scratch) / "seven.png")
        own_image = ["inference.py", "--image", "seven.png", "--number", "7"]
        for name, *flags in (["train.py", "--help"], ["inference.py", "--help"], own_image):
            command = [sys.executable, str(ROOT / name), *flags]
            found = [child(command, cwd=scratch) for _ in range(args.repeats)]
            cpu, wall = (f"{median(column(found, figure)):.3f}" for figure in ("cpu", "wall"))
            print_row(f"`{' '.join((name, *flags))}`", cpu, wall)


def inference(args):
    """Images a second at batch 1 and 1,000, normalisation and both outputs included, fp32."""
    print_head("model", "batch 1", "batch 1,000")
    for model in ("tiny", "compact", "deep_adder", "channel_fusion", "linear_adder"):
        found = [measured(args, "throughput", model, 20 if args.quick else 300) for _ in range(args.repeats)]
        print_row(f"`{model}`", *(f"{median(column(found, name)):,.0f}" for name in ("one", "many")))


def memory(args):
    """Peak resident memory of a training run (with its test), and above what importing torch takes."""
    bare = child([sys.executable, "-c", "import torch"])["peak"]
    print_head("", "peak MB", "above import torch")
    print_row("`import torch`", f"{bare:,.0f}", "")
    for model in ("compact", "tiny"):
        with tempfile.TemporaryDirectory() as scratch:
            flags = f"--model {model} --epochs 1 --data mnist --limit {args.images}".split()
            flags += ["--data-dir", args.data_dir, "--output-dir", scratch]
            peak = child([sys.executable, str(ROOT / "train.py"), *flags])["peak"]
        print_row(f"`train.py --model {model}`", f"{peak:,.0f}", f"{peak - bare:,.0f}")


def race(args):
    """Seconds until a test accuracy is reached, from the first step to the end of the first epoch
    whose test reaches it, tests included, data loading left out for all.

    To 99.17 / 98.49, what the author of `compact` reports: the baseline (up to 20 epochs). To 99.0 / 99.0:
    the speed-run (Adam, one epoch; see baseline.py), which predicts digits only and is given the sum.
    `tiny` runs by its recipe, but for the settings below, which were chosen on validation images.
    """
    print_head("to digit / sum", "", "reached", "in epoch", "s", "digit / sum, mean", "times faster")
    races = (
        ((0.9917, 0.9849), "baseline", {"epochs": 2, "batch_size": 128, "learning_rate": 0.25}),
        ((0.99, 0.99), "speed-run", {"epochs": 2, "batch_size": 192, "learning_rate": 0.15}),
    )
    for target, rival, settings in races:
        target = (0, 0) if args.quick else target
        rows = {
            rival: ("race_rival", args.images, rival, *target),
            "`tiny`, {epochs} epochs of {batch_size}, lr {learning_rate}".format(**settings): (
                "race_tiny", args.images, *target, *settings.values()
            ),
        }  # fmt: skip
        results = alternately(args, rows, seeded=True)
        base = median(column(results[rival], "seconds"))
        for name, found in results.items():
            seconds = column(found, "seconds")
            reached = f"{sum(column(found, 'reached'))} of {len(found)}"
            accuracies = (f"{mean(column(found, output)):.2%}" for output in ("digit", "sum"))
            print_row(f"{target[0]:.2%} / {target[1]:.2%}", name, reached,
                      ", ".join(map(str, column(found, "epochs"))), spread(seconds),
                      " / ".join(accuracies), f"{base / median(seconds):.1f}")  # fmt: skip


def gpu(args):
    """On a CUDA device: an epoch of compact and the data's share of it, and tiny to 99.0 / 99.0, with
    start-up and warm-up apart."""
    if not torch.cuda.is_available():
        print("(left out: no CUDA device here)")
        return
    found = [measured(args, "on_device", "cuda", args.images, time.time()) for _ in range(args.repeats)]
    phases = column(found, "phases")
    print_head("", "s")
    for name in phases[0]:
        print_row(name, spread(column(phases, name)))
    print(f"\n99.0 / 99.0 was reached by {sum(column(found, 'reached'))} of {len(found)} runs of tiny.")


PARTS = {
    part.__name__: part
    for part in (data, epoch, batch_norm, growth, profile, startup, inference, memory, race, gpu)
}


# The workers: each runs in a fresh process and returns plain numbers.


def timed(work, times=1):
    """Seconds that work() takes, the mean of so many times."""
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) / times


def training_set(folder, images, copies=1):
    train = load("mnist", folder, limit=images).train
    if copies > 1:
        train = Split(train.images.repeat(copies, 1, 1), train.digits.repeat(copies))
    return MnistSum(train)


def new_run(model, precision="auto", device=CPU, seed=0, **overrides):
    """The TrainingState of a new run by the model's recipe but for the overrides."""
    keep_freed_memory()
    recipe = RECIPES[model].overridden(**overrides)
    return new_state(model, recipe, seed, device, choose_precision(precision, device))


def use_batch_norm(model, kind):
    """Have the layers whose channels 16 does not divide normalise by PyTorch's code, or by ours."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.num_features % 16:
            module.__class__ = BATCH_NORMS[kind]


def pass_baseline(folder, images):
    import baseline

    loader = baseline.loader(folder, True, images)
    return {"seconds": timed(lambda: sum(len(image) for image, *_ in loader))}


def pass_ours(folder, images):
    train_set = training_set(folder, images)

    def one_pass():
        train_set.set_epoch(1)
        return sum(len(train_set[batch][0][0]) for batch in batches(len(train_set), 512, seed=0, epoch=1))

    return {"seconds": timed(one_pass)}


def epoch_baseline(folder, images):
    import baseline

    loader, training = baseline.loader(folder, True, images), baseline.compact()
    return {"seconds": timed(lambda: baseline.train_epoch(loader, *training))}


def epoch_ours(folder, model, images, precision, copies=1, batch_norm=None):
    train_set, state = training_set(folder, images, copies), new_run(model, precision)
    if batch_norm is not None:
        use_batch_norm(state.raw, batch_norm)
    return {"seconds": timed(lambda: train_epoch(state, state.raw, train_set))}


def loop(folder, name, images):
    """Seconds a step: in train_epoch, on one fixed batch without the loop, and the loop's parts."""
    state, train_set = new_run(name), training_set(folder, images)
    model, optimizer, batch_size = state.raw, state.optimizer, state.recipe.batch_size
    steps = len(batches(len(train_set), batch_size, 0, 0))
    order = torch.arange(min(batch_size, len(train_set)))
    (image, number), (digit, total) = train_set[order]

    def warmed(work, times=steps):
        timed(work, 3)
        return timed(work, times)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=state.precision == "bf16"):
            logits = model(image, number)
        loss, *_ = summed_loss(*logits, digit, total)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    model.train()
    optimizer.param_groups[0]["lr"] = 1e-6  # the same work, and no divergence on one batch
    before = warmed(step, max(1, steps // 2))
    in_loop = timed(lambda: train_epoch(state, model, train_set)) / steps
    optimizer.param_groups[0]["lr"] = 1e-6
    fixed = mean((before, warmed(step, max(1, steps // 2))))
    logits = [values.detach() for values in model(image, number)]
    losses = [torch.zeros(()), torch.zeros(())]
    sums = no_sums("cpu")
    parts = {
        "images and numbers": warmed(lambda: train_set[order]),
        "running sums": warmed(lambda: sums.add_(batch_sums(*losses, *logits, digit, total))),
    }
    if state.recipe.augmentation == "affine":
        matrices = random_matrices(len(train_set), generator(0, "affine"), image.device)
        parts["augmentation"] = warmed(lambda: affine(image, matrices[order]))
    return {"loop": in_loop, "fixed": fixed, "parts": parts}


def throughput(folder, model, repeats):
    keep_freed_memory()  # as inference.py does
    test, architecture = load("mnist", folder).test, models.find(model)
    built = place(architecture.build(), CPU, architecture.channels_last)
    return {
        "one": images_per_second(built, test, count=1, repeats=repeats),
        "many": images_per_second(built, test, count=1000, repeats=max(3, repeats // 20)),
    }


def first_to_reach(accuracies, *target):
    """Run the epochs, an iterator of (digit, sum) test accuracies, until one reaches the target."""
    started = time.perf_counter()
    for epochs, (digit, total) in enumerate(accuracies, 1):  # noqa: B007
        if reached := digit >= target[0] and total >= target[1]:
            break
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "epochs": epochs, "digit": digit, "sum": total, "reached": reached}


def race_rival(folder, images, rival, digit, total, seed):
    import baseline

    torch.manual_seed(seed)
    return first_to_reach(baseline.RIVALS[rival](folder, images), digit, total)


def tiny_accuracies(whole, device=CPU, **settings):
    rows = fit(new_run("tiny", device=device, **settings), whole.train, whole.test)
    return ((row["test_digit_accuracy"], row["test_sum_accuracy"]) for row in rows)


def race_tiny(folder, images, digit, total, epochs, batch_size, learning_rate, seed):
    whole = load("mnist", folder, limit=images)
    settings = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    return first_to_reach(tiny_accuracies(whole, seed=seed, **settings), digit, total)


def on_device(folder, name, images, started_at):
    """Seconds of a training process's phases on the device of that name; started_at: by time.time()."""
    device, phases = torch.device(name), {}

    def ended(phase, parts=1):
        nonlocal started_at
        if device.type == "cuda":
            torch.cuda.synchronize()
        phases[phase] = (time.time() - started_at) / parts
        started_at = time.time()

    torch.zeros(1, device=device)
    ended("start-up: Python, imports, device")
    whole = load("mnist", folder, limit=images)
    train_set = MnistSum(whole.train, device=device)
    ended("data, from disk to the device")
    state = new_run("compact", device=device)

    def epochs(count):
        for _ in range(count):
            train_epoch(state, state.raw, train_set)
            state.epoch, state.step, state.sums = state.epoch + 1, 0, None

    epochs(1)
    ended("compact, warm-up: the first epoch")
    epochs(4)
    ended("compact, an epoch of the next four", parts=4)
    train_set.set_epoch(1)
    for batch in batches(len(train_set), 512, 0, 1, device):
        train_set[batch]
    ended("compact, a pass over the data alone")
    list(tiny_accuracies(whole, device, epochs=1))
    ended("tiny, warm-up: one epoch of another run")
    end = first_to_reach(tiny_accuracies(whole, device, epochs=3), 0.99, 0.99)
    phases["tiny, to 99.0 / 99.0, tests included"] = end["seconds"]
    return {"phases": phases, "reached": end["reached"]}


if __name__ == "__main__":
    main()
