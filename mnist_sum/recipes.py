"""How each model is trained: the published recipes, as data. Standard library only, so that
--help can print the defaults without importing torch.

Where a seed document does not tell a setting, the choice made here is marked `chosen`.
"""

import math
from dataclasses import dataclass

MNIST_TRAIN_IMAGES = 60_000
CHOICES = {
    "schedule": ("constant", "onecycle"),
    "optimizer": ("sgd", "nesterov", "adam"),
    "split": ("standard", "pooled", "validation"),
    "numbers": ("fresh", "fixed"),
    "augmentation": ("none", "affine"),
}


@dataclass(frozen=True)
class Recipe:
    """The settings that, with a seed and the data, decide a training run completely.

    architecture    "file:callable" below mnist_sum/models, which builds the model
    learning_rate   the rate of a constant schedule, the peak of a one-cycle schedule
    schedule        "constant" or "onecycle" (see training.learning_rate)
    optimizer       "sgd" or "nesterov" (momentum 0.9) or "adam" (PyTorch's default betas)
    split           "standard" (MNIST's own 60,000 / 10,000), "pooled" (all images, 80 / 20), or
                    "validation" (the training images alone, the last 10,000 held out: to choose by)
    numbers         "fresh" (a new number for every image in every epoch) or "fixed" (one draw)
    augmentation    "none" or "affine" (every batch, see augment.py)
    weight_decay    of all parameters
    teacher         "none", or the SHA-256 of the checkpoint file whose model teaches (see teacher.py)
    smallest_batch  what the batch size shrinks to on little data (see default_batch_size)
    reported        digit and sum accuracy in percent, as its source reports them, or None
    """

    architecture: str
    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str = "constant"
    optimizer: str = "sgd"
    split: str = "standard"
    numbers: str = "fresh"
    augmentation: str = "none"
    weight_decay: float = 0.0
    teacher: str = "none"
    smallest_batch: int = 16
    reported: tuple[float, float] | None = None

    def __post_init__(self):
        if type(self.architecture) is not str:
            raise ValueError("architecture is not a text")
        if self.reported is not None:
            pair = type(self.reported) is tuple and [type(figure) for figure in self.reported]
            if pair != [float, float]:
                raise ValueError("reported is not a pair of percentages")
        for name in ("epochs", "batch_size", "smallest_batch"):
            if type(getattr(self, name)) is not int or not 0 < getattr(self, name) < 2**63:
                raise ValueError(f"{name} is not a positive whole number below 2**63")
        rate = self.learning_rate
        if type(rate) is not float or not (math.isfinite(rate) and rate > 0):
            raise ValueError("learning_rate is not a positive number")
        if type(self.weight_decay) is not float or not 0 <= self.weight_decay < 1:
            raise ValueError("weight_decay is not a number from 0 to 1")
        digest = (
            type(self.teacher) is str
            and len(self.teacher) == 64
            and set(self.teacher) <= set("0123456789abcdef")
        )
        if not digest and self.teacher != "none":
            raise ValueError("teacher is neither none nor 64 hexadecimal digits")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is none of {', '.join(choices)}")


RECIPES = {
    # Seed 000. Chosen: Adam; the seed gives the rates of its schedule but not its optimizer.
    "channel_fusion": Recipe(
        "channel_fusion:ChannelFusion", 10, 64, 0.001, "onecycle", "adam", "pooled",
        reported=(99.05, 98.51),
    ),
    # Seed 001, "epoch 9" counted from 0. Chosen: SGD with momentum 0.9 and the rate.
    "mlp_adder": Recipe("mlp_adder:MlpAdder", 10, 128, 0.01, reported=(99.0, 98.0)),
    # Seed 002. Chosen: Adam, the rate and the schedule. Its linear layer needs large weights, which
    # small steps do not reach in 14 epochs: on 10,000 training images, drawn at random and held out,
    # SGD at 0.01 got to 37% of the sums by epoch 8, Adam at a constant 0.003 to 66% by epoch 14, this
    # to 86%.
    "linear_adder": Recipe(
        "linear_adder:LinearAdder", 14, 64, 0.01, "onecycle", "adam", reported=(99.0, 85.0)
    ),
    # Seed 003. Chosen: momentum 0.9.
    "deep_adder": Recipe(
        "deep_adder:DeepAdder", 25, 128, 0.01, numbers="fixed", reported=(99.11, 99.04)
    ),
    # Seed 004. Chosen: SGD with momentum 0.9.
    "compact": Recipe("compact:Compact", 20, 512, 0.02, reported=(99.17, 98.49)),
    # Ours. Chosen on 10,000 held-out training images (see the README).
    "tiny": Recipe(
        "exact_addition:tiny", 60, 128, 0.25, "onecycle", "nesterov",
        augmentation="affine", weight_decay=1e-3, smallest_batch=128,
    ),
    # Each of five readers has a fifth of the loss, hence the high rate and the small decay.
    "large": Recipe(
        "exact_addition:large", 24, 256, 1.0, "onecycle", "nesterov",
        augmentation="affine", weight_decay=1e-4, smallest_batch=128,
    ),
}  # fmt: skip
DEFAULT_MODEL = "tiny"


def default_batch_size(recipe, train_images):
    """The recipe's batch size, made smaller when there is less data than MNIST's 60,000 images.

    A learned adder needs a certain number of steps, so the steps of an epoch are held about
    constant: the size shrinks with the data, to the nearest power of two, and not below the
    recipe's smallest. (A high rate needs larger batches, and exact addition has nothing to learn.)
    """
    scaled = recipe.batch_size * train_images / MNIST_TRAIN_IMAGES
    size = recipe.smallest_batch
    while size * 2**0.5 < scaled:
        size *= 2
    return min(size, recipe.batch_size)
