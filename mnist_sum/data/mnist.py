"""MNIST's four files: checked before use, downloaded where they are absent or damaged."""

import hashlib
import os
from pathlib import Path

import torch

from mnist_sum.console import UserError
from mnist_sum.data.download import LARGEST_FILE, fetch
from mnist_sum.system.files import folder_lock, make_folder, read_regular

# MD5 of the extracted files. A killed download can leave a truncated one behind.
RAW_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def load_mnist(folder):
    """(images, digits) for training and (images, digits) for testing, from folder/MNIST/raw.

    images (N, 28, 28) uint8, digits (N,) int64; N is 60,000 and 10,000. The files lie where torchvision
    puts them. Raises UserError where one is not MNIST's, byte for byte, and cannot be downloaded.
    """
    raw = Path(folder) / "MNIST" / "raw"
    contents = {name: _read(raw / name, md5) for name, md5 in RAW_FILES.items()}
    wrong = [name for name, content in contents.items() if content is None]
    if wrong:
        absent = not any(os.path.exists(raw / name) for name in RAW_FILES)
        state = "was not found" if absent else f"is incomplete or damaged ({', '.join(wrong)})"
        try:
            make_folder(raw)
            with folder_lock(raw, wait=True):  # whoever waited finds the files already there
                fetch(raw, {n: RAW_FILES[n] for n in wrong if _read(raw / n, RAW_FILES[n]) is None})
        except UserError as error:
            raise UserError(f"MNIST {state} in {folder} and could not be downloaded ({error}); "
                            "see --data-dir") from None  # fmt: skip
        contents |= {name: _read(raw / name, RAW_FILES[name]) for name in wrong}
    train_images, train_digits, test_images, test_digits = contents.values()
    return (  # an IDX header is 16 bytes for images and 8 for labels
        (train_images[16:].view(-1, 28, 28), train_digits[8:].long()),
        (test_images[16:].view(-1, 28, 28), test_digits[8:].long()),
    )


def _read(path, md5):
    """The file's bytes as a uint8 tensor, or None if it cannot be read or has another MD5."""
    try:
        content = bytearray(read_regular(path, LARGEST_FILE))
    except OSError:
        return None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        return None
    return torch.frombuffer(content, dtype=torch.uint8)
