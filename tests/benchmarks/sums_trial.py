"""A trial of the study `sums` with other settings: the figures of one run on validation images.

    python tests/benchmarks/sums_trial.py a 15 --data-dir DIR --set epochs=40 batch_size=8 learning_rate=0.05

The settings are those of a Recipe (mnist_sum/recipes.py); what is not set is as in SETTINGS of
mnist_sum/studies/sums.py. By hand; the trials are in mnist_sum/studies/README.md.
"""

import argparse
import time
from dataclasses import fields

from mnist_sum.data import load
from mnist_sum.recipes import Recipe
from mnist_sum.studies import sums
from mnist_sum.system.device import choose_device, keep_freed_memory

TYPES = {field.name: field.type for field in fields(Recipe)}


def setting(text):
    """("epochs", 40) of "epochs=40"."""
    name, _, value = text.partition("=")
    if name not in TYPES:
        raise argparse.ArgumentTypeError(f"{name} is no setting of a Recipe: {', '.join(TYPES)}")
    return name, TYPES[name](value)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("track", choices=sums.TRACKS)
    parser.add_argument("digits", type=int)
    parser.add_argument("--data-dir")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", type=setting, default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    keep_freed_memory()
    recipe = sums.recipe_of(args.track, args.digits).overridden(split="validation", **dict(args.set))
    data, started = load("mnist", args.data_dir, "validation"), time.process_time()
    found = sums.run(args.track, args.digits, args.seed, data, recipe, choose_device("auto"))
    names = "sum_accuracy", "repaired_sum_accuracy", "digit_accuracy"
    print(*(f"{name} {found[name]:.2%}," for name in names), f"{time.process_time() - started:.0f} s")


if __name__ == "__main__":
    main()
