"""Whether a network of your own keeps the contract of mnist_sum.models, tried on two images."""

import torch

from mnist_sum.console import UserError
from mnist_sum.dataset import normalised
from mnist_sum.own import own_errors
from mnist_sum.system.device import place

CLASSES = {"digit_logits": 10, "sum_logits": 19}


def check(architecture, path, device="cpu", precision="fp32"):
    """Try a network of your own on two images; raises UserError where it breaks the contract.

    path: of its file; device and precision: those of the run. A new one is tried, with noise in place of
    zeros among its parameters, so that layers which begin at zero show what they depend on.
    """
    name, device = architecture.name, torch.device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, another = (place(architecture.build(), device, architecture.channels_last) for _ in range(2))
        _check_state(name, network, another)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter) * (parameter == 0))
        image = normalised(torch.randint(256, (2, 1, 28, 28), device=device))
        number = torch.eye(10, device=device)[[3, 7]]
        with own_errors(path, "forward(image (2, 1, 28, 28), number (2, 10)) failed"):
            outputs = network(image, number)
        _check_outputs(name, outputs, training=True)
        _check_gradients(name, path, network, another, outputs)
        if precision == "bf16":
            bf16 = torch.autocast(device.type, torch.bfloat16)
            with own_errors(path, "forward failed in bf16; with --precision fp32 it works"), bf16:
                outputs = network(image, number)
            _check_outputs(name, outputs, training=True)
        network.eval()
        with torch.no_grad(), own_errors(path, "forward failed in evaluation mode"):
            outputs, one = network(image, number), network(image[:1], number[:1])
            others, other_sums = network(image.flip(0), number), network(image, number.flip(0))[1]
        _check_outputs(name, outputs)
        _check_outputs(name, one, images=1)
        if torch.equal(outputs[1], other_sums):
            raise UserError(f"{name}: sum_logits ignores the number: two numbers gave the same")
        for output, other, one_output, logits in zip(outputs, others, one, CLASSES, strict=True):
            if torch.equal(output, other):
                raise UserError(f"{name}: {logits} ignores the image: two images gave the same")
            if not _close(output[:1], one_output):
                raise UserError(f"{name}: an image's {logits} depend on what else is in its batch")
        if hasattr(network, "encode") and hasattr(network, "join"):
            with torch.no_grad(), own_errors(path, "join(encode(image), number) failed"):
                joined = network.join(network.encode(image[:1]).repeat_interleave(2, 0), number)
                outputs = network(image[:1].repeat_interleave(2, 0), number)
            _check_outputs(name, joined)
            if not all(map(_close, joined, outputs)):
                raise UserError(f"{name}: join(encode(image), number) is not forward(image, number)")


def _close(one, two):
    return one.shape == two.shape and torch.allclose(one, two, rtol=1e-3, atol=1e-3)


def _check_state(name, network, another):
    """Raise UserError where two new networks could not each be trained and saved."""
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(f"{name} has no parameter to train")
    if {*map(id, network.parameters())} & {*map(id, another.parameters())}:
        raise UserError(f"{name} gives the same parameters twice; it has to make new ones each time")
    for key, value in network.state_dict().items():
        if not isinstance(value, torch.Tensor) or not torch.isfinite(value).all():
            raise UserError(f"{name}: {key} is no tensor of finite numbers, so it cannot be saved; "
                            "register a buffer that need not be with persistent=False")  # fmt: skip


def _check_gradients(name, path, network, another, outputs):
    """Raise UserError where a parameter would not be trained. another: one that has not been called."""
    late = [key for key in network.state_dict() if key not in another.state_dict()]
    if late:
        raise UserError(f"{name}: forward made {', '.join(late[:3])}, too late to be trained; make it in "
                        "__init__, as nn.LazyLinear, say, where its size is not known there")  # fmt: skip
    with own_errors(path, "the backward pass failed"):
        sum(output.float().pow(2).mean() for output in outputs).backward()
    idle = [key for key, parameter in network.named_parameters()
            if parameter.requires_grad and parameter.grad is None]  # fmt: skip
    if idle:
        raise UserError(f"{name}: no gradient reaches {', '.join(idle[:3])}; use it in an output, or set its "
                        "requires_grad to False")  # fmt: skip


def _check_outputs(model, outputs, training=False, images=2):
    """Raise UserError where the outputs for the images are not digit_logits and sum_logits."""
    if not isinstance(outputs, (tuple, list)) or len(outputs) != 2:
        raise UserError(f"{model}: forward has to return (digit_logits, sum_logits), not {_kind(outputs)}")
    for output, (name, classes) in zip(outputs, CLASSES.items(), strict=True):
        fits = isinstance(output, torch.Tensor) and output.shape[-2:] == (images, classes)
        if not fits or output.dim() > (3 if training else 2):
            raise UserError(f"{model}: {name} has to be of shape (B, {classes}), here ({images}, {classes}), "
                            f"not {_kind(output)}")  # fmt: skip
        if not output.is_floating_point():
            raise UserError(f"{model}: {name} has to hold floats, not {_kind(output)}")
        if not torch.isfinite(output).all():
            raise UserError(f"{model}: {name} holds numbers that are not finite, NaN or infinity")
        if (output >= 0).all() and ((output.float().sum(-1) - 1).abs() < 0.01).all():
            raise UserError(f"{model}: {name} are probabilities; leave the softmax out, the loss takes it")


def _kind(value):
    if isinstance(value, torch.Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"{len(value)} outputs"
    return f"a {type(value).__name__}"
