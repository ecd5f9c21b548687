"""Every picture; the one user of matplotlib. Its canvas needs no screen and no global state.

A draw_ function writes its picture to path, whose suffix names the format (PNG without one), whole or
not at all. It raises UserError where the picture cannot be written. Without a path it returns a Picture,
which a notebook shows.
"""

import io
import logging
import math
import os
import textwrap
import warnings
from contextlib import chdir
from itertools import product
from pathlib import Path

import numpy as np

if os.environ.get("MATPLOTLIBRC") == os.devnull:  # as run_script() has it
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns where it cannot keep a cache
    with chdir(Path(__file__).parent):  # a matplotlibrc where the command was started would come first
        import matplotlib  # noqa: F401
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mnist_sum.cli import PICTURE_SUFFIXES
from mnist_sum.console import UserError, one_line
from mnist_sum.evaluation.occlusion import PATCH
from mnist_sum.system.files import write_atomically

DIGIT, SUM = "#1f6fb4", "#d1661c"
OUTPUTS = (("digit", DIGIT), ("sum", SUM))
CORRECT, WRONG = "#1a7f37", "#c62828"
LARGEST_GRID, LARGEST_COLUMN = 100, 12  # the most images drawn: predictions in a grid, own images in a column
LOOKED_AT = "#e6007e"  # of an occlusion map; no other colour here is near it
MAP_LEGEND = (
    f"magenta: hiding the {PATCH} × {PATCH} pixels here makes the answer less probable (full colour: its "
    "probability falls to 0)"
)
EXAMPLES_IN_A_ROW = 10  # of draw_occlusion
IMAGE_LAYER, NUMBER_LAYER, EDGE = "#cfe3f5", "#fbdcc4", "#777777"  # of draw_model's boxes
MONOSPACE, CHARACTER = "DejaVu Sans Mono", 0.602  # comes with matplotlib; width over size


class Picture(bytes):
    """A PNG file's bytes, which a notebook shows as the picture."""

    def _repr_png_(self):
        return bytes(self)

    def __repr__(self):
        return f"a picture, {len(self):,} bytes of PNG"


def _format(path):
    return Path(path or "").suffix[1:].lower() or "png"


def _figure(path, width, height):
    """An empty figure of this size in inches; raises UserError where path's suffix is no picture format."""
    if Path(path or "").suffix.lower() not in PICTURE_SUFFIXES:
        raise UserError(f"cannot write the picture {path}: .{_format(path)} is no picture format; use .png, "
                        ".jpg, .pdf or .svg")  # fmt: skip
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path):
    """Write the figure to path; where that is None, return it as a Picture."""
    content = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # a box stands for what the font lacks
            figure.savefig(content, format=_format(path), dpi="figure")
        if path is None:
            return Picture(content.getvalue())
        return write_atomically(path, content.getvalue())
    except (UserError, OSError, ValueError, OverflowError) as error:  # too large, or an odd date for its file
        reason = getattr(error.__cause__ or error, "strerror", None) or error
        raise UserError(f"cannot write the picture {path}: {reason}") from error


def _legend(axes):
    """A grid, and a legend above the axes, where it covers nothing."""
    axes.grid(alpha=0.3)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, fontsize=9)


def _short(text, length):
    """The text, a file's name say, as one line of at most this length: the end of a long one."""
    text = one_line(text)
    return text if len(text) <= length else f"…{text[1 - length :]}"


