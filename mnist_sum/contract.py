"""Whether a network of your own keeps the contract of mnist_sum.models, tried on two images."""

import torch

from mnist_sum.console import UserError
from mnist_sum.own import own_errors


def check(architecture, path):
    """Try a network of your own on two images; raises UserError where it breaks the contract.

    path: of its file. A new one is tried, with some noise in its parameters, so that layers that begin
    at zero show what they depend on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = architecture.build()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        image, number = torch.randn(2, 1, 28, 28), torch.eye(10)[[3, 7]]
        network.train()
        with own_errors(path, "forward(image (2, 1, 28, 28), number (2, 10)) failed"):
            outputs = network(image, number)
        _check_outputs(architecture.name, outputs, training=True)
        loss = sum(output.float().pow(2).mean() for output in outputs)
        with own_errors(path, "the backward pass failed"):
            loss.backward()
        idle = [name for name, parameter in network.named_parameters()
                if parameter.requires_grad and parameter.grad is None]  # fmt: skip
        if idle:
            raise UserError(f"{architecture.name}: no gradient reaches {', '.join(idle[:3])}; use it in an "
                            "output, or set its requires_grad to False")  # fmt: skip
        network.eval()
        same = image[:1].expand(2, -1, -1, -1)
        with torch.no_grad(), own_errors(path, "forward failed in evaluation mode"):
            outputs, others = network(same, number), network(image, number[:1].expand(2, -1))
        _check_outputs(architecture.name, outputs, training=False)
        if torch.equal(outputs[1][0], outputs[1][1]):
            raise UserError(f"{architecture.name}: sum_logits ignores the number: two numbers gave the same")
        for output, name in zip(others, ("digit_logits", "sum_logits"), strict=True):
            if torch.equal(output[0], output[1]):
                raise UserError(f"{architecture.name}: {name} ignores the image: two images gave the same")
        if hasattr(network, "encode") and hasattr(network, "join"):
            with torch.no_grad(), own_errors(path, "join(encode(image), number) failed"):
                joined = network.join(network.encode(same), number)
            if not all(torch.allclose(a, b, atol=1e-4) for a, b in zip(joined, outputs, strict=True)):
                raise UserError(
                    f"{architecture.name}: join(encode(image), number) is not forward(image, number)"
                )


def _check_outputs(model, outputs, training):
    """Raise UserError where the outputs for two images are not digit_logits and sum_logits."""
    if not isinstance(outputs, (tuple, list)) or len(outputs) != 2:
        raise UserError(f"{model}: forward has to return (digit_logits, sum_logits), not {_kind(outputs)}")
    for output, name, classes in zip(outputs, ("digit_logits", "sum_logits"), (10, 19), strict=True):
        fits = isinstance(output, torch.Tensor) and output.shape[-2:] == (2, classes)
        if not fits or output.dim() > (3 if training else 2):
            raise UserError(f"{model}: {name} has to be of shape (B, {classes}), here (2, {classes}), "
                            f"not {_kind(output)}")  # fmt: skip
        if not output.is_floating_point() or not torch.isfinite(output).all():
            raise UserError(f"{model}: {name} has to hold finite floats, not {_kind(output)}")
        if (output >= 0).all() and torch.allclose(output.sum(-1), torch.ones(()), atol=1e-3):
            raise UserError(f"{model}: {name} are probabilities; leave the softmax out, the loss takes it")


def _kind(value):
    if isinstance(value, torch.Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"{len(value)} outputs"
    return f"a {type(value).__name__}"
