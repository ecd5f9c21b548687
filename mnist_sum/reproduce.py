"""`python -m mnist_sum.reproduce`: train every registered model by its recipe and table the results.

Each run is train.py's own, in a folder of its own below --output-dir, so the command can be stopped
at any time and resumes where it was when it is given again. The table is written to
reproduction.md there, and a picture of parameters against accuracy to reproduction.png, anew after
every run.
"""

import statistics
from dataclasses import replace
from pathlib import Path

from mnist_sum import cli, console
from mnist_sum.console import UserError
from mnist_sum.recipes import RECIPES, Recipe

# Digit and sum accuracy in percent as each source reports them (cited in models/README.md).
REPORTED = {
    "channel_fusion": (99.05, 98.51),
    "mlp_adder": (99.0, 98.0),
    "linear_adder": (99.0, 85.0),
    "deep_adder": (99.11, 99.04),
    "compact": (99.17, 98.49),
}
# The best solution of the same task that was found: arg-max of the digit fed to the adder.
BEST_ELSEWHERE = {"best other solution": (347_000, 99.54, 99.54)}  # parameters, digit, sum


def main(argv):
    args = cli.parse_reproduce(argv, __doc__)
    folder = Path(args.output_dir)

    from mnist_sum.system.files import write_atomically

    sha256 = "none" if args.teacher is None else teacher_sha256(args.teacher, args.models)
    finished = {name: [] for name in args.models}
    for seed in range(args.seeds):
        for name in args.models:
            run_folder = folder / f"{name}-{seed}"
            if code := train(name, seed, run_folder, args.data_dir, args.teacher, sha256):
                return code
            finished[name].append(run_figures(run_folder, args.data_dir))
            table = results_table(finished, args.teacher)
            write_atomically(folder / "reproduction.md", table.encode("utf-8", "backslashreplace"))
            draw(finished, folder / "reproduction.png")
    console.note(table.rstrip())
    return 0


def teacher_sha256(path, names):
    """The SHA-256 of the teacher's checkpoint; raises UserError, before a model is trained, where it cannot
    teach one of the named models."""
    from mnist_sum.runs import checkpoint

    stored = checkpoint.load(path)
    split = stored["recipe"]["split"]
    others = [name for name in names if RECIPES[name].split != split]
    if others:
        raise UserError(f"{path} cannot teach {', '.join(others)}, of another split; "
                        "name the models to be distilled with --models")  # fmt: skip
    return stored["sha256"]


def train(name, seed, folder, data_dir, teacher, sha256):
    """Do the run, or resume it, in its folder; return its exit code, 0 when it has done all its epochs."""
    from mnist_sum import runs
    from mnist_sum.runs import checkpoint
    from mnist_sum.runs.folder import CHECKPOINT
    from mnist_sum.system.device import choose_device, keep_freed_memory
    from mnist_sum.training import fit

    path, recipe = folder / CHECKPOINT, replace(RECIPES[name], teacher=sha256)
    if path.exists():
        stored = checkpoint.load(path)
        if (stored["model_name"], Recipe(**stored["recipe"])) != (name, recipe):
            raise UserError(f"{folder} holds a run by another recipe than {name}'s of this version, or by "
                            "another teacher; move it away, or choose another --output-dir")  # fmt: skip
        if stored["epoch"] == recipe.epochs:
            return 0
        settings = {"resume": folder}
    else:
        settings = {"model": name, "seed": seed, "data": "mnist", "save": True, "output_dir": folder}
        settings["teacher"] = teacher
    keep_freed_memory()
    with runs.opened(choose_device("auto"), data_dir=data_dir, **settings) as run:
        run.announce()
        for row in fit(run.state, run.data.train, run.data.test):
            run.record(row)
        run.finish()
    return run.exit_code


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
        digit, total, joint, seconds = map(mean_and_deviation, measured)
        reported = " / ".join(f"{figure:.2f}" for figure in REPORTED.get(name, ())) or "-"
        lines.append(
            f"| `{name}` | {parameters[0]:,} | {digit} | {total} | {joint} | {reported} "
            f"| {RECIPES[name].epochs} | {seconds} | {len(figures)} | {device[0]} |"
        )
    note = "" if teacher is None else f"\nThe runs had a teacher (knowledge distillation): {teacher}\n"
    return "\n".join(lines) + "\n" + note


def draw(finished, path):
    """The picture of parameters against accuracy of {model: [run_figures of each seed]}."""
    from mnist_sum.figures.plots import draw_parameters

    models, others = {}, dict(BEST_ELSEWHERE)
    for name, figures in finished.items():
        if not figures:
            continue
        digits, sums, *_, parameters, _ = zip(*figures, strict=True)
        deviations = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in (digits, sums)]
        means = map(statistics.mean, (digits, sums))
        models[name] = (parameters[0], *zip(means, deviations, strict=True))
        if name in REPORTED:
            others[name] = (parameters[0], *REPORTED[name])
    draw_parameters(models, others, path)


def run_figures(folder, data_dir):
    """(digit %, sum %, joint %, seconds, parameters, device) of the finished run in the folder."""
    from mnist_sum.evaluation.errors import comparison
    from mnist_sum.runs.folder import CHECKPOINT
    from mnist_sum.runs.trained import load_all

    (model,) = load_all([folder / CHECKPOINT], "cpu")
    row = comparison(model, model.test_data(model.stored["data"]["name"], data_dir))
    accuracies = (100 * row[f"{name}_accuracy"] for name in ("digit", "sum", "joint"))
    seconds = sum(epoch["seconds"] for epoch in model.stored["history"])
    device = f"{model.stored['environment']['device']}, {model.stored['precision']}"
    return *accuracies, seconds, row["parameters"], device


def mean_and_deviation(values):
    """ "mean ± standard deviation" over the seeds."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


if __name__ == "__main__":
    console.run_script(main, "mnist_sum.reproduce")
