"""Every picture: draw_X writes it to a path, in the format of its suffix."""

import io
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from mnist_sum import evaluation as ev
from mnist_sum.cli import UserError
from mnist_sum.data import Data
from mnist_sum.files import write_atomically
from mnist_sum.layers import LayerRow
from mnist_sum.occlusion import PATCH, occlusion_maps
from mnist_sum.predict import PageResult

Table = Mapping[str, Any]
Rows = Sequence[Table]
Maps = Sequence[tuple[Tensor, Tensor]]  # pairs of occlusion maps
DIGIT, SUM, CORRECT, WRONG, GRAY = "#1f6fb4", "#d1661c", "#1a7f37", "#c62828", "#777777"
OUTPUTS = {"digit": DIGIT, "sum": SUM}
IMAGE_LAYER, NUMBER_LAYER = "#cfe3f5", "#fbdcc4"
LOOKED_AT = "#e6007e"  # of occlusion maps; no other color here is near it
MAP_LEGEND = f"magenta: hiding {PATCH} × {PATCH} pixels here lowers the answer's probability (full: to 0)"
CENTER: dict[str, Any] = {"ha": "center", "va": "center"}
OFFSET: dict[str, Any] = {"textcoords": "offset points"}


def subplots(width: float, height: float, *grid: int, **more: object) -> tuple[Figure, Any]:
    figure: Any = Figure(figsize=(width, height), dpi=120, layout="constrained")  # inches
    return figure, figure.subplots(*grid, **more)


def finish(figure: Figure, title: str, path: str | Path) -> None:
    """Add the title and write the figure to path."""
    figure.suptitle(title, wrap=True, parse_math=False)
    suffix = Path(path).suffix[1:].lower() or "png"
    if suffix not in ("png", "jpg", "jpeg", "pdf", "svg"):
        raise UserError(f"cannot write {path}: .{suffix} is no picture format; use .png, .jpg, .pdf or .svg")
    content = io.BytesIO()
    figure.savefig(content, format=suffix)
    write_atomically(path, content.getvalue())


def legend(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    # above the axes, where it covers nothing
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, fontsize=9)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"…{text[1 - length :]}"


def draw_history(history: Rows, part: str, title: str, path: str | Path) -> None:
    """Losses and accuracies of both outputs per epoch; part is "train" or "test"."""
    figure, (losses, accuracies) = subplots(10, 4, 1, 2)
    epochs = [row["epoch"] for row in history]
    # the digit is a thin line on the sum's broad one: both are visible where they coincide
    thin = {"color": DIGIT, "linewidth": 1.2, "markersize": 2.5, "zorder": 3}
    broad = {"color": SUM, "linewidth": 4, "markersize": 6, "markeredgewidth": 0, "alpha": 0.6}
    for output, style in ("digit", thin), ("sum", broad):
        losses.plot(epochs, [row[f"{part}_{output}_loss"] for row in history], "o-", label=output, **style)
        percent = [100 * row[f"{part}_{output}_accuracy"] for row in history]
        accuracies.plot(epochs, percent, "o-", label=f"{output}, last {percent[-1]:.2f}%", **style)
    for axes, label, scale in (losses, "cross-entropy (nats)", "log"), (accuracies, "accuracy (%)", "linear"):
        axes.set(xlabel="epoch", ylabel=label, yscale=scale)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        legend(axes)
    finish(figure, title, path)


