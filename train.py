"""Train a network that classifies a digit and adds a number to it."""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from mnist_sum import __version__, cli
from mnist_sum.recipes import CHOICES, DEFAULT_MODEL, RECIPES, default_batch_size, describe_recipes


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train.py",
        description=__doc__,
        epilog=describe_recipes(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    # fmt: off
    add("--model", type=cli.model_name, default=DEFAULT_MODEL, metavar="NAME", help=f"one of {', '.join(RECIPES)}, or a custom model FILE.py:NAME (default: {DEFAULT_MODEL})")
    add("--epochs", type=cli.positive_int, metavar="N", help="passes over the data")
    add("--batch-size", type=cli.positive_int, metavar="N", help="images per step (less data than MNIST: smaller in proportion)")
    add("--lr", type=cli.positive_float, metavar="RATE", help="learning rate, the peak of a one-cycle schedule")
    add("--schedule", choices=CHOICES["schedule"], help="learning-rate schedule")
    add("--split", choices=CHOICES["split"], help="standard: MNIST's own; pooled: all images, 80 / 20; validation: the training images, 50,000 / 10,000")
    add("--seed", type=cli.nonnegative_int, default=0, metavar="N", help="decides weights, order and numbers (default: 0)")
    add("--data", default="auto", metavar="NAME", help="mnist, sample (5,000 images), auto (MNIST, else the sample; the default), or a folder of your own pictures with subfolders 0 to 9")
    add("--data-dir", metavar="DIR", help="where MNIST is or is downloaded to (default: $MNIST_SUM_DATA, else data)")
    add("--limit", type=cli.positive_int, metavar="N", help="use only the first N training and N test images")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...; auto: CUDA where available, else the CPU (default: auto)")
    add("--threads", type=cli.positive_int, metavar="N", help="CPU threads; a seed repeats a run with the same number (default: PyTorch's)")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: bf16 where the processor has it, else fp32")
    add("--save", action="store_true", help="write checkpoint.safetensors after every epoch")
    add("--output-dir", metavar="DIR", help="the run's folder (default: a new one under runs/)")
    add("--weights", metavar="FILE", help="begin with the weights of this checkpoint, or of a shipped model, to fine-tune them")
    add("--resume", metavar="RUN_DIR", help="resume the run in this folder with its own settings")
    add("--summary", "--summarize", action="store_true", help="print the layer table")
    add("--plot-graph", action="store_true", help="draw training.png (anew after every epoch) and, at the end, testing.png, samples.png, model.png and occlusion.png")
    add("--tensorboard", action="store_true", help="log to the run's folder for TensorBoard: every epoch's figures and, at the end, samples.png and confusion.png")
    add("--report", action="store_true", help="write report.md, with the pictures of --plot-graph")
    add("--json", action="store_true", help="print one JSON object per epoch on stdout, all else on stderr")
    add("--version", action="version", version=f"mnist_sum {__version__}")
    # fmt: on
    args = parser.parse_args(argv)
    settings = ["epochs", "batch_size", "lr", "schedule", "split", "seed", "data", "limit", "precision", "weights"]
    for name in [*settings, "output_dir", *(["model"] if args.model in RECIPES else [])]:
        if args.resume and getattr(args, name) != parser.get_default(name):
            parser.error(f"a run resumes with its own settings; leave out --{name.replace('_', '-')}")
    return args


def main(argv: list[str]) -> int:
    args = parse_args(argv)

    # imported late: --help and wrong flags are answered at once
    import torch

    from mnist_sum import checkpoint, report
    from mnist_sum.data import load_data
    from mnist_sum.device import choose_precision, describe_device, keep_freed_memory, process_group, rank_zero_first
    from mnist_sum.files import write_atomically
    from mnist_sum.models import recipe_of
    from mnist_sum.training import fit, new_state

    if args.tensorboard:
        from mnist_sum import tensorboard

    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    with process_group(args.device) as (device, is_main):  # with torchrun, only the main process prints and writes
        log = partial(print, file=sys.stderr if args.json else sys.stdout) if is_main else lambda *_: None

        # data, model, optimizer
        if args.resume:
            run_dir = Path(args.resume)
            state, info = checkpoint.resume(run_dir / checkpoint.CHECKPOINT, device, [args.model])
            with rank_zero_first():
                data = checkpoint.data_of(info, info["data"]["name"], args.data_dir, info["data"]["train_images"])
            args.save = True
            if state.epoch == state.recipe.epochs:
                log(f"this run is finished; to train on: --weights {run_dir} --model {state.name} --epochs N")
            elif info["environment"] != checkpoint.describe_run(state, data)["environment"]:
                log(f"note: the run began with {info['environment']}; the last bits may differ")
        else:
            overrides = dict(epochs=args.epochs, learning_rate=args.lr, schedule=args.schedule, split=args.split)
            recipe = recipe_of(args.model)
            recipe = replace(recipe, **{name: value for name, value in overrides.items() if value is not None})
            with rank_zero_first():
                data = load_data(args.data, args.data_dir, recipe.split, args.limit)
            recipe = replace(recipe, batch_size=args.batch_size or default_batch_size(recipe, len(data.train)))
            state = new_state(args.model, recipe, args.seed, device, choose_precision(args.precision, device))
            if args.weights:
                checkpoint.start_from(state, checkpoint.find_checkpoint(args.weights))
            run_dir = checkpoint.new_run_dir(args.output_dir, args.model) if is_main else Path()

        log(f"device: {describe_device(device)}, {state.precision}")
        log(f"data: {data.name}, {len(data.train):,} training and {len(data.test):,} test images")
        log(report.describe(state))
        log(f"run: {run_dir}")
        if args.summary:
            from mnist_sum.layers import layer_table

            log(layer_table(state.model))
        if is_main:
            if not args.resume:
                settings = json.dumps(checkpoint.describe_run(state, data), indent=2)
                write_atomically(run_dir / "settings.json", settings.encode())
            if args.tensorboard:
                writer = tensorboard.open_writer(run_dir, state.history)
                log(f"TensorBoard: tensorboard --logdir {shlex.quote(str(run_dir))}")
            if args.save and state.epoch == 0:  # a run killed in its first epoch can be resumed, too
                checkpoint.save(run_dir / checkpoint.CHECKPOINT, state, data)

        # training
        log(report.TABLE_HEAD)
        custom = "" if args.model in RECIPES else f" --model {shlex.quote(args.model)}"
        here = shlex.quote(str(run_dir))
        try:
            for row in fit(state, data.train, data.test):
                if is_main:
                    write_atomically(run_dir / "history.csv", report.history_csv(state.history))
                    if args.save:
                        checkpoint.save(run_dir / checkpoint.CHECKPOINT, state, data)
                    print(json.dumps(row) if args.json else report.table_line(row), flush=True)
                    if args.tensorboard:
                        tensorboard.add_row(writer, row)
                    if args.plot_graph:
                        report.draw_training(state, data, run_dir)
        except KeyboardInterrupt:
            then = f"stopped; resume with: python train.py --resume {here}{custom}"
            log(then if args.save else "stopped, nothing saved")
            return 130

        # results
        if is_main and (args.plot_graph or args.report):
            log(f"pictures: {', '.join(report.draw_pictures(state, data, run_dir))} in {run_dir}")
        if is_main and args.tensorboard:
            tensorboard.add_pictures(writer, state, data, run_dir)
        if is_main and args.report:
            write_atomically(run_dir / "report.md", report.run_report(state, data))
            log(f"report: {run_dir / 'report.md'}")
        log(report.result_line(state, data))
        then = f"next: python inference.py --evaluate --checkpoint {here}{custom}"
        log(then if args.save else "not saved; --save keeps the model")
    return 0


if __name__ == "__main__":
    cli.run(main, "train.py")
