"""Every picture. Drawn with matplotlib's own canvas, so no screen and no global state is needed."""

import math
import warnings
from itertools import compress, pairwise
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mnist_sum.errors import Fault, one_line

DIGIT, SUM = "#1f6fb4", "#d1661c"
RIGHT, WRONG = "#1a7f37", "#c62828"


def _figure(width, height):
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path):
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # a box stands for what the font lacks
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

    predictions: dicts with number, digit, sum, predicted_digit, predicted_sum, and maybe the
    probability of the answer.
    """
    captions, colours = [], []
    for case in predictions:
        right = case["digit"] == case["predicted_digit"] and case["sum"] == case["predicted_sum"]
        text = f"{case['predicted_digit']} + {case['number']} = {case['predicted_sum']}"
        if "probability" in case:
            text += f"  ({case['probability']:.1%})"
        captions.append(text if right else f"{text}\ntrue: {case['digit']}, {case['sum']}")
        colours.append(RIGHT if right else WRONG)
    _image_grid(images, captions, colours, title, path)


def draw_read(cases, path):
    """Own images, a row each: the original, what the network saw, and both outputs' probabilities.

    cases: dicts with file, original (RGB image), seen (uint8 (28, 28)), number, and digit and sum,
    the probabilities (10,) and (19,).
    """
    figure = _figure(11, 2.3 * len(cases))
    grid = figure.subplots(len(cases), 4, squeeze=False, width_ratios=(1.3, 1, 2, 2.6))
    for (original, seen, digit, total), case in zip(grid, cases, strict=True):
        picture = case["original"].copy()
        picture.thumbnail((480, 480))
        original.imshow(picture)
        seen.imshow(np.asarray(case["seen"]), cmap="gray", vmin=0, vmax=255)
        name = one_line(Path(case["file"]).name)
        name = name if len(name) <= 28 else f"{name[:25]}…"
        original.set_title(name, fontsize=9, parse_math=False)
        seen.set_title("what the network saw", fontsize=9)
        for axes in (original, seen):
            axes.axis("off")
        number, read, added = case["number"], int(case["digit"].argmax()), int(case["sum"].argmax())
        for axes, values, best, colour, name in (
            (digit, case["digit"], read, DIGIT, f"digit {read}"),
            (total, case["sum"], added, SUM, f"{read} + {number} = {added}"),
        ):
            bars = axes.bar(range(len(values)), values, color=colour, alpha=0.35)
            bars[best].set_alpha(1)
            axes.set(ylim=(0, 1), xticks=range(len(values)))
            axes.tick_params(labelsize=7)
            axes.set_title(f"{name}  ({float(values[best]):.1%})", fontsize=10)
    _save(figure, path)


def draw_confusion(digit_counts, sum_counts, title, path):
    """Both confusion matrices: counts (10, 10) and (19, 19), row true, column predicted.

    Coloured by the share of the row that is not on the diagonal, so that rare errors can be seen.
    """
    figure = _figure(15, 7.2)
    for axes, counts, output, colours in zip(
        figure.subplots(1, 2), (digit_counts, sum_counts), ("digit", "sum"), ("Blues", "Oranges"), strict=True
    ):
        counts = np.asarray(counts)
        errors = counts / counts.sum(1, keepdims=True).clip(1)
        np.fill_diagonal(errors, 0)
        axes.imshow(errors, cmap=colours, vmin=0, vmax=max(errors.max() * 1.4, 1e-9))
        classes = len(counts)
        for true, guess in np.argwhere(counts):
            bold = dict(fontweight="bold") if true == guess else {}
            axes.text(guess, true, counts[true, guess], ha="center", va="center",
                      fontsize=9 if classes == 10 else 6.5, **bold)  # fmt: skip
        axes.set(xticks=range(classes), yticks=range(classes), xlabel=f"predicted {output}",
                 ylabel=f"true {output}", title=output)  # fmt: skip
    figure.suptitle(f"{title}: cases by true and predicted class; colour is the share of the row that errs")
    _save(figure, path)


def draw_sum_grid(accuracy, title, path):
    """The sum's accuracy (10, 10) for each digit (row) and number (column)."""
    percent = 100 * np.asarray(accuracy)
    figure = _figure(8.5, 7.2)
    axes = figure.subplots()
    image = axes.imshow(percent, cmap="RdYlGn", vmax=100, vmin=min(np.nanmin(percent), 99) - 0.5)
    for digit, number in np.argwhere(~np.isnan(percent)):
        axes.text(number, digit, f"{percent[digit, number]:.1f}", ha="center", va="center", fontsize=9)
    axes.set(xticks=range(10), yticks=range(10), xlabel="number", ylabel="digit in the image")
    axes.set_title(f"{title}\nsums right (%), by digit and number")
    figure.colorbar(image, shrink=0.8)
    _save(figure, path)


