"""Trials that the models' and the studies' page quote.

linear_head: what a fresh linear layer can add, given a trained linear_adder's digits in three forms.
adders: which adders, given perfect digits, get pairs right that they never saw.
"""

import argparse
import math
from itertools import chain, pairwise, product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad, softplus

from mnist_sum import cli
from mnist_sum.checkpoint import find_checkpoint, load_model
from mnist_sum.data import load_data, normalize, one_hot
from mnist_sum.device import keep_freed_memory
from mnist_sum.studies.pairs import folds, ladder


def linear_head(args: argparse.Namespace) -> None:
    keep_freed_memory()
    model: Any = load_model(find_checkpoint(args.checkpoint))[0]
    data = load_data("mnist", args.data_dir)
    digits, test_digits, steps = data.train.digits, data.test.digits, 60 if args.quick else 6000
    parts = [split.images.unsqueeze(1).split(1000) for split in (data.train, data.test)]
    with torch.no_grad():
        logits = [torch.cat([model.encode(normalize(part)) for part in images]) for images in parts]
    inputs = {
        "perfect one-hot digits": [one_hot(digits), one_hot(test_digits)],
        "softmax of the digit logits": [each.softmax(1) for each in logits],
        "raw digit logits": logits,
    }
    torch.manual_seed(0)
    print("| input of the fresh layer | sum % |\n|---|---|")
    for name, (train, test) in inputs.items():
        draw, layer = torch.Generator().manual_seed(0), nn.Linear(20, 19, bias=False)
        optimizer = torch.optim.Adam(layer.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
        for _ in range(steps):
            index, number = (torch.randint(end, (4096,), generator=draw) for end in (len(digits), 10))
            sum_logits = layer(torch.cat((train[index], one_hot(number)), 1))
            optimizer.zero_grad()
            cross_entropy(sum_logits, digits[index] + number).backward()
            optimizer.step()
            schedule.step()
        digit, number = test_digits.repeat_interleave(10), torch.arange(10).repeat(len(test))
        sum_logits = layer(torch.cat((test.repeat_interleave(10, 0), one_hot(number)), 1))  # (10 N, 19)
        accuracy = (sum_logits.argmax(1) == digit + number).float().mean()
        print(f"| {name} | {100 * accuracy:.2f} |", flush=True)


PAIRS = list(product(range(10), repeat=2))
DIGIT, NUMBER = torch.tensor(PAIRS).T
ADDERS = {  # name: widths, learning rate, steps
    "linear": ((20, 19), 0.3, 20000),
    "linear through 2 units": ((20, 2, 19), 0.03, 6000),
    "linear through 3 units": ((20, 3, 19), 0.03, 6000),
    "hidden layer, 64 units": ((20, 64, 19), 0.01, 4000),
    "linear, spread 2": ((20, 19), 0.1, 4000),
    "linear, spread 3": ((20, 19), 0.1, 4000),
    "linear, line": ((20, 1), 0.1, 4000),
    "linear, line, differences": ((20, 1), 0.1, 4000),
    "hidden layer, line": ((20, 64, 1), 0.01, 4000),
    "linear, thresholds": ((20, 1), 0.03, 6000),
}


def adders(args: argparse.Namespace) -> None:
    print("| adder | seen | ten folds | (9, 9) | (0, 0) | 81 held out |\n|---|---|---|---|---|---|")
    for name, (widths, rate, steps) in ADDERS.items():
        steps //= 100 if args.quick else 1
        correct, unseen = train_adders(3 * folds(), name, widths, rate, steps)
        far, far_unseen = train_adders(3 * [ladder(81, 0)], name, widths, rate, steps)
        ends = [correct[unseen[:, pair], pair] for pair in (99, 0)]
        parts = [correct[~unseen], correct[unseen], *ends, far[far_unseen]]
        print(f"| {name} | {' | '.join(f'{100 * part.float().mean():.1f}' for part in parts)} |", flush=True)


def train_adders(held_out: list, name: str, widths: tuple[int, ...], rate: float, steps: int) -> tuple[Tensor, Tensor]:
    """Train R adders side by side, one for each list of pairs -> (correct, held out), bool (R, 100)."""
    unseen = torch.tensor([[pair in each for pair in PAIRS] for each in held_out])
    labels = DIGIT - NUMBER + 9 if "differences" in name else DIGIT + NUMBER
    inputs, places = torch.cat((one_hot(DIGIT), one_hot(NUMBER)), 1), torch.arange(19.0)  # (100, 20), (19,)
    distance, spread = (places - labels.unsqueeze(1)) ** 2, float(name[-1]) if "spread" in name else 1e-3
    target = (-distance / (2 * spread**2)).softmax(1)  # (100, 19), a bell curve around the sum
    draw, runs = torch.Generator().manual_seed(0), len(held_out)
    layers = [
        [(2 * torch.rand(runs, n, columns, generator=draw) - 1) / rows**0.5 for n in (rows, 1)]
        for rows, columns in pairwise(widths)
    ]
    sharpness, gaps = torch.zeros(runs, 1, 1), torch.zeros(runs, 1, 18)
    parameters = [each.requires_grad_() for each in (*chain(*layers), sharpness, gaps)]
    optimizer = torch.optim.Adam(parameters)

    def log_probabilities() -> Tensor:  # (R, 100, 19)
        x = inputs @ layers[0][0] + layers[0][1]
        for weight, bias in layers[1:]:
            x = (x.relu() if "hidden" in name else x) @ weight + bias
        if widths[-1] == 19:
            return x.log_softmax(2)
        if "thresholds" not in name:  # x is a position on the line of sums
            return (-sharpness.exp() * (x - places) ** 2).log_softmax(2)
        above = torch.sigmoid(sharpness.exp() * (x - (softplus(gaps).cumsum(2) - 6)))  # P(sum > 0 ... 17)
        return (pad(above, (1, 0), value=1) - pad(above, (0, 1))).clamp(min=1e-7).log()

    for step in range(steps):
        warmup, decay = min(1, (step + 1) / (0.1 * steps)), (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.param_groups[0]["lr"] = rate * warmup * decay
        losses = -(log_probabilities() * target).sum(2) * ~unseen  # (R, 100)
        optimizer.zero_grad()
        (losses.sum(1) / (~unseen).sum(1)).sum().backward()
        optimizer.step()
    return log_probabilities().argmax(2) == labels, unseen


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.trials", description=__doc__)
    add = parser.add_argument
    add("trial", choices=("linear_head", "adders"))
    add("--checkpoint", default="runs/reproduction/linear_adder-0", metavar="FILE", help="of a linear_adder")
    add("--data-dir", metavar="DIR", help="where MNIST is (default: $MNIST_SUM_DATA, else data)")
    add("--quick", action="store_true", help="a few steps: shows that it runs")
    args = parser.parse_args(argv)
    {"linear_head": linear_head, "adders": adders}[args.trial](args)


if __name__ == "__main__":
    cli.run(main, "tests.benchmarks.trials")
