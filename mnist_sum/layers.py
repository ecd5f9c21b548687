"""A model's layers: torchsummary's table, and the rows that plots.draw_model draws."""

import copy
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import NamedTuple

import torch
import torchsummary
from torch import Tensor, nn


class LayerRow(NamedTuple):
    name: str
    shape: tuple[int, ...]  # of the output, without the batch dimension
    parameters: int
    sees_number: bool  # the output depends on the number
    takes_image: bool  # the input is the image


class FixedNumber(nn.Module):
    """The model as a function of the image alone; torchsummary cannot handle inputs of different ranks."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.model(image, torch.eye(10)[:1].expand(len(image), -1))

    def apply(self, fn: Callable[[nn.Module], None]) -> "FixedNumber":
        """torchsummary lists what it finds with apply(): the layers, not the model itself."""
        for layer in self.model.children():
            layer.apply(fn)
        return self


def layer_table(model: nn.Module) -> str:
    """The table as torchsummary prints it, or PyTorch's own and why torchsummary cannot list the model."""
    printed = io.StringIO()
    try:
        twin = FixedNumber(copy.deepcopy(model).cpu().eval())
        with torch.no_grad(), torch.random.fork_rng(devices=[]), redirect_stdout(printed):
            torchsummary.summary(twin, (1, 28, 28), device="cpu")
    except Exception as error:  # whatever a custom model's layers give it that it does not expect
        return f"{model}\ntorchsummary cannot list this model: {type(error).__name__}: {error}"
    table, total = printed.getvalue().rstrip(), sum(each.numel() for each in model.parameters())
    if f"Total params: {total:,}\n" in table:
        return table
    return f"{table}\nThe model has {total:,} parameters; torchsummary counts each layer's weight and bias."


@torch.no_grad()
def layer_rows(model: nn.Module) -> list[LayerRow]:
    """The layers in the order they run: the modules without children or with parameters of their own."""
    twin, image, numbers = copy.deepcopy(model).cpu().eval(), torch.ones(1, 1, 28, 28), torch.eye(10)
    calls: list[tuple[LayerRow, list[Tensor]]] = []  # each with its outputs
    counted: set[nn.Parameter] = set()

    def note(layer: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        made = calls[-1][1] if calls else []
        images = [each for each in inputs if isinstance(each, Tensor) and each.shape[1:] == image.shape[1:]]
        takes_image = any(all(each is not other for other in made) for each in images)
        every = output if isinstance(output, tuple) else (output,)
        outputs = [each for each in every if isinstance(each, Tensor)]
        shape = tuple(outputs[0].shape[1:]) if outputs else ()
        size = sum(each.numel() for each in set(layer.parameters()) - counted)
        counted.update(layer.parameters())
        calls.append((LayerRow(type(layer).__name__, shape, size, False, takes_image), outputs))

    for layer in twin.modules():
        if not list(layer.children()) or list(layer.parameters(recurse=False)):
            layer.register_forward_hook(note)
    # a layer sees the number where its output for 0 and for 9 differ
    twin(image, numbers[:1])
    count = len(calls)
    twin(image, numbers[9:])
    pairs = zip(calls[:count], calls[count:], strict=False)
    return [row._replace(sees_number=not all(map(torch.equal, one, two))) for (row, one), (_, two) in pairs]
