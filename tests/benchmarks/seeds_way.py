"""The seeds' way to train: torchvision, one sample at a time, as a reader of their text would write it.

Kept plain on purpose, for run.py and race.py to measure ours against. Nothing here is slower than
what the published texts describe: the same DataLoader, transforms and loss, in the main process.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

TRANSFORM = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])


class MnistRandomNumber(Dataset):
    """An MNIST image with a random number beside it, one sample at a time."""

    def __init__(self, folder, train, copies=1, limit=None):
        self.mnist = datasets.MNIST(folder, train=train, transform=TRANSFORM)
        self.count = min(len(self.mnist), limit or len(self.mnist))
        self.copies = copies

    def __len__(self):
        return self.count * self.copies

    def __getitem__(self, index):
        image, label = self.mnist[index % self.count]
        number = torch.randint(0, 10, (1,)).item()
        one_hot = nn.functional.one_hot(torch.tensor(number), 10).float()
        return image, one_hot, label, label + number


def loader(dataset, batch_size, shuffle):
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle)


def train_epoch(model, batches, optimizer):
    """One epoch over a loader of MnistRandomNumber; returns (digits right, sums right)."""
    model.train()
    loss_function = nn.CrossEntropyLoss()
    digits_right = sums_right = 0
    for image, number, digit, total in batches:
        optimizer.zero_grad()
        digit_logits, sum_logits = model(image, number)
        loss = loss_function(digit_logits, digit) + loss_function(sum_logits, total)
        loss.backward()
        optimizer.step()
        digits_right += (digit_logits.argmax(1) == digit).sum().item()
        sums_right += (sum_logits.argmax(1) == total).sum().item()
    return digits_right, sums_right


@torch.no_grad()
def test(model, batches):
    """(digit accuracy, sum accuracy) with one random number an image, as the seeds test."""
    model.eval()
    right, count = [0, 0], 0
    for image, number, digit, total in batches:
        digit_logits, sum_logits = model(image, number)
        right[0] += (digit_logits.argmax(1) == digit).sum().item()
        right[1] += (sum_logits.argmax(1) == total).sum().item()
        count += len(digit)
    return right[0] / count, right[1] / count
