"""Redraw the pictures in assets/ from what ships: `python -m tests.draw_assets`, in the root of a checkout.

It needs the full MNIST and, for demo.png, the extra `test` and Chromium.
"""

import argparse
import csv
import io
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch

import inference
from mnist_sum import console, data, models, reproduce
from mnist_sum.figures import plots
from mnist_sum.recipes import DEFAULT_MODEL
from mnist_sum.runs import checkpoint, report
from mnist_sum.runs.folder import data_folder
from tests.handwriting import drawn

ROOT = Path(__file__).resolve().parent.parent
PAGES = {5: 1, 3: 3, 7: 9}  # digit: seed of a synthetic page


def predict(model, output, data_dir, *flags):
    """Run inference.py with the shipped model of this name; flags: beside those of model, data and output."""
    paths = ("--checkpoint", str(models.shipped(model)), "--data-dir", data_dir, "--output", str(output))
    with redirect_stdout(io.StringIO()):
        inference.main([*flags, *paths, "--data", "mnist", "--device", "cpu"])


def draw_predictions(folder, data_dir):
    predict(DEFAULT_MODEL, folder / "predictions.png", data_dir, "--total", "25", "--seed", "0")


def draw_mistakes(folder, data_dir):
    predict("compact", folder, data_dir, "--evaluate", "--plot-graph")


def draw_own(folder, data_dir):
    files = {digit: str(folder / f"synthetic-{digit}.png") for digit in PAGES}
    for digit, seed in PAGES.items():
        drawn(digit, np.random.default_rng(seed)).save(files[digit])
    predict(DEFAULT_MODEL, folder / "own.png", data_dir, "--number", "7", "--image", *files.values())


def draw_run(folder, data_dir):
    """The pictures of the run that the shipped default model comes from."""
    state, stored = checkpoint.load_state(models.shipped(DEFAULT_MODEL), torch.device("cpu"))
    report.draw_pictures(state, data.load("mnist", data_dir, stored["recipe"]["split"]), folder)


def draw_reproduction(folder, _):
    """Parameters against accuracy: our results from models/results.csv, and what others report."""
    ours, others = {}, dict(reproduce.BEST_ELSEWHERE)
    table = (models.WEIGHTS.parent / "results.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(table.splitlines()):
        name, parameters = row["model"], int(row["parameters"])
        percent = [float(value) for column, value in row.items() if column.endswith("_percent")]
        ours[name] = (parameters, percent[:2], percent[2:])
        if name in reproduce.REPORTED:
            others[name] = (parameters, *reproduce.REPORTED[name])
    plots.draw_parameters(ours, others, folder / "reproduction.png")


def draw_demo(folder, _):
    """A screenshot of the page, by the test that draws a 7 on it; none where there is no browser."""
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "tests/test_demo.py", "-k", "page_in_a_browser"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "MNIST_SUM_SCREENSHOT": str(folder / "demo.png")})


DRAWERS = {
    draw_predictions: ["predictions"],
    draw_mistakes: ["mistakes"],
    draw_own: ["own"],
    draw_demo: ["demo"],
    draw_run: ["samples", "training", "testing", "model"],
    draw_reproduction: ["reproduction"],
}
NAMES = [name for names in DRAWERS.values() for name in names]


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m tests.draw_assets", description=__doc__)
    parser.add_argument("--data-dir", metavar="DIR", help="where MNIST lies (default: as train.py's)")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="which (default: all)")
    parser.add_argument("--output-dir", type=Path, default=ROOT / "assets", metavar="DIR")
    args = parser.parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for draw, names in DRAWERS.items():
        with tempfile.TemporaryDirectory() as folder:
            if set(names) & set(args.only):
                draw(Path(folder), data_folder(args.data_dir))
            for name in [f"{name}.png" for name in names if name in args.only]:
                if Path(folder, name).exists():
                    shutil.copyfile(Path(folder, name), args.output_dir / name)
                    print(args.output_dir / name)
                else:
                    print(f"{name}: skipped; it needs the extra `test` and Chromium")


if __name__ == "__main__":
    console.run_script(main, "draw_assets.py")
