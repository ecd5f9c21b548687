"""What a model is given: images, each paired with a number, batch by batch.

The images of a split are one uint8 tensor on the training device. A batch is one index operation
and a normalisation; there is no Python per image.
"""

import torch
from torch.utils.data import Dataset

from mnist_sum.recipes import held_out_pairs
from mnist_sum.system.randomness import generator

MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels scaled to [0, 1]
LEAST_LEFT_OVER = 1 / 8  # of a batch: fewer images join the batch before them
DRAWS = 2520  # divisible by 1 to 10: the remainder of a draw is uniform, however many numbers are allowed
BACKGROUND = -MEAN / STD  # a black pixel once normalised


def normalised(images):
    """uint8 (…, 28, 28) -> float32 with MNIST's training mean 0 and standard deviation 1."""
    return images.float().mul_(1 / (255 * STD)).sub_(MEAN / STD)


def one_hot(numbers):
    """int64 (B,) in 0..9 -> float32 (B, 10)."""
    return torch.nn.functional.one_hot(numbers, 10).float()


class MnistSum(Dataset):
    """A split, each image paired with a number: item = (image, number), (digit, total).

    image (1, 28, 28) float32 normalised, number (10,) one-hot float32, digit and total int64;
    total = digit + number. Indexed with a list or tensor of B indices it returns the whole batch,
    each with a leading axis B, in one tensor operation (for a DataLoader:
    `sampler=BatchSampler(…), batch_size=None`).

    The number of image i in epoch e is a pure function of (seed, e, i); with numbers="fixed" the
    epoch does not count. Call set_epoch before each epoch. It is one of those that are not held out with
    the image's digit (held_out: see recipes.held_out_mask), each as probable as the others.
    """

    def __init__(self, split, seed=0, numbers="fresh", device="cpu", held_out="none"):
        self.images = split.images.unsqueeze(1).to(device)
        self.digits = split.digits.to(device)
        self.seed = seed
        self.fixed = numbers == "fixed"
        allowed = torch.ones(10, 10, dtype=torch.bool)  # of each digit (row), which numbers
        for pair in held_out_pairs(held_out):
            allowed[pair] = False
        self.counts = allowed.sum(1)
        self.allowed = allowed.int().argsort(dim=1, descending=True, stable=True)  # the numbers, these first
        self.set_epoch(0)

    def set_epoch(self, epoch):
        """Draw the numbers of that epoch, from 0."""
        draw = generator(self.seed, "numbers", 0 if self.fixed else epoch)
        draws = torch.randint(DRAWS, (len(self.digits),), generator=draw)
        digits = self.digits.cpu()
        numbers = self.allowed[digits, draws % self.counts[digits]]
        self.numbers = numbers.to(self.digits.device)

    def __len__(self):
        return len(self.digits)

    def __getitem__(self, index):
        if not isinstance(index, (int, slice, torch.Tensor)):
            index = torch.as_tensor(index, dtype=torch.long, device=self.digits.device)
        digit, number = self.digits[index], self.numbers[index]
        return (normalised(self.images[index]), one_hot(number)), (digit, digit + number)


def batches(size, batch_size, seed, epoch, device="cpu"):
    """The epoch's order of `size` images as a tuple of index tensors, the last one maybe of another size.

    A last batch of one image, or below an eighth of the batch size, joins the one before it. Alone it would
    be a whole step, on poor statistics of batch normalisation: with two of 3,330 images left over (batches of
    128, rate 0.25, seeds 0 and 1) `tiny` ended at 10% accuracy.
    The whole order goes to the device at once, so that no step waits for its own part.
    """
    order = torch.randperm(size, generator=generator(seed, "order", epoch)).to(device)
    parts = order.split(batch_size)
    if len(parts) > 1 and len(parts[-1]) < min(batch_size, max(2, batch_size * LEAST_LEFT_OVER)):
        parts = (*parts[:-2], torch.cat(parts[-2:]))
    return parts
