"""Both scripts' command lines: the flags, the checks of their values, and how any script ends.

Standard library only: --help and every usage error answer without importing torch.
"""

import argparse
import math
import os
import sys
from contextlib import suppress

from mnist_sum import __version__
from mnist_sum.errors import Fault
from mnist_sum.recipes import CHOICES, DEFAULT_MODEL, RECIPES

EXIT_CODES = "exit codes: 0 done, 1 failed, 2 usage, 130 / 143 stopped by SIGINT / SIGTERM"
LARGEST_SEED = 2**63 - 1


def whole_number(text):
    """A positive whole number."""
    with suppress(ValueError):
        if 0 < int(text) <= LARGEST_SEED:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")


def positive_number(text):
    """A positive finite number."""
    with suppress(ValueError):
        if math.isfinite(float(text)) and float(text) > 0:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive finite number")


def file_name(text):
    """The name of a file or folder."""
    if not text:
        raise argparse.ArgumentTypeError("a name is needed, not an empty text")
    return text


def seed_number(text):
    """A whole number that torch takes as a seed."""
    with suppress(ValueError):
        if 0 <= int(text) <= LARGEST_SEED:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {LARGEST_SEED}")


def default_data_folder():
    """Where MNIST is looked for when no --data-dir is given."""
    return os.environ.get("MNIST_SUM_DATA") or "data"


def _recipe_table():
    lines = ["each model's recipe (what --epochs, --batch-size, --lr and so on default to):"]
    for name, recipe in RECIPES.items():
        lines.append(
            f"  {name:15} {recipe.epochs:3} epochs, batch {recipe.batch_size:4}, lr {recipe.learning_rate:g} "
            f"{recipe.schedule}, {recipe.optimizer}, {recipe.split} split, {recipe.numbers} numbers, "
            f"{recipe.augmentation} augmentation"
        )
    return "\n".join(lines)


def _parser(description, epilog):
    parser = argparse.ArgumentParser(
        description=description,
        epilog=epilog + "\n\n" + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mnist_sum {__version__}")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute; auto: CUDA when there is one, else the CPU (default: auto)",
    )
    parser.add_argument(
        "--data",
        choices=("auto", "mnist", "sample"),
        default="auto",
        help="auto: MNIST, else the 5,000-image sample with a warning (default: auto)",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        type=file_name,
        default=default_data_folder(),
        help="where MNIST lies or is downloaded to (default: $MNIST_SUM_DATA, else data)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON on stdout (default: off)")
    return parser


def train_parser():
    parser = _parser("Train a network that reads a digit and adds a number to it.", _recipe_table())
    parser.add_argument(
        "--model", choices=RECIPES, default=DEFAULT_MODEL, metavar="NAME",
        help=f"one of {', '.join(RECIPES)} (default: {DEFAULT_MODEL})",
    )  # fmt: skip
    recipe = "(default: the model's recipe, below)"
    parser.add_argument("--epochs", type=whole_number, metavar="N", help=f"passes over the data {recipe}")
    parser.add_argument(
        "--batch-size", type=whole_number, metavar="N",
        help="images a step (default: the model's recipe, below; on less data than MNIST's "
        "60,000 images smaller in proportion, at least 16, tiny's and large's 128)",
    )  # fmt: skip
    parser.add_argument(
        "--lr", type=positive_number, metavar="RATE", help=f"learning rate, or its peak {recipe}"
    )
    parser.add_argument("--schedule", choices=CHOICES["schedule"], help=f"of the learning rate {recipe}")
    parser.add_argument(
        "--split", choices=CHOICES["split"],
        help="standard: MNIST's own 60,000 / 10,000; pooled: all 70,000 images, 80 / 20; validation: "
        f"the 60,000 training images alone, the last 10,000 held out {recipe}",
    )  # fmt: skip
    parser.add_argument(
        "--teacher", type=file_name, metavar="FILE",
        help="learn from this trained model's answers too (knowledge distillation); it must have been "
        "trained on the same images (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=seed_number, default=0, metavar="N",
        help="decides weights, order and numbers (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto",
        help="auto: bf16 where the processor has it, else fp32 (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=whole_number, metavar="N",
        help="use only the first N training and N test images (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--save", action="store_true", help="write checkpoint.pt after every epoch (default: off)"
    )
    parser.add_argument(
        "--output-dir", metavar="DIR", type=file_name,
        help="the run's folder (default: a fresh one under runs/)",
    )  # fmt: skip
    parser.add_argument(
        "--resume", metavar="RUN_DIR", type=file_name,
        help="go on with the run in this folder; of the other flags only --device, --data-dir, "
        "--json, --summary, --plot-graph and --report may stand beside it",
    )  # fmt: skip
    parser.add_argument(
        "--summary", "--summarize", action="store_true", help="print the layer table (default: off)"
    )
    parser.add_argument(
        "--plot-graph", action="store_true",
        help="draw training.png, testing.png, samples.png and model.png (default: off)",
    )  # fmt: skip
    parser.add_argument(
        "--report", action="store_true",
        help="write report.md, with those pictures, into the run's folder (default: off)",
    )  # fmt: skip
    return parser


