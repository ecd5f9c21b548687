"""Two inputs, an MNIST image and a number 0-9; two outputs, the digit in the image and the sum.

    model = mnist_sum.load("tiny")                       a shipped model, or a checkpoint's path
    model.predict("photo.jpg", 7)                        digit, total and their probabilities
    data = mnist_sum.load_data("sample")                 a training and a test split
    mnist_sum.MnistSum(data.train)                       a torch Dataset
    mnist_sum.summed_loss(*outputs, digit, total)        the loss and its two parts
    mnist_sum.evaluate(module, data)                     the exhaustive test of any module
    with mnist_sum.opened(model="compact") as run:       a run, as train.py has it
        for row in mnist_sum.fit(run.state, run.data.train, run.data.test): ...

Each name is imported when it is first used, so that `import mnist_sum` is quick.
"""

from importlib import import_module

__version__ = "2.0.0"
__all__ = ["MnistSum", "evaluate", "fit", "load", "load_data", "opened", "summed_loss"]  # noqa: F822
_HOMES = {
    "MnistSum": "dataset",
    "evaluate": "evaluation.errors",
    "fit": "training",
    "load": "runs.trained",
    "load_data": "data",
    "opened": "runs",
    "summed_loss": "loss",
}


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"mnist_sum.{_HOMES[name]}")
    return getattr(home, {"load_data": "load"}.get(name, name))


def __dir__():
    return [*globals(), *__all__]