def draw_reliability(curves, title, path):
    """Reliability diagrams; curves: {output: (confidence, accuracy, share, calibration error)}."""
    figure = _figure(10, 5)
    for axes, (output, colour), (confidence, accuracy, share, error) in zip(
        figure.subplots(1, 2), (("digit", DIGIT), ("sum", SUM)), curves.values(), strict=True
    ):
        edges = (np.arange(len(share)) + 0.5) / len(share)
        axes.bar(edges, share, width=0.9 / len(share), color="#bbbbbb", label="share of the cases")
        axes.plot((0, 1), (0, 1), color="#777777", linestyle="--", label="perfectly calibrated")
        axes.plot(confidence, accuracy, marker="o", color=colour, label="the model")
        axes.set(
            xlabel="probability given to the answer", ylabel="answers right", xlim=(0, 1), ylim=(0, 1.02)
        )
        axes.set_title(f"{output}: expected calibration error {error:.2%}")
        axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(0.9, 0.08))
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    _save(figure, path)


def draw_comparison(names, rows, title, path):
    """Several models side by side. names: (model, checkpoint) of each; rows: dicts with parameters,
    images_per_second, and digit, sum and joint, each (accuracy, low, high) as fractions."""
    figure = _figure(11, 2 + 0.75 * len(names))
    accuracies, speeds = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    places = np.arange(len(names))
    for shift, (output, colour) in zip((-0.15, 0.15), (("digit", DIGIT), ("sum", SUM)), strict=True):
        values = np.array([row[output] for row in rows]) * 100
        spread = np.abs(values[:, 1:] - values[:, :1]).T
        accuracies.errorbar(values[:, 0], places + shift, xerr=spread, fmt="o", color=colour, capsize=3,
                            label=output)  # fmt: skip
        for value, place in zip(values[:, 0], places + shift, strict=True):
            accuracies.annotate(f"{value:.2f}", (value, place), (0, 5), textcoords="offset points",
                                ha="center", fontsize=8, color=colour)  # fmt: skip
    labels = [
        f"{one_line(model)}\n{one_line(path)}\n{row['parameters']:,} parameters"
        for (model, path), row in zip(names, rows, strict=True)
    ]
    accuracies.set(xlabel="right (%), with 95% interval", yticks=places, ylim=(len(names) - 0.5, -0.5))
    accuracies.set_yticklabels(labels, parse_math=False)
    accuracies.legend()
    accuracies.grid(alpha=0.3, axis="x")
    speeds.barh(places, [row["images_per_second"] for row in rows], height=0.5, color="#9a9a9a")
    speeds.set(xlabel="images a second, 1,000 at once")
    speeds.grid(alpha=0.3, axis="x")
    figure.suptitle(title)
    _save(figure, path)


