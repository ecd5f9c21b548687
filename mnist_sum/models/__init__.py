"""One architecture a file, each readable beside its published layer table.

A model is an nn.Module with one method; the logits are raw, the loss has the softmax:

    forward(image (B, 1, 28, 28) float, number (B, 10) one-hot float) -> digit_logits (B, 10), sum_logits (B, 19)

Where it also has encode(image) -> features and join(features, number) -> logits, forward is join(encode(image),
number), and the exhaustive test encodes each image only once. In training an ensemble may return the logits of
each member: (members, B, 10) and (members, B, 19).

A custom model needs no place here: FILE.py:NAME names it. To add one to the package: a file here, a line in
ARCHITECTURES, a recipe in mnist_sum/recipes.py. README.md cites the five published sources.
"""

import sys
from dataclasses import replace
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mnist_sum.cli import UserError
from mnist_sum.data import normalize
from mnist_sum.recipes import CUSTOM, RECIPES, Recipe

ARCHITECTURES = {
    "channel_fusion": "channel_fusion:ChannelFusion",
    "mlp_adder": "mlp_adder:MlpAdder",
    "linear_adder": "linear_adder:LinearAdder",
    "deep_adder": "deep_adder:DeepAdder",
    "compact": "compact:Compact",
    "tiny": "exact_addition:tiny",
    "large": "exact_addition:large",
    "quick": "exact_addition:quick",
}  # name: the file in this folder, and the class or function in it
WEIGHTS = Path(__file__).parent / "weights"  # of the models that ship


def build_model(name: str, device: torch.device | str = "cpu") -> nn.Module:
    """A new model, its weights drawn from torch's global generator; name: registered, or FILE.py:NAME."""
    if name in ARCHITECTURES:
        file, _, attribute = ARCHITECTURES[name].partition(":")
        model = getattr(import_module(f"mnist_sum.models.{file}"), attribute)()
        # channels_last is faster, but for the few channels of tiny
        return model.to(device, memory_format=torch.preserve_format if name == "tiny" else torch.channels_last)
    model = getattr(_custom_module(name), name.rpartition(":")[2])()
    if not isinstance(model, nn.Module):
        raise UserError(f"{name} gives a {type(model).__name__}, not a torch.nn.Module")
    check_model(model.to(device), name)
    return model


def recipe_of(name: str) -> Recipe:
    """The recipe of a registered model; of a custom one CUSTOM with the settings of its file's RECIPE."""
    if name in RECIPES:
        return RECIPES[name]
    try:
        return replace(CUSTOM, **getattr(_custom_module(name), "RECIPE", {}))
    except (TypeError, ValueError) as error:
        raise UserError(f"RECIPE of {name}: {str(error).replace('Recipe.__init__() ', '')}") from None


def _custom_module(name: str) -> ModuleType:
    """Import FILE.py of FILE.py:NAME; its own errors keep their traceback."""
    file, _, attribute = name.rpartition(":")
    path = Path(file).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"there is no model {name}; use {', '.join(RECIPES)}, or FILE.py:NAME of a file")
    spec: Any = spec_from_file_location(f"custom_{path.stem}", path)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # as dataclasses in the file expect
    sys.path.insert(0, str(path.parent))  # it may import its neighbors
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    if not hasattr(module, attribute):
        raise UserError(f"{file} has no class or function {attribute}")
    return module


@torch.no_grad()
def check_model(model: nn.Module, name: str) -> None:
    """Raise UserError where the outputs of a custom model are not those of the contract."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise UserError(f"{name} has no parameters to train")
    device = trained[0].device
    pixels = torch.randint(256, (2, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    image, number = normalize(pixels).to(device), torch.eye(10, device=device)[[3, 7]]
    model.eval()
    outputs = model(image, number)  # this also gives lazy layers their shapes
    if not isinstance(outputs, (tuple, list)) or len(outputs) != 2:
        raise UserError(f"{name}: forward has to return (digit_logits, sum_logits)")
    for logits, classes, what in zip(outputs, (10, 19), ("digit_logits", "sum_logits"), strict=True):
        if not isinstance(logits, Tensor) or logits.shape != (2, classes):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UserError(f"{name}: {what} has to be (B, {classes}), here (2, {classes}), not {shape}")
        if not logits.isfinite().all():
            raise UserError(f"{name}: {what} holds NaN or infinity")
        if (logits >= 0).all() and ((logits.sum(1) - 1).abs() < 0.01).all():
            raise UserError(f"{name}: {what} are probabilities; leave out the softmax, the loss takes it")
    zeros = [each for each in model.parameters() if each.dim() > 1 and not each.any()]  # may hide the number yet
    if torch.equal(outputs[1], model(image, number.flip(0))[1]) and not zeros:
        print(f"warning: {name}: sum_logits do not depend on the number", file=sys.stderr)
    if hasattr(model, "encode") and hasattr(model, "join"):
        joined = model.join(model.encode(image), number)  # type: ignore[operator]
        if not all(torch.allclose(*pair, rtol=1e-3, atol=1e-3) for pair in zip(joined, outputs, strict=True)):
            raise UserError(f"{name}: join(encode(image), number) is not forward(image, number)")
    model.train()
