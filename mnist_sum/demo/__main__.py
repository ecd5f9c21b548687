"""`python -m mnist_sum.demo`: a page on which to draw or photograph digits, with what the models predict.

The page is served to this machine alone and loads nothing from any other. It needs the extra `demo`.
"""

from mnist_sum import console  # alone: until run_script() Ctrl-C ends in a traceback
from mnist_sum.demo import HOST


def main(argv):
    from importlib.util import find_spec

    from mnist_sum import cli

    args = cli.parse_demo(argv, __doc__)
    if find_spec("gradio") is None:
        raise console.UserError("the page needs gradio; install it with: pip install -e '.[demo]'")
    with listen(args.port) as listener:
        console.note("loading the models and gradio ...")
        models = load_models(args.checkpoint or (), args.model or ())

        from mnist_sum.demo.server import serve

        serve(models, listener)


def listen(port):
    """Listen on the port of this machine's loopback address -> the socket.

    Raises UserError where the port cannot be used.
    """
    import os
    import socket

    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        reason = os.strerror(error.errno)  # the error's own text repeats the address
        raise console.UserError(
            f"cannot use port {port} of {HOST}: {reason}; choose another with --port"
        ) from None


def load_models(paths=(), own=()):
    """Load the checkpoints at the paths, then the default model, then the other shipped ones.

    own: "FILE.py:NAME" of the user's own networks among them. -> {name or path: model on the CPU}.
    Raises UserError where one cannot be loaded.
    """
    from mnist_sum import models
    from mnist_sum.recipes import DEFAULT_MODEL
    from mnist_sum.runs import checkpoint

    shipped = sorted(
        models.WEIGHTS.glob("*.safetensors"), key=lambda path: (path.stem != DEFAULT_MODEL, path)
    )
    files = {str(path): path for path in paths} | {path.stem: path for path in shipped}
    own = [models.find(model) for model in own]
    return {name: checkpoint.load_model(path, "cpu", own=own)[0] for name, path in files.items()}


if __name__ == "__main__":
    console.run_script(main, "mnist_sum.demo")
