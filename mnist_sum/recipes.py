"""How each model is trained: the recipes, as data. Standard library only, so that --help can print
the defaults without importing torch.

Five of the models are published systems (`mnist_sum/models/README.md` cites them). Where a source does
not tell a setting, the choice made here is marked `chosen`.
"""

import math
from dataclasses import dataclass, fields, replace

MNIST_TRAIN_IMAGES = 60_000
CHOICES = {
    "schedule": ("constant", "onecycle"),
    "optimizer": ("sgd", "nesterov", "adam"),
    "split": ("standard", "pooled", "validation"),
    "numbers": ("fresh", "fixed"),
    "augmentation": ("none", "affine"),
    "averaging": ("none", "ema"),
}
HEXADECIMAL = {"held_out": 25, "teacher": 64}  # and the digits that each has


@dataclass(frozen=True)
class Recipe:
    """The settings that, with a model, a seed and the data, decide a training run completely.

    learning_rate   the rate of a constant schedule, the peak of a one-cycle schedule
    schedule        "constant" or "onecycle" (see training.learning_rate)
    optimizer       "sgd" or "nesterov" (momentum 0.9) or "adam" (PyTorch's default betas)
    split           "standard" (MNIST's own 60,000 / 10,000), "pooled" (all images, 80 / 20), or
                    "validation" (the training images alone, the last 10,000 to choose settings by)
    numbers         "fresh" (a new number for every image in every epoch) or "fixed" (drawn once)
    augmentation    "none" or "affine" (every batch, see augment.py)
    held_out        "none", or the pairs of digit and number that training never draws (see held_out_mask)
    averaging       "none", or "ema": tested and saved is a moving average of the weights (see training.py)
    weight_decay    of all parameters
    teacher         "none", or the SHA-256 of the checkpoint of the teacher (see runs/distillation.py)
    smallest_batch  what the batch size shrinks to on little data (see default_batch_size)
    """

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str = "constant"
    optimizer: str = "sgd"
    split: str = "standard"
    numbers: str = "fresh"
    held_out: str = "none"
    augmentation: str = "none"
    averaging: str = "none"
    weight_decay: float = 0.0
    teacher: str = "none"
    smallest_batch: int = 16

    def overridden(self, **overrides):
        """The recipe with these settings in place of its own; those that are None stay."""
        return replace(self, **{name: value for name, value in overrides.items() if value is not None})


RECIPES = {
    # Chosen: Adam; the source gives the rates of its schedule but not its optimizer.
    "channel_fusion": Recipe(10, 64, 0.001, "onecycle", "adam", "pooled"),
    # The source's log ends at epoch 9, counted from 0. Chosen: SGD with momentum 0.9 and the rate.
    "mlp_adder": Recipe(10, 128, 0.01),
    # Chosen: Adam, the rate and the schedule. Its linear layer needs large weights, which a low rate
    # does not reach in 14 epochs: on 10,000 validation images, drawn at random, SGD at 0.01 had 37% of
    # the sums correct after 8 epochs, Adam at a constant 0.003 66% after 14, this 86%.
    "linear_adder": Recipe(14, 64, 0.01, "onecycle", "adam"),
    # Chosen: momentum 0.9.
    "deep_adder": Recipe(25, 128, 0.01, numbers="fixed"),
    # Chosen: SGD with momentum 0.9.
    "compact": Recipe(20, 512, 0.02),
    # Ours; some settings were chosen on test results, see models/README.md.
    "tiny": Recipe(
        60, 128, 0.25, "onecycle", "nesterov",
        augmentation="affine", averaging="ema", weight_decay=1e-3, smallest_batch=128,
    ),
    # Each of the five ensemble members has a fifth of the loss, hence the high rate and the small decay.
    "large": Recipe(
        24, 256, 1.0, "onecycle", "nesterov",
        augmentation="affine", averaging="ema", weight_decay=1e-4, smallest_batch=128,
    ),
}  # fmt: skip
# Models of the study `pairs` alone, each a network of one's own in a file of mnist_sum/studies/.
STUDIED = {"learned_table": "learned_table.py:LearnedTable", "line_adder": "line_adder.py:LineAdder"}
DEFAULT_MODEL = "tiny"
OWN = Recipe(10, 128, 0.001, "onecycle", "adam")  # of a network of your own, unless its file has a RECIPE


def held_out_mask(pairs):
    """A recipe's held_out of these pairs (digit, number): 25 hexadecimal digits, in which bit
    10 * digit + number is 1 where the pair is held out."""
    return f"{sum(1 << (10 * digit + number) for digit, number in set(pairs)):025x}"


def held_out_pairs(held_out):
    """The pairs (digit, number) of a recipe's held_out, a list."""
    mask = 0 if held_out == "none" else int(held_out, 16)
    return [divmod(place, 10) for place in range(100) if mask >> place & 1]


def impossible_setting(recipe):
    """The name of the first setting whose value no training can have, or None."""
    for field in fields(Recipe):
        value = getattr(recipe, field.name)
        if type(value) is not field.type:
            fits = False
        elif field.type is int:
            fits = 0 < value < 2**63
        elif field.type is float:
            fits = 0 <= value < math.inf and (value > 0 or field.name == "weight_decay")
        elif field.name in HEXADECIMAL:
            length = HEXADECIMAL[field.name]
            fits = value == "none" or (len(value) == length and set(value) <= set("0123456789abcdef"))
            if fits and field.name == "held_out":  # each digit keeps a number
                digits = [digit for digit, _ in held_out_pairs(value)]
                fits = all(digits.count(digit) < 10 for digit in range(10))
        else:
            fits = value in CHOICES[field.name]
        if not fits:
            return field.name
    return None


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
