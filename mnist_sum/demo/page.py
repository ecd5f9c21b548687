"""The page: a canvas to draw on, a number and a model to choose, and what the model predicts."""

import base64
import html
import io
from pathlib import Path

from mnist_sum import images
from mnist_sum.console import UserError
from mnist_sum.evaluation.predict import predict
from mnist_sum.figures.plots import DIGIT, SUM

FOLDER = Path(__file__).parent
STYLE = (FOLDER / "style.css").read_text(encoding="utf-8")
# gradio's own ImageEditor asks for a tool before the first stroke, keeps its zoom and pan tools, and
# does not fill a phone's width.
CANVAS_SCRIPT = (FOLDER / "canvas.js").read_text(encoding="utf-8")
CANVAS = """
<canvas width="320" height="320" aria-label="draw a digit here"></canvas>
<button type="button">Clear</button>
"""
HINT = "Draw a digit from 0 to 9"


def build_page(models):
    """Build the page, a gradio.Blocks, on which one of the models, {name: model}, can be chosen."""
    import gradio

    def show(drawing, number, name):
        return prediction_html(models[name], drawing, number)

    first, *_ = models
    with gradio.Blocks(title="mnist_sum", analytics_enabled=False) as blocks, gradio.Row():
        with gradio.Column():
            drawing = gradio.HTML(
                "", html_template=CANVAS, js_on_load=CANVAS_SCRIPT, apply_default_css=False, elem_id="drawing"
            )
            number = gradio.Radio(list(range(10)), value=5, label="Number to add", elem_id="number")
        with gradio.Column():
            prediction = gradio.HTML(hint_html(HINT), apply_default_css=False, elem_id="prediction")
            name = gradio.Dropdown(list(models), value=first, label="Model", filterable=False)
        gradio.on(
            [drawing.change, number.change, name.change],
            show,
            [drawing, number, name],
            prediction,
            show_progress="hidden",
            trigger_mode="always_last",  # of the drawings that came during a prediction, the newest
        )
    return blocks


def prediction_html(model, drawing, number):
    """HTML of the model's prediction for the drawing (a PNG data URL, or "") and the number, 0 to 9.

    Where there is no digit to be predicted, a hint that says so.
    """
    if not drawing:
        return hint_html(HINT)
    try:
        image = images.decode(io.BytesIO(base64.b64decode(drawing.partition(",")[2])))
        pixels = images.prepare(image)
    except UserError as error:
        return hint_html(str(error))
    digit, total, digit_probabilities, sum_probabilities = predict(model, pixels, number)
    return _layout(
        f"<span>digit {digit},</span> <span>{digit} + {number} = {total}</span>",
        f"<figure>{_pixels_svg(pixels)}seen as 28 × 28</figure>",
        digit_probabilities.tolist(),
        sum_probabilities.tolist(),
    )


def hint_html(hint):
    """HTML of a hint, plain text, with empty bars."""
    return _layout(f'<span class="hint">{html.escape(hint)}</span>', "", [0] * 10, [0] * 19)


def _layout(answer, figure, digit_probabilities, sum_probabilities):
    return (
        f'<div class="top"><div class="answer" role="status">{answer}</div>{figure}</div>'
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


def _pixels_svg(pixels):
    """uint8 (28, 28) as an SVG of sharp squares."""
    squares = [
        f'<rect x="{column}" y="{row}" width="1" height="1" fill="rgb({grey},{grey},{grey})"/>'
        for row, greys in enumerate(pixels.tolist())
        for column, grey in enumerate(greys)
        if grey
    ]
    return f'<svg viewBox="0 0 28 28" shape-rendering="crispEdges">{"".join(squares)}</svg>'
