"""Several processes, one run: the process group, each one's shard, what they exchange.

`torchrun --nproc-per-node=N train.py …` starts N processes and numbers them in the environment.
Where there is only one, nothing here does anything. A process that fails or is killed ends the run at
once or, where another is busy, in 30 seconds; one that hangs, in five minutes and a half. torchrun's own
exit code is then 1, whatever the reason.
"""

import os
import sys
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from mnist_sum import console
from mnist_sum.console import UserError
from mnist_sum.system.device import choose_device

# How long a process waits for another one that is alive and does not answer. One that dies is
# noticed at once. The longest wait without a failure is for rank 0 to download MNIST.
TIMEOUT = timedelta(minutes=5)
LOST = ("another process of this run has ended or hangs; if the run was started with --save, resume it "
        "from its last checkpoint with --resume")  # fmt: skip


@contextmanager
def process_group(device_name):
    """Within it this process works with the others, if there are any; yields its torch.device.

    device_name is "auto", "cpu" or "cuda", for which each process gets a GPU of its own. Only rank 0
    prints. A failure of one process ends them all: the first to fail raises, the others exit with 1
    and print nothing, as their errors only follow from its. Raises UserError where a process cannot be
    reached, ends or hangs.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        yield choose_device(device_name)
        return
    store, own_rank, world_size = _rendezvous()
    console.silence(own_rank > 0)
    try:
        device = choose_device(device_name)
        if device.type == "cuda":
            _take_gpu()
        # gloo beside nccl: the stop signals exchanged in every step must not wait for a GPU
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT, store=store, rank=own_rank, world_size=world_size)
        yield device
        dist.destroy_process_group()
    except Exception as error:
        lost = isinstance(error, dist.DistError) or _is_gloos(error)
        if not _first_to_fail(store) and (lost or isinstance(error, UserError)):
            sys.exit(1)
        if lost:
            raise UserError(LOST) from error
        raise


def _rendezvous():
    """(the store that torchrun keeps for its processes, this one's rank, their number)."""
    try:
        if not 0 <= int(os.environ["RANK"]) < int(os.environ["WORLD_SIZE"]) < 2**31:
            raise ValueError("RANK has to be from 0 to WORLD_SIZE - 1, and that below 2^31")
        return next(dist.rendezvous("env://", timeout=TIMEOUT))
    except (ValueError, RuntimeError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(f"cannot reach the other processes given by RANK and WORLD_SIZE ({cause}); "
                        "start them with torchrun, or unset both") from error  # fmt: skip


def _is_gloos(error):
    """Whether gloo raised it: those have no type of their own, and most name a source file of gloo's."""
    text = str(error)
    return type(error) is RuntimeError and ("gloo" in text or "pair closure" in text)


def _take_gpu():
    number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= gpus:
        raise UserError(f"there is no GPU for process {number + 1} of this machine, only {gpus}; "
                        f"use --nproc-per-node={gpus}, or --device cpu")  # fmt: skip
    torch.cuda.set_device(number)


def _first_to_fail(store):
    try:
        return store.add("failed", 1) == 1
    except RuntimeError:  # the store has ended too: better printed twice than not at all
        return True


def size():
    """How many processes work on the run together; 1 outside of process_group()."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank():
    """This process's number among them, from 0."""
    return dist.get_rank() if size() > 1 else 0


def shard(count):
    """The slice of `count` items that is this process's; all slices together are all items, in
    order, each once, and their lengths differ by one at most."""
    return slice(count * rank() // size(), count * (rank() + 1) // size())


def all_reduce(tensor):
    """Replace the tensor by its sum over all processes, the same bits in each; returns it."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


def broadcast(text=None):
    """The text that rank 0 gave, in all processes; so the others wait until it does."""
    box = [text]
    if size() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def any_stop_signal(stop_signal):
    """The highest of all processes' stop signals, in all of them; None if none has one."""
    if size() == 1:
        return stop_signal
    highest = torch.tensor([stop_signal or 0])
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    return highest.item() or None


def wrapped_in_ddp(model):
    """The model such that backward() leaves the processes' mean gradient in each of them.

    Its weights and buffers become those of rank 0.
    """
    return DistributedDataParallel(model) if size() > 1 else model
