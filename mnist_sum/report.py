"""A run as text: the table on the screen, history.csv, settings.json and report.md."""

import csv
import dataclasses
import io
import json
import math
import sys

from mnist_sum.augment import ROTATION, SCALE, SHEAR, SHIFT
from mnist_sum.loss import TEACHERS_SHARE, TEMPERATURE
from mnist_sum.training import ROW


def table_head(train_cases, test_cases):
    """The two lines above the table. Cases are what the counts are out of: a test image counts
    ten times, once with each number."""
    titles = f"{'digit loss':>10} {'sum loss':>8} {'digit right':>14} {'sum right':>14}"
    return (
        f"{'':23} | {f'training, of {train_cases:,} cases':49} | test, of {test_cases:,} cases\n"
        f"epoch {'lr':>9} {'s':>7} | {titles} | {titles}"
    )


def table_line(row, train_cases, test_cases):
    """One epoch's row as one line: losses in nats, accuracies in percent and as counts."""
    parts = [f"{row['epoch']:5} {row['lr']:9.6f} {row['seconds']:7.1f}"]
    for part, cases in (("train", train_cases), ("test", test_cases)):
        right = [
            f"{row[f'{part}_{output}_accuracy']:7.2%} {round(row[f'{part}_{output}_accuracy'] * cases):6}"
            for output in ("digit", "sum")
        ]
        losses = f"{row[f'{part}_digit_loss']:10.4f} {row[f'{part}_sum_loss']:8.4f}"
        parts.append(f"{losses} {right[0]} {right[1]}")
    return " | ".join(parts)


def history_csv(history):
    """The rows as the bytes of history.csv, numbers in full so that they read back exactly."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ROW, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()


def settings_json(run, data):
    """What decides the run, as the bytes of settings.json; data as checkpoint.describe_data says."""
    settings = {
        "model": run.model_name,
        "seed": run.seed,
        "precision": run.precision,
        "recipe": dataclasses.asdict(run.recipe),
        "data": data,
    }
    return (json.dumps(settings, indent=2) + "\n").encode()


NUMBERS = {
    "fresh": "drawn evenly from 0 to 9, anew in every epoch",
    "fixed": "drawn evenly from 0 to 9 once, and the same in every epoch",
}
SPLITS = {
    "standard": "the data's own split",
    "pooled": "all images in one pool, drawn apart 80 / 20",
    "validation": "the training images alone, the last sixth held out; the test images were not looked at",
}
TEACHER = f"""
This run has a teacher (knowledge distillation): a trained model that read every training image once, as
it is. What is trained on is {1 - TEACHERS_SHARE:.1f} times these two cross-entropies plus
{TEACHERS_SHARE * TEMPERATURE:.1f} times two towards its answers, with all logits divided by {TEMPERATURE:g}.
"""
AUGMENTATIONS = {
    "none": "Images are used as they are.",
    "affine": "Every training image is rotated, scaled, sheared and shifted, by up to "
    f"{math.degrees(ROTATION):g} degrees, {SCALE:.0%}, {SHEAR:.0%} and {14 * SHIFT:g} pixels, anew in "
    "every epoch.",
}


def run_report(run, data, environment, layer_table, pictures):
    """The run's report.md as bytes: what was trained on what, how, and with which result.

    data and environment as checkpoint.describe_data and checkpoint.environment give them;
    layer_table as summary.layer_table; pictures: {file name: caption}.
    """
    recipe, last = run.recipe, run.history[-1]
    seconds = sum(row["seconds"] for row in run.history)
    architecture = sys.modules[type(run.model).__module__].__doc__
    settings = "\n".join(f"| {name} | {value} |" for name, value in dataclasses.asdict(recipe).items())
    log = "\n".join(
        f"| {row['epoch']} | {row['lr']:.6f} | {row['seconds']:.1f} "
        + "".join(
            f"| {row[f'{part}_digit_loss']:.4f} / {row[f'{part}_sum_loss']:.4f} "
            f"| {row[f'{part}_digit_accuracy']:.2%} / {row[f'{part}_sum_accuracy']:.2%} "
            for part in ("train", "test")
        )
        + "|"
        for row in run.history
    )
    teacher = "" if recipe.teacher == "none" else TEACHER
    images = "\n\n".join(f"![{caption}]({name})\n\n*{caption}*" for name, caption in pictures.items())
    part = "validation" if recipe.split == "validation" else "test"
    return f"""\
# {run.model_name} on {data["name"]}, {run.epoch} epochs, seed {run.seed}

A network with two inputs, an image of a digit and a number from 0 to 9, and two outputs: the digit
and the sum of the two. After its last epoch it is right on **{last["test_digit_accuracy"]:.2%} of the
digits and {last["test_sum_accuracy"]:.2%} of the sums** of the {data["test_images"]:,} {part} images.

## Data representation

An image is one channel of 28x28, scaled to mean 0 and standard deviation 1 over MNIST's training
pixels (0.1307, 0.3081). The number is one-hot, ten wide. Targets are class indices: the digit (10
classes) and the sum (19 classes, 0 to 18).

## Data generation

{data["train_images"]:,} training and {data["test_images"]:,} {part} images of {data["name"]}
({SPLITS[recipe.split]}). Beside every training image stands a number, {NUMBERS[recipe.numbers]}; a pure
function of seed, epoch and image. {AUGMENTATIONS[recipe.augmentation]}
Fingerprint of the data (SHA-256): `{data["fingerprint"]}`.

## How the two inputs are joined

```
{architecture.strip()}
```

```
{layer_table}
```

## Training

| setting | value |
|---|---|
{settings}

On {environment["device"]}, {environment["threads"]} threads, {run.precision}, torch {environment["torch"]}:
{seconds:.1f} seconds with the test after every epoch.

## Loss

Cross-entropy of the digit plus cross-entropy of the sum, in nats: both outputs are choices of one class
among several, and cross-entropy is the negative log-likelihood of the right one. The weights are
equal: both losses start near that of an even guess among the possible classes, so neither drowns the other.
{teacher}
## Evaluation

The exhaustive test: every {part} image with each of the ten numbers, {10 * data["test_images"]:,} cases,
so no figure depends on a draw. A sum is right when its most probable class is digit + number. The
figures are those of the last epoch, not of the best.

## Results

| output | loss | right |
|---|---|---|
| digit | {last["test_digit_loss"]:.4f} | {last["test_digit_accuracy"]:.3%} |
| sum | {last["test_sum_loss"]:.4f} | {last["test_sum_accuracy"]:.3%} |

## Log

Losses and accuracies are digit / sum; those of training are means over the epoch while the weights
move, and over the members of an ensemble.

| epoch | lr | seconds | training loss | right | {part} loss | right |
|---|---|---|---|---|---|---|
{log}

## Pictures

{images}
""".encode()
