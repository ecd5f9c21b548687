"""Where a run computes: device, precision, memory, random draws, and the processes of torchrun."""

import ctypes
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
import torch.distributed as dist

from mnist_sum.cli import UserError


def choose_device(name: str) -> torch.device:
    """Any torch device by its name; "auto" is CUDA where it is available, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except Exception as error:  # each backend raises its own kind
        reason = str(error).partition("\n")[0].partition(". ")[0]
        cuda = f" and {torch.cuda.device_count()} CUDA device(s)" if torch.cuda.is_available() else ""
        raise UserError(f"no device {name!r} here, only the cpu{cuda}: {reason}") from None
    return device


def choose_precision(requested: str, device: torch.device) -> str:
    """ "fp32" or "bf16"; "auto" is bf16 where the processor has it, as emulation is slow."""
    if requested != "auto":
        return requested
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return "bf16" if native else "fp32"


def describe_device(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{name}{threads}" + (f", {world_size()} processes" if world_size() > 1 else "")


def keep_freed_memory() -> None:
    """Have glibc keep freed memory, where it is the C library: a step on the CPU is twice as fast.

    By default it returns large blocks to the kernel at once, and each new one is paid for page by page.
    """
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            mallopt(option, 1 << 30)


def derived_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """A 63-bit seed for one purpose ("order", "numbers", ...) at one place of the run.

    Every draw of a run comes from here, so a resumed run needs no saved random state. ("/0": as in older versions.)
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}/0".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """A CPU generator for one purpose, so that every device sees the same draws."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, epoch))


# torchrun --nproc-per-node=N train.py ...


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def process_group(device_name: str) -> Iterator[tuple[torch.device, bool]]:
    """Join the other processes of torchrun, if any; yields this one's device, and whether it is the main one."""
    if "RANK" not in os.environ:
        yield choose_device(device_name), True
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if device_name == "cuda" or device_name == "auto" and torch.cuda.is_available():
        device_name = f"cuda:{local_rank}"
        choose_device(device_name)
        torch.cuda.set_device(local_rank)
    dist.init_process_group()  # gloo for tensors on the CPU, NCCL for those on a GPU
    try:
        yield choose_device(device_name), rank() == 0
    finally:
        dist.destroy_process_group()


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Rank 0 does what is inside before the others do: it downloads MNIST, say."""
    if dist.is_initialized() and rank() > 0:
        dist.barrier()
    yield
    if dist.is_initialized() and rank() == 0:
        dist.barrier()


def shard(count: int) -> slice:
    """This process's part of `count` items."""
    return slice(count * rank() // world_size(), count * (rank() + 1) // world_size())
