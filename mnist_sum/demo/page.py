"""The page: digits to draw or photograph, a number and a model to choose, and what the model predicts."""

import base64
import html
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import torch

from mnist_sum import images
from mnist_sum.console import UserError
from mnist_sum.evaluation.occlusion import occlusion_maps
from mnist_sum.evaluation.predict import doubts_about, predict_batch
from mnist_sum.figures.plots import DIGIT, LOOKED_AT, MAP_LEGEND, SUM, WRONG, opacity

FOLDER = Path(__file__).parent
COLOURS = f":root {{ --digit: {DIGIT}; --unsure: {WRONG}; }}\n"
STYLE = COLOURS + (FOLDER / "style.css").read_text(encoding="utf-8")
# gradio's own ImageEditor asks for a tool before the first stroke, keeps its zoom and pan tools, does not
# fill a phone's width, and writes what is uploaded to the disk.
CANVAS_SCRIPT = (FOLDER / "canvas.js").read_text(encoding="utf-8")
CANVAS = """
<canvas aria-label="draw digits here"></canvas>
<div class="buttons">
    <button type="button">Clear</button>
    <label class="camera">Take a photo<input type="file" accept="image/*" capture="environment"></label>
    <label>Open a file<input type="file" accept="image/*"></label>
</div>
"""
HINT = "Draw digits from 0 to 9, or open or drop a photograph of some"
NO_IMAGE = "This is no image that your browser can show; choose a JPEG or PNG file"
DRAWING, PHOTOGRAPH = "data:image/png;base64,", "data:image/jpeg;base64,"  # how that begins


def build_page(models):
    """Build the page, a gradio.Blocks, on which one of the models, {name: model}, can be chosen."""
    import gradio

    def show(image, number, name):
        return page_html(models[name], image, number)

    first, *_ = models
    with gradio.Blocks(title="mnist_sum", analytics_enabled=False) as blocks, gradio.Row():
        with gradio.Column():
            with gradio.Column(elem_id="page"):
                canvas = dict(html_template=CANVAS, js_on_load=CANVAS_SCRIPT)
                image = gradio.HTML("", **canvas, apply_default_css=False, elem_id="drawing")
                boxes = gradio.HTML("", apply_default_css=False, elem_id="boxes")
            number = gradio.Radio(list(range(10)), value=5, label="Number to add", elem_id="number")
        with gradio.Column():
            prediction = gradio.HTML(hint_html(HINT), apply_default_css=False, elem_id="prediction")
            name = gradio.Dropdown(list(models), value=first, label="Model", filterable=False)
        gradio.on(
            [image.change, number.change, name.change],
            show,
            [image, number, name],
            [boxes, prediction],
            show_progress="hidden",
            queue=False,  # the answer is the response to the request
            api_visibility="private",
            trigger_mode="always_last",  # of the drawings that came during a prediction, the newest
        )
    return blocks


def page_html(model, image, number):
    """(boxes, prediction), HTML of the digits' places on the image and of what the model predicts of them.

    image: a PNG or JPEG data URL, or ""; number: 0 to 9. Where there is no digit to be predicted, the
    prediction is a hint that says so. A single digit that was drawn has no box.
    """
    try:
        size, found, doubts = find(image)
        predictions = predict_batch(model, torch.stack([digit.pixels for digit in found]), number)
    except UserError as error:
        return "", hint_html(str(error))
    boxes = boxes_html(size, found, predictions, doubts)
    if len(found) > 1:
        return boxes, digits_html(found, number, predictions, doubts)
    prediction = digit_html(model, found[0].pixels, number, predictions[0], doubts[0])
    return boxes if image.startswith(PHOTOGRAPH) else "", prediction


@lru_cache(maxsize=2)  # another number or model asks for the same image again
def find(image):
    """Of an image's data URL: (width, height), images.find_digits of it, and predict.doubts_about these.

    Raises UserError, of which page_html makes a hint, where no digit is found.
    """
    if not image:
        raise UserError(HINT)
    try:
        file = base64.b64decode(image.removeprefix(DRAWING).removeprefix(PHOTOGRAPH), validate=True)
    except ValueError:  # of no base64, such as one of neither form
        raise UserError(NO_IMAGE) from None
    picture = images.decode(file)
    found = images.find_digits(picture)
    return picture.size, found, doubts_about(found)


