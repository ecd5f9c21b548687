"""Where a run computes: the device."""

import torch

from mnist_sum.errors import Fault


def choose_device(wanted):
    """The torch.device for "auto", "cpu" or "cuda"; raises Fault if CUDA is asked for in vain."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise Fault("there is no CUDA device here; use --device cpu")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


def describe_device(device):
    """The device in words."""
    if device.type == "cuda":
        return f"CUDA, {torch.cuda.get_device_name(device)}"
    return f"CPU, {torch.get_num_threads()} threads"