def draw_cases(images: Tensor, cases: Rows, title: str, path: str | Path, maps: Maps | None = None) -> None:
    """A grid of uint8 images (N, 28, 28), each above its digit's and its sum's occlusion map, if there are maps.

    cases: dicts as predict_random or confident_mistakes give them; samples of a dataset have no prediction.
    """
    labels = ("image", "digit's map", "sum's map") if maps else ("",)
    columns = min(len(images), 10 if maps else max(5, math.isqrt(len(images) - 1) + 1))
    rows = math.ceil(len(images) / columns)
    width, height = (1.25 * columns, 4.25 * rows + 1) if maps else (1.5 * columns, 1.85 * rows + 0.9)
    shape, bare = (rows * len(labels), columns), {"xticks": (), "yticks": (), "frame_on": False}
    figure, grid = subplots(max(width + 0.4, 5), height, *shape, squeeze=False, subplot_kw=bare)
    for place, (image, case) in enumerate(zip(images, cases, strict=True)):
        row, column = len(labels) * (place // columns), place % columns
        text, color = _caption(case)
        grid[row, column].set_title(text, color=color, fontsize=9)
        overlays = (None, *maps[place]) if maps else (None,)
        for axes, label, overlay in zip(grid[row:, column], labels, overlays, strict=False):
            _draw_image(axes, image, overlay)
            axes.set_ylabel("" if column else label, fontsize=9)
    figure.supxlabel(MAP_LEGEND if maps else "", fontsize=10, wrap=True)
    finish(figure, title, path)


def _caption(case: Table) -> tuple[str, str]:
    """(text, color) of a sample or a prediction."""
    if "predicted_digit" not in case:
        return f"number {case['number']}\ndigit {case['digit']}, sum {case['sum']}", "black"
    truth = f"{case['digit']} + {case['number']} = {case['sum']}"
    answer = f"{case['predicted_digit']} + {case['number']} = {case['predicted_sum']}"
    text = answer + (f"\n({case['probability']:.1%})" if "probability" in case else "")
    return (text, CORRECT) if answer == truth else (f"{text}\ntrue: {truth}", WRONG)


def _draw_image(axes: Axes, image: Tensor, occlusion_map: Tensor | None = None) -> None:
    axes.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255)
    if occlusion_map is not None:
        axes.imshow(np.full((28, 28, 3), to_rgb(LOOKED_AT)), alpha=opacity(occlusion_map))


def opacity(occlusion_map: Tensor) -> np.ndarray:
    """How strongly LOOKED_AT covers each pixel, in [0, 0.85]: in proportion to the probability lost there."""
    return 0.85 * -np.expm1(-np.asarray(occlusion_map).clip(0))  # nats -> a share; the stroke stays visible


def draw_pages(results: Sequence[PageResult], path: str | Path) -> None:
    """A row for each picture: a single digit with what the model saw and looked at, or a page with boxes."""
    highs = [min(9, 12.6 * r.page.image.height / r.page.image.width) + 0.4 for r in results]  # inches
    heights = [2.3 if result.maps else high for result, high in zip(results, highs, strict=True)]
    figure = Figure(figsize=(13, sum(heights) + 0.3), dpi=120, layout="constrained")
    parts = figure.subfigures(len(results), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, result in zip(parts, results, strict=True):
        (_draw_single if result.maps else _draw_page)(part, result)
    figure.supxlabel(MAP_LEGEND if any(result.maps for result in results) else "", fontsize=9)
    finish(figure, "", path)


def _draw_single(figure: SubFigure, result: PageResult) -> None:
    axes: Any = figure.subplots(1, 6, width_ratios=(1.3, 1.1, 1.1, 1.1, 2, 2.6))
    digit, prediction = result.page.digits[0], result.predictions[0]
    name, seen = _short(Path(result.file).name, 24), digit.doubt.replace(": ", ":\n")
    titles = name, seen or "seen by the network", "digit's map", "sum's map"
    pictures: tuple[Any, ...] = result.page.image, *[digit.pixels] * 3
    overlays = None, None, *(result.maps or ())
    for each, title, picture, overlay in zip(axes[:4], titles, pictures, overlays, strict=True):
        _draw_image(each, picture, overlay)
        each.axis("off")
        each.set_title(title, color=WRONG if title == seen else "black", fontsize=9, parse_math=False)
    answers = f"digit {prediction.digit}", f"{prediction.digit} + {result.number} = {prediction.total}"
    for each, answer, values, color in zip(axes[4:], answers, prediction[2:], OUTPUTS.values(), strict=True):
        bars = each.bar(range(len(values)), values.numpy(), color=color, alpha=0.35)
        bars[values.argmax()].set_alpha(1)
        each.set(ylim=(0, 1), xticks=range(len(values)))
        each.tick_params(labelsize=7)
        each.set_title(f"{answer}  ({values.max():.1%})", fontsize=10)


def _draw_page(figure: SubFigure, result: PageResult) -> None:
    axes, digits, name = figure.subplots(), result.page.digits, _short(Path(result.file).name, 40)
    unsure = sum(bool(digit.doubt) for digit in digits)
    title = f"{name}: {len(digits)} digits; blue: the digit, orange: the sum with {result.number}"
    title += f"; red, with a question mark: unsure ({unsure})" if unsure else ""
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.imshow(result.page.image)
    axes.axis("off")
    boxes = np.array([digit.box for digit in digits]) / result.page.scale  # in pixels of the image
    points = 72 * min(12.6 / result.page.image.width, 9 / result.page.image.height)  # a pixel
    size = float(np.clip(0.3 * points * np.median(boxes[:, 3] - boxes[:, 1]), 5, 13))  # of the font
    label = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4}
    style = {"va": "bottom", "fontsize": size, "fontweight": "bold", "bbox": label, **OFFSET}
    for (left, top, right, bottom), digit, prediction in zip(boxes, digits, result.predictions, strict=True):
        color, mark, line = (WRONG, "?", "--") if digit.doubt else (DIGIT, "", "-")
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=color, ls=line))
        middle = (left + right) / 2, top
        axes.annotate(f"{prediction.digit}{mark}", middle, (-0.3 * size, 2), ha="right", color=color, **style)
        axes.annotate(f"{prediction.total}", middle, (0.3 * size, 2), ha="left", color=SUM, **style)


