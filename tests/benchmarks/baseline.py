"""What run.py measures ours against, as plain as its authors describe it.

The baseline: torchvision's data set, a DataLoader, one sample at a time, in the main process. Nothing here
is slower than in the documents of the published models: the same DataLoader, transforms and loss.

The speed-run: a one-epoch MNIST classifier, github.com/tuomaso/train_mnist_fast, as its last notebook
describes it (99.04% in 0.76 s on a GTX 1660 Ti). It predicts digits only; the sum is given to it.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from mnist_sum import models
from mnist_sum.data import load
from mnist_sum.dataset import normalised

TRANSFORM = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])


class MnistRandomNumber(Dataset):
    """An MNIST image with a random number beside it; limit keeps the first images."""

    def __init__(self, folder, train, limit=None):
        self.mnist = datasets.MNIST(folder, train=train, transform=TRANSFORM)
        self.count = min(len(self.mnist), limit or len(self.mnist))

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image, label = self.mnist[index]
        number = torch.randint(0, 10, (1,)).item()
        one_hot = nn.functional.one_hot(torch.tensor(number), 10).float()
        return image, one_hot, label, label + number


def loader(folder, train, limit=None):
    """Batches (image, number, digit, total) of MNIST's training images, shuffled, or of its test images."""
    return DataLoader(MnistRandomNumber(folder, train, limit), batch_size=512, shuffle=train)


def compact():
    """(model, optimizer) of `compact` as published, with PyTorch's own batch normalisation."""
    model = models.build("compact")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = nn.BatchNorm2d
    return model, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)


def train_epoch(batches, model, optimizer):
    """One epoch over a loader's batches; returns the counts (correct digits, correct sums)."""
    model.train()
    loss_function = nn.CrossEntropyLoss()
    correct_digits = correct_sums = 0
    for image, number, digit, total in batches:
        optimizer.zero_grad()
        digit_logits, sum_logits = model(image, number)
        loss = loss_function(digit_logits, digit) + loss_function(sum_logits, total)
        loss.backward()
        optimizer.step()
        correct_digits += (digit_logits.argmax(1) == digit).sum().item()
        correct_sums += (sum_logits.argmax(1) == total).sum().item()
    return correct_digits, correct_sums


@torch.no_grad()
def test(batches, model):
    """(digit accuracy, sum accuracy) as fractions, with one random number for each image."""
    model.eval()
    correct_digits = correct_sums = count = 0
    for image, number, digit, total in batches:
        digit_logits, sum_logits = model(image, number)
        correct_digits += (digit_logits.argmax(1) == digit).sum().item()
        correct_sums += (sum_logits.argmax(1) == total).sum().item()
        count += len(digit)
    return correct_digits / count, correct_sums / count


def accuracies(folder, limit):
    """An iterator over twenty epochs of `compact`: trains, yields the test accuracies (digit, sum)."""
    training, testing = loader(folder, True, limit), loader(folder, False, limit)
    model, optimizer = compact()
    return ((train_epoch(training, model, optimizer), test(testing, model))[1] for _ in range(20))


def speedrun_accuracies(folder, limit):
    """An iterator over the speed-run's one epoch: trains, yields the digit accuracy, twice."""
    data = load("mnist", folder, limit=limit)
    images, tests = (normalised(part.images.unsqueeze(1)) for part in (data.train, data.test))
    model = nn.Sequential(
        *(nn.Conv2d(1, 24, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(24, 32, 3), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.7, 0.9))
    batches = list(zip(images.split(256), data.train.digits.split(256), strict=True))  # in MNIST's own order
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.01, total_steps=len(batches), cycle_momentum=False
    )

    def epochs():
        for image, digit in batches:
            optimizer.zero_grad()
            cross_entropy(model(image), digit).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            predicted = torch.cat([model(part).argmax(1) for part in tests.split(2000)])
        accuracy = (predicted == data.test.digits).double().mean().item()
        yield accuracy, accuracy

    return epochs()


RIVALS = {"baseline": accuracies, "speed-run": speedrun_accuracies}
