"""A page to draw or photograph digits on. From another computer: ssh -L 8888:localhost:7860 THIS_ONE"""

import argparse
import os
import socket
import sys
from importlib.util import find_spec

from mnist_sum import cli
from mnist_sum.recipes import DEFAULT_MODEL

LOCAL = ["127.0.0.1", "localhost"]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m mnist_sum.demo", description=__doc__)
    add = parser.add_argument
    add("--port", type=cli.nonnegative_int, default=7860, help="0: any free one (default: %(default)s)")
    add("--host", default=LOCAL[0], help="0.0.0.0: for use in a container (default: %(default)s)")
    add("--checkpoint", nargs="+", action="extend", default=[], metavar="FILE", help="your own models")
    add("--model", nargs="+", action="extend", default=[], type=cli.model_name, metavar="FILE.py:NAME",
        help="the custom models among them")  # fmt: skip
    args = parser.parse_args(argv)

    if find_spec("gradio") is None:
        raise cli.UserError("the page needs gradio; install it with: pip install -e '.[demo]'")
    try:
        listener = socket.create_server((args.host, args.port))
    except (OSError, OverflowError) as error:
        raise cli.UserError(f"cannot use port {args.port}: {error}; choose another with --port") from None
    local = args.host in LOCAL
    if not local:
        print(f"warning: everyone who can reach {args.host} can use the page", file=sys.stderr)
    print("loading the models and gradio ...", flush=True)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    import uvicorn

    from mnist_sum import predict
    from mnist_sum.demo.page import build_app
    from mnist_sum.models import WEIGHTS

    shipped = sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))
    names = dict.fromkeys([*args.checkpoint, DEFAULT_MODEL, *shipped])
    models = {name: predict.load(name, "cpu", custom=args.model).model for name in names}
    app = build_app(models, hosts=LOCAL if local else ["*"])
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    print(f"the page: http://localhost:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    cli.run(main, "python -m mnist_sum.demo")
