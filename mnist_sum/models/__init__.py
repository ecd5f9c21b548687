"""One architecture a file, each readable beside its published layer table.

Every model keeps one contract, with B the batch size:

    encode(image (B,1,28,28) float) -> features     what the image alone decides
    join(features, number (B,10) one-hot float)     -> digit_logits (B,10), sum_logits (B,19)
    forward(image, number)                          = join(encode(image), number)

In training a model may give several readings of each image, as the ensemble `large` does, features and
logits alike: (readings, B, 10) and (readings, B, 19). The loss is then averaged over them too.

The logits are raw: softmax belongs to the loss and to the reader. The split into encode and join
lets the exhaustive test encode each image once and join it with all ten numbers.

To add a model: one file here, one line in mnist_sum/recipes.py.
"""

from importlib import import_module

from mnist_sum.recipes import RECIPES


def build(name):
    """A new model of the registered name, weights drawn from torch's global random state."""
    module, _, attribute = RECIPES[name].architecture.partition(":")
    return getattr(import_module(f"mnist_sum.models.{module}"), attribute)()
