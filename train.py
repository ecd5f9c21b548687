"""Train a model: parse the flags, wire the parts, loop over the epochs that fit() yields."""

import dataclasses
import json
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

from mnist_sum import cli, distributed

PICTURES = {
    "training.png": "Loss and accuracy on the training images, by epoch",
    "testing.png": "Loss and accuracy of the exhaustive test, by epoch",
    "samples.png": "Random samples of the data set",
    "model.png": "The layers and where the number reaches them",
}


def main(argv):
    with distributed.spoken_once():
        args = cli.parse_train(argv)

    from mnist_sum.device import keep_freed_memory

    keep_freed_memory()
    with distributed.joined(args.device) as device:
        run = lead(args, device) if distributed.rank() == 0 else follow(args, device)
    return 0 if run.stop_signal is None else 128 + run.stop_signal


def lead(args, device):
    """Do the run; as the first process, or the only one, it has the folder, the files and the say."""
    from mnist_sum import runs
    from mnist_sum.files import folder_lock

    say = partial(cli.say, file=sys.stderr if args.json else sys.stdout)
    if args.resume is None:
        run, data = new_run(args, args.data, device)
        folder = runs.new_folder(args.output_dir, run.model_name)
    else:
        folder = runs.existing_folder(args.resume)
    with folder_lock(folder):
        if args.resume is None:
            runs.refuse_to_overwrite(folder)
        else:
            run, data = resumed_run(folder / runs.CHECKPOINT, args.data_dir, device, say)
        distributed.from_first(data.name)  # all is well: now the others
        train(run, data, folder, args, say)
        if (args.plot_graph or args.report) and run.history:
            draw(run, data, folder)
        if args.report and run.history:
            write_report(run, data, folder, device, say)
    distributed.from_first()  # all is written: now the others may end
    return run


def follow(args, device):
    """Do another process's part of the same run, without a folder, a file or a word."""
    from mnist_sum import runs
    from mnist_sum.training import Stopped, fit

    data_name = distributed.from_first()
    if args.resume is None:
        run, data = new_run(args, data_name, device)
    else:
        path = Path(args.resume) / runs.CHECKPOINT
        run, data = resumed_run(path, args.data_dir, device, say=lambda line: None)
    stop_on_signals(run)
    with suppress(Stopped):
        for _ in fit(run, data.train, data.test):
            pass
    distributed.from_first()
    return run


def train(run, data, folder, args, say):
    """Do the run's epochs; print and write each row."""
    from mnist_sum import checkpoint, report, runs
    from mnist_sum.device import describe_device
    from mnist_sum.files import write_atomically
    from mnist_sum.training import Stopped, fit

    described, recipe = checkpoint.describe_data(data), run.recipe
    cases = len(data.train), 10 * len(data.test)
    save = args.save or args.resume is not None
    device = describe_device(next(run.model.parameters()).device)
    processes = f", {distributed.size()} processes" if distributed.size() > 1 else ""
    say(f"device: {device}{processes}, {run.precision}")
    say(f"data: {data.name}, {len(data.train):,} training and {len(data.test):,} test images")
    say(f"model: {run.model_name}, {recipe.epochs} epochs, batch {recipe.batch_size}, "
        f"lr {recipe.learning_rate:g} {recipe.schedule}, seed {run.seed}")  # fmt: skip
    if run.teacher is not None:
        say(f"teacher: {args.teacher or folder / runs.TEACHER}, reads all training images first")
    say(f"run: {folder}")
    if args.summary:
        from mnist_sum.summary import layer_table

        say(layer_table(run.model))

    stop_on_signals(run)
    if save and args.resume is None:
        if run.teacher is not None:
            runs.keep_teacher(folder, run.teacher.archive)
        checkpoint.save(folder / runs.CHECKPOINT, run, described)  # finds a full disk now
    write_atomically(folder / runs.SETTINGS, report.settings_json(run, described))
    write_atomically(folder / runs.HISTORY, report.history_csv(run.history))
    say(report.table_head(*cases))
    try:
        for row in fit(run, data.train, data.test):
            if save:
                checkpoint.save(folder / runs.CHECKPOINT, run, described)
            write_atomically(folder / runs.HISTORY, report.history_csv(run.history))
            cli.say(json.dumps(row) if args.json else report.table_line(row, *cases))
    except Stopped:
        if save:
            checkpoint.save(folder / runs.CHECKPOINT, run, described)
            say(f"stopped; go on with: {runs.resume_command(folder, args.data_dir)}")
        else:
            say("stopped; nothing was saved (--save does that)")


