"""torchsummary's layer table of a model, without what torchsummary 1.5.1 does to it.

The package multiplies the shapes of two inputs of unlike rank and fails; it runs a forward pass in
training mode, which moves BatchNorm's statistics and torch's random state; it assumes CUDA. So it
is given a copy of the model, in evaluation mode, on the CPU, that takes both inputs as one row.
"""

import contextlib
import copy
import io
import re

import torch
import torchsummary

PIXELS = 28 * 28


def layer_table(model):
    """The table as torchsummary prints it: layer, output shape, parameters, and sizes in MB."""
    twin = copy.deepcopy(model).cpu().eval()
    two_inputs = twin.forward
    twin.forward = lambda row: two_inputs(row[:, :PIXELS].reshape(-1, 1, 28, 28), row[:, PIXELS:])
    printed = io.StringIO()
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(printed), torch.no_grad():
        torchsummary.summary(twin, (PIXELS + 10,), device="cpu")
    return printed.getvalue().rstrip()


def layer_rows(model):
    """The table's rows as (layer, output shape, parameters), say ("Conv2d-1", "[-1, 8, 28, 28]", 72)."""
    rows = re.findall(r"^ *(\w+-\d+) +(\[.*\]) +([\d,]+)$", layer_table(model), re.MULTILINE)
    return [(layer, shape, int(parameters.replace(",", ""))) for layer, shape, parameters in rows]


def layer_inputs(model):
    """For each of the table's rows, (takes_image, sees_number): a list of pairs of bools.

    takes_image: the layer is the first to process the image, or an image as large that no layer made.
    sees_number: its output depends on the number.
    """
    twin = copy.deepcopy(model).cpu().eval()
    image, numbers = torch.ones(1, 1, 28, 28), torch.eye(10)
    calls = []

    def note(module, inputs, output):
        image_sized = not any(module.children()) and inputs[0].shape[1:] == image.shape[1:]
        from_layer_before = bool(calls) and calls[-1][1] is inputs[0]
        calls.append((image_sized and not from_layer_before, output))

    hooks = [
        module.register_forward_hook(note)
        for module in twin.modules()
        if module is not twin and not isinstance(module, (torch.nn.Sequential, torch.nn.ModuleList))
    ]
    with torch.no_grad():
        twin(image, numbers[:1])
        first = list(calls)
        calls.clear()
        twin(image, numbers[9:])
    for hook in hooks:
        hook.remove()
    return [
        (takes_image, not _equal(one, two)) for (takes_image, one), (_, two) in zip(first, calls, strict=True)
    ]


def _equal(one, two):
    if isinstance(one, tuple):
        return all(map(torch.equal, one, two))
    return torch.equal(one, two)
