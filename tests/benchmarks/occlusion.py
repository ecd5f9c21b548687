"""Why an occlusion map's patch is 5 x 5 pixels, how long maps take, and how two ways of fusion differ.

    python tests/benchmarks/occlusion.py --data-dir DIR tiny compact runs/channel_fusion

For each model and patch size, on the first 100 of the last 10,000 training images (the validation images),
each with the numbers 0, 4 and 9:

    ms          milliseconds for an image's two maps, the median, on one thread
    peak        the largest fall of the digit's log-probability in a map, in nats, the median
    pixels      how many pixels' patches cost the digit more than half of its probability, the mean
    digit, sum  cosine similarity of the digit's map with the sum's, the mean
    two sums    cosine similarity of the sum's maps for two numbers with the same image, the mean

Similarities are of the share of the probability that is lost, which the pictures show.
"""

import argparse
import statistics
import time
from itertools import combinations

import torch
from torch.nn.functional import cosine_similarity

from mnist_sum import data
from mnist_sum.evaluation import occlusion
from mnist_sum.runs.trained import load

NUMBERS = 0, 4, 9


def measure(model, images):
    """A dict of the figures above."""
    rows = {name: [] for name in ("ms", "peak", "pixels", "digit, sum", "two sums")}
    for image in images:
        sums = []
        for number in NUMBERS:
            started = time.perf_counter()
            maps = occlusion.occlusion_maps(model, image, number)
            rows["ms"].append(1000 * (time.perf_counter() - started))
            rows["peak"].append(maps[0].max().item())
            digit, total = (1 - each.clamp(min=0).neg().exp().flatten() for each in maps)
            rows["pixels"].append((digit > 0.5).float().sum().item())
            rows["digit, sum"].append(cosine_similarity(digit, total, 0).item())
            sums.append(total)
        rows["two sums"] += [cosine_similarity(*pair, 0).item() for pair in combinations(sums, 2)]
    medians = {name: statistics.median(rows.pop(name)) for name in ("ms", "peak")}
    return medians | {name: statistics.mean(values) for name, values in rows.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--data-dir", required=True, metavar="DIR")
    parser.add_argument("--patches", nargs="+", type=int, default=[3, 5, 7, 9], metavar="N")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = data.load("mnist", args.data_dir, "validation").test.images[:100]
    print("| model | patch | ms | peak | pixels | digit, sum | two sums |\n|---|---|---|---|---|---|---|")
    for checkpoint in args.checkpoints:
        trained = load(checkpoint, "cpu")
        for occlusion.PATCH in args.patches:
            ms, peak, pixels, *similarities = measure(trained.model, images).values()
            alike = " | ".join(f"{each:.2f}" for each in similarities)
            print(
                f"| `{trained.name}` | {occlusion.PATCH} | {ms:.0f} | {peak:.2f} | {pixels:.0f} | {alike} |"
            )


if __name__ == "__main__":
    main()
