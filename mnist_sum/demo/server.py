"""What the page's server answers: the page's own requests, and nothing else that others could ask for."""

import asyncio
import os
import secrets
import shutil
import tempfile
from contextlib import nullcontext
from typing import Literal

import fastapi
import uvicorn
from pydantic import conint, create_model
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from uvicorn.protocols.http.h11_impl import H11Protocol

from mnist_sum.console import end_at_signals, note
from mnist_sum.demo import HOST
from mnist_sum.demo.page import STYLE, build_page, page_html

GENERATED = ("/", "/theme.css", "/favicon.ico", "/manifest.json")  # by gradio
FOLDERS = ("assets", "static")  # of gradio's own scripts, styles and pictures
CALL = "/gradio_api/run/predict"  # where its scripts send the inputs of an event that has no queue
LARGEST = 12_000_000  # bytes of such a call; the page sends about 1 million
MOST_COMMAS = 1000  # in it, as each value takes much memory when parsed; the page sends 10
SECONDS = 10  # at most for it to arrive; meanwhile others wait
HEADERS = {
    # Everything from the page's own address; what gradio's scripts need is allowed from there too.
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def serve(models, listener):
    """Serve the page with the models, {name: model}, on the listening socket until a signal comes."""
    port = listener.getsockname()[1]
    settings = uvicorn.Config(
        build_app(models, port),
        headers=list(HEADERS.items()),
        server_header=False,
        http=Protocol,
        ws="none",
        proxy_headers=False,
        log_level="error",  # errors are ours, warnings are about requests
    )
    server = uvicorn.Server(settings)
    server.capture_signals = nullcontext
    end_at_signals()  # whatever is being sent or computed
    note(f"the page: http://{HOST}:{port} (Ctrl-C ends it)")
    server.run(sockets=[listener])


def build_app(models, port):
    """Build the ASGI app: gradio's page and its files, and predictions with the models, {name: model}."""
    call = create_model("Call", data=tuple[str, conint(strict=True, ge=0, lt=10), Literal[*models]])
    gradio_app, turn = build_gradio_app(models), asyncio.Lock()

    async def predict(request):
        async with turn:  # so that memory holds one image at a time
            try:
                body = await asyncio.wait_for(request.body(), SECONDS)
                if body.count(b",") > MOST_COMMAS:
                    raise ValueError
                image, number, name = call.model_validate_json(body).data
            except (ValueError, TimeoutError, ClientDisconnect):  # pydantic's is a ValueError, too
                return PlainTextResponse("this is not what the page sends", 400)
            return JSONResponse({"data": await run_in_threadpool(page_html, models[name], image, number)})

    routes = [Route(path, gradio_app, methods=["GET"]) for path in GENERATED]
    for name in FOLDERS:
        routes.append(Mount(f"/{name}", StaticFiles(packages=[("gradio", f"templates/frontend/{name}")])))
    routes.append(Route(CALL, predict, methods=["POST"], max_body_size=LARGEST))
    return Starlette(routes=routes, middleware=[Middleware(OwnRequests, port=port)])


def build_gradio_app(models):
    """Build gradio's own ASGI app of the page."""
    folder = os.path.join(tempfile.gettempdir(), f"mnist_sum-{secrets.token_hex(8)}")
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_TEMP_DIR": folder,  # it makes a folder there that this page does not use
    }
    import gradio

    try:
        return gradio.mount_gradio_app(
            fastapi.FastAPI(),
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
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Protocol(H11Protocol):
    """uvicorn's, but an invalid body closes the connection: the request has its own answer, and uvicorn's
    second one would end in a traceback."""

    def send_400_response(self, msg):
        if self.cycle is None:
            return super().send_400_response(msg)
        self.cycle.disconnected = True  # what the app still has to say is not sent
        self.transport.close()


class OwnRequests:
    """ASGI middleware that refuses requests by other host names and of other sites, as a browser tells them.

    What it lets through has no query and no header but the host: nothing else is needed.
    """

    def __init__(self, app, port):
        self.app = app
        self.hosts = [f"{name}:{port}".removesuffix(":80") for name in (HOST, "localhost")]

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope)
        host, *more = given.getlist("host") or [""]
        own = host in self.hosts and not more
        own = own and set(given.getlist("origin")) <= {f"http://{host}"}
        if own and set(given.getlist("sec-fetch-site")) <= {"none", "same-origin"}:
            scope = {**scope, "query_string": b"", "headers": [(b"host", host.encode())]}
            return await self.app(scope, receive, send)
        answer = PlainTextResponse(f"refused: open http://{self.hosts[0]} yourself", 403)
        await answer(scope, receive, send)