def draw_errors(model: nn.Module, name: str, data: Data, p: ev.Predictions, folder: Path) -> list[str]:
    """Draw where the model errs in the exhaustive test; returns the names of the pictures."""
    title, mistakes = f"{name} on {data.name}", ev.confident_mistakes(p, 20)
    draw_confusion(p, title, folder / "confusion.png")
    draw_sum_grid(p, title, folder / "sum_grid.png")
    draw_reliability(p, title, folder / "reliability.png")
    if mistakes:
        images = data.test.images[[case["image"] for case in mistakes]]
        maps = [occlusion_maps(model, data.test.images[case["image"]], case["number"]) for case in mistakes]
        title += ": the most confident mistakes, with the probability of the wrong prediction"
        draw_cases(images, mistakes, title, folder / "mistakes.png", maps)
    return ["confusion.png", "sum_grid.png", "reliability.png", *(["mistakes.png"] if mistakes else [])]


def draw_confusion(p: ev.Predictions, title: str, path: str | Path) -> None:
    """Both confusion matrices: row true, column predicted."""
    figure, panels = subplots(15, 7.2, 1, 2)
    for axes, output, colors, size in zip(panels, OUTPUTS, ("Blues", "Oranges"), (9, 6.5), strict=True):
        matrix = ev.confusion(p, output).numpy()
        errors = matrix / matrix.sum(1, keepdims=True).clip(1)
        np.fill_diagonal(errors, 0)  # so that rare errors are visible
        axes.imshow(errors, cmap=colors, vmin=0, vmax=max(errors.max() * 1.4, 1e-9))
        for true, predicted in np.argwhere(matrix):
            weight = "bold" if true == predicted else "normal"
            axes.text(predicted, true, matrix[true, predicted], fontsize=size, fontweight=weight, **CENTER)
        places = range(len(matrix))
        axes.set(xticks=places, yticks=places, xlabel=f"predicted {output}", ylabel=f"true {output}")
    finish(figure, f"{title}: cases by true and predicted class; color: wrong share of the row", path)


def draw_sum_grid(p: ev.Predictions, title: str, path: str | Path) -> None:
    """The sum's accuracy for each digit and number."""
    percent = 100 * ev.sum_grid(p).numpy()
    figure, axes = subplots(8.5, 7.2)
    image = axes.imshow(percent, cmap="RdYlGn", vmax=100, vmin=min(np.nanmin(percent), 99) - 0.5)
    for digit, number in np.argwhere(~np.isnan(percent)):
        axes.text(number, digit, f"{percent[digit, number]:.1f}", fontsize=9, **CENTER)
    axes.set(xticks=range(10), yticks=range(10), xlabel="number", ylabel="digit in the image")
    figure.colorbar(image, shrink=0.8)
    finish(figure, f"{title}\naccuracy of the sum (%), by digit and number", path)


