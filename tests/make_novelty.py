"""Train the detector of images/novelty.py and write its weights: `python -m tests.make_novelty`.

It needs the full MNIST and the extra `test`, and takes some ten minutes on one core, most of them for
drawing. The digits are the first 50,000 training images, as they are and prepared as a user's image is;
what is no digit is the part "develop" of no_digits.py. The threshold is set on the last 10,000.
"""

import argparse
import math
from pathlib import Path

import torch
from safetensors.torch import save
from torch.nn.functional import cross_entropy

from mnist_sum import console, data
from mnist_sum.augment import affine, random_matrices
from mnist_sum.dataset import BACKGROUND, STD, normalised
from mnist_sum.images import novelty
from mnist_sum.runs.folder import data_folder
from mnist_sum.system.randomness import generator
from tests import no_digits

SEED = 0  # of the training; the images have 1, 2 and 3
FLAGGED = 0.01  # of the validation digits
COUNTS = {  # images drawn of each kind
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
PREPARED, PRINTED = 25_000, 2000  # digits that went through the preparation, of MNIST and of fonts
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 20, 256, 3e-3, 1e-4
NO_DIGIT, SOME_DIGIT = 10, -1  # targets beside 0 to 9


def a_digit(part, rng, digits):
    """A digit of MNIST, prepared like all that is none: else the preparation would tell them apart."""
    pixels, _ = no_digits.pick(digits, rng)
    return no_digits.distorted(no_digits.enlarged(pixels), rng, 0.3)


def a_printed_digit(part, rng, digits):
    return no_digits.written("0123456789", no_digits.FONTS[part], rng)


def training_images(train):
    """(images, targets): uint8 (N, 28, 28) and int64 (N,), of digits and of what is none."""
    images, targets = [train.images], [train.digits]
    drawn = [(a_digit, PREPARED, 2, SOME_DIGIT), (a_printed_digit, PRINTED, 3, SOME_DIGIT)]
    drawn += [(kind, count, 1, NO_DIGIT) for kind, count in COUNTS.items()]
    for kind, count, seed, target in drawn:
        images.append(no_digits.make(kind, "develop", count, seed, train))
        targets.append(torch.full((count,), target))
        console.note(f"{count:,} images: {kind if isinstance(kind, str) else kind.__name__}")
    return torch.cat(images), torch.cat(targets)


def new_weights():
    """Weights by name, drawn as PyTorch does."""
    torch.manual_seed(SEED)
    layers = {
        "conv1": torch.nn.Conv2d(1, 16, 7),
        "conv2": torch.nn.Conv2d(16, 40, 4),
        "linear1": torch.nn.Linear(360, 32),
        "linear2": torch.nn.Linear(32, 11),
    }
    return {f"{name}.{part}": value.detach().requires_grad_() for name, layer in layers.items()
            for part, value in layer.named_parameters()}  # fmt: skip


def loss_of(outputs, targets):
    """Cross-entropy; for SOME_DIGIT of the ten digits together."""
    some = targets == SOME_DIGIT
    known = cross_entropy(outputs[~some], targets[~some], reduction="sum")
    digit = (outputs.logsumexp(1) - outputs[:, :NO_DIGIT].logsumexp(1))[some].sum()
    return (known + digit) / len(targets)


def train(images, targets):
    """The trained weights; every image is rotated, scaled, sheared and shifted anew in every epoch."""
    weights = new_weights()
    optimizer = torch.optim.AdamW(weights.values(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=EPOCHS * steps, pct_start=0.15
    )
    for epoch in range(EPOCHS):
        draw = generator(SEED, "novelty", epoch)
        total = 0.0
        for index in torch.randperm(len(images), generator=draw)[: steps * BATCH].split(BATCH):
            image = normalised(images[index].unsqueeze(1))
            image = affine(image, random_matrices(BATCH, draw, torch.device("cpu")))
            loss = loss_of(novelty.logits((image - BACKGROUND) * STD, weights), targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        console.note(f"epoch {epoch + 1}/{EPOCHS}: loss {total / steps:.4f}")
    return {name: weight.detach() for name, weight in weights.items()}


def calibrated(weights, digits):
    """The weights, the last bias such that FLAGGED of the digit images score above the threshold."""
    with torch.inference_mode():
        outputs = novelty.logits(digits.unsqueeze(1) / 255, weights)
    log_odds = outputs[:, NO_DIGIT] - outputs[:, :NO_DIGIT].logsumexp(1)
    bias = weights["linear2.bias"].clone()
    bias[NO_DIGIT] += math.log(novelty.THRESHOLD / (1 - novelty.THRESHOLD)) - log_odds.quantile(1 - FLAGGED)
    return {**weights, "linear2.bias": bias}


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m tests.make_novelty", description=__doc__)
    parser.add_argument("--data-dir", metavar="DIR", help="where MNIST lies (default: as train.py's)")
    parser.add_argument("--output", type=Path, default=novelty.WEIGHTS, metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    split = data.load("mnist", data_folder(args.data_dir), "validation")
    weights = calibrated(train(*training_images(split.train)), split.test.images)
    args.output.write_bytes(save(weights))
    console.note(f"written to {args.output}")


if __name__ == "__main__":
    console.run_script(main, "make_novelty.py")
