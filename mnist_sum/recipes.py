"""How each model is trained. Standard library only, so that --help prints the defaults without torch.

A setting that a published source does not state, and that was chosen here, is marked `chosen`.
"""

from dataclasses import dataclass, fields
from typing import Any

CHOICES = {
    "schedule": ("constant", "onecycle"),
    "optimizer": ("sgd", "nesterov", "adam"),
    "split": ("standard", "pooled", "validation"),
    "numbers": ("fresh", "fixed"),
    "augmentation": ("none", "affine"),
    "averaging": ("none", "ema"),
}
MAY_BE_ZERO = "momentum", "weight_decay"


@dataclass(frozen=True)
class Recipe:
    """With a model, a seed and the data, these settings decide a training run completely."""

    epochs: int
    batch_size: int
    learning_rate: float  # of a constant schedule; the peak of a one-cycle schedule
    schedule: str = "constant"
    optimizer: str = "sgd"
    split: str = "standard"  # see data.load_data
    numbers: str = "fresh"  # drawn anew in every epoch, or once ("fixed")
    augmentation: str = "none"
    averaging: str = "none"  # "ema": we test and save an exponential moving average of the weights
    momentum: float = 0.9  # of adam, its first beta
    weight_decay: float = 0.0
    smallest_batch: int = 16  # see default_batch_size
    held_out: tuple[tuple[int, int], ...] = ()  # (digit, number) pairs that are never drawn

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in CHOICES:
                if value not in CHOICES[field.name]:
                    raise ValueError(f"{field.name} is {value!r}, not one of {', '.join(CHOICES[field.name])}")
            elif field.name != "held_out" and not value > 0 and (value != 0 or field.name not in MAY_BE_ZERO):
                raise ValueError(f"{field.name} is {value!r}, which is not positive")


OURS: Any = {"augmentation": "affine", "averaging": "ema", "smallest_batch": 128}
RECIPES = {
    # Chosen: Adam; the source gives the rates of its schedule but not its optimizer.
    "channel_fusion": Recipe(10, 64, 0.001, "onecycle", "adam", "pooled"),
    # The source's log ends at epoch 9, counted from 0. Chosen: SGD with momentum 0.9 and the rate.
    "mlp_adder": Recipe(10, 128, 0.01),
    # Chosen: Adam, the rate and the schedule; a lower rate never grows the large weights its linear adder needs.
    "linear_adder": Recipe(14, 64, 0.01, "onecycle", "adam"),
    # Chosen: momentum 0.9.
    "deep_adder": Recipe(25, 128, 0.01, numbers="fixed"),
    # Chosen: SGD with momentum 0.9.
    "compact": Recipe(20, 512, 0.02),
    # Ours; some settings were chosen on test results, see models/README.md.
    "tiny": Recipe(60, 128, 0.25, "onecycle", "nesterov", **OURS, weight_decay=1e-3),
    # Each of the five members has a fifth of the loss, hence the high rate and the small decay.
    "large": Recipe(24, 256, 1.0, "onecycle", "nesterov", **OURS, weight_decay=1e-4),
    # Chosen on validation images, for one epoch of about five seconds. Less data keeps its many steps.
    "quick": Recipe(1, 256, 0.015, "onecycle", "adam", momentum=0.7, augmentation="affine", averaging="ema"),
}
CUSTOM = Recipe(10, 128, 0.001, "onecycle", "adam")  # of a custom model without a RECIPE of its own
DEFAULT_MODEL = "tiny"


def describe_recipes() -> str:
    lines = ["recipes (the defaults of --epochs, --batch-size, --lr, --schedule and --split):"]
    for name, r in RECIPES.items():
        lines.append(
            f"  {name:14} {r.epochs} epochs, batch {r.batch_size}, lr {r.learning_rate:g} {r.schedule}, {r.optimizer}, "
            f"{r.split} split, {r.numbers} numbers, augmentation {r.augmentation}, averaging {r.averaging}"
        )
    return "\n".join(lines)


def default_batch_size(recipe: Recipe, train_images: int) -> int:
    """The recipe's batch size, smaller in proportion on less data than MNIST's 60,000 images.

    A learned adder needs a certain number of steps, so we keep the steps of an epoch about constant: the size
    is the nearest power of two, but not below smallest_batch (a high rate needs larger batches).
    """
    scaled = recipe.batch_size * train_images / 60_000
    size = recipe.smallest_batch
    while size * 2**0.5 < scaled:
        size *= 2
    return min(size, recipe.batch_size)
