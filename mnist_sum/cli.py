"""Every command line: the flags and the checks of their values.

Standard library only: --help and every usage error answer without importing torch.
"""

import argparse
import math
import os
from contextlib import suppress

from mnist_sum import __version__
from mnist_sum.console import one_line
from mnist_sum.recipes import CHOICES, DEFAULT_MODEL, RECIPES, STUDIED

EXIT_CODES = "exit codes: 0 done, 1 failed, 2 invalid arguments, 129/130/143 stopped by SIGHUP/SIGINT/SIGTERM"
LARGEST = 2**63 - 1
PICTURE_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".pdf", ".svg", ".eps", ".ps")
DEFAULT_CHECKPOINT = "the newest runs/*/checkpoint.safetensors, else the shipped tiny"
FROM_RECIPE = "(default: the model's recipe, below)"
WITH_RESUME = ("resume", "device", "data_dir", "json", "summary", "plot_graph", "report")
STUDIES = {"pairs": ("models", "epochs"), "sums": ("digits", "track"), "shortcuts": ()}  # and their own flags
ONNX_INTERFACE = """\
the ONNX model, for any batch size B:
  in   image         (B, 1, 28, 28) float32, white on black: (pixel / 255 - 0.1307) / 0.3081
  in   number        (B, 10) float32, one-hot: 1 at the number, 0 to 9, and 0 elsewhere
  out  digit_logits  (B, 10) float32, the digit 0 to 9
  out  sum_logits    (B, 19) float32, the sum 0 to 18
logits are raw: the largest is the prediction, and their softmax the probabilities"""


def whole_number(lowest, highest, meaning):
    """An argument type: a whole number from lowest to highest; errors call it by its meaning."""

    def convert(text):
        with suppress(ValueError):
            if lowest <= int(text) <= highest:
                return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not {meaning}")

    return convert


count = whole_number(1, LARGEST, "a positive whole number")
seed = whole_number(0, LARGEST, f"a whole number from 0 to {LARGEST}")
port = whole_number(0, 2**16 - 1, f"a port from 0 to {2**16 - 1}")
digit = whole_number(0, 9, "a number from 0 to 9")


def positive_number(text):
    """A positive finite number."""
    with suppress(ValueError):
        if math.isfinite(float(text)) and float(text) > 0:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive finite number")


def own_model(text):
    """FILE.py:NAME, a network of the user's own."""
    file, _, name = text.rpartition(":")
    if file.endswith(".py") and name.isidentifier():
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not FILE.py:NAME")


