"""`python -m mnist_sum.study NAME`: many runs that answer one question about fusing two inputs.

  pairs    does a model add, or does it remember? Some pairs of digit and number are never trained on
  sums     two handwritten numbers of N digits, trained on their sum alone, never on a digit's label

Each run has a folder below --output-dir. After a stop give the command again: it does the missing runs.
"""

import argparse
from importlib import import_module

from mnist_sum import cli
from mnist_sum.recipes import RECIPES
from mnist_sum.studies import STUDIED


def main(argv: list[str]) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m mnist_sum.study", description=__doc__, formatter_class=raw)
    add = parser.add_argument
    # fmt: off
    add("study", choices=("pairs", "sums"), metavar="NAME", help="pairs or sums")
    add("--models", nargs="+", type=lambda name: name if name in STUDIED else cli.model_name(name), metavar="NAME",
        help=f"pairs only: of {', '.join((*RECIPES, *STUDIED))}, or FILE.py:NAME (default: all; with --quick four)")
    add("--epochs", type=cli.positive_int, metavar="N", help="pairs only (default: the recipe's; with --quick 8)")
    add("--digits", nargs="+", type=cli.positive_int, metavar="N", help="sums only (default: 1 2 4 15; --quick 1 2)")
    add("--track", choices=("a", "b"), help="sums only: a, a LeNet as published, or b, tiny, augmented (default: both)")
    add("--data", choices=("auto", "mnist", "sample"), help="default: auto; with --quick sample")
    add("--data-dir", metavar="DIR", help="where MNIST is (default: $MNIST_SUM_DATA, else data)")
    add("--split", choices=("standard", "validation"), default="standard", help="as of train.py (default: standard)")
    add("--seeds", type=cli.positive_int, metavar="N", help="default: pairs 3, sums 10, of 15 digits 5; with --quick 1")
    add("--output-dir", metavar="DIR", help="default: runs/study-NAME; with --quick runs/study-NAME-quick")
    add("--json", action="store_true", help="print one JSON object per run on stdout, all else on stderr")
    add("--quick", action="store_true", help="few and short runs that show the whole path")
    # fmt: on
    args = parser.parse_args(argv)
    for name, study in {"models": "pairs", "epochs": "pairs", "digits": "sums", "track": "sums"}.items():
        if getattr(args, name) is not None and args.study != study:
            parser.error(f"--{name} is a flag of the study {study}")
    args.data = args.data or ("sample" if args.quick else "auto")
    args.output_dir = args.output_dir or f"runs/study-{args.study}{'-quick' if args.quick else ''}"
    import_module(f"mnist_sum.studies.{args.study}").study(args)  # imports torch


if __name__ == "__main__":
    cli.run(main, "mnist_sum.study")
