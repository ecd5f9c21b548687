"""`python -m mnist_sum.demo`: a page to draw a digit on, and what the models make of it.

The page is served to this machine alone and asks nothing of any other. It needs the extra `demo`.
"""

import argparse
import base64
import html
import io
import os
import socket
from collections import namedtuple
from contextlib import suppress
from importlib.util import find_spec

from mnist_sum import cli
from mnist_sum.errors import Fault
from mnist_sum.recipes import DEFAULT_MODEL

HOST = "127.0.0.1"
# Everything from the page's own address; what Gradio's scripts need is allowed from there too.
CONTENT_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
HINT = "Draw a digit from 0 to 9"
NUMBER = 5  # to begin with
DIGITS, SUMS = 10, 19  # classes

# Gradio's own ImageEditor asks for a tool before the first stroke, keeps its zoom and pan tools, and
# does not fill a phone's width.
CANVAS = """
<canvas width="320" height="320" aria-label="draw a digit here"></canvas>
<button type="button">Clear</button>
"""
DRAWING = """
const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
let last = null, due = null;

function clear() {
    clearTimeout(due);
    last = due = null;
    pen.fillStyle = "white";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    props.value = "";
}

function send() {
    due = null;
    props.value = canvas.toDataURL();
}

function draw(event) {
    const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    pen.lineWidth = 24;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(...(last ?? [x - 0.1, y]));  // a line of no length leaves no dot
    pen.lineTo(x, y);
    pen.stroke();
    last = [x, y];
    due ??= setTimeout(send, 200);  // by then a new stroke is more than a dot
}

canvas.onpointerdown = event => {
    if (!event.isPrimary || event.button) return;
    canvas.setPointerCapture(event.pointerId);
    last = null;
    draw(event);
};
canvas.onpointermove = event => { if (last && event.isPrimary) draw(event); };
canvas.onpointerup = canvas.onpointercancel = event => { if (event.isPrimary) last = null; };
element.querySelector("button").onclick = clear;
clear();
"""
STYLE = """
main { max-width: 60rem !important; }
.html-container { padding: 0 !important; }
#drawing canvas { display: block; width: 100%; aspect-ratio: 1; border-radius: 8px; cursor: crosshair;
    border: 1px solid var(--border-color-primary); touch-action: none; }
#drawing button { width: 100%; margin-top: 8px; padding: 8px; border-radius: 8px; cursor: pointer;
    background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color); }
#number .wrap { display: grid; grid-template-columns: repeat(5, 1fr); }
#number label { justify-content: center; }
#number label:focus-within { outline: 2px solid var(--color-accent); }
#number input { position: absolute; opacity: 0; }
#number label span { margin: 0; }
#number .selected { background: var(--color-accent); color: white; }
#reading { color: var(--body-text-color); font-size: 12px; }
#reading .top { display: flex; gap: 16px; justify-content: space-between; height: 136px; }
#reading .answer { align-self: center; font-size: min(26px, 6.5vw); font-weight: 600; line-height: 1.3; }
#reading .answer span { white-space: nowrap; }
#reading .answer .hint { display: block; font-size: 18px; font-weight: normal; white-space: normal; }
#reading figure { flex: none; margin: 0; text-align: center; }
#reading svg { display: block; width: 112px; height: 112px; border-radius: 4px; background: black; }
#reading h3 { margin: 16px 0 0; font-size: 15px; font-weight: normal; }
#reading .bars { display: flex; }
#reading .bars div { flex: 1; min-width: 0; text-align: center; }
#reading .bars b { display: flex; justify-content: center; height: 1.5em; font-weight: normal; }
#reading .bars i { display: flex; align-items: end; height: 80px;
    border-bottom: 1px solid var(--body-text-color); }
#reading .bars u { flex: 1; margin: 0 1px; border-radius: 3px 3px 0 0; }
"""


class Reading(namedtuple("Reading", "digit sum digit_probabilities sum_probabilities pixels")):
    """What a model makes of an image and a number.

    The probabilities, lists of float, are those of the digits 0 to 9 and of the sums 0 to 18;
    pixels, uint8 (28, 28), is the image as the network saw it.
    """


def read(model, image, number):
    """The Reading of an image (PIL, RGB) with one digit on it and a number from 0 to 9.

    Raises Fault where there is nothing, or too much, to read.
    """
    from mnist_sum import images
    from mnist_sum.evaluation import probabilities

    pixels = images.prepare(image)
    digits, sums = probabilities(model, pixels, number)
    return Reading(digits.argmax().item(), sums.argmax().item(), digits.tolist(), sums.tolist(), pixels)


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m mnist_sum.demo",
        description=__doc__,
        epilog=cli.EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--port", type=port_number, default=7860, metavar="N",
        help=f"where on {HOST} the page is; 0: any free port (default: 7860)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", nargs="+", action="extend", type=cli.file_name, metavar="FILE",
        help="models of your own, shown before the shipped ones (default: the shipped ones alone)",
    )  # fmt: skip
    return cli.parsed(parser, argv)


def port_number(text):
    """A TCP port, or 0."""
    with suppress(ValueError):
        if 0 <= int(text) < 2**16:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to {2**16 - 1}")


def main(argv):
    args = parse(argv)
    if find_spec("gradio") is None:
        raise Fault("the page needs gradio; install it with: pip install -e '.[demo]'")
    os.environ |= QUIET
    with listen(args.port) as listener:
        serve(page(load_models(args.checkpoint or ())), listener)
    return 0