def draw_history(history, part, title, path=None):
    """Losses (nats) and accuracies of both outputs per epoch; part is "train" or "test".

    The digit is a thin line on the sum's broad one, so that both can be seen where they coincide.
    """
    figure = _figure(path, 10, 4)
    losses, accuracies = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    thin = dict(color=DIGIT, marker="o", linewidth=1.2, markersize=2.5, zorder=3)
    broad = dict(color=SUM, marker="o", linewidth=4, markersize=6, markeredgewidth=0, alpha=0.6)
    for output, style in (("digit", thin), ("sum", broad)):
        losses.plot(epochs, [row[f"{part}_{output}_loss"] for row in history], label=output, **style)
        percent = [100 * row[f"{part}_{output}_accuracy"] for row in history]
        accuracies.plot(epochs, percent, label=f"{output}, last {percent[-1]:.2f}%", **style)
    losses.set(xlabel="epoch", ylabel="cross-entropy (nats)", yscale="log")
    accuracies.set(xlabel="epoch", ylabel="accuracy (%)")
    for axes in (losses, accuracies):
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        _legend(axes)
    figure.suptitle(title)
    return _save(figure, path)


def _image_grid(images, captions, title, path):
    """captions: (text, colour) of each image."""
    columns = min(len(images), max(5, math.ceil(math.sqrt(len(images)))))
    rows = math.ceil(len(images) / columns)
    width = 1.5 * columns + 0.4
    figure = _figure(path, width, 1.85 * rows + 0.7)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, (caption, colour) in zip(grid.flat, images, captions, strict=False):
        axes.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255)
        axes.set_title(caption, color=colour, fontsize=9)
    figure.suptitle(textwrap.fill(title, int(10 * width)))
    return _save(figure, path)


def draw_samples(images, digits, numbers, path=None):
    """Samples of the data set: uint8 images (N, 28, 28) with their numbers and targets (N integers each)."""
    captions = [
        (f"number {number}\ndigit {digit}, sum {digit + number}", "black")
        for digit, number in zip(digits, numbers, strict=True)
    ]
    return _image_grid(images, captions, "samples: image and number in, digit and sum out", path)


def draw_predictions(images, predictions, title, path=None):
    """A grid of uint8 images (N, 28, 28) with what was predicted; each wrong one in red with the truth.

    predictions: N dicts with number, digit, sum, predicted_digit, predicted_sum, and maybe probability,
    a fraction.
    """
    return _image_grid(images, list(map(_caption, predictions)), title, path)


def _caption(case, before_probability="  "):
    """(text, colour) of a prediction, as draw_predictions takes them."""
    correct = case["digit"] == case["predicted_digit"] and case["sum"] == case["predicted_sum"]
    text = f"{case['predicted_digit']} + {case['number']} = {case['predicted_sum']}"
    text += f"{before_probability}({case['probability']:.1%})" if "probability" in case else ""
    truth = "" if correct else f"\ntrue: {case['digit']} + {case['number']} = {case['sum']}"
    return text + truth, CORRECT if correct else WRONG


def draw_occlusion(images, predictions, maps, title, path=None):
    """What a model looks at: below each image its occlusion map for the digit, and below that for the sum.

    images and predictions as draw_predictions takes them; maps: N pairs as occlusion.occlusion_maps gives.
    """
    columns = min(len(images), EXAMPLES_IN_A_ROW)
    rows = math.ceil(len(images) / columns)
    labels = "image", "digit's map", "sum's map"
    width = max(1.25 * columns + 0.4, 5)
    figure = _figure(path, width, 4.25 * rows + 1)
    grid = figure.subplots(3 * rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=(), yticks=(), frame_on=False)
    for place, (image, case, pair) in enumerate(zip(images, predictions, maps, strict=True)):
        row, column = divmod(place, columns)
        for axes, label, each in zip(grid[3 * row :, column], labels, (None, *pair), strict=False):
            _draw_map(axes, image, each)
            axes.set_ylabel("" if column else label, fontsize=9)
        caption, colour = _caption(case, before_probability="\n")
        grid[3 * row, column].set_title(caption, color=colour, fontsize=9)
    figure.suptitle(textwrap.fill(title, int(10 * width)))
    figure.supxlabel(textwrap.fill(MAP_LEGEND, int(12 * width)), fontsize=10)
    return _save(figure, path)


