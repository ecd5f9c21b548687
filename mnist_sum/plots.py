"""Every picture. Drawn with matplotlib's own canvas, so no screen and no global state is needed."""

import math

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mnist_sum.errors import Fault

DIGIT, SUM = "#1f6fb4", "#d1661c"
RIGHT, WRONG = "#1a7f37", "#c62828"


def _figure(width, height):
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path):
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: a suffix that is no picture format
        reason = getattr(error, "strerror", None) or error
        raise Fault(f"cannot write the picture {path}: {reason}") from error


def draw_history(history, part, title, path):
    """Losses and accuracies of both outputs per epoch; part is "train" or "test"."""
    figure = _figure(10, 4)
    losses, accuracies = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for output, colour in (("digit", DIGIT), ("sum", SUM)):
        style = dict(color=colour, label=output, marker="o", markersize=3)
        losses.plot(epochs, [row[f"{part}_{output}_loss"] for row in history], **style)
        percent = [100 * row[f"{part}_{output}_accuracy"] for row in history]
        accuracies.plot(epochs, percent, **{**style, "label": f"{output}, last {percent[-1]:.2f}%"})
    losses.set(xlabel="epoch", ylabel="cross-entropy (nats)", title="loss", yscale="log")
    accuracies.set(xlabel="epoch", ylabel="right (%)", title="accuracy")
    for axes in (losses, accuracies):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    _save(figure, path)


def _image_grid(images, captions, colours, title, path):
    columns = min(len(images), max(5, math.ceil(math.sqrt(len(images)))))
    rows = math.ceil(len(images) / columns)
    figure = _figure(1.5 * columns + 0.4, 1.85 * rows + 0.7)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, caption, colour in zip(grid.flat, images, captions, colours, strict=False):
        axes.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255)
        axes.set_title(caption, color=colour, fontsize=9)
    figure.suptitle(title)
    _save(figure, path)


def draw_samples(images, digits, numbers, path):
    """Random samples of the data set: uint8 images (N, 28, 28) with their number and targets."""
    captions = [
        f"number {number}\ndigit {digit}, sum {digit + number}"
        for digit, number in zip(digits, numbers, strict=True)
    ]
    colours = ["black"] * len(captions)
    _image_grid(images, captions, colours, "samples: image and number in, digit and sum out", path)


def draw_predictions(images, predictions, title, path):
    """A grid of uint8 images with what was predicted; each wrong one in red with the truth.

    predictions: dicts with number, digit, sum, predicted_digit, predicted_sum.
    """
    captions, colours = [], []
    for case in predictions:
        right = case["digit"] == case["predicted_digit"] and case["sum"] == case["predicted_sum"]
        text = f"{case['predicted_digit']} + {case['number']} = {case['predicted_sum']}"
        captions.append(text if right else f"{text}\ntrue: {case['digit']}, {case['sum']}")
        colours.append(RIGHT if right else WRONG)
    _image_grid(images, captions, colours, title, path)


def draw_model(rows, name, path):
    """The layers as blocks from top to bottom: rows as summary.layer_rows gives them."""
    columns = math.ceil(len(rows) / 18)
    per_column = math.ceil(len(rows) / columns)
    figure = _figure(4.2 * columns, 0.42 * per_column + 1.0)
    axes = figure.subplots()
    axes.set(xlim=(0, columns), ylim=(per_column, -0.2))
    axes.axis("off")
    colours = {"Conv2d": "#cfe3f5", "Linear": "#fbdcc4", "BatchNorm2d": "#e6e6e6", "BatchNorm1d": "#e6e6e6"}
    for index, (layer, shape, parameters) in enumerate(rows):
        column, row = divmod(index, per_column)
        kind = layer.partition("-")[0]
        box = dict(boxstyle="round,pad=0.35", facecolor=colours.get(kind, "white"), edgecolor="#777777")
        size = f"   {parameters:,} parameters" if parameters else ""
        text = f"{kind}   {shape.replace('-1, ', '')}{size}"
        axes.text(column + 0.5, row + 0.4, text, ha="center", va="center", fontsize=8, bbox=box)
    total = sum(parameters for _, _, parameters in rows)
    axes.set_title(f"{name}: {total:,} parameters, read down and then right")
    _save(figure, path)
