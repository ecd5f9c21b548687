"""Two inputs, an MNIST image and a number 0-9; two outputs, the digit in the image and the sum.

Each name is imported when it is first used, so that `import mnist_sum` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_sum.data import MnistSum, load_data
    from mnist_sum.evaluation import evaluate
    from mnist_sum.loss import summed_loss
    from mnist_sum.predict import load
    from mnist_sum.training import fit, new_state

__version__ = "3.0.0"
__all__ = ["MnistSum", "evaluate", "fit", "load", "load_data", "new_state", "summed_loss"]
_MODULES = {
    "MnistSum": "data",
    "evaluate": "evaluation",
    "fit": "training",
    "load": "predict",
    "load_data": "data",
    "new_state": "training",
    "summed_loss": "loss",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"mnist_sum.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