def _draw_map(axes, image, occlusion_map=None):
    """Draw an image, uint8 (28, 28), and an occlusion map (28, 28) over it, as MAP_LEGEND says."""
    axes.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255)
    if occlusion_map is not None:
        axes.imshow(np.full((28, 28, 3), to_rgb(LOOKED_AT)), alpha=opacity(occlusion_map))


def opacity(occlusion_map):
    """How strongly LOOKED_AT covers each pixel, in [0, 0.85]: in proportion to the probability lost.

    occlusion_map: (28, 28) in nats. That share is 1 - exp(-nats), so one scale fits all models; of an
    answer near 100% the probability can only fall, so where it rises is not shown.
    """
    return 0.85 * -np.expm1(-np.asarray(occlusion_map).clip(0))  # the stroke is still to be seen


def draw_own_images(cases, path=None):
    """Own images, one below the other.

    Of a single digit the original, what the network saw and looked at, and both outputs' probabilities;
    cases: dicts with file, original (RGB image), seen (uint8 (28, 28)), maps (a pair, as
    occlusion.occlusion_maps gives), number, doubts (one text, "" where there is none), and digit and sum,
    the probabilities (10,) and (19,). Of a page of several digits the page with
    each digit's box, digit and sum; dicts with file, original, number, doubts, cases (dicts with box, digit
    and sum), and scale, the original's pixels in a pixel of the box.
    """
    heights = [_page_size(case["original"])[1] + 0.4 if "cases" in case else 2.3 for case in cases]
    figure = _figure(path, 13, sum(heights) + 0.3)
    widths = 1.3, 1.1, 1.1, 1.1, 2, 2.6
    grid = figure.add_gridspec(len(cases), len(widths), width_ratios=widths, height_ratios=heights)
    for row, case in enumerate(cases):
        if "cases" in case:
            _draw_page(figure.add_subplot(grid[row, :]), case)
        else:
            _draw_single([figure.add_subplot(grid[row, column]) for column in range(len(widths))], case)
            figure.supxlabel(MAP_LEGEND, fontsize=9)
    return _save(figure, path)


def _page_size(image):
    """(width, height) in inches at which a page is drawn."""
    width, height = image.size
    scale = min(12.6 / width, 9 / height)
    return scale * width, scale * height


def _draw_single(row, case):
    """One row of draw_own_images: a single digit."""
    original, seen, *maps, digit, total = row
    original.imshow(case["original"])
    original.set_title(_short(Path(case["file"]).name, 28), fontsize=9, parse_math=False)
    seen.imshow(np.asarray(case["seen"]), cmap="gray", vmin=0, vmax=255)
    doubt = "".join(case.get("doubts", ()))
    seen.set_title(doubt or "what the network saw", fontsize=9, color=WRONG if doubt else "black")
    for axes, each, (output, _) in zip(maps, case["maps"], OUTPUTS, strict=True):
        _draw_map(axes, case["seen"], each)
        axes.set_title(f"what the {output} rests on", fontsize=9)
    for axes in (original, seen, *maps):
        axes.axis("off")
    best_digit, best_sum = int(case["digit"].argmax()), int(case["sum"].argmax())
    answers = f"digit {best_digit}", f"{best_digit} + {case['number']} = {best_sum}"
    for axes, (output, colour), answer in zip((digit, total), OUTPUTS, answers, strict=True):
        bars = axes.bar(range(len(case[output])), case[output], color=colour, alpha=0.35)
        bars[int(case[output].argmax())].set_alpha(1)
        axes.set(ylim=(0, 1), xticks=range(len(case[output])))
        axes.tick_params(labelsize=7)
        axes.set_title(f"{answer}  ({float(case[output].max()):.1%})", fontsize=10)