def draw_parameters(models, others, path):
    """Parameters (logarithmic) against accuracy, in percent.

    models: {name: (parameters, (digit, spread), (sum, spread))}, measured, with the standard deviation
    over seeds; others: {name: (parameters, digit, sum)}, as reported elsewhere.
    """
    figure = _figure(10, 6)
    axes = figure.subplots()
    for (output, colour), place in zip((("digit", DIGIT), ("sum", SUM)), (1, 2), strict=True):
        for model in models.values():
            value, spread = model[place]
            axes.errorbar(model[0], value, yerr=spread, fmt="o", color=colour, capsize=3)
        for other in others.values():
            axes.plot(other[0], other[place], "x", color=colour, markersize=8)
        axes.plot([], [], "o", color=colour, label=f"{output}, measured, ± standard deviation over seeds")
        axes.plot([], [], "x", color=colour, label=f"{output}, as its author reports it")
    points = {name: (model[0], [value for value, _ in model[1:]]) for name, model in models.items()}
    for name, (parameters, *values) in others.items():
        points.setdefault(name, (parameters, []))[1].extend(values)
    for name, (parameters, values) in points.items():
        at, up = (parameters, max(values)), name in models  # the others' names stand below, out of the way
        axes.annotate(name, at, (0, 9 if up else -9), textcoords="offset points", rotation=20,
                      fontsize=9, ha="left" if up else "right", va="bottom" if up else "top")  # fmt: skip
    axes.set(xscale="log", xlabel="parameters", ylabel="right (%)", title="Parameters against accuracy")
    axes.margins(x=0.1)
    worst = min(min(values) for _, values in points.values())
    # Errors are what differs: half of them is as far as half of the next half.
    axes.set_yscale("function", functions=(lambda y: -np.log10(np.clip(100.05 - y, 1e-3, None)),
                                           lambda z: 100.05 - 10**-z))  # fmt: skip
    axes.set_ylim(worst - 3, 99.85)
    ticks = [tick for tick in (80, 85, 90, 95, 97, 98, 98.5, 99, 99.3, 99.5, 99.7, 99.8) if tick > worst - 3]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    _save(figure, path)


def in_columns(begins, per_column):
    """The (column, row) of each block: down, and right where a column is full or a block begins one."""
    places, column, row = [], 0, 0
    for begins_column in begins:
        if row == per_column or begins_column:
            column, row = column + 1, 0
        places.append((column, row))
        row += 1
    return places


def draw_model(rows, inputs, name, path):
    """The layers in the order they run, down and then right.

    rows as summary.layer_rows gives them, inputs as summary.layer_inputs. Layers whose output depends
    on the number are drawn in the sum's colour, and the number's arrow points at the first. Where no
    layer's does, the addition itself is drawn as the last step. Each layer that reads the image again
    begins a new column.
    """
    blocks = [("image", "[-1, 1, 28, 28]", 0, False)]
    blocks += [(*row, sees_number) for row, (_, sees_number) in zip(rows, inputs, strict=True)]
    again = [False, *(place > 0 and reads_image for place, (reads_image, _) in enumerate(inputs))]
    if not any(sees_number for _, sees_number in inputs):
        blocks.append(("mean, addition" if any(again) else "addition", "[-1, 19]", 0, True))
        again.append(False)
    if any(again):  # a column for each reading, so as high as the longest
        begins = [0, *compress(range(len(blocks)), again), len(blocks)]
        per_column = max(end - begin for begin, end in pairwise(begins))
    else:
        per_column = math.ceil(len(blocks) / math.ceil((len(blocks) - 1) / 18))
    places = in_columns(again, per_column)
    columns = places[-1][0] + 1
    figure = _figure(4.6 * columns, 0.42 * per_column + 0.8)
    axes = figure.subplots()
    axes.set(xlim=(0, columns), ylim=(per_column, -0.3))
    axes.axis("off")
    joined = False
    for block, (column, row), is_again in zip(blocks, places, again, strict=True):
        layer, shape, parameters, seen = block
        kind = layer.partition("-")[0]
        size = f"   {parameters:,} parameters" if parameters else ""
        face = "white" if layer == "image" else "#fbdcc4" if seen else "#cfe3f5"
        box = dict(boxstyle="round,pad=0.3", facecolor=face, edgecolor="#777777")
        text = f"{kind}   {shape.replace('-1, ', '')}{size}"
        axes.text(column + 0.55, row + 0.5, text, ha="center", va="center", fontsize=8, bbox=box)
        if row:
            axes.plot([column + 0.55] * 2, [row - 0.5, row + 0.5], color="#777777", linewidth=1, zorder=0)
        arrows = [("image", "#777777")] if is_again else []
        if seen and not joined:
            joined = True
            arrows.append(("number\n[10]", SUM))
        for label, colour in arrows:
            at, start = (column + 0.27, row + 0.5), (column + 0.03, row + 0.5)
            axes.annotate(label, at, start, fontsize=8, color=colour, va="center",
                          arrowprops=dict(arrowstyle="-|>", color=colour))  # fmt: skip
    total = sum(parameters for _, _, parameters in rows)
    title = f"{name}: {total:,} parameters\nlayers in the order they run; orange: the number reaches it"
    axes.set_title(title, fontsize=10)
    _save(figure, path)
