"""The rivals in run.py, as plain as their authors describe them.

The baseline: `compact` as published, torchvision's dataset in a DataLoader, one sample at a time, float32.
The speed-run: a one-epoch digit classifier, GitHub tuomaso/train_mnist_fast, its last notebook.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from mnist_sum.data import Split, normalize
from mnist_sum.models.compact import Compact


class MNIST(datasets.MNIST):
    """An item is image, one-hot number, digit, sum. (The class's name is that of its folder.)"""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int, int]:
        image, digit = super().__getitem__(index)
        number = int(torch.randint(0, 10, (1,)).item())
        return image, one_hot(torch.tensor(number), 10).float(), digit, digit + number


def loader(folder: str, train: bool, limit: int) -> DataLoader:
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    dataset = MNIST(folder, train, transform, download=True)
    dataset.data, dataset.targets = dataset.data[:limit], dataset.targets[:limit]
    return DataLoader(dataset, batch_size=512, shuffle=train)


def run_epoch(batches: DataLoader, model: nn.Module, optimizer: Optimizer | None) -> tuple[float, float]:
    """Train for an epoch, or test where there is no optimizer -> (digit accuracy, sum accuracy)."""
    model.train(optimizer is not None)
    correct_digits = correct_sums = count = 0
    with torch.set_grad_enabled(optimizer is not None):
        for image, number, digit, total in batches:
            digit_logits, sum_logits = model(image, number)
            if optimizer:
                optimizer.zero_grad()
                (cross_entropy(digit_logits, digit) + cross_entropy(sum_logits, total)).backward()
                optimizer.step()
            correct_digits += (digit_logits.argmax(1) == digit).sum().item()
            correct_sums += (sum_logits.argmax(1) == total).sum().item()
            count += len(digit)
    return correct_digits / count, correct_sums / count


def baseline_epochs(train: DataLoader, test: DataLoader) -> Iterator[tuple[float, float]]:
    """Train for 20 epochs; yields each one's test accuracies, with one random number for each image."""
    model = Compact()
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(20):
        run_epoch(train, model, optimizer)
        yield run_epoch(test, model, None)


def speed_run_epochs(train: Split, test: Split) -> Iterator[tuple[float, float]]:
    """Train for one epoch, in MNIST's own order; yields the digit's test accuracy twice."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 24, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(24, 32, 3), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 10)),
    )
    optimizer = Adam(model.parameters(), betas=(0.7, 0.9))
    images, test_images = (normalize(split.images.unsqueeze(1)) for split in (train, test))
    steps = list(zip(images.split(256), train.digits.split(256), strict=True))
    schedule = OneCycleLR(optimizer, 0.01, total_steps=len(steps), cycle_momentum=False)
    for image, digit in steps:
        optimizer.zero_grad()
        cross_entropy(model(image), digit).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        predicted = torch.cat([model(part).argmax(1) for part in test_images.split(2000)])
    yield ((predicted == test.digits).double().mean().item(),) * 2