def _draw_page(axes, case):
    """One row of draw_own_images: a page of several digits."""
    axes.imshow(case["original"])
    axes.axis("off")
    unsure = sum(map(bool, case["doubts"]))
    title = f"{len(case['cases'])} digits; blue: the digit, orange: the sum with {case['number']}"
    title += f"; red, with a question mark: unsure ({unsure})" if unsure else ""
    axes.set_title(f"{_short(Path(case['file']).name, 40)}: {title}", fontsize=9, parse_math=False)
    boxes = case["scale"] * np.array([each["box"] for each in case["cases"]])
    points = 72 * _page_size(case["original"])[0] / case["original"].width  # in a pixel
    size = float(np.clip(0.3 * points * np.median(boxes[:, 3] - boxes[:, 1]), 5, 13))
    style = dict(textcoords="offset points", va="bottom", fontsize=size, fontweight="bold",
                 bbox=dict(facecolor="white", edgecolor="none", alpha=0.8, pad=0.4))  # fmt: skip
    for (left, top, right, bottom), each, doubt in zip(boxes, case["cases"], case["doubts"], strict=True):
        edge = WRONG if doubt else DIGIT
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=edge,
                                 linestyle="--" if doubt else "-", linewidth=1))  # fmt: skip
        middle = (left + right) / 2
        for text, shift, side, colour in (
            (f"{each['digit']}{'?' if doubt else ''}", -0.3, "right", edge),
            (f"{each['sum']}", 0.3, "left", SUM),
        ):
            axes.annotate(text, (middle, top), (shift * size, 2), ha=side, color=colour, **style)


def draw_confusion(digit_counts, sum_counts, title, path=None):
    """Both confusion matrices: counts (10, 10) and (19, 19), row true, column predicted.

    Coloured by the share of the row that is not on the diagonal, so that rare errors can be seen.
    """
    figure = _figure(path, 15, 7.2)
    for axes, counts, output, colours in zip(
        figure.subplots(1, 2), (digit_counts, sum_counts), ("digit", "sum"), ("Blues", "Oranges"), strict=True
    ):
        counts = np.asarray(counts)
        errors = counts / counts.sum(1, keepdims=True).clip(1)
        np.fill_diagonal(errors, 0)
        axes.imshow(errors, cmap=colours, vmin=0, vmax=max(errors.max() * 1.4, 1e-9))
        classes = len(counts)
        for true, predicted in np.argwhere(counts):
            axes.text(predicted, true, counts[true, predicted], ha="center", va="center",
                      fontsize=9 if classes == 10 else 6.5,
                      fontweight="bold" if true == predicted else "normal")  # fmt: skip
        axes.set(xticks=range(classes), yticks=range(classes), xlabel=f"predicted {output}",
                 ylabel=f"true {output}", title=output)  # fmt: skip
    figure.suptitle(f"{title}: cases by true and predicted class; colour: share of the row that is wrong")
    return _save(figure, path)


def draw_sum_grid(accuracy, title, path=None):
    """The sum's accuracy (10, 10), a fraction, for each digit (row) and number (column)."""
    percent = 100 * np.asarray(accuracy)
    figure = _figure(path, 8.5, 7.2)
    axes = figure.subplots()
    image = axes.imshow(percent, cmap="RdYlGn", vmax=100, vmin=min(np.nanmin(percent), 99) - 0.5)
    for digit, number in np.argwhere(~np.isnan(percent)):
        axes.text(number, digit, f"{percent[digit, number]:.1f}", ha="center", va="center", fontsize=9)
    axes.set(xticks=range(10), yticks=range(10), xlabel="number", ylabel="digit in the image")
    axes.set_title(f"{title}\naccuracy of the sum (%), by digit and number")
    figure.colorbar(image, shrink=0.8)
    return _save(figure, path)


