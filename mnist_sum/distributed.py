"""Several processes, one run: who takes part, who has which share, what they tell each other.

`torchrun --nproc-per-node=N train.py …` starts N processes and numbers them in the environment.
Where there is only one, nothing here does anything. torch is imported by the functions that need
it, because usage errors are told, and told once, without it.
"""

import io
import os
import sys
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta

from mnist_sum.errors import Fault

# How long a process waits for another one that is alive and does not answer. One that dies is
# noticed at once. The longest wait that is no fault is for the first process to download MNIST.
TIMEOUT = timedelta(minutes=5)
PATIENCE = 10  # seconds that a silent process gives the first one to speak and torchrun to end both
LOST = ("another process of this run has ended or hangs; if the run was started with --save, go on from "
        "its last checkpoint with --resume")  # fmt: skip


def _several():
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


@contextmanager
def spoken_once():
    """Within it only the first process prints: for usage errors, which all processes would tell."""
    if not _several() or os.environ["RANK"] == "0":
        yield
        return
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    except SystemExit as end:
        if end.code:  # torchrun ends all as soon as one fails: let that one be the first
            time.sleep(PATIENCE)
        raise


@contextmanager
def joined(wanted):
    """Within it this process works with the others, if there are any; yields its torch.device.

    wanted is "auto", "cpu" or "cuda", for which each process gets a GPU of its own. A failure of one
    process ends them all; the first to fail raises, the others exit with 1 and say nothing, for
    theirs would only be its echo. Raises Fault where a process cannot be found, ends or hangs.
    """
    from mnist_sum.device import choose_device

    if not _several():
        yield choose_device(wanted)
        return
    import torch.distributed as dist

    store, rank, size = _meet()
    try:
        device = choose_device(wanted)
        if device.type == "cuda":
            _take_gpu()
        # gloo beside nccl: what the processes agree on in every step must not wait for a GPU
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT, store=store, rank=rank, world_size=size)
        yield device
        dist.destroy_process_group()
    except Exception as error:
        lost = isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error))
        first = _first_to_fail(store)
        if not first and (lost or isinstance(error, Fault)):
            sys.exit(1)
        if lost:
            raise Fault(LOST) from error
        raise


def _meet():
    """(the store that torchrun keeps for its processes, this one's rank, their number)."""
    from torch.distributed import rendezvous

    try:
        return next(rendezvous("env://", timeout=TIMEOUT))
    except (ValueError, RuntimeError) as error:
        cause = str(error).splitlines()[0]
        raise Fault(f"cannot find the other processes that RANK and WORLD_SIZE tell of ({cause}); "
                    "start them with torchrun, or unset both") from error  # fmt: skip


def _take_gpu():
    import torch

    number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= gpus:
        raise Fault(f"process {number + 1} of this machine has no GPU, there are {gpus}; "
                    f"use --nproc-per-node={gpus}, or --device cpu")  # fmt: skip
    torch.cuda.set_device(number)


def _first_to_fail(store):
    try:
        return store.add("failed", 1) == 1
    except RuntimeError:  # the store has ended too: better told twice than not at all
        return True


def size():
    """How many processes work on the run together; 1 outside of joined()."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank():
    """This process's number among them, from 0."""
    import torch.distributed as dist

    return dist.get_rank() if size() > 1 else 0


def share(count):
    """The slice of `count` things that is this process's; all slices together are all of them, in
    order, each once, and their lengths differ by one at most."""
    return slice(count * rank() // size(), count * (rank() + 1) // size())


def add_up(tensor):
    """Replace the tensor by its sum over all processes, the same bits in each; returns it."""
    import torch.distributed as dist

    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


def from_first(text=None):
    """The text that the first process gave, in all of them; so the others wait until it does."""
    import torch.distributed as dist

    box = [text]
    if size() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def agreed(stop_signal):
    """The highest of all processes' stop signals, in all of them; None if none has one."""
    import torch
    import torch.distributed as dist

    if size() == 1:
        return stop_signal
    highest = torch.tensor([stop_signal or 0])
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    return highest.item() or None


def replicated(model):
    """The model such that backward() leaves the processes' mean gradient in each of them.

    Its weights and buffers become those of the first process.
    """
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model) if size() > 1 else model