def any_model(text):
    """A registered model's name, or FILE.py:NAME."""
    with suppress(argparse.ArgumentTypeError):
        return text if text in RECIPES else own_model(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither {', '.join(RECIPES)} nor FILE.py:NAME")


def studied_model(text):
    """A registered model's name, one of the study's own, or FILE.py:NAME."""
    if text in STUDIED:
        return text
    try:
        return any_model(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor of the study: {', '.join(STUDIED)}") from None


def file_name(text):
    """The name of a file or folder."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


class Parser(argparse.ArgumentParser):
    """A parser that takes flags in full only, and refuses `--flag=--`, of which argparse before Python
    3.13 makes an empty list."""

    def __init__(self, prog, description, epilog=""):
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"{epilog}\n\n{EXIT_CODES}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--version", action="version", version=f"mnist_sum {__version__}")

    def parse_args(self, args=None, namespace=None):
        arguments = super().parse_args(args, namespace)
        for name, value in vars(arguments).items():
            if value == []:
                self.error(f"argument {flag(name)}: expected one argument")
        return arguments

    def error(self, message):
        """End with a usage error on stderr; argparse's own would print it on stdout where that is closed."""
        self.exit(2, f"{self.format_usage()}{self.prog}: error: {one_line(message)}\n")

    def refuse(self, arguments, names, reason):
        """End with a usage error where one of the flags was given."""
        for name in names:
            value = getattr(arguments, name)
            if value is not None and value is not False:  # 0 is a seed
                self.error(f"{flag(name)} {reason}")


def flag(name):
    """The flag of an argument's name."""
    return "--" + name.replace("_", "-")


def _recipe_table():
    lines = ["each model's recipe (what --epochs, --batch-size, --lr and so on default to):"]
    for name, recipe in RECIPES.items():
        lines.append(
            f"  {name:15} {recipe.epochs:3} epochs, batch {recipe.batch_size:4}, lr {recipe.learning_rate:g} "
            f"{recipe.schedule}, {recipe.optimizer}, {recipe.split} split, {recipe.numbers} numbers, "
            f"{recipe.augmentation.replace('none', 'no')} augmentation"
            f"{', averaged weights' if recipe.averaging == 'ema' else ''}"
        )
    return "\n".join(lines)


# fmt: off
def _add_data_dir(add):
    add("--data-dir", metavar="DIR", type=file_name, help="where MNIST is or is downloaded to (default: "
        "where a resumed run or the checkpoint's run had it, else $MNIST_SUM_DATA, else data)")


def _add_own(add):
    add("--model", nargs="+", action="extend", type=own_model, metavar="FILE.py:NAME",
        help="your own network, if a checkpoint holds one; its file is imported (default: none)")


def _add_common(add):
    """The flags that both scripts have."""
    add("--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="where to compute; auto: CUDA where it is available, else the CPU (default: auto)")
    add("--data", choices=("auto", "mnist", "sample"), default="auto",
        help="auto: MNIST, else the 5,000-image sample with a warning (default: auto)")
    _add_data_dir(add)
    add("--json", action="store_true", help="print JSON on stdout (default: off)")


def parse_train(argv):
    """train.py's flags as a Namespace; a usage error exits with 2."""
    parser = Parser("train.py", "Train a network that classifies a digit and adds a number to it.",
                    _recipe_table())
    add = parser.add_argument
    _add_common(add)
    add("--model", type=any_model, default=DEFAULT_MODEL, metavar="NAME",
        help=f"one of {', '.join(RECIPES)}, or your own FILE.py:NAME (default: {DEFAULT_MODEL})")
    add("--epochs", type=count, metavar="N", help=f"passes over the data {FROM_RECIPE}")
    add("--batch-size", type=count, metavar="N",
        help="images per step (default: the model's recipe, below; on less data than MNIST's 60,000 images "
        "smaller in proportion, at least 16, tiny's and large's 128)")
    add("--lr", type=positive_number, metavar="RATE",
        help=f"learning rate (the peak of a one-cycle schedule) {FROM_RECIPE}")
    add("--schedule", choices=CHOICES["schedule"], help=f"learning-rate schedule {FROM_RECIPE}")
    add("--split", choices=CHOICES["split"],
        help="standard: MNIST's own 60,000 / 10,000; pooled: all 70,000 images, 80 / 20; validation: "
        f"the training images alone, 50,000 / 10,000, to choose settings by {FROM_RECIPE}")
    add("--teacher", type=file_name, metavar="FILE",
        help="learn from this trained model's outputs in place of the labels (knowledge distillation); it "
        "must have been trained on the same images (default: none)")
    add("--seed", type=seed, default=0, metavar="N", help="decides weights, order and numbers (default: 0)")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto",
        help="auto: bf16 where the processor has it, else fp32 (default: auto)")
    add("--limit", type=count, metavar="N",
        help="use only the first N training and N test images (default: all)")
    add("--save", action="store_true",
        help="write checkpoint.safetensors after every epoch (default: off)")
    add("--output-dir", metavar="DIR", type=file_name,
        help="the run's folder (default: a new one under runs/)")
    add("--resume", metavar="RUN_DIR", type=file_name,
        help="resume the run in this folder; of the other flags only --device, --data-dir, --json, "
        "--summary, --plot-graph, --report and an own network's --model can be combined with it")
    add("--summary", "--summarize", action="store_true", help="print the layer table (default: off)")
    add("--plot-graph", action="store_true",
        help="draw training.png, testing.png, samples.png, model.png and occlusion.png (default: off)")
    add("--report", action="store_true",
        help="write report.md, with those pictures, into the run's folder (default: off)")
    # fmt: on
    arguments = parser.parse_args(argv)
    if arguments.resume is not None:
        nothing = argparse.Namespace(**dict.fromkeys(vars(arguments)))
        given = [name for name, value in vars(parser.parse_args(argv, nothing)).items() if value is not None]
        if arguments.model not in RECIPES:
            given.remove("model")  # an own network has to be named: no checkpoint has a file imported
        refused = ", ".join(sorted(flag(name) for name in given if name not in WITH_RESUME))
        if refused:
            parser.error(f"{refused} cannot be combined with --resume: a run resumes with its own settings")
    return arguments


# fmt: off
def parse_inference(argv):
    """inference.py's flags as a Namespace; a usage error exits with 2."""
    parser = Parser(
        "inference.py",
        "Predict with a trained model: random test images, your own images, or the exhaustive test.",
        f"Without --checkpoint: {DEFAULT_CHECKPOINT}.",
    )
    add = parser.add_argument
    _add_common(add)
    add("--total", type=count, metavar="N",
        help="predict N random test images, each with a random number (default: 25)")
    add("--image", nargs="+", action="extend", type=file_name, metavar="PATH",
        help="predict your own images, PNG or JPEG of a digit or a page of digits; of a folder those in it "
        "by name, without its subfolders (default: random test images)")
    add("--number", type=digit, metavar="0-9",
        help="the number to add to each digit in each --image; required with --image (default: none)")
    add("--evaluate", action="store_true",
        help="the exhaustive test: every test image with each of the ten numbers (default: off)")
    add("--plot-graph", action="store_true",
        help="with --evaluate: draw where the model errs (default: off)")
    add("--checkpoint", nargs="+", action="extend", metavar="FILE", type=file_name,
        help="the trained model: a file, a run's folder, or tiny, compact or large, which ship; with "
        "--evaluate several can be compared (default: see below)")
    _add_own(add)
    add("--output", metavar="PATH", type=file_name,
        help="where the picture goes (default: predictions.png, comparison.png for several models; "
        "with --evaluate --plot-graph a folder, evaluation)")
    add("--seed", type=seed, metavar="N",
        help="decides which images and numbers (default: a new one each time)")
    # fmt: on
    arguments = parser.parse_args(argv)
    several = len(arguments.checkpoint or ()) > 1
    if arguments.evaluate:
        parser.refuse(arguments, ("total", "seed", "image", "number"),
                      "is for predictions; --evaluate tests every image")  # fmt: skip
    else:
        parser.refuse(arguments, ("plot_graph",), "needs --evaluate: it draws where the model errs")
        if several:
            parser.error("several --checkpoint files are compared by --evaluate; a prediction takes one")
    if several:
        parser.refuse(arguments, ("plot_graph",), "draws where one model errs; leave it out to compare")
    elif arguments.evaluate and not arguments.plot_graph:
        parser.refuse(arguments, ("output",), "needs --plot-graph, as --evaluate alone draws nothing")
    if arguments.image is None:
        parser.refuse(arguments, ("number",), "needs --image")
    else:
        parser.refuse(arguments, ("total", "seed"), "is for random test images, not for --image")
        if arguments.number is None:
            parser.error("--image needs --number, the number to add")
    arguments.total = arguments.total or 25
    if arguments.seed is None:
        arguments.seed = int.from_bytes(os.urandom(4))
    if arguments.output is None:
        default = "comparison.png" if several else None if arguments.evaluate else "predictions.png"
        arguments.output = "evaluation" if arguments.plot_graph else default
    suffix = os.path.splitext(arguments.output or "")[1]
    if not arguments.plot_graph and suffix.lower() not in PICTURE_SUFFIXES:
        parser.error(f"--output {arguments.output} is no picture; use the suffix .png, .jpg, .pdf or .svg")
    return arguments


# fmt: off
def parse_reproduce(argv, description):
    """The flags of `python -m mnist_sum.reproduce`."""
    parser = Parser("python -m mnist_sum.reproduce", description)
    add = parser.add_argument
    add("--models", nargs="+", type=any_model, default=list(RECIPES), metavar="NAME",
        help=f"which models to train, or FILE.py:NAME (default: all: {', '.join(RECIPES)})")
    add("--seeds", type=count, default=3, metavar="N",
        help="runs of each model, with seeds 0 to N-1 (default: 3)")
    _add_data_dir(add)
    add("--teacher", type=file_name, metavar="FILE",
        help="the teacher of every run, as train.py's --teacher; works only for models with the teacher's "
        "split; choose them with --models (default: none)")
    add("--output-dir", type=file_name, default="runs/reproduction", metavar="DIR",
        help="where the runs and the table go (default: runs/reproduction)")
    return parser.parse_args(argv)


def parse_study(argv, description):
    """The flags of `python -m mnist_sum.study` as a dict: name, json, and what the study of that name takes.

    A flag of the study's own that was not given is None.
    """
    parser = Parser("python -m mnist_sum.study", description)
    add = parser.add_argument
    add("name", choices=STUDIES, metavar="NAME", help=f"which study: {', '.join(STUDIES)}")
    add("--models", nargs="+", type=studied_model, metavar="NAME",
        help="pairs only: which models, or your own FILE.py:NAME (default: all: "
        f"{', '.join((*RECIPES, *STUDIED))}; with --quick four of them)")
    add("--epochs", type=count, metavar="N",
        help="pairs only: passes over the data of each run (default: as the model's recipe; with --quick 8)")
    add("--digits", nargs="+", type=count, metavar="N",
        help="sums only: digits of each of the two numbers (default: 1 2 4 15; with --quick 1 2)")
    add("--track", choices=("a", "b"),
        help="sums only: a, the published protocol's network without augmentation; b, tiny's network and "
        "augmentation (default: both)")
    add("--data", choices=("auto", "mnist", "sample"),
        help="auto: MNIST, else the 5,000-image sample with a warning (default: auto; with --quick sample)")
    _add_data_dir(add)
    add("--split", choices=("standard", "validation"), default="standard",
        help="standard: MNIST's own 60,000 / 10,000; validation: the training images alone, 50,000 / 10,000, "
        "to choose settings by (default: standard)")
    add("--seeds", type=count, metavar="N",
        help="runs of each kind, with seeds 0 to N-1 (default: 3; of sums and shortcuts 10, of 15 digits "
        "and more 5; with --quick 1)")
    add("--output-dir", type=file_name, metavar="DIR",
        help="where the runs, the table and the pictures go (default: runs/study-NAME; with --quick "
        "runs/study-NAME-quick)")
    add("--json", action="store_true", help="print one JSON object per run on stdout (default: off)")
    add("--quick", action="store_true",
        help="few and short runs, that show the whole path in under two minutes (default: off)")
    arguments = parser.parse_args(argv)
    flags = vars(arguments)
    for name, own in STUDIES.items():
        if name != arguments.name:
            parser.refuse(arguments, own, f"is a flag of the study {name}, not of {arguments.name}")
            flags = {key: value for key, value in flags.items() if key not in own}
    quick = flags["quick"]
    flags["data"] = flags["data"] or ("sample" if quick else "auto")
    default = f"runs/study-{arguments.name}{'-quick' if quick else ''}"
    flags["output_dir"] = flags["output_dir"] or default
    return flags


def parse_export(argv, description):
    """The flags of `python -m mnist_sum.export`."""
    parser = Parser("python -m mnist_sum.export", description, ONNX_INTERFACE)
    parser.add_argument("checkpoint", nargs="?", type=file_name, metavar="CHECKPOINT",
        help=f"the trained model (default: {DEFAULT_CHECKPOINT})")
    parser.add_argument("--output", type=file_name, metavar="FILE", help="the ONNX file "
        "(default: CHECKPOINT with the suffix .onnx; of a shipped model, in the current folder)")
    _add_own(parser.add_argument)
    return parser.parse_args(argv)


def parse_demo(argv, description):
    """The flags of `python -m mnist_sum.demo`."""
    parser = Parser("python -m mnist_sum.demo", description)
    parser.add_argument("--port", type=port, default=7860, metavar="N",
        help="port on 127.0.0.1; 0: any free one (default: 7860)")
    parser.add_argument("--checkpoint", nargs="+", action="extend", type=file_name, metavar="FILE",
        help="models of your own, listed before the shipped ones (default: the shipped ones alone)")
    _add_own(parser.add_argument)
    return parser.parse_args(argv)
