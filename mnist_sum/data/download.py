"""Downloading MNIST with time-outs, bounded sizes and a progress bar.

torchvision knows the addresses and the archives' checksums; its own transfer has no time-out and trusts
whatever was extracted last.
"""

import gzip
import hashlib
import io
import os
import time
from concurrent.futures import Future
from http.client import HTTPException
from threading import Thread
from urllib.request import urlopen

from mnist_sum.console import UserError, progress
from mnist_sum.system.files import write_atomically

MIRROR_VARIABLE = "MNIST_SUM_MIRROR"
STALL_SECONDS = 5  # a mirror that does not answer, or is silent, for so long is given up
SLOWEST = 8 << 10  # bytes a second, on average after the first STALL_SECONDS
LARGEST_ARCHIVE = 16 << 20  # bytes; the largest of the four is 9.9 MB
LARGEST_FILE = 64 << 20  # bytes; the largest of the four is 47 MB


def fetch(folder, raw_sums):
    """Download, check and unpack the files named in raw_sums {name: MD5 of the raw file}.

    Each file is written whole or not at all. A mirror that failed is not asked again, so that two
    dead ones are found out within twice STALL_SECONDS. Raises UserError with each mirror's reason.
    """
    from torchvision.datasets import MNIST

    mirrors = [os.environ[MIRROR_VARIABLE]] if os.environ.get(MIRROR_VARIABLE) else list(MNIST.mirrors)
    archive_sums, reasons = dict(MNIST.resources), []
    for name, raw_sum in raw_sums.items():
        for mirror in list(mirrors):
            address = f"{mirror.rstrip('/')}/{name}.gz"
            try:
                archive = _checked(_download(address), archive_sums[f"{name}.gz"])
                with gzip.open(io.BytesIO(archive)) as file:
                    write_atomically(folder / name, _checked(file.read(LARGEST_FILE), raw_sum))
                break
            except (OSError, HTTPException, ValueError) as error:
                reason = f"{address}: {str(error) or 'no answer in time'}"[:300]
                reasons.append(reason.encode("unicode_escape").decode())  # a server may have worded it
                mirrors.remove(mirror)
        else:
            raise UserError("; ".join(reasons))


def _checked(content, md5):
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"wrong checksum: not MNIST, or incomplete ({len(content):,} bytes)")
    return content


def _download(address):
    """The bytes at the address, of too many the first; OSError where they come too slowly."""
    received, started, file = bytearray(), time.monotonic(), address.rpartition("/")[2]
    with progress(desc=file, unit="B", unit_scale=True) as bar, _answer(address) as response:
        bar.total = getattr(response, "length", None)  # None, too, where the server tells no length
        while len(received) < LARGEST_ARCHIVE and (chunk := response.read1(1 << 16)):
            received += chunk
            bar.update(len(chunk))
            if len(received) < SLOWEST * (time.monotonic() - started - STALL_SECONDS):
                raise TimeoutError(f"sends less than {SLOWEST >> 10} KB a second")
    return received


def _answer(address):
    """urlopen(address), or TimeoutError after STALL_SECONDS.

    A thread asks: urlopen's own time-out starts anew with each of a name's addresses (MNIST's first
    mirror can have eight) and each piece of the headers, and does not hold for the name's look-up.
    """
    answer = Future()

    def ask():
        try:
            answer.set_result(urlopen(address, timeout=STALL_SECONDS))
        except Exception as error:
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    return answer.result(STALL_SECONDS)