def draw_pair_grids(grids, path=None):
    """A row of grids for each model: the sum's accuracy by digit and number; held-out pairs are outlined.

    grids: {model: {title: (accuracy (10, 10), a fraction or NaN, held out (10, 10) bool)}}.
    """
    titles = list(dict.fromkeys(title for columns in grids.values() for title in columns))
    figure = _figure(path, 1.7 * len(titles) + 1.6, 1.75 * len(grids) + 0.8)
    all_axes = figure.subplots(len(grids), len(titles), squeeze=False, sharex=True, sharey=True)
    for (model, columns), row in zip(grids.items(), all_axes, strict=True):
        row[0].set_ylabel(f"{_short(model, 24)}\ndigit", fontsize=9, parse_math=False)
        for title, axes in zip(titles, row, strict=True):
            axes.set(xticks=(0, 9), yticks=(0, 9))
            if title not in columns:
                axes.axis("off")
                continue
            accuracy, held_out = columns[title]
            image = axes.imshow(100 * accuracy, cmap="RdYlBu", vmin=0, vmax=100)  # for all eyes
            for digit, number in np.argwhere(held_out):
                axes.add_patch(Rectangle((number - 0.5, digit - 0.5), 1, 1, fill=False, linewidth=0.9))
    for axes, title in zip(all_axes[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    for axes in all_axes[-1]:
        axes.set_xlabel("number", fontsize=9)
    figure.colorbar(image, ax=all_axes, shrink=0.5, aspect=30, label="accuracy of the sum (%)")
    figure.suptitle("Outlined: pairs of digit and number that were held out of training")
    return _save(figure, path)


def draw_reliability(curves, title, path=None):
    """Reliability diagrams. curves: {output: (confidence, accuracy, share, calibration error)}, the first
    three (bins,), all of them fractions."""
    figure = _figure(path, 10, 5.4)
    for axes, (output, colour), (confidence, accuracy, share, error) in zip(
        figure.subplots(1, 2), OUTPUTS, curves.values(), strict=True
    ):
        centres = (np.arange(len(share)) + 0.5) / len(share)
        axes.bar(centres, share, width=0.9 / len(share), color="#bbbbbb", label="share of the cases")
        axes.plot((0, 1), (0, 1), color=EDGE, linestyle="--", label="perfect calibration")
        label = f"{output}, calibration error {error:.2%}"
        axes.plot(confidence, accuracy, marker="o", color=colour, label=label)
        axes.set(xlabel="predicted probability", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
        _legend(axes)
    figure.suptitle(title)
    return _save(figure, path)


def draw_comparison(rows, title, path=None):
    """Several models, one below the other. rows: dicts with model, checkpoint, parameters,
    images_per_second, and of digit and sum _accuracy and _interval (low, high), fractions."""
    figure = _figure(path, 11, 2 + 0.75 * len(rows))
    accuracies, speeds = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    places = np.arange(len(rows))
    for shift, (output, colour) in zip((-0.15, 0.15), OUTPUTS, strict=True):
        values = np.array([100 * row[f"{output}_accuracy"] for row in rows])
        errors = np.abs(100 * np.array([row[f"{output}_interval"] for row in rows]).T - values)
        at = places + shift
        accuracies.errorbar(values, at, xerr=errors, fmt="o", color=colour, capsize=3, label=output)
        for value, place in zip(values, at, strict=True):
            accuracies.annotate(f"{value:.2f}", (value, place), (0, 5), textcoords="offset points",
                                ha="center", fontsize=8, color=colour)  # fmt: skip
    labels = [
        f"{one_line(row['model'])}\n{_short(row['checkpoint'], 44)}\n{row['parameters']:,} parameters"
        for row in rows
    ]
    accuracies.set(xlabel="accuracy (%), with 95% interval", yticks=places, ylim=(len(rows) - 0.5, -0.5))
    accuracies.set_yticklabels(labels, parse_math=False)
    _legend(accuracies)
    speeds.barh(places, [row["images_per_second"] for row in rows], height=0.5, color="#9a9a9a")
    speeds.set(xlabel="images a second, 1,000 at once")
    speeds.grid(alpha=0.3, axis="x")
    figure.suptitle(title)
    return _save(figure, path)


def draw_parameters(models, others, path=None):
    """Parameters (logarithmic) against accuracy, in percent.

    models: {name: (parameters, (digit, standard deviation), (sum, standard deviation))}, measured, over
    seeds; others: {name: (parameters, digit, sum)}, as reported elsewhere.
    """
    figure = _figure(path, 10, 6.4)
    axes = figure.subplots()
    # The digit's marks are open or slanted, so that both outputs can be seen where they coincide.
    for (output, colour), place, size, cross in zip(OUTPUTS, (1, 2), (9, 4), "x+", strict=True):
        for other, model in enumerate(models.values()):  # "_" keeps a label out of the legend
            axes.errorbar(model[0], model[place][0], yerr=model[place][1], color=colour, capsize=3, fmt="o",
                          markersize=size, fillstyle="none" if output == "digit" else "full",
                          label="_" * other + f"{output}, ours, ± standard deviation over seeds")  # fmt: skip
        for other, reported in enumerate(others.values()):
            axes.plot(reported[0], reported[place], cross, color=colour, markersize=8,
                      label="_" * other + f"{output}, as its author reports it")  # fmt: skip
    points = {name: (model[0], [value for value, _ in model[1:]]) for name, model in models.items()}
    for name, (parameters, *values) in others.items():
        points.setdefault(name, (parameters, []))[1].extend(values)
    axes.set(xscale="log", xlabel="parameters", ylabel="accuracy (%)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.15)
    worst = min(min(values) for _, values in points.values())
    _errors_scale(axes, (80, 85, 90, 95, 97, 98, 98.5, 99, 99.3, 99.5, 99.7, 99.8), 100.05)
    axes.set_ylim(worst - 3, 99.85)
    figure.suptitle("Parameters against accuracy")
    _legend(axes)
    _name_points(figure, axes, points)
    return _save(figure, path)


def _errors_scale(axes, ticks, end):
    """An axis of accuracies, in percent, on which half of the errors is as far as half of the next half.

    end, a little above 100, is where it would be infinitely far.
    """
    axes.set_yscale("function", functions=(lambda y: -np.log10(np.clip(end - y, 1e-3, None)),
                                           lambda z: end - 10**-z))  # fmt: skip
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


def draw_sums(measured, ceilings, others, path=None):
    """Digits N of the two numbers (logarithmic) against the accuracy of their sum, in percent.

    A panel for each track, since they are not compared. measured: {track: {N: (mean, standard deviation)}};
    ceilings: {track: {N: the digit's accuracy to the power 2N}}; others: {track: [(N, accuracy), ...]}, as
    reported elsewhere.
    """
    figure = _figure(path, 5.5 * len(measured), 5.6)
    panels = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    for axes, (track, figures), colour in zip(panels, measured.items(), (DIGIT, SUM), strict=False):
        reported = others.get(track, [])
        if reported:
            axes.plot(*zip(*reported, strict=True), "x", color="#777777", label="others, as reported")
        means, deviations = zip(*figures.values(), strict=True)
        axes.errorbar(figures.keys(), means, yerr=deviations, color=colour, capsize=3, fmt="o-", markersize=5,
                      label="measured, ± standard deviation over seeds")  # fmt: skip
        axes.plot(ceilings[track].keys(), ceilings[track].values(), ":", color=colour,
                  label="digit accuracy to the power 2N")  # fmt: skip
        ticks = sorted({*figures, *(places for places, _ in reported)})
        axes.set(xscale="log", xlabel=f"{track}: digits of each number, N")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        _errors_scale(axes, (20, 40, 60, 70, 80, 85, 90, 95, 97, 98, 99), 100.5)
        axes.set_ylim(20, 99.5)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left", frameon=False, fontsize=9)
    panels[0].set_ylabel("accuracy of the sum (%)")
    figure.suptitle("Two handwritten numbers, trained on their sums alone")
    return _save(figure, path)


def _name_points(figure, axes, points):
    """Write each name beside its highest point, where it covers nothing; points: {name: (x, [y, ...])}."""
    figure.draw_without_rendering()  # now everything has its place
    taken = [mark.get_window_extent() for mark in axes.lines]
    for name, (x, values) in points.items():
        text = axes.annotate(name, (x, max(values)), (9, 0), textcoords="offset points", va="center",
                             fontsize=9, in_layout=False)  # fmt: skip
        for up, (right, alignment) in product(range(0, 100, 3), ((9, "left"), (-9, "right"))):
            text.set(position=(right, up), horizontalalignment=alignment)
            if not any(text.get_window_extent().overlaps(box) for box in taken):
                break
        taken.append(text.get_window_extent())


def draw_model(rows, inputs, name, path=None):
    """The layers in the order they run, down and then right, a box each.

    rows as layers.layer_rows gives them, inputs as layers.layer_inputs. Layers whose output depends
    on the number are orange, and the number's arrow ends at the first. Where no layer's does, the
    addition itself is drawn as the last box. Each layer that takes the image again begins a column.
    """
    several = any(takes_image for takes_image, _ in inputs[1:])
    boxes = [("image", "[-1, 1, 28, 28]", 0, False, False)]  # the last two: sees the number, begins a column
    for row, (takes_image, sees_number) in zip(rows, inputs, strict=True):
        boxes.append((*row, sees_number, takes_image and len(boxes) > 1))
    if not any(sees_number for _, sees_number in inputs):
        boxes.append(("mean, addition" if several else "addition", "[-1, 19]", 0, True, False))
    kinds = [layer.partition("-")[0] for layer, *_ in boxes]
    texts = [
        f"{kind:{max(map(len, kinds))}}  {shape.replace('-1, ', ''):12}  {f'{count:,}' if count else '':>7}"
        for kind, (_, shape, count, *_) in zip(kinds, boxes, strict=True)
    ]
    size, margin = 8, 0.85  # of the font, in points; left of each box, in inches
    width = margin + (max(map(len, texts)) + 2) * CHARACTER * size / 72
    full = len(boxes) if several else math.ceil(len(boxes) / math.ceil((len(boxes) - 1) / 18))
    column, row, places = 0, -1, []
    for *_, begins in boxes:
        column, row = (column + 1, 0) if begins or row + 1 == full else (column, row + 1)
        places.append((column, row + 0.5))
    depth = max(middle for _, middle in places) + 0.5
    figure = _figure(path, width * (column + 1) + 0.1, 0.42 * depth + 0.8)
    axes = figure.subplots()
    axes.set(xlim=(0, column + 1.02), ylim=(depth, 0))
    axes.axis("off")
    inner, numbers = 1 - margin / width, [("number\n[10]", SUM)]  # one number, for the first that sees it
    for (*_, sees_number, begins), text, (column, middle) in zip(boxes, texts, places, strict=True):
        left, centre = column + 1 - inner, column + 1 - inner / 2
        face = NUMBER_LAYER if sees_number else IMAGE_LAYER if axes.patches else "white"
        axes.add_patch(Rectangle((left, middle - 0.3), inner, 0.6, facecolor=face, edgecolor=EDGE))
        axes.text(centre, middle, text, ha="center", va="center", fontsize=size, family=MONOSPACE)
        if middle > 1:
            axes.plot((centre, centre), (middle - 0.7, middle - 0.3), color=EDGE, linewidth=1)
        arrows = [("image", EDGE)] if begins else []
        arrows += [numbers.pop()] if sees_number and numbers else []
        for label, colour in arrows:
            arrow = dict(arrowstyle="-|>", color=colour, shrinkB=0)  # 0: its tip is at the box
            axes.annotate(label, (left, middle), (column + 0.03, middle), va="center", color=colour,
                          fontsize=size, arrowprops=arrow)  # fmt: skip
    total = sum(count for _, _, count in rows)
    title = f"{name}: {total:,} parameters\nlayer, output shape, parameters\norange: depends on the number"
    figure.suptitle(title, fontsize=10)
    return _save(figure, path)
