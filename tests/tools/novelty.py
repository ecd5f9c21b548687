"""The detector of images/novelty.py: `python -m tests.tools.novelty --data-dir DIR` measures it, --train makes it.

Both need the extra `test`. Digits are MNIST's training images, the last 10,000 held out, or with --test the test
images; no_digits.py draws all else, one part to train on ("develop") and another one to measure with ("report").
"""

import argparse
import math

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import cross_entropy

from mnist_sum.augment import affine, random_matrices
from mnist_sum.data import BACKGROUND, STD, Split, load_data, normalize
from mnist_sum.device import generator
from mnist_sum.files import write_atomically
from mnist_sum.images import novelty as detector
from mnist_sum.images import read_page
from tests.tools import no_digits
from tests.tools.handwriting import drawn

FLAGGED = 0.01  # of the held-out digits
COUNTS = {  # images drawn of each kind, to train on
    "letters from fonts": 8000,
    "punctuation": 2500,
    "symbols": 5000,
    "shapes": 3500,
    "invented letters": 10_000,
    "scribbles": 5000,
    "halves of digits": 6000,
    "two digits over each other": 5000,
    "two digits side by side": 4000,
    "digits turned or mirrored": 5000,
    "pieces of photographs": 5000,
}
NO_DIGIT, SOME_DIGIT = 10, -1  # targets beside 0 to 9
EPOCHS, BATCH, RATE = 20, 256, 3e-3


def a_digit(part, rng, digits):
    """A digit of MNIST, prepared like all that is none: else the preparation would tell them apart."""
    return no_digits.distorted(no_digits.enlarged(no_digits.pick(digits, rng)[0]), rng, 0.3)


def a_printed_digit(part, rng, digits):
    return no_digits.written("0123456789", no_digits.FONTS[part], rng)


def train(split: Split) -> dict[str, Tensor]:
    drawn_kinds = [(a_digit, 25_000, 2, SOME_DIGIT), (a_printed_digit, 2000, 3, SOME_DIGIT)]
    drawn_kinds += [(kind, count, 1, NO_DIGIT) for kind, count in COUNTS.items()]
    images, targets = [split.images], [split.digits]
    for kind, count, seed, target in drawn_kinds:
        images.append(no_digits.make(kind, "develop", count, seed, split))
        targets.append(torch.full((count,), target))
        print(f"{count:,} images: {kind}", flush=True)
    image, target = torch.cat(images), torch.cat(targets)
    torch.manual_seed(0)
    layers = {"conv1": torch.nn.Conv2d(1, 16, 7), "conv2": torch.nn.Conv2d(16, 40, 4)}
    layers |= {"linear1": torch.nn.Linear(360, 32), "linear2": torch.nn.Linear(32, 11)}
    weights = {f"{name}.{key}": p for name, layer in layers.items() for key, p in layer.named_parameters()}
    optimizer = torch.optim.AdamW(weights.values(), RATE, weight_decay=1e-4)
    steps = len(image) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * steps, pct_start=0.15)
    for epoch in range(EPOCHS):
        draw = generator(0, "novelty", epoch)
        for index in torch.randperm(len(image), generator=draw)[: steps * BATCH].split(BATCH):
            moved = affine(normalize(image[index].unsqueeze(1)), random_matrices(BATCH, draw, "cpu"))
            logits, some = detector.novelty_logits((moved - BACKGROUND) * STD, weights), target[index] == SOME_DIGIT
            loss = cross_entropy(logits[~some], target[index][~some], reduction="sum")
            loss = loss + (logits.logsumexp(1) - logits[:, :NO_DIGIT].logsumexp(1))[some].sum()
            optimizer.zero_grad()
            (loss / BATCH).backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {loss.item() / BATCH:.4f}", flush=True)
    return {name: weight.detach() for name, weight in weights.items()}


def calibrated(weights: dict[str, Tensor], digits: Tensor) -> dict[str, Tensor]:
    """The last bias such that FLAGGED of the digit images score above the threshold."""
    logits = detector.novelty_logits(digits.unsqueeze(1) / 255, weights)
    log_odds = logits[:, NO_DIGIT] - logits[:, :NO_DIGIT].logsumexp(1)
    bias, threshold = weights["linear2.bias"].clone(), detector.THRESHOLD
    bias[NO_DIGIT] += math.log(threshold / (1 - threshold)) - log_odds.quantile(1 - FLAGGED)
    return {**weights, "linear2.bias": bias}


def auroc(digits: Tensor, others: Tensor) -> float:
    """The probability that another thing scores above a digit."""
    return (np.searchsorted(digits.sort().values.numpy(), others.numpy()) / len(digits)).mean().item()


def measure(digits: Split, seed: int, count: int) -> None:
    scores = detector.novelty(digits.images)
    pages = [read_page(drawn(i % 10, np.random.default_rng([2026, i]))).digits[0].pixels for i in range(200)]
    prepared = no_digits.make(a_digit, "report", count, seed, digits)
    for name, pixels in {"prepared": prepared, "synthetic pages": torch.stack(pages)}.items():
        print(f"digits, {name}: {(detector.novelty(pixels) > detector.THRESHOLD).float().mean():.1%} flagged")
    print(f"digits: {(scores > detector.THRESHOLD).float().mean():.1%} flagged")
    every = []
    for kind in no_digits.kinds("report"):
        every.append(detector.novelty(no_digits.make(kind, "report", count, seed, digits)))
        flagged = (every[-1] > detector.THRESHOLD).float().mean()
        print(f"{kind}: {flagged:.1%} flagged, AUROC {auroc(scores, every[-1]):.3f}")
    others = torch.cat(every)
    flagged = (others > detector.THRESHOLD).float().mean()
    print(f"all kinds: {flagged:.1%} flagged, AUROC {auroc(scores, others):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.novelty", description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--test", action="store_true", help="measure with the test images")
    parser.add_argument("--count", type=int, default=600, help="images of each kind (default: 600)")
    parser.add_argument("--train", action="store_true", help="train it anew first, some ten minutes on one core")
    args = parser.parse_args()
    split = load_data("mnist", args.data_dir, "validation")
    if args.train:
        write_atomically(detector.WEIGHTS, save(calibrated(train(split.train), split.test.images)))
        detector._weights.cache_clear()
    digits = load_data("mnist", args.data_dir).test if args.test else split.test
    measure(digits, 4 + args.test, args.count)


if __name__ == "__main__":
    main()
