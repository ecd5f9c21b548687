"""Where every random draw of a run comes from: a pure function of (seed, epoch, step, purpose).

Nothing else feeds a run, so a resumed run draws what an uninterrupted one draws, the
number of processes does not change the data, and there is no generator state to save.
"""

import hashlib

import torch


def derived_seed(seed, purpose, epoch=0, step=0):
    """A 63-bit seed for one purpose ("order", "numbers", …) at one place of the run."""
    text = f"{seed}/{purpose}/{epoch}/{step}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(seed, purpose, epoch=0, step=0):
    """A fresh CPU generator for one purpose; the CPU's, so that every device sees the same draw."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, epoch, step))
