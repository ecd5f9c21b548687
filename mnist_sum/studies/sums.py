"""The study `sums`: two handwritten numbers of N digits; only their sum is told, never a digit.

The protocol is DeepProbLog's (ML-KULeuven/deepproblog, src/deepproblog/examples/MNIST): every image is used once, in
MNIST's order. Of 2N images in a row the first N are one number, its highest digit first, the others the other. The
loss is the exact likelihood of all digits of the sum. The prediction is the sum of the most probable digits, as in
A-NeSI (HEmile/a-nesi, anesi/anesi.py, prior_y). Track a is the protocol's network, a LeNet, without augmentation;
track b is tiny's, with augmentation.
"""

import copy
import statistics
import time
from argparse import Namespace
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from mnist_sum.augment import affine, random_matrices
from mnist_sum.cli import UserError
from mnist_sum.data import MEAN, STD, Data, batches, load_data, normalize
from mnist_sum.device import choose_device, choose_precision, derived_seed, generator, keep_freed_memory
from mnist_sum.models import build_model
from mnist_sum.plots import draw_sums
from mnist_sum.recipes import RECIPES, Recipe
from mnist_sum.reproduce import mean_and_deviation
from mnist_sum.studies import Plan, Row, do_runs
from mnist_sum.studies.addition import NEVER, add_log_probabilities, log_sum_exp
from mnist_sum.training import float_tensors, learning_rate, make_optimizer, update_average

DIGITS, QUICK_EPOCHS = (1, 2, 4, 15), 10
LENET = Recipe(15, 64, 0.05, "onecycle", "nesterov", averaging="ema", weight_decay=5e-4)
SETTINGS = {  # of each track and N; a batch is so many sums. Chosen on validation images.
    ("a", 1): LENET,
    ("a", 2): replace(LENET, batch_size=32),
    ("a", 4): replace(LENET, epochs=20, batch_size=32, learning_rate=0.004, optimizer="adam", weight_decay=1e-4),
    ("a", 15): replace(LENET, epochs=60, batch_size=8, weight_decay=1e-3),
    ("b", 1): replace(RECIPES["tiny"], epochs=40, batch_size=128, learning_rate=0.1),
    ("b", 2): replace(RECIPES["tiny"], epochs=30, batch_size=32, learning_rate=0.1),
    ("b", 4): replace(RECIPES["tiny"], epochs=40, batch_size=32, learning_rate=0.05),
    ("b", 15): replace(RECIPES["tiny"], epochs=60, batch_size=8, learning_rate=0.05),
}
OTHERS = {  # sum accuracy in percent of the systems in README.md, which cites the sources, by N
    1: (98.00, 97.78, 97.73, 97.37, 90.10, 97.20, 97.30, 97.90, 97.62, 97.66),
    2: (95.20, 93.90, 96.40, 93.81, 95.96),
    4: (92.70, 91.65, 92.60, 92.30, 91.80, 91.84, 92.49, 93.50, 94.00),
    15: (60.46, 75.90, 73.30, 79.00, 77.29, 77.10, 80.80),
    100: (37.80,),
}


