"""Where a run computes, and what makes it fast there."""

import ctypes

import torch

from mnist_sum.errors import Fault

# glibc hands a freed block of this size or more back to the kernel at once, and every new one is
# then paid for page by page. Activations of a batch are that large and are freed in every step.
LARGEST_KEPT_BLOCK = 1 << 30
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


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


def choose_precision(wanted, device):
    """ "fp32" or "bf16": what was wanted, or for "auto" bf16 where the processor itself has it.

    On a CPU without bf16 instructions, bf16 is emulated and can be tens of times slower.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16" if native else "fp32"


def place(model, device):
    """Move the model to the device, in the memory format that is fastest there; returns it."""
    return model.to(device, memory_format=torch.channels_last)


def keep_freed_memory():
    """Let this process keep freed memory for its next allocation, where the C library is glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK)
    mallopt(M_TRIM_THRESHOLD, LARGEST_KEPT_BLOCK)
