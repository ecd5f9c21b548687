"""Downloading MNIST with time-outs, bounded sizes and a progress bar: 34 minutes a file at the very most.

torchvision knows the addresses and the archives' checksums; its own transfer has no time-out and trusts
whatever was extracted last.
"""

import gzip
import hashlib
import io
import os
import time
from concurrent.futures import Future
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from threading import Thread
from urllib import request

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
    """The bytes at the address; OSError where they come too slowly or are too many."""
    received, file = bytearray(), address.rpartition("/")[2]
    with progress(desc=file, unit="B", unit_scale=True) as bar, _answer(address) as response:
        bar.total = response.length  # None where the server tells none
        while chunk := response.read1(1 << 16):
            received += chunk
            bar.update(len(chunk))
    return received


def _answer(address):
    """The HTTP answer at the address, or TimeoutError after STALL_SECONDS.

    A thread asks: urllib's own time-out starts anew with each of a name's addresses (MNIST's first
    mirror can have eight), and does not hold for the name's look-up.
    """
    answer, meter, opener = Future(), _Meter(), request.OpenerDirector()
    http, https = request.HTTPHandler(), request.HTTPSHandler()
    http.http_open = partial(http.do_open, partial(meter.connection, HTTPConnection))
    https.https_open = partial(https.do_open, partial(meter.connection, HTTPSConnection))
    for handler in (http, https, request.ProxyHandler(), request.HTTPRedirectHandler(),
                    request.HTTPErrorProcessor(), request.HTTPDefaultErrorHandler(),
                    request.UnknownHandler()):  # fmt: skip
        opener.add_handler(handler)  # and none for ftp: or file:

    def ask():
        try:
            answer.set_result(opener.open(address, timeout=STALL_SECONDS))
        except Exception as error:
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    return answer.result(STALL_SECONDS)


class _Meter:
    """Counts every byte that comes: OSError where these are too many or too few.

    http.client takes headers, chunks' sizes, trailers, redirections' bodies and "100 Continue" without end,
    and a socket's own time-out starts anew with each byte. No wait for one takes longer than that time-out
    unless this process was suspended meanwhile, by Ctrl-Z say, for which no mirror is to blame.
    """

    def __init__(self):
        self.bytes = self.seconds = 0
        self.last = time.monotonic()

    def connection(self, kind, *arguments, **options):
        connection = kind(*arguments, **options)
        connection.response_class = self.response
        return connection

    def response(self, *arguments, **options):
        response = HTTPResponse(*arguments, **options)
        raw = response.fp.raw
        raw.readinto = partial(self.readinto, raw.readinto)
        return response

    def readinto(self, receive, buffer):
        count, now = receive(buffer), time.monotonic()
        self.bytes += count
        self.seconds, self.last = self.seconds + min(now - self.last, STALL_SECONDS), now
        if self.bytes > LARGEST_ARCHIVE:
            raise OSError(f"sends more than {LARGEST_ARCHIVE >> 20} MB")
        if self.bytes < SLOWEST * (self.seconds - STALL_SECONDS):
            raise TimeoutError(f"sends less than {SLOWEST >> 10} KB a second")
        return count