class LeNet(nn.Sequential):
    """DeepProbLog's network, 44,426 parameters: image (B, 1, 28, 28) -> digit_logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
        )

    def encode(self, image: Tensor) -> Tensor:
        return self((image * STD + MEAN - 0.5) / 0.5)  # normalized as in the protocol


def grouped(images: Tensor, places: int) -> Tensor:
    """Images, or their digits, (n, ...) -> (S, 2, N, ...): the sums that they make; a rest is not used."""
    return images[: len(images) - len(images) % (2 * places)].unflatten(0, (-1, 2, places))


def total_digits(digits: Tensor) -> Tensor:
    """Two numbers' digits (..., 2, N) -> their total's (..., N + 1); the highest digit is the first."""
    columns, total = digits.sum(-2), list[Tensor]()
    carry = torch.zeros_like(columns[..., 0])
    for column in columns.unbind(-1)[::-1]:
        total.insert(0, (column + carry) % 10)
        carry = (column + carry) // 10
    return torch.stack([carry, *total], -1)


def sum_log_likelihood(log_probabilities: Tensor, total: Tensor) -> Tensor:
    """log P(digit) (B, 2, N, 10) and total_digits (B, N + 1) -> log P(total), (B,) in nats.

    A hidden Markov model: from the lowest column to the highest it keeps the joint log-probability of the columns so
    far and of the carry out of them, 0 or 1.
    """
    columns = pad(add_log_probabilities(*log_probabilities.unbind(1)), (1, 1), value=NEVER)  # of -1 to 19
    carry = torch.arange(2, device=total.device)
    needed = total[:, 1:, None, None] + 10 * carry[:, None] - carry  # (B, N, 2 carries out, 2 in)
    steps = columns.gather(-1, needed.flatten(2) + 1).view(needed.shape)
    state = steps.new_tensor([0, NEVER])  # no carry comes into the lowest column
    for step in steps.unbind(1)[::-1]:
        state = log_sum_exp(step + state.unsqueeze(-2), -1)
    return state.gather(1, total[:, :1]).squeeze(1)


def run(track: str, places: int, seed: int, data: Data, recipe: Recipe) -> Row:
    """Train and test one network."""
    started, device = time.perf_counter(), choose_device("auto")
    precision, images = choose_precision("auto", device), data.train.images.to(device)
    groups = grouped(torch.arange(len(images)), places).to(device)  # (S, 2, N)
    total = total_digits(grouped(data.train.digits, places)).to(device)  # (S, N + 1)
    # model, optimizer, average
    torch.manual_seed(derived_seed(seed, "weights"))
    model: Any = LeNet() if track == "a" else build_model("tiny")
    model.to(device, memory_format=torch.channels_last if track == "a" else torch.preserve_format)
    ema_model, optimizer = copy.deepcopy(model), make_optimizer(model, recipe)
    ema, current = float_tensors(ema_model), float_tensors(model)

    for epoch in range(recipe.epochs):
        parts = batches(len(groups), recipe.batch_size, seed, epoch, device)
        if recipe.augmentation == "affine":
            matrices = random_matrices(len(images), generator(seed, "affine", epoch), device)
        progress = tqdm(parts, f"epoch {epoch + 1}/{recipe.epochs}", leave=False, disable=None)
        for step, batch in enumerate(progress, epoch * len(parts)):
            optimizer.param_groups[0]["lr"] = learning_rate(recipe, step, recipe.epochs * len(parts))
            index = groups[batch].flatten()  # (2 B N,)
            image = normalize(images[index]).unsqueeze(1)
            if recipe.augmentation == "affine":
                image = affine(image, matrices[index])
            # forward
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = model.encode(image)
            log_probabilities = logits.float().log_softmax(-1).view(len(batch), 2, places, 10)
            loss = -sum_log_likelihood(log_probabilities, total[batch]).mean()
            # backward
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if not clip_grad_norm_(model.parameters(), 1.0).isfinite():
                raise UserError(f"the loss is not finite in epoch {epoch + 1}; lower the rate in SETTINGS")
            optimizer.step()
            update_average(ema, current, step, len(parts))

    ema_model.eval()
    with torch.no_grad():
        parts = [normalize(part.to(device)) for part in data.test.images.unsqueeze(1).split(1000)]
        predicted = torch.cat([ema_model.encode(part).float().softmax(1).argmax(1).cpu() for part in parts])
    return accuracies(predicted, data.test.digits, places) | {"seconds": time.perf_counter() - started}


def accuracies(predicted: Tensor, digits: Tensor, places: int) -> Row:
    """Of the protocol's sums, of 100 random pairings' sums, which tells skill from luck, and of the digits (n,)."""
    orders = [torch.arange(len(digits))]
    orders += [torch.randperm(len(digits), generator=generator(0, "re-pairing", each)) for each in range(100)]
    found = []
    for order in orders:
        sums, true = (total_digits(grouped(each[order], places)) for each in (predicted, digits))
        found.append((sums == true).all(-1).double().mean().item())
    digit_accuracy = (predicted == digits).double().mean().item()
    return {"sum_accuracy": found[0], "repaired_sum_accuracy": sum(found[1:]) / 100, "digit_accuracy": digit_accuracy}


def study(args: Namespace) -> None:
    keep_freed_memory()
    data, plan = load_data(args.data, args.data_dir, args.split, 4000 if args.quick else None), Plan()
    if data.name == "sample":  # its digits take turns, and so would their sums
        sizes = len(data.train), len(data.test)
        orders = [torch.randperm(size, generator=generator(0, "sample's order")) for size in sizes]
        data = replace(data, train=data.train[orders[0]], test=data.test[orders[1]])
    digits = sorted(set(args.digits or ((1, 2) if args.quick else DIGITS)))
    if 2 * digits[-1] > len(data.test):
        raise UserError(f"{len(data.test):,} test images make no two numbers of {digits[-1]} digits; use fewer digits")
    for places, track in product(digits, args.track or "ab"):
        known = max(each for each in DIGITS if each <= places)  # of an N without settings those of the next smaller N
        recipe = replace(SETTINGS[track, known], split=args.split)
        recipe = replace(recipe, batch_size=max(1, recipe.batch_size * known // places))
        recipe = replace(recipe, epochs=QUICK_EPOCHS if args.quick else recipe.epochs)
        for seed in range(args.seeds or (1 if args.quick else 5 if places >= 15 else 10)):
            identity = {"track": track, "digits": places, "seed": seed, "data": data.name, "recipe": asdict(recipe)}
            plan[f"{track}-{places}-{seed}"] = identity, partial(run, track, places, seed, data, recipe)
    do_runs(args, plan, publish)


def publish(rows: list[Row], path: Path) -> str:
    """Draw the picture, and return a table of all runs."""
    part = "validation" if rows[0]["recipe"]["split"] == "validation" else "test"
    lines = [f"Means ± standard deviations over the seeds, in percent, on the {part} images of {rows[0]['data']}.", ""]
    lines += ["| track | N | sum | sum, 100 re-pairings | digit | digit to the power 2N | seconds | seeds |"]
    lines += ["|" + 8 * "---|"]
    measured, ceilings = dict[str, dict](), dict[str, dict]()
    for track, places in sorted({(row["track"], row["digits"]) for row in rows}):
        runs = [row for row in rows if (row["track"], row["digits"]) == (track, places)]
        names = "sum_accuracy", "repaired_sum_accuracy", "digit_accuracy"
        percents, seconds = [[100 * row[name] for row in runs] for name in names], [row["seconds"] for row in runs]
        ceiling = 100 * statistics.mean(row["digit_accuracy"] for row in runs) ** (2 * places)  # of independent errors
        cells = [track, str(places), *map(mean_and_deviation, percents), f"{ceiling:.2f}", mean_and_deviation(seconds)]
        lines.append(f"| {' | '.join(cells)} | {len(runs)} |")
        deviation = statistics.stdev(percents[0]) if len(runs) > 1 else 0.0
        measured.setdefault(f"track {track}", {})[places] = statistics.mean(percents[0]), deviation
        ceilings.setdefault(f"track {track}", {})[places] = ceiling
    reported = [(places, accuracy) for places, accuracies in OTHERS.items() for accuracy in accuracies]
    draw_sums(measured, ceilings, {"track a": reported}, path)
    return "\n".join([*lines, ""])