def listen(port):
    """A socket that listens on the port, on this machine's loopback; raises Fault where it cannot."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        reason = os.strerror(error.errno)  # the error's own text repeats the address
        raise Fault(f"cannot use port {port} of {HOST}: {reason}; choose another with --port") from None


def load_models(own=()):
    """{name: model on the CPU}: the user's own checkpoints (paths), the default model, other shipped ones.

    Raises Fault where one cannot be loaded or there is none.
    """
    import torch

    from mnist_sum import checkpoint, runs

    paths = {str(path): path for path in own}
    shipped = sorted(runs.SHIPPED.glob("*.pt"), key=lambda path: (path.stem != DEFAULT_MODEL, path.stem))
    paths |= {path.stem: path for path in shipped}
    if not paths:
        raise Fault("there is no model to show; train one with: python train.py --save, and give its "
                    "checkpoint.pt to --checkpoint")  # fmt: skip
    cpu = torch.device("cpu")
    return {name: checkpoint.load_model(path, cpu)[0] for name, path in paths.items()}


def page(models):
    """The page, a gradio.Blocks, on which the models, {name: model}, can be chosen."""
    import gradio

    def show(drawing, number, name):
        return reading_markup(models[name], drawing, number)

    names = list(models)
    with gradio.Blocks(title="mnist_sum", analytics_enabled=False) as blocks, gradio.Row():
        with gradio.Column():
            drawing = gradio.HTML(
                "", html_template=CANVAS, js_on_load=DRAWING, apply_default_css=False, elem_id="drawing"
            )
            number = gradio.Radio(list(range(10)), value=NUMBER, label="Number to add", elem_id="number")
        with gradio.Column():
            empty = reading_markup(models[names[0]], "", NUMBER)
            reading = gradio.HTML(empty, apply_default_css=False, elem_id="reading")
            name = gradio.Dropdown(names, value=names[0], label="Model", filterable=False)
        gradio.on(
            [drawing.change, number.change, name.change],
            show,
            [drawing, number, name],
            reading,
            show_progress="hidden",
            trigger_mode="always_last",  # of the drawings that came while one was read, the newest
        )
    return blocks


def reading_markup(model, drawing, number):
    """HTML of what the model makes of the number and the drawing, a PNG in a data URL, or ""."""
    from mnist_sum import images

    if not drawing:
        return empty_markup(HINT)
    try:
        png = base64.b64decode(drawing.partition(",")[2])
        reading = read(model, images.read(io.BytesIO(png)), number)
    except Fault as fault:
        return empty_markup(str(fault))
    digit = reading.digit
    return markup(
        f"<span>digit {digit},</span> <span>{digit} + {number} = {reading.sum}</span>",
        f"<figure>{pixel_markup(reading.pixels)}seen as 28 × 28</figure>",
        reading.digit_probabilities,
        reading.sum_probabilities,
    )


def empty_markup(hint):
    return markup(f'<span class="hint">{html.escape(hint)}</span>', "", [0] * DIGITS, [0] * SUMS)


def markup(answer, seen, digit_probabilities, sum_probabilities):
    from mnist_sum.plots import DIGIT, SUM

    return (
        f'<div class="top"><div class="answer" role="status">{answer}</div>{seen}</div>'
        f"<h3>Digit</h3>{bars(digit_probabilities, DIGIT)}<h3>Sum</h3>{bars(sum_probabilities, SUM)}"
    )


def bars(probabilities, colour):
    """An upright bar for each class, its probability above the highest."""
    columns = []
    for kind, probability in enumerate(probabilities):
        percent = f"{probability:.1%}"
        highest = probability > 0 and probability == max(probabilities)
        columns.append(
            f'<div title="{kind}: {percent}"><b>{percent if highest else ""}</b>'
            f'<i><u style="height: {100 * probability:.1f}%; background: {colour}"></u></i>{kind}</div>'
        )
    return f'<div class="bars">{"".join(columns)}</div>'


def pixel_markup(pixels):
    """uint8 (28, 28) as an SVG of sharp squares."""
    squares = [
        f'<rect x="{column}" y="{row}" width="1" height="1" fill="rgb({grey},{grey},{grey})"/>'
        for row, greys in enumerate(pixels.tolist())
        for column, grey in enumerate(greys)
        if grey
    ]
    return f'<svg viewBox="0 0 28 28" shape-rendering="crispEdges">{"".join(squares)}</svg>'


def serve(blocks, listener):
    """Answer on the listening socket until SIGINT or SIGTERM."""
    import fastapi
    import gradio
    import uvicorn

    app = gradio.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        blocks,
        "/",
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=STYLE,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
    )
    settings = uvicorn.Config(
        app,
        headers=[("Content-Security-Policy", CONTENT_POLICY)],
        log_level="warning",
        timeout_graceful_shutdown=1,  # an open page holds a connection for as long as it is open
    )
    cli.say(f"the page: http://{HOST}:{listener.getsockname()[1]} (Ctrl-C ends it)")
    uvicorn.Server(settings).run(sockets=[listener])
    # Ctrl-C ended it (SIGTERM kills). uvicorn raises that again within asyncio, where it once got lost.
    raise KeyboardInterrupt


if __name__ == "__main__":
    cli.run(main, "mnist_sum.demo")
