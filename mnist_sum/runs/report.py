"""A run as text: the table on the screen, history.csv, settings.json and report.md."""

import csv
import dataclasses
import io
import json
import math
import sys
from pathlib import Path

from mnist_sum.augment import ROTATION, SCALE, SHEAR, SHIFT
from mnist_sum.loss import TEMPERATURE
from mnist_sum.training import ROW

TEMPLATE = Path(__file__).with_name("report_template.md")
PICTURES = {
    "training.png": "Loss and accuracy on the training images, by epoch",
    "testing.png": "Loss and accuracy of the exhaustive test, by epoch",
    "samples.png": "Random samples of the data set",
    "model.png": "The layers and where the number reaches them",
    "occlusion.png": "What the answers for random test images rest on: occlusion maps of digit and sum",
}
EXAMPLES = 10  # in occlusion.png, a row


def table_head():
    """The two lines above the table of epochs, 95 columns wide."""
    part, outputs = " | {:>17} {:>15}", f" | {'digit':>8} {'sum':>8} {'digit':>7} {'sum':>7}"
    titles = part.format("training loss", "accuracy") + part.format("test loss", "accuracy")
    return f"{'':23}{titles}\nepoch {'lr':>9} {'seconds':>7}{2 * outputs}"


def table_line(row):
    """One epoch's row as one line: losses in nats, accuracies in percent."""
    line = f"{row['epoch']:5} {row['lr']:9.6f} {row['seconds']:7.1f}"
    for part in ("train", "test"):
        losses = (f"{row[f'{part}_{output}_loss']:8.4f}" for output in ("digit", "sum"))
        accuracies = (f"{row[f'{part}_{output}_accuracy']:7.2%}" for output in ("digit", "sum"))
        line += f" | {' '.join(losses)} {' '.join(accuracies)}"
    return line


def result_line(state, test_images):
    """What a run has reached, in one sentence."""
    last, seconds = state.history[-1], sum(row["seconds"] for row in state.history)
    part = "validation" if state.recipe.split == "validation" else "test"
    return (
        f"reached: digit {last['test_digit_accuracy']:.2%}, sum {last['test_sum_accuracy']:.2%} on "
        f"{test_images:,} {part} images x 10 numbers; {state.epoch}/{state.recipe.epochs} epochs, "
        f"{seconds:.0f} s"
    )


def history_csv(history):
    """The rows as the bytes of history.csv, numbers in full so that they read back exactly."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ROW, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()


def settings_json(state, data, data_dir):
    """What decides the run, as the bytes of settings.json; data as checkpoint.describe_data says."""
    settings = {
        "model": state.model_name,
        "seed": state.seed,
        "precision": state.precision,
        "recipe": dataclasses.asdict(state.recipe),
        "data": data,
        "data_dir": data_dir,
    }
    return (json.dumps(settings, indent=2) + "\n").encode()


NUMBERS = {
    "fresh": "drawn evenly from 0 to 9, again in every epoch",
    "fixed": "drawn evenly from 0 to 9 once, and the same in every epoch",
}
SPLITS = {
    "standard": "the data's own split",
    "pooled": "all images in one pool, split at random 80 / 20",
    "validation": "the training images alone, the last sixth for validation; the test images were not used",
}
TEACHER = f"""
This run has a teacher (knowledge distillation): a trained model that predicts every training image, too,
as this one sees it in that step. Its probabilities take the place of the labels, with all logits divided
by {TEMPERATURE:g}; the loss is {TEMPERATURE:g} times these two cross-entropies. The sum's probabilities are
computed from the teacher's digit logits; its sum output is not used. Losses and accuracies below are
against the labels.
"""
AVERAGING = {
    "none": "",
    "ema": "\n\nWhat is tested and saved is a moving average of the weights that the optimizer moves.",
}
AUGMENTATIONS = {
    "none": "Images are used as they are.",
    "affine": "Every training image is rotated, scaled, sheared and shifted, by up to "
    f"{math.degrees(ROTATION):g} degrees, {SCALE:.0%}, {SHEAR:.0%} and {14 * SHIFT:g} pixels, "
    "differently in every epoch.",
}


def draw_pictures(state, data, folder):
    """Draw the run's PICTURES into its folder; the model is in evaluation mode afterwards."""
    import torch

    from mnist_sum.evaluation.occlusion import occlusion_maps
    from mnist_sum.evaluation.predict import predict_random
    from mnist_sum.figures import layers, plots
    from mnist_sum.system.randomness import generator

    name = f"{state.model_name} on {data.name}"
    plots.draw_history(state.history, "train", f"{name}: training", folder / "training.png")
    plots.draw_history(state.history, "test", f"{name}: exhaustive test", folder / "testing.png")
    draws = generator(state.seed, "samples")
    index = torch.randint(len(data.train), (20,), generator=draws)
    numbers = torch.randint(10, (20,), generator=draws).tolist()
    images, digits = data.train.images[index], data.train.digits[index].tolist()
    plots.draw_samples(images, digits, numbers, folder / "samples.png")
    rows, inputs = layers.layer_rows(state.model), layers.layer_inputs(state.model)
    plots.draw_model(rows, inputs, state.model_name, folder / "model.png")
    cases = predict_random(state.model.eval(), data.test, min(EXAMPLES, len(data.test)), state.seed)
    images = data.test.images[[case["image"] for case in cases]]
    numbers = [case["number"] for case in cases]
    maps = [occlusion_maps(state.model, *pair) for pair in zip(images, numbers, strict=True)]
    plots.draw_occlusion(images, cases, maps, f"{name}: what it looks at", folder / "occlusion.png")


def _architecture(state):
    """The architecture in words: an own network's source, else the docstring of the model's module."""
    if state.architecture.source is not None:
        return state.architecture.source.decode("utf-8", "replace").strip()
    text = sys.modules[type(state.model).__module__].__doc__
    return (text or state.model_name).strip()  # python -OO keeps no docstrings


def run_report(state, data, environment):
    """The run's report.md as bytes: what was trained on what, how, and with which result.

    data and environment as checkpoint.describe_data and checkpoint.environment give them. It shows the
    PICTURES, which lie beside it.
    """
    from mnist_sum.figures.layers import layer_table

    recipe, last = state.recipe, state.history[-1]
    log = "\n".join(
        f"| {row['epoch']} | {row['lr']:.6f} | {row['seconds']:.1f} "
        + "".join(
            f"| {row[f'{part}_digit_loss']:.4f} / {row[f'{part}_sum_loss']:.4f} "
            f"| {row[f'{part}_digit_accuracy']:.2%} / {row[f'{part}_sum_accuracy']:.2%} "
            for part in ("train", "test")
        )
        + "|"
        for row in state.history
    )
    return (
        TEMPLATE.read_text(encoding="utf-8")
        .format(
            state=state,
            data=data,
            environment=environment,
            last=last,
            part="validation" if recipe.split == "validation" else "test",
            cases=10 * data["test_images"],
            split=SPLITS[recipe.split],
            numbers=NUMBERS[recipe.numbers],
            augmentation=AUGMENTATIONS[recipe.augmentation],
            architecture=_architecture(state),
            layer_table=layer_table(state.model),
            settings="\n".join(f"| {name} | {value} |" for name, value in dataclasses.asdict(recipe).items()),
            averaging=AVERAGING[recipe.averaging],
            seconds=sum(row["seconds"] for row in state.history),
            teacher="" if recipe.teacher == "none" else TEACHER,
            log=log,
            images="\n\n".join(f"![{caption}]({name})\n\n*{caption}*" for name, caption in PICTURES.items()),
        )
        .encode()
    )
