"""Does training on sums of fifteen digits make `tiny` better at single digits than their labels do?

    python tests/benchmarks/sums_or_labels.py --data-dir DIR --seeds 10 --output-dir runs/sums_or_labels

Trains the network of track b (mnist_sum/studies/sums.py, N = 15) on 50,000 training images, once by the sums,
once by the labels, all else being the same: weights, batches, augmentation, rate, clipping, and a loss that
adds up an example's thirty digits. Prints the digits' errors on the other 10,000 training images,
seed by seed, and the mean difference with its standard error. By hand; a finished run is not done again.
"""

import argparse
import statistics
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from mnist_sum.data import load
from mnist_sum.models import find
from mnist_sum.runs.series import row_of
from mnist_sum.studies import sums
from mnist_sum.system.device import choose_device, choose_precision, keep_freed_memory
from mnist_sum.training import new_state

PLACES = 15


def errors(target, seed, data, recipe):
    device = choose_device("auto")
    state = new_state(find("tiny"), recipe, seed, device, choose_precision("auto", device))
    groups = sums.grouped(torch.arange(len(data.train)), PLACES)
    digits = data.train.digits[groups].to(device)  # (S, 2, N)
    total = sums.total_digits(digits)

    def log_likelihood(log_probabilities, batch):
        if target == "labels":
            labels = digits[batch].flatten(1).unsqueeze(2)
            return log_probabilities.gather(2, labels).sum((1, 2))
        return sums.sum_log_likelihood(log_probabilities.unflatten(1, (2, PLACES)), total[batch])

    sums.train(state, data.train.images.to(device), groups.flatten(1).to(device), log_likelihood)
    predicted = sums.digit_probabilities(state.model, data.test.images.to(device)).argmax(1).cpu()
    return {"errors": (predicted != data.test.digits).sum().item()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/sums_or_labels"))
    args = parser.parse_args()
    keep_freed_memory()
    data, recipe = load("mnist", args.data_dir, "validation"), sums.recipe_of("b", PLACES)
    differences = []
    for seed in range(args.seeds):
        found = {}
        for target in ("sums", "labels"):
            expected = {"target": target, "seed": seed, "recipe": asdict(recipe)}
            task = partial(errors, target, seed, data, recipe)
            found[target] = row_of(args.output_dir / f"{target}-{seed}", expected, task)[0]["errors"]
        print(f"seed {seed}: errors by sums {found['sums']}, by labels {found['labels']}", flush=True)
        differences.append(found["labels"] - found["sums"])
    if len(differences) > 1:
        error = statistics.stdev(differences) / len(differences) ** 0.5
        print(
            f"by labels {statistics.mean(differences):+.1f} ± {error:.1f} more, of {len(data.test):,} images"
        )


if __name__ == "__main__":
    main()
