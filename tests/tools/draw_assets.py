"""Redraw the pictures in assets/: `python -m tests.tools.draw_assets --data-dir DIR`, in the root of a checkout.

demo.png needs the extra `test` and Chromium; pairs.png and sums.png are drawn by the studies.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import torch
from matplotlib.transforms import Bbox

import inference
from mnist_sum import checkpoint, models, plots, report, reproduce
from tests.tools.handwriting import drawn

ROOT = Path(__file__).resolve().parents[2]


def draw_reproduction(path: Path) -> None:
    """Parameters against accuracy (%), from models/results.csv and what others report."""
    # the best solution of this task that was found elsewhere feeds the adder the digit's argmax
    ours, others = {}, {"best other solution": (347_000, 99.54, 99.54)}
    with open(models.WEIGHTS.parent / "results.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name, parameters = row["model"], int(row["parameters"])
            digit, digit_std, total, sum_std = (float(row[key]) for key in list(row)[2:6])
            ours[name] = (parameters, (digit, digit_std), (total, sum_std))
            if name in reproduce.REPORTED:
                others[name] = (parameters, *reproduce.REPORTED[name])
    figure, axes = plots.subplots(10, 6.4)
    # the digit's marks are open or slanted: both outputs are visible where they coincide
    for place, size, fill, cross in (1, 9, "none", "x"), (2, 4, "full", "+"):
        output, color = list(plots.OUTPUTS.items())[place - 1]
        x, means, deviations = zip(*((row[0], *row[place]) for row in ours.values()), strict=True)
        style = {"fmt": "o", "color": color, "markersize": size, "fillstyle": fill, "capsize": 3}
        axes.errorbar(x, means, deviations, label=f"{output}, ours, ± standard deviation over seeds", **style)
        x, values = zip(*((row[0], row[place]) for row in others.values()), strict=True)
        axes.plot(x, values, cross, color=color, markersize=8, label=f"{output}, as its author reports it")
    plots.errors_scale(axes, (80, 85, 90, 95, 97, 98, 98.5, 99, 99.3, 99.5, 99.7, 99.8), 100.05)
    axes.set(xscale="log", ylim=(min(*values, *means) - 3, 99.85), xlabel="parameters", ylabel="accuracy (%)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.15)
    plots.legend(axes)
    # names beside the higher points, where they cover neither a point nor each other
    points = {name: (row[0], row[1:]) for name, row in others.items()}
    points |= {name: (row[0], (row[1][0], row[2][0])) for name, row in ours.items()}
    figure.draw_without_rendering()  # now everything has its place
    marks = axes.transData.transform([(x, value) for x, values in points.values() for value in values])
    taken = [Bbox.from_bounds(x - 9, y - 9, 18, 18) for x, y in marks]
    for name, (x, values) in points.items():
        text = axes.annotate(name, (x, max(values)), (9, 0), fontsize=9, in_layout=False, textcoords="offset points")
        for up, (right, side) in product(range(0, 100, 4), ((9, "left"), (-9, "right"))):
            text.set(position=(right, up), ha=side, va="center")
            if not text.get_window_extent().count_overlaps(taken):
                break
        taken.append(text.get_window_extent())
    plots.finish(figure, "Parameters against accuracy", path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.draw_assets", description=__doc__)
    parser.add_argument("--data-dir", required=True, metavar="DIR", help="where MNIST is")
    parser.add_argument("--output-dir", type=Path, default=ROOT / "assets", metavar="DIR")
    args = parser.parse_args()
    assets = args.output_dir
    assets.mkdir(parents=True, exist_ok=True)
    common = ["--data", "mnist", "--data-dir", args.data_dir, "--device", "cpu"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = [folder / f"synthetic-{digit}.png" for digit in (5, 3, 7)]
        for file, digit, seed in zip(files, (5, 3, 7), (1, 3, 9), strict=True):
            drawn(digit, np.random.default_rng(seed)).save(file)
        predictions = ["--checkpoint", "tiny", "--total", "25", "--seed", "0"]
        inference.main([*predictions, *common, "--output", str(assets / "predictions.png")])
        own = ["--checkpoint", "tiny", "--number", "7", "--image", *map(str, files)]
        inference.main([*own, *common, "--output", str(assets / "own.png")])
        errors = ["--checkpoint", "compact", "--evaluate", "--plot-graph"]
        inference.main([*errors, *common, "--output", temporary])
        # the run that the shipped default model comes from
        state, info = checkpoint.resume(models.WEIGHTS / "tiny.safetensors", torch.device("cpu"))
        report.draw_pictures(state, checkpoint.data_of(info, "mnist", args.data_dir), folder)
        for name in ("mistakes", "testing", "samples", "model"):
            shutil.copyfile(folder / f"{name}.png", assets / f"{name}.png")
    draw_reproduction(assets / "reproduction.png")
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_demo.py", "-k", "browser"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "MNIST_SUM_SCREENSHOT": str(assets / "demo.png")})


if __name__ == "__main__":
    main()
