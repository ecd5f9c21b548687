"""One architecture a file, each readable beside its published layer table.

A model is any nn.Module that keeps this contract, with B the batch size:

    forward(image (B,1,28,28) float, number (B,10) one-hot float)
        -> digit_logits (B,10), sum_logits (B,19)        raw: the loss takes the softmax

Two further methods are optional. Where they are there, forward is join(encode(image), number), and the
exhaustive test encodes each image once and joins it with all ten numbers:

    encode(image) -> features                            what depends on the image alone
    join(features, number) -> digit_logits, sum_logits

An ensemble in training, as `large`, gives the logits of each member: (members,B,10) and (members,B,19).
The loss is then the mean over the members, too.

A network of your own needs no place here: FILE.py:NAME names it (see mnist_sum/own.py). To add one to
the package: one file here, one line in ARCHITECTURES, one recipe in mnist_sum/recipes.py. Five models
are published systems, "source 1" to "source 5"; README.md in this folder cites them.
"""

from importlib import import_module
from pathlib import Path

from mnist_sum.own import Architecture, load_own
from mnist_sum.recipes import RECIPES

ARCHITECTURES = {
    "channel_fusion": "channel_fusion:ChannelFusion",
    "mlp_adder": "mlp_adder:MlpAdder",
    "linear_adder": "linear_adder:LinearAdder",
    "deep_adder": "deep_adder:DeepAdder",
    "compact": "compact:Compact",
    "tiny": "exact_addition:tiny",
    "large": "exact_addition:large",
}  # name: the file in this folder, and what in it builds the model
WEIGHTS = Path(__file__).parent / "weights"


def find(model):
    """The Architecture of a registered name or of "FILE.py:NAME"; an Architecture is returned as it is.

    FILE.py is imported. Raises UserError where that fails.
    """
    if isinstance(model, Architecture):
        return model
    if model not in ARCHITECTURES:
        return load_own(model)
    module, _, attribute = ARCHITECTURES[model].partition(":")

    def build():
        return getattr(import_module(f"mnist_sum.models.{module}"), attribute)()

    return Architecture(model, build, RECIPES[model], channels_last=model != "tiny")


def build(name):
    """A new model of that name, as find() takes it, its weights drawn from torch's global random state."""
    return find(name).build()


def shipped(name):
    """The Path of the trained model of this name that comes with the package; most models have none."""
    return WEIGHTS / f"{name}.safetensors"
