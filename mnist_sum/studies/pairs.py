"""The study `pairs`: does a model add, or does it remember the pairs of digit and number that it has seen?

A run is train.py's by the model's recipe, but some of the 100 pairs are held out; the test has all of them:

  fold-0 … fold-9      ten pairs each, by the ten folds of Bloice, Roth and Holzinger 2019, arXiv 1912.03035
  held-30 … held-81    so many, drawn anew for each seed, the fewer among the more; (d, 0) and (9, n) are always seen
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mnist_sum.checkpoint import CHECKPOINT, load_model
from mnist_sum.data import Data, load_data
from mnist_sum.device import choose_device, keep_freed_memory
from mnist_sum.evaluation import predict_all, sum_grid
from mnist_sum.models import recipe_of
from mnist_sum.plots import draw_pair_grids
from mnist_sum.recipes import RECIPES, Recipe
from mnist_sum.reproduce import finish_run, mean_and_deviation
from mnist_sum.studies import STUDIED, Plan, Row, do_runs

PAIRS = [(digit, number) for digit in range(10) for number in range(10)]
LADDER, QUICK_EPOCHS = (30, 50, 70, 81), 8
ENDS = (9, 9), (0, 0)  # the only pairs of their sums, which are never seen where folds 0 and 7 hold them out


def folds() -> list[list[tuple[int, int]]]:
    """Ten times ten pairs, those of scikit-learn's KFold(10, shuffle=True, random_state=376483)."""
    order = np.random.RandomState(376483).permutation(100)
    return [[PAIRS[place] for place in sorted(part)] for part in np.split(order, 10)]


def ladder(count: int, seed: int) -> list[tuple[int, int]]:
    others = [(digit, number) for digit, number in PAIRS if number > 0 and digit < 9]
    order = np.random.RandomState(seed).permutation(len(others))
    return sorted(others[place] for place in order[:count])


def study(args: Namespace) -> None:
    keep_freed_memory()
    models = args.models or (*(("compact", "tiny") if args.quick else RECIPES), *STUDIED)
    names = {Path(model).name: STUDIED.get(model, model) for model in models}
    data, plan = load_data(args.data, args.data_dir, args.split), Plan()
    for seed in range(args.seeds or (1 if args.quick else 3)):
        cases = {f"fold-{fold}": pairs for fold, pairs in enumerate(folds()) if fold == 0 or not args.quick}
        cases |= {f"held-{count}": ladder(count, seed) for count in (LADDER[-1:] if args.quick else LADDER)}
        for (case, held_out), (model, name) in product(cases.items(), names.items()):
            recipe = replace(recipe_of(name), split=args.split, held_out=tuple(held_out))
            recipe = replace(recipe, epochs=args.epochs or (QUICK_EPOCHS if args.quick else recipe.epochs))
            identity = {"model": model, "case": case, "seed": seed, "data": data.name, "test_images": len(data.test)}
            folder = Path(args.output_dir, f"{model.replace('.py:', '-')}-{case}-{seed}")
            plan[folder.name] = identity | {"recipe": asdict(recipe)}, partial(run, folder, name, recipe, seed, data)
    do_runs(args, plan, publish)


def run(folder: Path, name: str, recipe: Recipe, seed: int, data: Data) -> Row:
    """Train a model, or go on training it, and test it."""
    device = choose_device("auto")
    finish_run(folder, name, recipe, seed, data, device)
    model, info = load_model(folder / CHECKPOINT, device, [name])
    predictions, unseen = predict_all(model, data.test), mask(recipe.held_out)
    row: Row = {}
    for key, pairs in {"seen": ~unseen, "unseen": unseen, "unseen_known_sum": unseen & ~mask(ENDS)}.items():
        correct = predictions.sum_correct[pairs[predictions.digits]]
        row[f"{key}_accuracy"] = correct.float().mean().item() if len(correct) else None
    return row | {
        "digit_accuracy": predictions.digit_correct.float().mean().item(),
        "grid": [[x if x == x else None for x in numbers] for numbers in sum_grid(predictions).tolist()],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": sum(epoch["seconds"] for epoch in info["history"]),
    }


def mask(pairs: Sequence[Sequence[int]]) -> Tensor:
    """bool (10, 10), digit by number."""
    found = torch.zeros(10, 10, dtype=torch.bool)
    found[tuple(torch.tensor(pairs).T)] = True
    return found


def publish(rows: list[Row], path: Path) -> str:
    """Draw the picture, and return a table of the folds and one of the ladder: means ± deviations over all runs."""
    draw_pair_grids(grids(rows), path)
    part = "validation" if rows[0]["recipe"]["split"] == "validation" else "test"
    images = f"{rows[0]['test_images']:,} {part} images of {rows[0]['data']}"
    head = "| model | parameters | seen pairs % | held-out pairs % | gap | held out, but not (9, 9), (0, 0) % "
    head += "| (9, 9) held out % | (0, 0) held out % | digit % | runs | epochs | seconds a run |"
    lines = [f"Sum accuracy on the {images}, each with ten numbers.", "", head, "|" + 12 * "---|"]
    head = "| seen / held-out pairs % | 10 held out | 30 held out | 50 held out | 70 held out | 81 held out |"
    ladder_lines = ["", head, "|" + 6 * "---|"]
    keys = "seen_accuracy", "unseen_accuracy", "unseen_known_sum_accuracy", "digit_accuracy"
    for model in dict.fromkeys(row["model"] for row in rows):
        runs = [row for row in rows if row["model"] == model and row["case"].startswith("fold-")]
        seen, unseen, known_sum, digit = ([row[key] for row in runs] for key in keys)
        gaps = [one - other for one, other in zip(seen, unseen, strict=True)]
        ends = [[row["grid"][d][n] for row in runs if [d, n] in row["recipe"]["held_out"]] for d, n in ENDS]
        percents = map(percent, (seen, unseen, gaps, known_sum, *ends, digit))
        cells = [f"`{model}`", f"{runs[0]['parameters']:,}", *percents, str(len(runs))]
        cells += [str(runs[0]["recipe"]["epochs"]), mean_and_deviation([row["seconds"] for row in runs])]
        lines.append(f"| {' | '.join(cells)} |")
        cells = [f"`{model}`", f"{percent(seen)} / {percent(unseen)}"]
        for count in LADDER:
            runs = [row for row in rows if row["model"] == model and row["case"] == f"held-{count}"]
            cells.append(" / ".join(percent([row[key] for row in runs]) for key in keys[:2]) if runs else "-")
        ladder_lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *ladder_lines, ""])


def percent(fractions: list[float | None]) -> str:
    """ "mean ± standard deviation" in percent, or a dash where there are none."""
    values = [100 * fraction for fraction in fractions if fraction is not None]
    return mean_and_deviation(values) if values else "-"


def grids(rows: list[Row]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """{model: {title: (accuracy (10, 10), held out (10, 10))}} of seed 0: fold 0, all folds, the ladder."""
    found: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for row in (row for row in rows if row["seed"] == 0):
        columns = found.setdefault(row["model"], {})
        grid, unseen = np.array(row["grid"], dtype=float), mask(row["recipe"]["held_out"]).numpy()
        if row["case"] == "fold-0" or not row["case"].startswith("fold-"):
            columns[row["case"]] = grid, unseen
        if row["case"].startswith("fold-"):  # the accuracy of each pair in the fold that holds it out
            nothing = np.full((10, 10), np.nan), np.zeros((10, 10), dtype=bool)
            accuracy, held_out = columns.setdefault("each as held out", nothing)
            accuracy[unseen], held_out[unseen] = grid[unseen], True
    return found
