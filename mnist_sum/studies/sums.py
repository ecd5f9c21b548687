"""`study sums`: two handwritten numbers of N digits; only their sum is told, never a digit.

The protocol is DeepProbLog's (ML-KULeuven/deepproblog, examples/MNIST/data): every image is used once, in the
order of MNIST's files; of 2N in a row the first N are the first number, its highest digit first, the others the
second. What is left over at the end is not used. So there are 60,000 / 2N sums to learn from and 10,000 / 2N to
test with. They stay the same throughout training.

The loss is the exact joint log-likelihood of all digits of the sum, by a carry chain. Predicted is the sum of
the most probable digits (as A-NeSI does, HEmile/a-nesi), which is correct at least where all 2N digits are.

Track a: the network of that protocol, a LeNet, without augmentation. Track b: tiny's, with augmentation.
"""

import time
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import pad
from torch.nn.utils import clip_grad_norm_

from mnist_sum import console, models
from mnist_sum.augment import affine, random_matrices
from mnist_sum.data import load
from mnist_sum.dataset import BACKGROUND, MEAN, STD, batches, normalised
from mnist_sum.models.addition import NEVER, add_log_probabilities, log_sum_exp
from mnist_sum.own import Architecture
from mnist_sum.recipes import RECIPES, Recipe
from mnist_sum.runs.series import mean_and_deviation, read_row, write_row
from mnist_sum.system.device import choose_device, choose_precision, keep_freed_memory
from mnist_sum.system.files import check_output, make_folder, write_atomically
from mnist_sum.system.randomness import generator
from mnist_sum.training import learning_rate, moving_average, new_state, update_average

DIGITS = (1, 2, 4, 15)
REPAIRINGS = 100  # of the test images, to tell a network's accuracy from the luck of one grouping
LARGEST_NORM = 1.0  # of the gradient
IMAGES_AT_ONCE = 1000  # in a test


class LeNet(nn.Sequential):
    """DeepProbLog's network, 44,426 parameters: image (B, 1, 28, 28) -> digit_logits (B, 10)."""

    def __init__(self, classes=10):
        super().__init__(
            *(nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)),
        )

    def encode(self, image):
        """The image comes normalised as everywhere here; the protocol's is (pixel - 0.5) / 0.5."""
        return self((image * STD + MEAN - 0.5) / 0.5)


def track_b(epochs, batch_size, rate):
    """tiny's recipe, but for these settings; the batch size is in sums."""
    return RECIPES["tiny"].overridden(epochs=epochs, batch_size=batch_size, learning_rate=rate)


def track_a(epochs, batch_size, rate):
    return Recipe(epochs, batch_size, rate, "onecycle", "adam", averaging="ema")


# Chosen on validation images; README.md in this folder has the trials. Other N take the last one's.
SETTINGS = {
    "a": {1: track_a(15, 64, 0.003), 2: track_a(15, 32, 0.003), 4: track_a(30, 16, 0.003), 15: track_a(40, 8, 0.003)},
    "b": {1: track_b(20, 64, 0.1), 2: track_b(30, 32, 0.1), 4: track_b(30, 16, 0.1), 15: track_b(60, 8, 0.1)},
}


def grouped(order, places):
    """Image indices order (n,) -> (S, 2, N): the sums that they make, as the protocol groups them."""
    count = len(order) // (2 * places)
    return order[: count * 2 * places].view(count, 2, places)


def total_digits(digits):
    """Two numbers' digits (..., 2, N) -> their total's (..., N + 1); the highest digit is first everywhere."""
    columns, carry, total = digits.sum(-2), 0, []
    for column in columns.unbind(-1)[::-1]:
        carry = column + carry
        total.insert(0, carry % 10)
        carry = carry // 10
    return torch.stack([carry, *total], -1)


