"""Fetching MNIST's four files: with time-outs, bounded sizes and checked sums.

torchvision knows where MNIST lies and what its archives should be; its own transfer has no
time-out, trusts whatever was extracted last, and cannot be told to stop. So the addresses and sums
come from torchvision.datasets.MNIST and the transfer is done here.
"""

import gzip
import hashlib
import io
import os
import queue
import threading
import urllib.request

from mnist_sum.errors import Fault
from mnist_sum.files import write_atomically

MIRROR_VARIABLE = "MNIST_SUM_MIRROR"
STALL_SECONDS = 5  # a mirror that sends less than a CHUNK in this time is given up
CHUNK = 1 << 15
LARGEST_ARCHIVE = 16 << 20  # bytes; the largest of the four is 9.9 MB
LARGEST_FILE = 64 << 20  # bytes; the largest of the four is 47 MB


def fetch(folder, raw_sums):
    """Download, check and unpack the files named in raw_sums {name: MD5 of the raw file}.

    Each file is written whole or not at all. A mirror that fails once is not asked again, so that
    two dead ones are found out within twice STALL_SECONDS. Raises Fault with each one's reason.
    """
    from torchvision.datasets import MNIST

    mirrors = [os.environ[MIRROR_VARIABLE]] if os.environ.get(MIRROR_VARIABLE) else MNIST.mirrors
    archive_sums = dict(MNIST.resources)
    reasons = []
    for name, raw_sum in raw_sums.items():
        for mirror in list(mirrors):
            address = f"{mirror.rstrip('/')}/{name}.gz"
            try:
                archive = _read(address)
                _check_sum(archive, archive_sums[f"{name}.gz"], "archive")
                content = _unpack(archive)
                _check_sum(content, raw_sum, "unpacked file")
                write_atomically(folder / name, content)
                break
            except (OSError, ValueError, EOFError) as error:
                reasons.append(f"{address}: {_one_line(error)}")
                mirrors = [other for other in mirrors if other != mirror]
        else:
            raise Fault("it could not be downloaded (" + "; ".join(reasons) + ")")


def _one_line(error):
    """What a server sent may stand in the error, line ends and control characters too."""
    return "".join(c if c.isprintable() else " " for c in str(error))[:200]


def _read(address):
    """The bytes at the address, or OSError / ValueError if it stalls, ends early or is too long.

    A thread reads and this one waits, because a stall can hide where no socket time-out reaches:
    in the name look-up, or in a server that sends one byte now and then.
    """
    chunks = queue.Queue(maxsize=4)

    def receive():
        try:
            with urllib.request.urlopen(address, timeout=STALL_SECONDS) as response:
                length = response.headers.get("Content-Length")
                received = 0
                while chunk := response.read(CHUNK):
                    received += len(chunk)
                    chunks.put(chunk)
                if length is not None and received < int(length):
                    raise OSError(f"ended after {received} of {length} bytes")
                chunks.put(b"")
        except Exception as error:  # handed to the waiting thread, which raises it
            chunks.put(error)

    threading.Thread(target=receive, daemon=True).start()
    received = bytearray()
    while True:
        try:
            chunk = chunks.get(timeout=STALL_SECONDS)
        except queue.Empty:
            raise OSError(f"sent nothing for {STALL_SECONDS} s") from None
        if isinstance(chunk, Exception):
            raise OSError(str(getattr(chunk, "reason", chunk)) or type(chunk).__name__) from chunk
        if not chunk:
            return bytes(received)
        received += chunk
        if len(received) > LARGEST_ARCHIVE:
            raise ValueError(f"sends more than {LARGEST_ARCHIVE >> 20} MB")


def _unpack(archive):
    """The raw file inside a .gz, never more than LARGEST_FILE bytes of it."""
    with gzip.open(io.BytesIO(archive)) as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"unpacks to more than {LARGEST_FILE >> 20} MB")
    return content


def _check_sum(content, expected, what):
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(f"is not MNIST (MD5 of the {what} is {found}, not {expected})")
