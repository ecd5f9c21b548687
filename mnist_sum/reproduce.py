"""`python -m mnist_sum.reproduce`: train every registered model by its recipe and tabulate the results.

Each run has a folder below --output-dir. The command can be stopped at any time; given again, it resumes.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_sum import cli
from mnist_sum.recipes import RECIPES, Recipe, default_batch_size

if TYPE_CHECKING:
    import torch

    from mnist_sum.data import Data

# digit and sum accuracy in percent, as each source reports them (cited in models/README.md)
REPORTED = {
    "channel_fusion": (99.05, 98.51),
    "mlp_adder": (99.0, 98.0),
    "linear_adder": (99.0, 85.0),
    "deep_adder": (99.11, 99.04),
    "compact": (99.17, 98.49),
}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m mnist_sum.reproduce", description=__doc__)
    add = parser.add_argument
    add("--models", nargs="+", type=cli.model_name, default=list(RECIPES), metavar="NAME", help="default: all")
    add("--seeds", type=cli.positive_int, default=3, metavar="N", help="runs of each, from seed 0 on (default: 3)")
    add("--data-dir", metavar="DIR", help="where MNIST is (default: $MNIST_SUM_DATA, else data)")
    add("--output-dir", default="runs/reproduction", metavar="DIR", help="default: runs/reproduction")
    add("--device", default="auto", help="default: auto")
    args = parser.parse_args(argv)

    from mnist_sum.data import load_data
    from mnist_sum.device import choose_device, keep_freed_memory
    from mnist_sum.files import write_atomically
    from mnist_sum.models import recipe_of
    from mnist_sum.predict import load
    from mnist_sum.report import comparison_row

    keep_freed_memory()
    device, folder = choose_device(args.device), Path(args.output_dir)
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(args.seeds):
        for model in args.models:
            recipe, name = recipe_of(model), Path(model).name.replace(".py:", "-")
            data = load_data("mnist", args.data_dir, recipe.split)
            finish_run(folder / f"{name}-{seed}", model, recipe, seed, data, device)
            trained = load(folder / f"{name}-{seed}", args.device, [model])
            row = comparison_row(trained, data)
            row["seconds"] = sum(epoch["seconds"] for epoch in trained.info["history"])
            rows.setdefault(trained.name, []).append(row)
            table = results_table(rows)
            write_atomically(folder / "reproduction.md", table.encode())
    print(table)


def finish_run(folder: Path, model: str, recipe: Recipe, seed: int, data: "Data", device: "torch.device") -> None:
    """Train, or go on training, the run in the folder until its last epoch; a finished one costs nothing."""
    from mnist_sum import checkpoint
    from mnist_sum.device import choose_precision
    from mnist_sum.training import fit, new_state

    recipe = replace(recipe, batch_size=default_batch_size(recipe, len(data.train)))
    path = folder / checkpoint.CHECKPOINT
    if path.exists():
        state, info = checkpoint.resume(path, device, [model])
        if (state.recipe, state.seed, info["data"]["name"]) != (recipe, seed, data.name):
            raise cli.UserError(f"{folder} holds a run with other settings; choose another --output-dir")
    else:
        state = new_state(model, recipe, seed, device, choose_precision("auto", device))
    for _ in fit(state, data.train, data.test):
        checkpoint.save(path, state, data)


def mean_and_deviation(values: Sequence[float]) -> str:
    """ "mean ± standard deviation" over seeds."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def results_table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: means and standard deviations over the seeds, of {model: [comparison_row and seconds]}."""
    lines = [
        "| model | parameters | digit % | sum % | joint % | consistent % | reported | seconds | images/s | seeds |"
    ]
    lines.append("|" + 10 * "---|")
    for name, runs in rows.items():
        keys = "digit_accuracy", "sum_accuracy", "joint_accuracy", "consistency"
        cells = [f"`{name}`", f"{runs[0]['parameters']:,}"]
        cells += [mean_and_deviation([100 * run[key] for run in runs]) for key in keys]
        cells.append(" / ".join(f"{figure:.2f}" for figure in REPORTED.get(name, ())) or "-")
        cells.append(mean_and_deviation([run["seconds"] for run in runs]))
        cells.append(f"{statistics.mean(run['images_per_second'] for run in runs):,.0f}")
        lines.append(f"| {' | '.join(cells)} | {len(runs)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    cli.run(main, "mnist_sum.reproduce")