def sum_log_likelihood(log_probabilities, total):
    """log P(total), (B,) in nats, of log P(digit), (B, 2, N, 10), and total_digits (B, N + 1).

    A carry chain, a hidden Markov model of two states: from the lowest column to the highest it keeps the joint
    log-probability of the columns so far and of the carry out of them.
    """
    columns = pad(add_log_probabilities(*log_probabilities.unbind(1)), (1, 1), value=NEVER)  # of -1 to 19
    carry = torch.arange(2, device=total.device)
    needed = total[:, 1:, None, None] + 10 * carry[:, None] - carry  # (B, N, 2 carries out, 2 in)
    steps = columns.gather(-1, needed.flatten(2) + 1).view(needed.shape)
    state = steps.new_tensor([0, NEVER])  # no carry comes into the lowest column
    for step in steps.unbind(1)[::-1]:
        state = log_sum_exp(step + state.unsqueeze(-2), -1)
    return state.gather(1, total[:, :1]).squeeze(1)


def train(state, images, groups, log_likelihood):
    """Train state.model on uint8 images (n, 28, 28), of which each row of groups (S, K) is one example.

    The loss, in nats, is the mean of -log_likelihood(log P(class) (B, K, classes), batch (B,)) over the B
    examples of a batch, whose indices are the batch; its gradient's norm is clipped. The other settings are
    those of state.recipe.
    """
    recipe, device = state.recipe, groups.device
    average, parameters = moving_average(state), list(state.raw.parameters())
    for epoch in range(recipe.epochs):
        parts = batches(len(groups), recipe.batch_size, state.seed, epoch, device)
        if recipe.augmentation == "affine":
            matrices = random_matrices(len(images), generator(state.seed, "affine", epoch), device)
        state.raw.train()
        bar = {"desc": f"epoch {epoch + 1}/{recipe.epochs}", "unit": "batch"}
        for step, batch in enumerate(console.progress(parts, **bar), epoch * len(parts)):
            state.optimizer.param_groups[0]["lr"] = learning_rate(recipe, step, recipe.epochs * len(parts))
            index = groups[batch].flatten()
            image = normalised(images[index]).unsqueeze(1)
            if recipe.augmentation == "affine":
                image = affine(image, matrices[index])
            with torch.autocast(device.type, torch.bfloat16, enabled=state.precision == "bf16"):
                logits = state.raw.encode(image)
            log_probabilities = logits.float().log_softmax(-1).view(len(batch), groups.shape[1], -1)
            loss = -log_likelihood(log_probabilities, batch).mean()
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            clip_grad_norm_(parameters, LARGEST_NORM, error_if_nonfinite=True)
            state.optimizer.step()
            if average is not None:
                update_average(*average, step, len(parts))


@torch.no_grad()
def digit_probabilities(model, images):
    """P(class), float32 (n, classes), of uint8 images (n, 28, 28)."""
    model.eval()
    parts = images.unsqueeze(1).split(IMAGES_AT_ONCE)
    return torch.cat([model.encode(normalised(part)).float().softmax(1) for part in parts])


def test(predicted, digits, places):
    """Of predicted and true digits (n,): accuracies, fractions, of the sums, of those of re-paired images (a mean),
    and of the digits."""
    def sum_accuracy(order):
        groups = grouped(order, places)
        return (total_digits(predicted[groups]) == total_digits(digits[groups])).all(-1).double().mean().item()

    orders = [torch.randperm(len(digits), generator=generator(0, "re-pairing", each)) for each in range(REPAIRINGS)]
    return {
        "sum_accuracy": sum_accuracy(torch.arange(len(digits))),
        "repaired_sum_accuracy": sum(map(sum_accuracy, orders)) / REPAIRINGS,
        "digit_accuracy": (predicted == digits).double().mean().item(),
    }


def run(track, places, seed, data, recipe, device):
    """Train and test one network; the figures of its row. data: a data.Data."""
    started = time.perf_counter()
    architecture = Architecture("lenet", LeNet, recipe, channels_last=True) if track == "a" else models.find("tiny")
    state = new_state(architecture, recipe, seed, device, choose_precision("auto", device))
    groups = grouped(torch.arange(len(data.train)), places)
    total = total_digits(data.train.digits[groups]).to(device)

    def log_likelihood(log_probabilities, batch):
        return sum_log_likelihood(log_probabilities.unflatten(1, (2, places)), total[batch])

    train(state, data.train.images.to(device), groups.flatten(1).to(device), log_likelihood)
    predicted = digit_probabilities(state.model, data.test.images.to(device)).argmax(1).cpu()
    return {**test(predicted, data.test.digits, places), "seconds": time.perf_counter() - started}
