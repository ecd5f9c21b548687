"""Our speed against that of the rivals in baseline.py, on a CPU that does nothing else.

Each measurement is a process of its own, and a table's rows are measured alternately. Prints Markdown tables:
the median, with the range in brackets. Only in startup do the seconds include imports.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median
from timeit import timeit

import torch
from PIL import Image, ImageDraw

from mnist_sum import cli
from mnist_sum.data import MnistSum, batches, load_data
from mnist_sum.device import choose_precision, describe_device, keep_freed_memory
from mnist_sum.evaluation import images_per_second
from mnist_sum.loss import summed_loss
from mnist_sum.models import build_model
from mnist_sum.recipes import RECIPES
from mnist_sum.training import fit, new_state
from tests.benchmarks import baseline

ROOT, CPU = Path(__file__).resolve().parents[2], torch.device("cpu")
Figures = dict[str, float]  # a column's name: its value
Worker = Callable[[str, int, int], Figures]  # of (data_dir, training images, seed)
timed = partial(timeit, number=1)  # seconds


def data(rival: str, folder: str, images: int, seed: int) -> Figures:
    """A pass over the training images in batches of 512, without a model."""
    ours, loader = MnistSum(load_data("mnist", folder).train), baseline.loader(folder, True, images)
    passes = {
        "baseline": lambda: loader,
        "ours": lambda: map(ours.__getitem__, batches(images, 512, seed, 1)),
    }
    return {"seconds": timed(lambda: deque(passes[rival](), maxlen=0))}


def epoch(run: str, folder: str, images: int, seed: int) -> Figures:
    """A training epoch; its test has one image."""
    if run == "baseline":
        loaders = [baseline.loader(folder, True, images), baseline.loader(folder, False, 1)]
        return {"seconds": timed(partial(next, baseline.baseline_epochs(*loaders)))}
    keep_freed_memory()
    data, (model, precision) = load_data("mnist", folder, limit=images), run.split(", ")
    state = new_state(model, RECIPES[model], seed, CPU, precision)
    return {"seconds": timed(partial(next, fit(state, data.train, data.test[:1])))}


def profile(model: str, folder: str, images: int, seed: int) -> Figures:
    """A step in fit() against forward, backward and step on one fixed batch."""
    keep_freed_memory()
    data, precision = load_data("mnist", folder, limit=images), choose_precision("auto", CPU)
    state = new_state(model, RECIPES[model], seed, CPU, precision)
    steps = len(batches(images, state.recipe.batch_size, 0, 0))
    (image, number), (digit, total) = MnistSum(data.train)[: state.recipe.batch_size]

    def fixed_steps() -> None:
        state.optimizer.param_groups[0]["lr"] = 1e-6  # no divergence on one batch
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                digit_logits, sum_logits = state.model(image, number)
            state.optimizer.zero_grad(set_to_none=True)
            summed_loss(digit_logits, sum_logits, digit, total)[0].backward()
            state.optimizer.step()

    fixed_steps()  # warms up
    before = timed(fixed_steps)
    in_loop = 1000 / steps * timed(partial(next, fit(state, data.train, data.test[:1])))
    fixed = 1000 / steps * (before + timed(fixed_steps)) / 2
    return {"loop, ms a step": in_loop, "fixed batch": fixed, "loop adds %": 100 * (in_loop / fixed - 1)}


def inference(model: str, folder: str, images: int, seed: int) -> Figures:
    """Images a second, normalization and both outputs included, in float32."""
    keep_freed_memory()
    built, test = build_model(model).eval(), load_data("mnist", folder).test
    speeds = {n: images_per_second(built, test, n, max(15, images // 200 // n)) for n in (1, 1000)}
    return {f"{n:,} at once": speed for n, speed in speeds.items()}


def race(rival: str, folder: str, images: int, seed: int) -> Figures:
    """Training and tests until the end of the first epoch whose test reaches the target; if quick, of one."""
    target = (0.99, 0.99) if rival == "speed-run" else (0.9917, 0.9849)  # digit, sum
    torch.manual_seed(seed)
    data = load_data("mnist", folder, limit=images)
    if rival == "baseline":
        loaders = [baseline.loader(folder, train, images) for train in (True, False)]
        epochs = baseline.baseline_epochs(*loaders)
    elif rival == "speed-run":
        epochs = baseline.speed_run_epochs(data.train, data.test)
    else:
        keep_freed_memory()
        recipe = replace(RECIPES[rival], epochs={"quick": 1, "tiny": 2}[rival])
        rows = fit(new_state(rival, recipe, seed, CPU, choose_precision("auto", CPU)), data.train, data.test)
        epochs = ((row["test_digit_accuracy"], row["test_sum_accuracy"]) for row in rows)
    started = time.perf_counter()
    for count, (digit, total) in enumerate(epochs, 1):  # noqa: B007
        if (reached := digit >= target[0] and total >= target[1]) or images < 60_000:
            break
    figures = {"seconds": time.perf_counter() - started, "reached": reached, "epochs": count}
    return figures | {"digit %": 100 * digit, "sum %": 100 * total}


def command(figure: str, text: str, folder: str, images: int, seed: int) -> Figures:
    """Run a script of this repository in a new folder that holds seven.png."""
    script, *flags = text.split()
    flags += ["--data-dir", folder, "--limit", str(images)] if "--epochs" in flags else []
    with tempfile.TemporaryDirectory() as scratch:
        picture = Image.new("L", (600, 600), 255)
        ImageDraw.Draw(picture).line(((150, 120), (450, 120), (280, 500)), fill=0, width=30)
        picture.save(f"{scratch}/seven.png")
        argv = [sys.executable, str(ROOT / script), *flags]
        seconds = timed(partial(subprocess.run, argv, cwd=scratch, stdout=subprocess.DEVNULL, check=True))
    return {figure: {"seconds": seconds, "peak MB": getrusage(RUSAGE_CHILDREN).ru_maxrss / 1024}[figure]}


EPOCHS = "baseline", "compact, fp32", "compact, bf16", "tiny, bf16", "quick, bf16", "large, bf16"
RACES = "baseline", "quick", "tiny", "speed-run"
SCRIPTS = "train.py --help", "inference.py --image seven.png --number 7"
RUNS = "train.py --epochs 1 --data mnist --model tiny", "train.py --epochs 1 --data mnist --model compact"
PARTS: dict[str, dict[str, Worker]] = {
    "data": {rival: partial(data, rival) for rival in ("baseline", "ours")},
    "epoch": {run: partial(epoch, run) for run in EPOCHS},
    "profile": {model: partial(profile, model) for model in ("tiny", "compact")},
    "inference": {model: partial(inference, model) for model in RECIPES},
    "race": {rival: partial(race, rival) for rival in RACES},
    "startup": {text: partial(command, "seconds", text) for text in SCRIPTS},
    "memory": {text: partial(command, "peak MB", text) for text in RUNS},
}


def measure(rows: dict[str, Worker], folder: str, images: int, repeats: int) -> None:
    """Measure the rows in turn, `repeats` times, each in a fresh process; print their table."""
    results: dict[str, list[Figures]] = {name: [] for name in rows}
    for seed in range(repeats):
        for name, worker in rows.items():
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                results[name].append(pool.submit(worker, folder, images, seed).result())
    columns = list(results[name][0])
    print(f"| | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for name, found in results.items():
        cells = [cell([figures[column] for figures in found]) for column in columns]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def cell(values: list[float]) -> str:
    """ "median (lowest to highest)"; of truth values, how many are true."""
    if isinstance(values[0], bool):
        return f"{sum(values)} of {len(values)}"
    shown = (median(values), min(values), max(values))
    return "{} ({} to {})".format(*(f"{value:,.0f}" if value >= 1000 else f"{value:.4g}" for value in shown))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.run", description=__doc__)
    add = parser.add_argument
    add("--data-dir", required=True, metavar="DIR", help="where MNIST is")
    add("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    add("--quick", action="store_true", help="once, on a twentieth of the data: shows that it runs")
    add("--repeats", type=cli.positive_int, default=3, metavar="N", help="of each measurement (default: 3)")
    args = parser.parse_args(argv)
    images, repeats = (3_000, 1) if args.quick else (60_000, args.repeats)
    print(f"{describe_device(CPU)}, torch {torch.__version__}")
    for part in args.only:
        print(f"\n**{part}**\n", flush=True)
        measure(PARTS[part], str(Path(args.data_dir).resolve()), images, repeats)


if __name__ == "__main__":
    cli.run(main, "tests.benchmarks.run")
