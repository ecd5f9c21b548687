"""The page: digits to draw or photograph, a number and a model to choose, and what the model predicts."""

import base64
import html
import io
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import torch
from fastapi import FastAPI, Request, Response
from PIL import Image
from starlette.middleware.trustedhost import TrustedHostMiddleware
from torch import Tensor, nn

from mnist_sum.cli import UserError
from mnist_sum.images import read_page
from mnist_sum.occlusion import occlusion_maps
from mnist_sum.plots import DIGIT, LOOKED_AT, MAP_LEGEND, SUM, WRONG, opacity
from mnist_sum.predict import predict_batch

# gradio's own ImageEditor asks for a tool before the first stroke and does not fill a phone's width
CANVAS = """<canvas aria-label="draw digits here"></canvas>
<div class="buttons">
    <button type="button">Clear</button>
    <label class="camera">Take a photo<input type="file" accept="image/*" capture="environment"></label>
    <label>Open a file<input type="file" accept="image/*"></label>
</div>"""
HINT = "Draw digits from 0 to 9, or open or drop a photograph of some"
read = lru_cache(maxsize=2)(read_page)  # another number or model asks for the same image again


def build_app(models: dict[str, nn.Module], hosts: list[str]) -> FastAPI:
    """The page with the named models, for requests by these host names ("*": any)."""
    import gradio

    script, style = (Path(__file__).with_name(name).read_text() for name in ("canvas.js", "style.css"))
    show = partial(gradio.HTML, "", apply_default_css=False)
    with gradio.Blocks(title="mnist_sum") as blocks, gradio.Row():
        with gradio.Column():
            with gradio.Column(elem_id="page"):
                image = show(html_template=CANVAS, js_on_load=script, elem_id="drawing")
                boxes = show(elem_id="boxes")
            number = gradio.Radio(list(range(10)), value=5, label="Number to add", elem_id="number")
        with gradio.Column():
            prediction = show(elem_id="prediction")
            name = gradio.Dropdown(list(models), label="Model", filterable=False)
        # always_last: of the drawings that come during a prediction, only the last is predicted
        gradio.on(None, partial(page_html, models), [image, number, name], [boxes, prediction],
            queue=False, trigger_mode="always_last", show_progress="hidden")  # fmt: skip

    app = FastAPI(openapi_url=None)

    @app.middleware("http")
    async def same_origin(request: Request, call_next: Callable) -> Response:
        origin = request.headers.get("origin")  # scheme://host:port of the page that sends the request
        if origin and origin.partition("://")[2] != request.headers.get("host"):
            return Response("refused: another site's page sends this", 403)
        return await call_next(request)

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no web fonts
    style = f":root {{ --digit: {DIGIT}; --sum: {SUM}; --unsure: {WRONG}; }} {style}"
    return gradio.mount_gradio_app(app, blocks, "/", theme=theme, css=style,
        footer_links=[], run_history=False, ssr_mode=False)  # fmt: skip


def page_html(models: dict[str, nn.Module], image: str, number: int, name: str) -> tuple[str, str]:
    """HTML of (boxes over the image, prediction); image: a data URL, or a text where there is none."""
    try:
        if not image.startswith("data:"):
            raise UserError(image or HINT)
        page = read(base64.b64decode(image.partition(",")[2]))
        pixels = torch.stack([digit.pixels for digit in page.digits])
        predictions = predict_batch(models[name], pixels, number)
    except UserError as error:
        hint = f'<div class="answer hint" role="status">{html.escape(str(error))}</div>'
        return "", hint + bars_html(torch.zeros(10), torch.zeros(19))

    # a box and a sum for each digit, in reading order
    width, height = (round(page.scale * side) for side in page.image.size)
    boxes, body, size = "", "", width / 20
    for digit, (predicted, total, _, probabilities) in zip(page.digits, predictions, strict=True):
        left, top, right, bottom = digit.box
        unsure, mark = ("unsure", "?") if digit.doubt else ("", "")
        boxes += f"""<g class="{unsure}">
            <rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"/>
            <text x="{left}" y="{max(top - size / 5, size):.0f}">{predicted}{mark}</text></g>"""
        body += f"<h3>Line {digit.line}</h3>" if digit.place == 1 else ""
        body += f"""<div>{image_html(digit.pixels)}<b>{predicted} + {number} = {total}</b>
            {probabilities.max():.1%}<em>{digit.doubt}</em></div>"""
    boxes = f'<svg viewBox="0 0 {width} {height}" font-size="{size}">{boxes}</svg>'
    answer, body = f"{len(pixels)} digits", f'<div class="digits">{body}</div>'
    notes = [digit.doubt for digit in page.digits if digit.doubt]

    # a single digit: also what the model saw and looked at, and all probabilities
    if len(pixels) == 1:
        predicted, total, *both = predictions[0]
        answer = f"<span>digit {predicted},</span> <span>{predicted} + {number} = {total}</span>"
        digit_map, sum_map = occlusion_maps(models[name], pixels[0], number)
        body = f"""<div class="figures">
            <figure>{image_html(pixels[0])}seen as 28 × 28</figure>
            <figure>{image_html(pixels[0], digit_map)}what the digit rests on</figure>
            <figure>{image_html(pixels[0], sum_map)}what the sum rests on</figure>
            <p>{MAP_LEGEND}</p>
        </div>{bars_html(*both)}"""
        boxes = "" if image.startswith("data:image/png") else boxes  # a drawing needs none
    elif notes:
        notes = [f"{len(notes)} unsure"]
    if page.turned:
        boxes, notes = "", [*notes, f"turned by {page.turned} degrees"]  # and so are the boxes
    answer = f'<div class="answer" role="status">{answer}</div><em role="status">{", ".join(notes)}</em>'
    return boxes, answer + body


def bars_html(digit_probabilities: Tensor, sum_probabilities: Tensor) -> str:
    """A bar for each class, with the probability above the highest."""
    markup = ""
    for title, probabilities in (("Digit", digit_probabilities), ("Sum", sum_probabilities)):
        markup += f'<h3>{title}</h3><div class="bars {title.lower()}">'
        for label, share in enumerate(probabilities.tolist()):
            highest = f"{share:.1%}" if 0 < share == probabilities.max() else ""
            markup += f"""<div title="{label}: {share:.1%}"><b>{highest}</b>
                <i><u style="height: {share:.1%}"></u></i>{label}</div>"""
        markup += "</div>"
    return markup


def image_html(pixels: Tensor, occlusion_map: Tensor | None = None) -> str:
    """The pixels, uint8 (28, 28), colored where the map says that the answer rests on them."""
    image, file = Image.fromarray(pixels.numpy()).convert("RGB"), io.BytesIO()
    if occlusion_map is not None:
        image.paste(LOOKED_AT, mask=Image.fromarray((255 * opacity(occlusion_map)).astype("uint8")))
    image.save(file, "png")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