def stop_on_signals(run):
    """Have SIGINT and SIGTERM stop the run after its step; a second one ends it at once.

    Of several processes' second signals most are torchrun's, which ends them after 30 seconds.
    """

    def stop(signum, _frame):
        run.stop_signal = signum
        if distributed.size() == 1:
            signal.signal(signum, signal.SIG_DFL)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)


def new_run(args, data_name, device):
    """A run from the flags, with the data of that name."""
    from mnist_sum import dataset, training
    from mnist_sum.device import choose_precision
    from mnist_sum.recipes import RECIPES, default_batch_size
    from mnist_sum.teacher import load_teacher

    asked = {
        "epochs": args.epochs,
        "learning_rate": args.lr,
        "schedule": args.schedule,
        "split": args.split,
    }
    recipe = RECIPES[args.model]
    recipe = dataclasses.replace(recipe, **{k: v for k, v in asked.items() if v is not None})
    data = dataset.load(data_name, args.data_dir, recipe.split, args.limit)
    batch_size = args.batch_size or default_batch_size(recipe, len(data.train))
    recipe = dataclasses.replace(recipe, batch_size=batch_size)
    precision = choose_precision(args.precision, device)
    teacher = None
    if args.teacher is not None:
        teacher = load_teacher(args.teacher, data, device)
        recipe = dataclasses.replace(recipe, teacher=teacher.digest)
    run = training.new_run(args.model, recipe, args.seed, device, precision)
    run.teacher = teacher
    training.check_batches(run, len(data.train))  # before there is a folder
    return run, data


def resumed_run(path, data_dir, device, say):
    """The run that the checkpoint at path holds, with the data that it began with."""
    from mnist_sum import checkpoint, dataset, runs
    from mnist_sum.errors import Fault
    from mnist_sum.teacher import load_teacher

    run, stored = checkpoint.load_run(path, device)
    described = stored["data"]
    data = dataset.load(described["name"], data_dir, run.recipe.split, described["train_images"])
    if checkpoint.describe_data(data) != described:
        raise Fault(f"{path} was trained on other images than this version takes from {data_dir}; "
                    "name the folder that it began with (--data-dir)")  # fmt: skip
    if run.recipe.teacher != "none":
        teacher = path.with_name(runs.TEACHER)
        if not teacher.exists():
            raise Fault(f"the teacher that the run began with is missing: put it back as {teacher}")
        run.teacher = load_teacher(teacher, data, device, run.recipe.teacher)
    here = checkpoint.environment(device)
    for name, there in stored["environment"].items():
        if there != here[name]:
            say(f"note: {name} was {there} and is {here[name]} now, so the last bits may differ "
                "from an unbroken run's")  # fmt: skip
    return run, data


def draw(run, data, folder):
    """The run's pictures, into its folder."""
    import torch

    from mnist_sum import plots
    from mnist_sum.randomness import generator
    from mnist_sum.summary import layer_inputs, layer_rows

    name = f"{run.model_name} on {data.name}"
    plots.draw_history(run.history, "train", f"{name}: training", folder / "training.png")
    plots.draw_history(run.history, "test", f"{name}: exhaustive test", folder / "testing.png")
    draws = generator(run.seed, "samples")
    index = torch.randint(len(data.train), (20,), generator=draws)
    numbers = torch.randint(10, (20,), generator=draws).tolist()
    images, digits = data.train.images[index], data.train.digits[index].tolist()
    plots.draw_samples(images, digits, numbers, folder / "samples.png")
    rows, inputs = layer_rows(run.model), layer_inputs(run.model)
    plots.draw_model(rows, inputs, run.model_name, folder / "model.png")


def write_report(run, data, folder, device, say):
    """report.md, with the pictures beside it."""
    from mnist_sum import checkpoint, report, runs
    from mnist_sum.files import write_atomically
    from mnist_sum.summary import layer_table

    described, environment = checkpoint.describe_data(data), checkpoint.environment(device)
    content = report.run_report(run, described, environment, layer_table(run.model), PICTURES)
    write_atomically(folder / runs.REPORT, content)
    say(f"report: {folder / runs.REPORT}")


if __name__ == "__main__":
    cli.run(main, "train.py")
