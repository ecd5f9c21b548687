"""Every picture. Drawn with matplotlib's own canvas, so no screen and no global state is needed."""

import math
from pathlib import Path

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
        figure.savefig(path, dpi=120, format=Path(path).suffix[1:] or "png")
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
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
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


def draw_model(rows, sees_number, name, path):
    """The layers in the order they run, down and then right.

    rows as summary.layer_rows gives them; sees_number tells for each whether its output depends on
    the number: those are drawn in the sum's colour, and the number's arrow points at the first.
    """
    columns = math.ceil(len(rows) / 17)
    per_column = math.ceil((len(rows) + 1) / columns)
    figure = _figure(4.6 * columns, 0.42 * per_column + 0.8)
    axes = figure.subplots()
    axes.set(xlim=(0, columns), ylim=(per_column, -0.3))
    axes.axis("off")
    blocks = [("image", "[-1, 1, 28, 28]", 0, False)]
    blocks += [(*row, seen) for row, seen in zip(rows, sees_number, strict=True)]
    joined = False
    for index, (layer, shape, parameters, seen) in enumerate(blocks):
        column, row = divmod(index, per_column)
        kind = layer.partition("-")[0]
        size = f"   {parameters:,} parameters" if parameters else ""
        face = "white" if index == 0 else "#fbdcc4" if seen else "#cfe3f5"
        box = dict(boxstyle="round,pad=0.3", facecolor=face, edgecolor="#777777")
        text = f"{kind}   {shape.replace('-1, ', '')}{size}"
        axes.text(column + 0.55, row + 0.5, text, ha="center", va="center", fontsize=8, bbox=box)
        if seen and not joined:
            joined = True
            arrow = dict(arrowstyle="-|>", color=SUM)
            at = (column + 0.27, row + 0.5)
            axes.annotate("number\n[10]", at, (column + 0.03, row + 0.5), fontsize=8, color=SUM,
                          va="center", arrowprops=arrow)  # fmt: skip
    total = sum(parameters for _, _, parameters in rows)
    title = f"{name}: {total:,} parameters\nlayers in the order they run; orange: the number reaches it"
    axes.set_title(title, fontsize=10)
    _save(figure, path)
