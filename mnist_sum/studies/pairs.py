"""The study `pairs`: does a model add, or does it remember the pairs of digit and number that it has seen?

Some of the 100 pairs are held out: no training image of the digit ever comes with the number. The model is
then tested with every test image and every number. Held out are

  fold-0 … fold-9      ten pairs each, by the ten folds of Bloice, Roth and Holzinger 2019, arXiv 1912.03035
  held-30 … held-81    so many pairs of those that are not (d, 0) or (9, n), drawn anew for each seed, fewer
                       of them being among the more; the 19 others have every digit, number and sum

A run is train.py's own by the model's recipe, but for the pairs, for the split where the recipe has another,
and for the epochs where they are given. Fold 0 holds out (9, 9) and fold 7 (0, 0), whose sums 18 and 0 then
never occur: these two are also reported apart.
"""

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

from mnist_sum import console
from mnist_sum import data as images
from mnist_sum.dataset import MnistSum
from mnist_sum.evaluation.errors import sum_grid
from mnist_sum.evaluation.exhaustive import predict_all
from mnist_sum.figures.plots import draw_pair_grids
from mnist_sum.recipes import RECIPES, STUDIED, held_out_mask, held_out_pairs
from mnist_sum.runs import checkpoint
from mnist_sum.runs.folder import CHECKPOINT, data_folder
from mnist_sum.runs.series import architectures, mean_and_deviation, row_of, train
from mnist_sum.system.device import choose_device
from mnist_sum.system.files import check_output, make_folder, write_atomically

TABLE, PICTURE = "pairs.md", "pairs.png"
FOLDS, FOLDS_SEED = 10, 376483
LADDER = (30, 50, 70, 81)
PAIRS = list(product(range(10), repeat=2))
ALWAYS_SEEN = [(digit, number) for digit, number in PAIRS if number == 0 or digit == 9]
ENDS = (9, 9), (0, 0)  # the only pairs of their sums
EACH = "each as held out"  # of the picture
QUICK_EPOCHS = 8
QUICK_MODELS = ("compact", "tiny", *STUDIED)


def folds():
    """Ten lists of ten pairs, those of scikit-learn's KFold(10, shuffle=True, random_state=376483)."""
    order = np.random.RandomState(FOLDS_SEED).permutation(len(PAIRS))
    return [[PAIRS[place] for place in sorted(part)] for part in np.split(order, FOLDS)]


def ladder(count, seed):
    """The `count` pairs that are held out, a list."""
    others = [pair for pair in PAIRS if pair not in ALWAYS_SEEN]
    order = np.random.RandomState(seed).permutation(len(others))
    return [others[place] for place in order[:count]]


def cases(seed, quick):
    """{name: pairs held out} of the seed's runs of each model."""
    found = {f"fold-{fold}": pairs for fold, pairs in enumerate(folds())}
    found |= {f"held-{count}": ladder(count, seed) for count in LADDER}
    return {name: found[name] for name in ("fold-0", "held-81")} if quick else found


def study(models, epochs, data, data_dir, split, seeds, output_dir, quick):
    """Do the runs that are not done yet; print a row for each run, and write the table and the picture.

    All as cli.parse_study gives them. Returns the exit code.
    """
    folder = make_folder(output_dir)
    for name in TABLE, PICTURE:
        check_output(folder / name)
    files = {name: str(Path(__file__).parent / file) for name, file in STUDIED.items()}
    models = models or (QUICK_MODELS if quick else (*RECIPES, *STUDIED))
    epochs = epochs or (QUICK_EPOCHS if quick else None)
    found = architectures([files.get(name, name) for name in models])
    loaded = images.load(data, data_folder(data_dir), split)
    test_set = MnistSum(loaded.test, device=choose_device("auto"))
    plan = [
        (seed, *case, *model)
        for seed in range(seeds or (1 if quick else 3))
        for case, model in product(cases(seed, quick).items(), found.items())
    ]
    rows = []
    for seed, case, pairs, model, architecture in console.progress(plan, desc="runs"):
        run_folder = folder / f"{architecture.slug}-{case}-{seed}"
        settings = {"split": split, "epochs": epochs, "held_out": held_out_mask(pairs)}
        with console.quiet():
            code = train(model, run_folder, seed, loaded.name, data_dir, **settings)
        if code:
            console.note("stopped; give the same command again to resume")
            return code
        stored = checkpoint.load(run_folder / CHECKPOINT, own=[architecture])
        about = {"model": label(architecture), "case": case, "seed": seed, "checkpoint": stored["sha256"]}
        row, new = row_of(run_folder, about, partial(measured, run_folder, architecture, test_set))
        rows.append(row)
        console.results([row], line(row))
        if new or len(rows) == len(plan):
            table = tables(rows, loaded, split)
            write_atomically(folder / TABLE, table.encode("utf-8", "backslashreplace"))
            draw_pair_grids(grids(rows), folder / PICTURE)
    console.note(f"\n{table.rstrip()}\n\npicture: {console.one_line(folder / PICTURE)}")
    return 0


def label(architecture):
    """The name of a model in tables: the study's own have a short one."""
    short = {file: name for name, file in STUDIED.items()}
    return short.get(architecture.name, architecture.name)


