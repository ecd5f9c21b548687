"""Where a run computes, and what makes it fast there."""

import ctypes

import torch

from mnist_sum.console import UserError

# glibc hands a freed block of this size or more back to the kernel at once, and every new one is
# then paid for page by page. Activations of a batch are that large and are freed in every step.
LARGEST_KEPT_BLOCK = 1 << 30
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


def choose_device(name):
    """The torch.device for "auto", "cpu" or "cuda"; raises UserError where CUDA is not available."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"there is no device {name!r:.40}; use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here; use --device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


def describe_device(device):
    """The device in words."""
    if device.type == "cuda":
        return f"CUDA, {torch.cuda.get_device_name(device)}"
    return f"CPU, {torch.get_num_threads()} threads"


def choose_precision(requested, device):
    """ "fp32" or "bf16": the requested one, or for "auto" bf16 where the processor itself has it.

    On a CPU without bf16 instructions, bf16 is emulated and can be tens of times slower.
    """
    if requested not in ("auto", "fp32", "bf16"):
        raise UserError(f"there is no precision {requested!r:.40}; use auto, fp32 or bf16")
    if requested != "auto":
        return requested
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16" if native else "fp32"


def place(model, device, channels_last):
    """Move the model to the device, in this memory format or in PyTorch's own; returns it."""
    return model.to(device, memory_format=torch.channels_last if channels_last else torch.preserve_format)


def keep_freed_memory():
    """Let this process keep freed memory for its next allocation, where the C library is glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK)
    mallopt(M_TRIM_THRESHOLD, LARGEST_KEPT_BLOCK)