def draw_pair_grids(grids: Table, path: str | Path) -> None:
    """The sum's accuracy; grids: {model: {title: (accuracy (10, 10), held-out pairs (10, 10) bool)}}."""
    titles = list(dict.fromkeys(title for columns in grids.values() for title in columns))
    width, height = 1.7 * len(titles) + 1.6, 1.75 * len(grids) + 0.8
    figure, panels = subplots(width, height, len(grids), len(titles), squeeze=False)
    for axes, (model, title) in zip(panels.flat, product(grids, titles), strict=True):
        axes.set_title(title if axes in panels[0] else "", fontsize=9)
        if title not in grids[model]:
            axes.axis("off")
            continue
        accuracy, held_out = grids[model][title]
        image = axes.imshow(100 * accuracy, cmap="RdYlBu", vmin=0, vmax=100)
        for digit, number in np.argwhere(held_out):
            axes.add_patch(Rectangle((number - 0.5, digit - 0.5), 1, 1, fill=False, linewidth=0.9))
        axes.set(xticks=(0, 9), yticks=(0, 9), xlabel="number", ylabel=f"{_short(model, 20)}\ndigit")
        axes.label_outer()
    figure.colorbar(image, ax=panels, shrink=0.5, aspect=30, label="accuracy of the sum (%)")
    finish(figure, "Outlined: pairs of digit and number that were held out of training", path)