def measured(folder, architecture, test_set):
    """What the finished run in the folder comes to, as a dict of JSON values.

    held_out is the recipe's mask, and the accuracies are fractions of the sums: of the seen pairs, of the
    held-out ones, of those held-out ones whose sum was trained on with another pair, and of each pair (grid,
    digits by numbers; null where no test image is). seconds are those of the whole training.
    """
    model, stored = checkpoint.load_model(folder / CHECKPOINT, test_set.digits.device, own=[architecture])
    predictions = predict_all(model, test_set)
    held_out = stored["recipe"]["held_out"]
    unseen, ends = mask(held_out), mask(held_out_mask(ENDS))

    def accuracy(pairs):
        correct = predictions.sum_correct[pairs[predictions.digits]]
        return correct.float().mean().item() if len(correct) else None

    grid = sum_grid(predictions).tolist()
    return {
        "held_out": held_out,
        "seen_accuracy": accuracy(~unseen),
        "unseen_accuracy": accuracy(unseen),
        "unseen_known_sum_accuracy": accuracy(unseen & ~ends),
        "digit_accuracy": predictions.digit_correct.float().mean().item(),
        "grid": [[None if cell != cell else cell for cell in numbers] for numbers in grid],
        "epochs": stored["epoch"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": sum(row["seconds"] for row in stored["history"]),
    }


def mask(held_out):
    """bool (10, 10), digit by number: which pairs a recipe's held_out has."""
    found = torch.zeros(10, 10, dtype=torch.bool)
    for pair in held_out_pairs(held_out):
        found[pair] = True
    return found


def line(row):
    """A row as a line to print."""
    return (f"{row['model']:20} {row['case']:8} seed {row['seed']}  seen {row['seen_accuracy']:7.2%}  "
            f"held out {row['unseen_accuracy']:7.2%}  {row['seconds']:6.0f} s")  # fmt: skip


def tables(rows, data, split):
    """Two Markdown tables of the rows, means ± standard deviations over folds and seeds: the folds' and the
    ladder's."""
    part = "validation" if split == "validation" else "test"
    lines = [
        f"Sum accuracy on the {len(data.test):,} {part} images of {data.name}, each with ten numbers.",
        "",
        "| model | parameters | seen pairs % | held-out pairs % | gap | held out, but not (9, 9), (0, 0) % "
        "| (9, 9) held out % | (0, 0) held out % | digit % | runs | epochs | seconds a run |",
        "|" + 12 * "---|",
    ]
    models = list(dict.fromkeys(row["model"] for row in rows))
    for model in models:
        runs = [row for row in rows if row["model"] == model and row["case"].startswith("fold-")]
        gaps = [row["seen_accuracy"] - row["unseen_accuracy"] for row in runs]
        ends = [
            [row["grid"][digit][number] for row in runs if mask(row["held_out"])[digit, number]]
            for digit, number in ENDS
        ]
        cells = [f"`{model}`", f"{runs[0]['parameters']:,}", percent(runs, "seen_accuracy")]
        cells += [percent(runs, "unseen_accuracy"), mean_and_deviation([100 * gap for gap in gaps])]
        cells += [percent(runs, "unseen_known_sum_accuracy")]
        cells += [mean_and_deviation([100 * value for value in values]) if values else "-" for values in ends]
        cells += [percent(runs, "digit_accuracy"), str(len(runs)), str(runs[0]["epochs"])]
        cells += [mean_and_deviation([row["seconds"] for row in runs])]
        lines.append(f"| {' | '.join(cells)} |")
    titles = [f"{count} held out" for count in (FOLDS, *LADDER)]
    lines += ["", f"| seen / held-out pairs % | {' | '.join(titles)} |", "|" + (2 + len(LADDER)) * "---|"]
    for model in models:
        cells = [f"`{model}`"]
        for begin in ("fold-", *(f"held-{count}" for count in LADDER)):
            runs = [row for row in rows if row["model"] == model and row["case"].startswith(begin)]
            both = [percent(runs, name) for name in ("seen_accuracy", "unseen_accuracy")]
            cells.append(" / ".join(both) if runs else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def percent(rows, name):
    """ "mean ± standard deviation" of the rows' fractions of that name, in percent; of none a dash."""
    values = [100 * row[name] for row in rows if row[name] is not None]
    return mean_and_deviation(values) if values else "-"


def grids(rows):
    """Of the runs of seed 0 {model: {title: (accuracy (10, 10), held out (10, 10))}}, as draw_pair_grids
    takes them: of fold 0 and of the ladder, and of all folds each pair's accuracy where it was held out."""
    found = {}
    for row in (row for row in rows if row["seed"] == 0):
        columns = found.setdefault(row["model"], {})
        grid, unseen = np.array(row["grid"], dtype=float), mask(row["held_out"]).numpy()
        if row["case"] == "fold-0" or not row["case"].startswith("fold-"):
            columns[row["case"]] = grid, unseen
        if row["case"].startswith("fold-"):
            before = columns.get(EACH, (np.full((10, 10), np.nan), np.zeros((10, 10), dtype=bool)))
            columns[EACH] = np.where(unseen, grid, before[0]), unseen | before[1]
    return found
