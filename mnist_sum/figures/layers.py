"""torchsummary's layer table of a model, without what torchsummary 1.5.1 does to it.

The package multiplies the shapes of two inputs of unlike rank and fails; it runs a forward pass in
training mode, which moves BatchNorm's statistics and torch's random state; it assumes CUDA; it knows no
parameters but weight and bias, and no layer that takes or gives anything but tensors. So it is given a
copy of the model, in evaluation mode, on the CPU, that takes both inputs as one row and says itself
what its layers are.
"""

import contextlib
import copy
import io
import re
from types import SimpleNamespace

import torch
import torchsummary

from mnist_sum.console import UserError

PIXELS = 28 * 28
CONTAINERS = torch.nn.Sequential, torch.nn.ModuleList


def layer_table(model):
    """The table as torchsummary prints it: layer, output shape, parameters, and sizes in MB.

    Raises UserError where it cannot be made; so do the other functions.
    """
    printed = io.StringIO()
    with _twin(model) as twin, contextlib.redirect_stdout(printed):
        torchsummary.summary(_OneRow(twin), (PIXELS + 10,), device="cpu")
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
    image, numbers = torch.ones(1, 1, 28, 28), torch.eye(10)
    calls = []

    def note(layer, inputs, output):
        image_sized = layer.is_leaf and inputs[0].shape[1:] == image.shape[1:]
        from_layer_before = bool(calls) and calls[-1][1] is inputs[0]
        calls.append((image_sized and not from_layer_before, output))

    with _twin(model) as twin:
        _watch(twin, note)
        twin(image, numbers[:1])
        first = list(calls)
        calls.clear()
        twin(image, numbers[9:])
        return [(takes_image, not _equal(one, two))
                for (takes_image, one), (_, two) in zip(first, calls, strict=True)]  # fmt: skip


@contextlib.contextmanager
def _twin(model):
    """A copy of the model, to be called within it; whatever is raised there becomes a UserError."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            # What a network keeps of its last call cannot be copied as it is.
            kept = [value for module in model.modules() for value in vars(module).values()]
            kept = {id(value): value.detach() for value in kept if isinstance(value, torch.Tensor)}
            yield copy.deepcopy(model, kept).cpu().eval()
    except Exception as error:  # a network of the user's own may do anything
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"cannot list the layers of {type(model).__name__}: {reason:.200}") from error


class _OneRow(torch.nn.Module):
    """The network as torchsummary calls it, and as it asks for each module: by apply()."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, row):
        return self.network(row[:, :PIXELS].reshape(-1, 1, 28, 28), row[:, PIXELS:])

    def apply(self, register_hook):
        register_hook(SimpleNamespace(register_forward_hook=lambda hook: _watch(self.network, hook)))


def _watch(network, note):
    """From now on have note(layer, inputs, output) called after each layer of the network has run.

    A layer is a module that gives a tensor and is no container; also the network itself, where parameters
    are left that no layer counts. It has the module's class name, is_leaf, and as weight as many values
    as it counts parameters. inputs and output: tensors, without whatever else there is.
    """
    counted = set()

    def after(module, inputs, keywords, output):
        parameters = module.parameters(recurse=module is network)
        counts = {id(parameter): parameter for parameter in parameters if id(parameter) not in counted}
        outputs = _tensors(output)
        if outputs and (counts or module is not network):
            counted.update(counts)
            fields = {"is_leaf": not any(module.children())}
            if counts:
                trained = any(parameter.requires_grad for parameter in counts.values())
                size = sum(parameter.numel() for parameter in counts.values())
                fields["weight"] = torch.empty(size, device="meta", requires_grad=trained)
            pair = isinstance(output, (tuple, list)) and len({len(each.shape) for each in outputs}) == 1
            layer = type(type(module).__name__, (), fields)()
            note(layer, _tensors((inputs, keywords)) or outputs, outputs if pair else outputs[0])
        if module is network:
            counted.clear()

    for module in network.modules():
        if module is network or not isinstance(module, CONTAINERS):
            handle = module.register_forward_hook(after, with_kwargs=True)
    return handle


def _tensors(value):
    """The tensors with an axis in nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        return [value] if value.dim() else []
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _equal(one, two):
    if isinstance(one, list):
        return all(map(torch.equal, one, two))
    return torch.equal(one, two)
