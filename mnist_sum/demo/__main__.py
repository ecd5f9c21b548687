"""`python -m mnist_sum.demo`: a page on which to draw or photograph digits, with what the models predict.

The page is served to this machine alone and loads nothing from any other. It needs the extra `demo`.
"""

import os
import socket
from importlib.util import find_spec

from mnist_sum import cli
from mnist_sum.console import UserError, note, run_script
from mnist_sum.recipes import DEFAULT_MODEL

HOST = "127.0.0.1"
# Everything from the page's own address; what gradio's scripts need is allowed from there too.
CONTENT_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
NO_TELEMETRY = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def main(argv):
    args = cli.parse_demo(argv, __doc__)
    if find_spec("gradio") is None:
        raise UserError("the page needs gradio; install it with: pip install -e '.[demo]'")
    os.environ |= NO_TELEMETRY
    with listen(args.port) as listener:
        note("loading the models and gradio ...")
        serve(load_models(args.checkpoint or (), args.model or ()), listener)
    return 0


def listen(port):
    """Listen on the port of this machine's loopback address -> the socket.

    Raises UserError where the port cannot be used.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        reason = os.strerror(error.errno)  # the error's own text repeats the address
        raise UserError(f"cannot use port {port} of {HOST}: {reason}; choose another with --port") from None


def load_models(paths=(), own=()):
    """Load the checkpoints at the paths, then the default model, then the other shipped ones.

    own: "FILE.py:NAME" of the user's own networks among them. -> {name or path: model on the CPU}.
    Raises UserError where one cannot be loaded.
    """
    from mnist_sum import models
    from mnist_sum.runs import checkpoint

    shipped = sorted(
        models.WEIGHTS.glob("*.safetensors"), key=lambda path: (path.stem != DEFAULT_MODEL, path)
    )
    files = {str(path): path for path in paths} | {path.stem: path for path in shipped}
    own = [models.find(model) for model in own]
    return {name: checkpoint.load_model(path, "cpu", own=own)[0] for name, path in files.items()}


def serve(models, listener):
    """Serve the page with the models, {name: model}, on the listening socket until SIGINT or SIGTERM."""
    import fastapi
    import gradio
    import uvicorn

    from mnist_sum.demo.page import STYLE, build_page

    app = gradio.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        build_page(models),
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
    note(f"the page: http://{HOST}:{listener.getsockname()[1]} (Ctrl-C ends it)")
    uvicorn.Server(settings).run(sockets=[listener])
    # Ctrl-C ended it (SIGTERM kills). uvicorn raises that again within asyncio, where it once got lost.
    raise KeyboardInterrupt


if __name__ == "__main__":
    run_script(main, "mnist_sum.demo")