def draw_reliability(p: ev.Predictions, title: str, path: str | Path) -> None:
    """How often predictions are correct for each of their probabilities."""
    figure, panels = subplots(10, 5.4, 1, 2)
    for axes, (output, color) in zip(panels, OUTPUTS.items(), strict=True):
        confidence, accuracy, share = (values.numpy() for values in ev.reliability(p, output))
        label = f"{output}, calibration error {ev.calibration_error(p, output):.2%}"
        centers = (np.arange(len(share)) + 0.5) / len(share)
        axes.bar(centers, share, width=0.9 / len(share), color="#bbbbbb", label="share of the cases")
        axes.plot((0, 1), (0, 1), color=GRAY, linestyle="--", label="perfect calibration")
        axes.plot(confidence, accuracy, "o-", color=color, label=label)
        axes.set(xlabel="predicted probability", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
        legend(axes)
    finish(figure, title, path)


def draw_comparison(rows: Rows, title: str, path: str | Path) -> None:
    """Models one below the other; rows: dicts as report.comparison_row gives them."""
    figure, (left, right) = subplots(11, 2 + 0.75 * len(rows), 1, 2, sharey=True, width_ratios=(2, 1))
    places = np.arange(len(rows))
    for shift, (output, color) in zip((-0.15, 0.15), OUTPUTS.items(), strict=True):
        values = np.array([100 * row[f"{output}_accuracy"] for row in rows])
        errors = np.abs(100 * np.array([row[f"{output}_interval"] for row in rows]).T - values)
        left.errorbar(values, places + shift, xerr=errors, fmt="o", color=color, capsize=3, label=output)
        for point in zip(values, places + shift, strict=True):
            left.annotate(f"{point[0]:.2f}", point, (0, 5), ha="center", fontsize=8, color=color, **OFFSET)
    names = [f"{m['model']}\n{_short(m['checkpoint'], 44)}\n{m['parameters']:,} parameters" for m in rows]
    left.set_yticks(places, names, parse_math=False)
    left.set(xlabel="accuracy (%), with 95% interval", ylim=(len(rows) - 0.5, -0.5))
    legend(left)
    right.barh(places, [row["images_per_second"] for row in rows], height=0.5, color="#9a9a9a")
    right.set(xlabel="images a second, 1,000 at once")
    right.grid(alpha=0.3, axis="x")
    finish(figure, title, path)


def errors_scale(axes: Axes, ticks: Sequence[float], end: float) -> None:
    """An axis of accuracies (%), logarithmic in the errors; `end`, above 100, would be infinitely far."""
    scale = (lambda y: -np.log10(np.clip(end - y, 1e-3, None)), lambda z: end - 10**-z)
    axes.set_yscale("function", functions=scale)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


def draw_sums(measured: Table, ceilings: Table, others: Table, path: str | Path) -> None:
    """Digits N of two numbers against the accuracy of their sum (%), a panel for each track.

    measured: {track: {N: (mean, standard deviation)}}; ceilings: {track: {N: the digit's accuracy ** 2N}};
    others, as reported: {track: [(N, accuracy), ...]}.
    """
    figure, panels = subplots(6.3 * len(measured), 5.6, 1, len(measured), sharey=True, squeeze=False)
    for axes, (track, figures), color in zip(panels[0], measured.items(), (DIGIT, SUM), strict=False):
        reported = others.get(track, [])
        if reported:
            axes.plot(*zip(*reported, strict=True), "x", color=GRAY, label="others, as reported")
        means, spread = zip(*figures.values(), strict=True)
        x, ceiling = list(figures), list(ceilings[track].values())
        axes.errorbar(x, means, spread, fmt="o-", color=color, capsize=3, label="mean ± standard deviation")
        axes.plot(x, ceiling, ":", color=color, label="digit accuracy to the power 2N")
        ticks = sorted({*figures, *(places for places, _ in reported)})
        errors_scale(axes, (20, 40, 60, 70, 80, 85, 90, 95, 97, 98, 99), 100.5)
        axes.set(xscale="log", ylim=(20, 99.5), xlabel=f"{track}: digits of each number, N")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        legend(axes)
    panels[0, 0].set_ylabel("accuracy of the sum (%)")
    finish(figure, "Two handwritten numbers, trained on their sums alone", path)


def draw_model(rows: Sequence[LayerRow], name: str, path: str | Path) -> None:
    """The layers in the order they run; where the image is taken again, a column begins."""
    boxes = [LayerRow("image", (1, 28, 28), 0, False, False), *rows]
    starts = [index for index, box in enumerate(boxes) if index > 1 and box.takes_image]
    if not any(row.sees_number for row in rows):  # exact addition is no layer
        boxes.append(LayerRow("mean, addition" if starts else "addition", (19,), 0, True, False))
    full = math.ceil(len(boxes) / math.ceil((len(boxes) - 1) / 18))
    edges = [0, *(starts or range(full, len(boxes), full)), len(boxes)]
    columns = [boxes[start:end] for start, end in pairwise(edges)]
    name_width, shape_width = (max(len(str(box[part])) for box in boxes) for part in (0, 1))
    margin, inner = 0.85, 0.067 * (name_width + shape_width + 13)  # in inches; 0.067 is a character's width
    width, depth = len(columns) * (margin + inner) + 0.1, max(map(len, columns))
    figure, axes = subplots(width, 0.42 * depth + 0.8)
    axes.set(xlim=(0, width), ylim=(depth, 0))
    axes.axis("off")
    first = next(box for box in boxes if box.sees_number)
    for column, part in enumerate(columns):
        left = column * (margin + inner) + margin
        for row, box in enumerate(part):
            color = NUMBER_LAYER if box.sees_number else IMAGE_LAYER if column or row else "white"
            axes.add_patch(Rectangle((left, row + 0.2), inner, 0.6, facecolor=color, edgecolor=GRAY))
            text = f"{box.name:{name_width}}  {list(box.shape)!s:{shape_width}}"
            text += f"{box.parameters:>9,}" if box.parameters else " " * 9
            axes.text(left + inner / 2, row + 0.5, text, fontsize=8, family="DejaVu Sans Mono", **CENTER)
            if row:
                axes.plot([left + inner / 2] * 2, (row - 0.2, row + 0.2), color=GRAY, linewidth=1)
            image, number = starts and column and not row, box is first
            for label, color in [("image", GRAY)] * bool(image) + [("number\n[10]", SUM)] * number:
                arrow = {"arrowstyle": "-|>", "color": color, "shrinkB": 0}  # its tip is at the box
                style = {"va": "center", "fontsize": 8, "color": color, "arrowprops": arrow}
                axes.annotate(label, (left, row + 0.5), (left - margin + 0.08, row + 0.5), **style)
    title = f"{name}: {sum(row.parameters for row in rows):,} parameters\nlayer, output shape, parameters"
    finish(figure, f"{title}\norange: depends on the number", path)
