"""`python -m mnist_sum.reproduce`: train every registered model by its recipe and tabulate the results.

Each run is train.py's own, in a folder of its own below --output-dir, so the command can be stopped
at any time and resumes where it was when it is given again. After every run it writes the table to
reproduction.md there, and a picture of parameters against accuracy to reproduction.png.
"""

import statistics
from pathlib import Path

from mnist_sum import cli, console
from mnist_sum.console import UserError

TABLE, PICTURE = "reproduction.md", "reproduction.png"
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

    from mnist_sum.runs.folder import checkpoint_path
    from mnist_sum.runs.series import architectures, train
    from mnist_sum.system.files import check_output, folder_lock, make_folder, write_atomically

    teacher = None if args.teacher is None else checkpoint_path(args.teacher)
    for name in TABLE, PICTURE:
        check_output(folder / name, [teacher or ""])
    found = architectures(args.models)
    sha256 = "none" if teacher is None else teacher_sha256(teacher, found.values())
    finished = {architecture: [] for architecture in found.values()}
    with folder_lock(make_folder(folder)):
        for seed in range(args.seeds):
            for model, architecture in found.items():
                run_folder = folder / f"{architecture.slug}-{seed}"
                if code := train(model, run_folder, seed, "mnist", args.data_dir, teacher, sha256):
                    return code
                finished[architecture].append(run_figures(run_folder, args.data_dir, model))
                table = results_table(finished, teacher)
                write_atomically(folder / TABLE, table.encode("utf-8", "backslashreplace"))
                draw(finished, folder / PICTURE)
    console.note(table.rstrip())
    return 0


def teacher_sha256(path, architectures):
    """The SHA-256 of the teacher's checkpoint; raises UserError, before a model is trained, where it cannot
    teach one of the architectures."""
    from mnist_sum.runs import checkpoint

    stored = checkpoint.load(path, own=architectures)
    split = stored["recipe"]["split"]
    others = [each.name for each in architectures if each.recipe.split != split]
    if others:
        raise UserError(f"{path} cannot teach {', '.join(others)}, which have another split; "
                        "choose the models with --models")  # fmt: skip
    return stored["sha256"]


def results_table(finished, teacher=None):
    """A Markdown table of {Architecture: [run_figures of each seed]}: means and standard deviations.

    Below it, where the runs had a teacher, the name of its file.
    """
    from mnist_sum.runs.series import mean_and_deviation

    lines = [
        "| model | parameters | digit % | sum % | joint % | consistent % | reported | epochs | seconds "
        "| images/s | seeds | device |",
        "|" + 12 * "---|",
    ]
    for architecture, figures in finished.items():
        if not figures:
            continue
        means = {
            name: mean_and_deviation([row[name] for row in figures])
            for name in ("digit", "sum", "joint", "consistency", "seconds")
        }
        reported = " / ".join(f"{figure:.2f}" for figure in REPORTED.get(architecture.name, ())) or "-"
        speed = statistics.mean(row["images_per_second"] for row in figures)
        lines.append(
            f"| `{architecture.name}` | {figures[0]['parameters']:,} | {means['digit']} | {means['sum']} "
            f"| {means['joint']} | {means['consistency']} | {reported} | {architecture.recipe.epochs} "
            f"| {means['seconds']} | {speed:,.0f} | {len(figures)} | {figures[0]['device']} |"
        )
    note = "" if teacher is None else f"\nThe runs had a teacher (knowledge distillation): {teacher}\n"
    return "\n".join(lines) + "\n" + note


def draw(finished, path):
    """The picture of parameters against accuracy of {Architecture: [run_figures of each seed]}."""
    from mnist_sum.figures.plots import draw_parameters

    models, others = {}, dict(BEST_ELSEWHERE)
    for architecture, figures in finished.items():
        if not figures:
            continue
        name, parameters = architecture.name, figures[0]["parameters"]
        columns = [[row[output] for row in figures] for output in ("digit", "sum")]
        deviations = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in columns]
        models[name] = (parameters, *zip(map(statistics.mean, columns), deviations, strict=True))
        if name in REPORTED:
            others[name] = (parameters, *REPORTED[name])
    draw_parameters(models, others, path)


def run_figures(folder, data_dir, model):
    """Of the finished run of the model in the folder, a dict: digit, sum, joint and consistency in percent,
    seconds, parameters, images_per_second, device."""
    from mnist_sum import models
    from mnist_sum.evaluation.errors import comparison
    from mnist_sum.runs.folder import CHECKPOINT
    from mnist_sum.runs.trained import load_all

    own = [] if model in models.ARCHITECTURES else [model]
    (trained,) = load_all([folder / CHECKPOINT], "cpu", own)
    row = comparison(trained, trained.test_data(trained.stored["data"]["name"], data_dir))
    figures = {output: 100 * row[f"{output}_accuracy"] for output in ("digit", "sum", "joint")}
    return {
        **figures,
        "consistency": 100 * row["consistency"],
        "seconds": sum(epoch["seconds"] for epoch in trained.stored["history"]),
        "parameters": row["parameters"],
        "images_per_second": row["images_per_second"],
        "device": f"{trained.stored['environment']['device']}, {trained.stored['precision']}",
    }


if __name__ == "__main__":
    console.run_script(main, "mnist_sum.reproduce")