BESIDE_RESUME = {"resume", "device", "data_dir", "json", "summary", "plot_graph", "report"}


def parse_train(argv):
    parser = train_parser()
    arguments = parsed(parser, argv)
    if arguments.resume is not None:
        refused = sorted(
            "--" + name.replace("_", "-") for name in _given(parser, argv) if name not in BESIDE_RESUME
        )
        if refused:
            parser.error(f"{', '.join(refused)} cannot stand beside --resume: a run goes on as it began")
    return arguments


def parsed(parser, argv):
    """What argparse makes of argv; up to Python 3.12 it takes `--flag=--` for an empty list."""
    arguments = parser.parse_args(argv)
    for name, value in vars(arguments).items():
        if value == []:
            parser.error(f"argument --{name.replace('_', '-')}: expected one argument")
    return arguments


def _given(parser, argv):
    """The names of the flags that stand in argv, whatever their values."""
    nothing = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args(argv))))
    return [name for name, value in vars(parser.parse_args(argv, nothing)).items() if value is not None]


def digit_number(text):
    """A whole number from 0 to 9."""
    if len(text) == 1 and text in "0123456789":
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 9")


def inference_parser():
    parser = _parser(
        "Read digits and add numbers with a trained model: random test images, your own images, or all.",
        "Without --checkpoint: the newest runs/*/checkpoint.pt, else the one shipped in assets/.",
    )
    parser.add_argument(
        "--total", type=whole_number, metavar="N",
        help="predict N random test images, each with a random number (default: 25)",
    )  # fmt: skip
    parser.add_argument(
        "--image", nargs="+", action="extend", type=file_name, metavar="FILE",
        help="read your own images, PNG or JPEG of one digit each (default: random test images)",
    )  # fmt: skip
    parser.add_argument(
        "--number", type=digit_number, metavar="0-9",
        help="the number to add to the digit in each --image (default: none, it has to be given)",
    )  # fmt: skip
    parser.add_argument(
        "--evaluate", action="store_true",
        help="the exhaustive test: every test image with each of the ten numbers (default: off)",
    )  # fmt: skip
    parser.add_argument(
        "--plot-graph", action="store_true",
        help="with --evaluate: draw where the model errs (default: off)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", nargs="+", action="extend", metavar="FILE", type=file_name,
        help="the trained model; with --evaluate several can be compared (default: see below)",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="PATH", type=file_name,
        help="where the picture goes (default: predictions.png, comparison.png for several models; "
        "with --evaluate --plot-graph a folder, evaluation)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=seed_number, metavar="N",
        help="decides which images and numbers (default: a new one each time)",
    )  # fmt: skip
    return parser


def parse_inference(argv):
    parser = inference_parser()
    arguments = parsed(parser, argv)

    def refuse(names, reason):
        for name in names:
            if getattr(arguments, name) not in (None, False):
                parser.error(f"--{name.replace('_', '-')} {reason}")

    several = arguments.checkpoint is not None and len(arguments.checkpoint) > 1
    if arguments.evaluate:
        refuse(("total", "seed", "image", "number"), "is for predictions; --evaluate tests every image")
    else:
        refuse(("plot_graph",), "needs --evaluate: it draws where the model errs")
        if several:
            parser.error("several --checkpoint files are compared by --evaluate; a prediction takes one")
    if several:
        refuse(("plot_graph",), "draws where one model errs; several are compared without it")
    elif arguments.evaluate and not arguments.plot_graph:
        refuse(("output",), "has nothing to hold; --evaluate tests every image, add --plot-graph to draw")
    if arguments.image is None:
        refuse(("number",), "is added to the digit of an --image")
    else:
        refuse(("total", "seed"), "is for random test images; --image names them")
        if arguments.number is None:
            parser.error("--image needs --number, the number to add")
    arguments.total = arguments.total or 25
    if arguments.output is None:
        arguments.output = (
            "comparison.png" if several else "evaluation" if arguments.evaluate else "predictions.png"
        )
    return arguments


def say(text="", file=None):
    """Print a line at once. If its reader has gone (`| head -1`) or its disk is full, go on without."""
    file = file or sys.stdout
    try:
        print(text, file=file, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def run(main, script):
    """Run main(argv) and exit: a Fault, or a package not installed, is one line on stderr and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # of a stream that a notebook or a test put there
            stream.reconfigure(errors="backslashreplace")  # no name is a reason to fail
    try:
        code = main(sys.argv[1:])
    except Fault as fault:
        say(f"{script}: error: {fault}", sys.stderr)
        code = 1
    except ModuleNotFoundError as absent:
        say(f"{script}: error: {absent.name} is not installed; run: pip install -e .", sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