def boxes_html(size, found, predictions, doubts):
    """HTML of a box around each digit, as large as the image, with the predicted digit at its corner."""
    width, height = size
    shapes = []
    for digit, prediction, doubt in zip(found, predictions, doubts, strict=True):
        left, top, right, bottom = digit.box
        letters = max(0.05 * width, 0.2 * (bottom - top))
        shapes.append(
            f'<g class="{"unsure" if doubt else ""}"><rect x="{left}" y="{top}" width="{right - left}" '
            f'height="{bottom - top}"/><text x="{left}" y="{max(top - 0.15 * letters, 0.8 * letters):.0f}" '
            f'font-size="{letters:.0f}">{prediction.digit}{"?" if doubt else ""}</text></g>'
        )
    return f'<svg viewBox="0 0 {width} {height}">{"".join(shapes)}</svg>'


def digits_html(found, number, predictions, doubts):
    """HTML of several digits in reading order, a list for each line of the page."""
    lines = []
    for line, members in groupby(zip(found, predictions, doubts, strict=True), lambda each: each[0].line):
        items = [
            f"<li>{_svg(_pixels(digit.pixels))}<b>{prediction.digit} + {number} = {prediction.total}</b>"
            f"{prediction.sum_probabilities.max().item():.1%}<em>{doubt}</em></li>"
            for digit, prediction, doubt in members
        ]
        lines.append(f'<h3>Line {line}</h3><ol class="digits">{"".join(items)}</ol>')
    unsure = f", {sum(map(bool, doubts))} unsure" if any(doubts) else ""
    return f'<div class="answer" role="status">{len(found)} digits{unsure}</div>{"".join(lines)}'


def digit_html(model, pixels, number, prediction, doubt):
    """HTML of one digit: the prediction, what the model saw and looked at, and all probabilities."""
    digit, total, digit_probabilities, sum_probabilities = prediction
    digit_map, sum_map = occlusion_maps(model, pixels, number)
    seen = '<use href="#seen"/>'
    figures = [
        (f'<g id="seen">{_pixels(pixels)}</g>', "seen as 28 × 28"),
        (seen + _covered(digit_map), "what the digit rests on"),
        (seen + _covered(sum_map), "what the sum rests on"),
    ]
    return _layout(
        f"<span>digit {digit},</span> <span>{digit} + {number} = {total}</span>",
        "".join(f"<figure>{_svg(squares)}{caption}</figure>" for squares, caption in figures),
        MAP_LEGEND,
        doubt,
        digit_probabilities.tolist(),
        sum_probabilities.tolist(),
    )


def hint_html(hint):
    """HTML of a hint, plain text, with empty bars."""
    return _layout(f'<span class="hint">{html.escape(hint)}</span>', "", "", "", [0] * 10, [0] * 19)


def _layout(answer, figures, legend, doubt, digit_probabilities, sum_probabilities):
    return (
        f'<div class="answer" role="status">{answer}</div><em role="status">{doubt}</em>'
        f'<div class="figures">{figures}<p>{legend}</p></div>'
        f"<h3>Digit</h3>{_bars(digit_probabilities, DIGIT)}<h3>Sum</h3>{_bars(sum_probabilities, SUM)}"
    )


def _bars(probabilities, colour):
    """A vertical bar for each class, with the probability above the highest."""
    columns = []
    for label, probability in enumerate(probabilities):
        percent = f"{probability:.1%}"
        highest = probability > 0 and probability == max(probabilities)
        columns.append(
            f'<div title="{label}: {percent}"><b>{percent if highest else ""}</b>'
            f'<i><u style="height: {100 * probability:.1f}%; background: {colour}"></u></i>{label}</div>'
        )
    return f'<div class="bars">{"".join(columns)}</div>'


def _svg(squares):
    return f'<svg viewBox="0 0 28 28" shape-rendering="crispEdges">{squares}</svg>'


def _pixels(pixels):
    """uint8 (28, 28) as SVG squares."""
    return "".join(
        f'<rect x="{column}" y="{row}" width="1" height="1" fill="rgb({grey},{grey},{grey})"/>'
        for row, greys in enumerate(pixels.tolist())
        for column, grey in enumerate(greys)
        if grey
    )


def _covered(occlusion_map):
    """An occlusion map (28, 28) as SVG squares that cover those of the image."""
    return "".join(
        f'<path d="M{column} {row}h1v1h-1z" fill="{LOOKED_AT}" fill-opacity="{share:.2f}"/>'
        for row, shares in enumerate(opacity(occlusion_map).tolist())
        for column, share in enumerate(shares)
        if share >= 0.01
    )
