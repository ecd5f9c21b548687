"""`python -m mnist_sum.reproduce`: train every registered model by its recipe and table the results.

Each run is train.py's own, in a folder of its own below --output-dir, so the command can be stopped
at any time and goes on where it was when it is given again. The table is written to
reproduction.md there, and a picture of parameters against accuracy to reproduction.png, anew after
every run.
"""

import argparse
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from mnist_sum import cli
from mnist_sum.errors import Fault
from mnist_sum.recipes import RECIPES, Recipe

# The best solution of the same task that was found: arg-max of the digit fed to the adder.
BEST_ELSEWHERE = {"best other solution": (347_000, 99.54, 99.54)}
TRAIN = Path(__file__).resolve().parent.parent / "train.py"


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m mnist_sum.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--models", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME",
        help=f"which models (default: all: {', '.join(RECIPES)})",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=cli.whole_number, default=3, metavar="N",
        help="runs of each model, with seeds 0 to N-1 (default: 3)",
    )  # fmt: skip
    parser.add_argument(
        "--data-dir", default=cli.default_data_folder(), metavar="DIR",
        help="where MNIST lies or is downloaded to (default: $MNIST_SUM_DATA, else data)",
    )  # fmt: skip
    parser.add_argument(
        "--teacher", type=cli.file_name, metavar="FILE",
        help="the trained model that teaches them, as train.py's --teacher; not those of another split "
        "than its own, so name --models too (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--output-dir", type=Path, default=Path("runs/reproduction"), metavar="DIR",
        help="where the runs and the table go (default: runs/reproduction)",
    )  # fmt: skip
    return cli.parsed(parser, argv)


def main(argv):
    args = parse(argv)
    if args.teacher is not None:
        refuse_other_splits(args.models, args.teacher)
    finished = {name: [] for name in args.models}
    for seed in range(args.seeds):
        for name in args.models:
            folder = args.output_dir / f"{name}-{seed}"
            if not train(name, seed, args.data_dir, folder, args.teacher):
                return 1
            finished[name].append(run_figures(folder, args.data_dir))
            table = results_table(finished, args.teacher)
            (args.output_dir / "reproduction.md").write_text(table, encoding="utf-8")
            draw(finished, args.output_dir / "reproduction.png")
    cli.say(table)
    return 0


def refuse_other_splits(names, teacher):
    """Raise Fault where the teacher cannot teach one of the models, before another is trained."""
    from mnist_sum import checkpoint

    split = Recipe(**checkpoint.load(teacher)["recipe"]).split
    others = [name for name in names if RECIPES[name].split != split]
    if others:
        raise Fault(f"{teacher} cannot teach {', '.join(others)}, of another split; "
                    "name the models to be taught with --models")  # fmt: skip


def train(name, seed, data_dir, folder, teacher=None):
    """Start the run, or go on with it; True when it has done all its epochs."""
    from mnist_sum import checkpoint, runs
    from mnist_sum.teacher import digest

    path, recipe = folder / runs.CHECKPOINT, RECIPES[name]
    if teacher is not None:
        recipe = replace(recipe, teacher=digest(checkpoint.read(teacher)))
    stored = checkpoint.load(path) if path.exists() else None
    if stored is None:
        flags = ["--model", name, "--seed", str(seed), "--data", "mnist", "--save"]
        flags += ["--output-dir", str(folder)]
        flags += [] if teacher is None else ["--teacher", teacher]
    elif Recipe(**stored["recipe"]) != recipe:
        raise Fault(f"{folder} holds a run by another recipe than {name}'s of this version, or by another "
                    "teacher; move it away, or choose another --output-dir")  # fmt: skip
    elif stored["epoch"] < recipe.epochs:
        flags = ["--resume", str(folder)]
    else:
        return True
    command = [sys.executable, str(TRAIN), *flags, "--data-dir", data_dir]
    return subprocess.run(command, check=False).returncode == 0


def results_table(finished, teacher=None):
    """A Markdown table of {model: [run_figures of each seed]}: means and standard deviations.

    Below it, where the runs had a teacher, the name of its file.
    """
    lines = [
        "| model | parameters | digit % | sum % | joint % | reported | epochs | seconds | seeds | device |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in finished.items():
        if not figures:
            continue
        *measured, parameters, device = zip(*figures, strict=True)
        digit, total, joint, seconds = map(mean_and_spread, measured)
        recipe = RECIPES[name]
        reported = " / ".join(f"{figure:.2f}" for figure in recipe.reported or ()) or "-"
        lines.append(
            f"| `{name}` | {parameters[0]:,} | {digit} | {total} | {joint} | {reported} "
            f"| {recipe.epochs} | {seconds} | {len(figures)} | {device[0]} |"
        )
    note = "" if teacher is None else f"\nThe runs learned from a teacher too: {teacher}\n"
    return "\n".join(lines) + "\n" + note


def draw(finished, path):
    """The picture of parameters against accuracy of {model: [run_figures of each seed]}."""
    from mnist_sum.plots import draw_parameters

    models, others = {}, dict(BEST_ELSEWHERE)
    for name, figures in finished.items():
        if not figures:
            continue
        digits, sums, *_, parameters, _ = zip(*figures, strict=True)
        spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in (digits, sums)]
        means = map(statistics.mean, (digits, sums))
        models[name] = (parameters[0], *zip(means, spreads, strict=True))
        if RECIPES[name].reported:
            others[name] = (parameters[0], *RECIPES[name].reported)
    draw_parameters(models, others, path)


def run_figures(folder, data_dir):
    """(digit %, sum %, joint %, seconds, parameters, device) of the finished run in the folder."""
    import torch

    from mnist_sum import checkpoint, dataset, runs
    from mnist_sum.evaluation import evaluate
    from mnist_sum.metrics import averages

    model, stored = checkpoint.load_model(folder / runs.CHECKPOINT, torch.device("cpu"))
    data = dataset.load(stored["data"]["name"], data_dir, stored["recipe"]["split"])
    figures = averages(evaluate(model, dataset.MnistSum(data.test)))
    accuracies = (100 * figures[f"{name}_accuracy"] for name in ("digit", "sum", "joint"))
    seconds = sum(row["seconds"] for row in stored["history"])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    made = stored["environment"]
    return *accuracies, seconds, parameters, f"{made['device']}, {stored['precision']}"


def mean_and_spread(values):
    """ "mean ± standard deviation" over the seeds."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


if __name__ == "__main__":
    cli.run(main, "mnist_sum.reproduce")
