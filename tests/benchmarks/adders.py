"""Which adder generalises to held-out pairs? Adders alone, given perfect one-hot digits instead of images.

    python tests/benchmarks/adders.py                     # all; about an hour of one thread
    python tests/benchmarks/adders.py --only line spread  # those whose name has one of the words

Each is trained on the seen pairs alone, all of them in every step, with AdamW and a cosine schedule; the ten
folds and three seeds side by side. Prints a Markdown table: the sums correct, in percent.
"""

import argparse
import math

import torch
from torch.nn.functional import one_hot, softplus

from mnist_sum.studies.pairs import ENDS, PAIRS, folds, ladder

SEEDS = 3
DIGIT, NUMBER = torch.tensor(PAIRS).T
INPUT = torch.cat((one_hot(DIGIT, 10), one_hot(NUMBER, 10)), 1).float()  # (100, 20)
SUMS = torch.arange(19.0)
# name: layers' widths, the activation between them, and trained()'s settings where they are others.
RELU, SQUARE, NONE = torch.relu, torch.square, torch.nn.Identity()
ADDERS = {
    "linear": ((20, 19), NONE, {"rate": 0.3, "steps": 20000}),
    "linear, weight decay 0.01": ((20, 19), NONE, {"rate": 0.1, "decay": 0.01}),
    "linear through 1 unit": ((20, 1, 19), NONE, {"rate": 0.03, "steps": 6000}),
    "linear through 2 units": ((20, 2, 19), NONE, {"rate": 0.03, "steps": 6000}),
    "linear through 3 units": ((20, 3, 19), NONE, {"rate": 0.03, "steps": 6000}),
    "linear through 4 units": ((20, 4, 19), NONE, {"rate": 0.03, "steps": 6000}),
    "hidden layer, 64 units": ((20, 64, 19), RELU, {}),
    "hidden layer, 256 units": ((20, 256, 19), RELU, {"rate": 0.003}),
    "two hidden layers": ((20, 64, 64, 19), RELU, {"rate": 0.003}),
    "hidden layer, weight decay 0.1": ((20, 64, 19), RELU, {"decay": 0.1}),
    "hidden layer, weight decay 1": ((20, 64, 19), RELU, {"decay": 1}),
    "hidden layer, weight decay 1, 10,000 steps": ((20, 64, 19), RELU, {"decay": 1, "steps": 10000}),
    "squared": ((20, 64, 19), SQUARE, {}),
    "squared, weight decay 1": ((20, 64, 19), SQUARE, {"decay": 1}),
    "squared, weight decay 1, 20,000 steps": ((20, 64, 19), SQUARE, {"decay": 1, "steps": 20000}),
    "squared, weight decay 2, 20,000 steps": ((20, 64, 19), SQUARE, {"decay": 2, "steps": 20000}),
    "linear, spread 1": ((20, 19), NONE, {"rate": 0.1, "spread": 1}),
    "linear, spread 2": ((20, 19), NONE, {"rate": 0.1, "spread": 2}),
    "linear, spread 3": ((20, 19), NONE, {"rate": 0.1, "spread": 3}),
    "hidden layer, spread 1": ((20, 64, 19), RELU, {"spread": 1}),
    "hidden layer, spread 2": ((20, 64, 19), RELU, {"spread": 2}),
    "linear, line": ((20, 1), NONE, {"outputs": "line", "rate": 0.1}),
    "linear, line, places learned": ((20, 1), NONE, {"outputs": "learned line", "rate": 0.03, "steps": 6000}),
    "linear, thresholds": ((20, 1), NONE, {"outputs": "thresholds", "rate": 0.03, "steps": 6000}),
    "hidden layer, line": ((20, 64, 1), RELU, {"outputs": "line"}),
    "hidden layer, line, weight decay 0.1": ((20, 64, 1), RELU, {"outputs": "line", "decay": 0.1}),
    "linear, line; labels are differences": ((20, 1), NONE, {"outputs": "line", "rate": 0.1, "sign": -1}),
}  # fmt: skip


def adder(widths, activation, outputs, count, draw):
    """(parameters, forward) of `count` adders side by side; forward() gives log P(sum), (count, 100, 19).

    outputs: "classes", 19 logits; or a position on a line, from which the sums' places have squared distances
    ("line", "learned line"), or which thresholds divide among the sums in order ("thresholds").
    """
    layers = []
    for rows, columns in zip(widths, widths[1:], strict=False):
        shapes, bound = ((count, rows, columns), (count, 1, columns)), rows**-0.5  # as nn.Linear has them
        layers.append([((2 * torch.rand(shape, generator=draw) - 1) * bound) for shape in shapes])
    sharpness = torch.zeros(count, 1, 1)  # a logarithm, as log_sharpness of line_adder
    places = (
        SUMS.expand(count, 1, 19) if outputs == "line" else 2 * torch.rand(count, 1, 19, generator=draw) - 1
    )
    steps = torch.zeros(count, 1, 18)  # from threshold to threshold
    extra = {"classes": [], "line": [sharpness], "learned line": [sharpness, places],
             "thresholds": [sharpness, steps]}[outputs]  # fmt: skip
    parameters = [each.requires_grad_() for each in (*sum(layers, []), *extra)]

    def forward():
        found = INPUT.expand(count, 100, 20)
        for place, (weight, bias) in enumerate(layers):
            found = found @ weight + bias
            found = activation(found) if place < len(layers) - 1 else found
        if outputs == "classes":
            return found.log_softmax(2)
        if outputs != "thresholds":
            return (-sharpness.exp() * (found - places) ** 2).log_softmax(2)
        above = torch.sigmoid(sharpness.exp() * (found - (softplus(steps).cumsum(2) - 6)))  # P(sum > s)
        ends = torch.ones(count, 100, 1), torch.zeros(count, 100, 1)
        return (torch.cat((ends[0], above), 2) - torch.cat((above, ends[1]), 2)).clamp(min=1e-7).log()

    return parameters, forward


def trained(
    held_out, widths, activation, outputs="classes", steps=4000, rate=0.01, decay=0, spread=0, sign=1
):
    """(correct, held out), each bool (runs, 100), of an adder for each of the lists of pairs held out.

    spread: of the targets, in sums; 0: cross-entropy of the sum. sign: -1 for digit - number + 9.
    """
    total = DIGIT + sign * NUMBER + (9 if sign < 0 else 0)
    unseen = torch.tensor([[pair in set(some) for pair in PAIRS] for some in held_out])
    target = one_hot(total, 19).float()
    if spread:  # a discretised normal distribution around the sum
        target = (-((SUMS - total.unsqueeze(1)) ** 2) / (2 * spread**2)).softmax(1)
    draw = torch.Generator().manual_seed(0)
    parameters, forward = adder(widths, activation, outputs, len(held_out), draw)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    for step in range(steps):
        rise, fall = min(1, (step + 1) / (0.1 * steps)), (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.param_groups[0]["lr"] = rate * rise * fall
        losses = -(forward() * target).sum(2) * ~unseen
        optimizer.zero_grad()
        (losses.sum(1) / (~unseen).sum(1)).sum().backward()
        optimizer.step()
    with torch.no_grad():
        return forward().argmax(2) == total, unseen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="words of the names (default: all)")
    words = parser.parse_args().only
    torch.set_num_threads(1)
    print(
        "| adder | seen | held out, ten folds | (9, 9) | (0, 0) | the other 98 | 81 held out |\n|"
        + 7 * "---|"
    )
    for name, (widths, activation, settings) in ADDERS.items():
        if not any(word in name for word in words):
            continue
        correct, unseen = trained(SEEDS * folds(), widths, activation, **settings)
        far, far_unseen = trained([ladder(81, 0)] * SEEDS, widths, activation, **settings)
        ends = torch.tensor([pair in ENDS for pair in PAIRS])
        parts = [~unseen, unseen, *(unseen & torch.tensor([pair == end for pair in PAIRS]) for end in ENDS),
                 unseen & ~ends]  # fmt: skip
        cells = [f"{100 * correct[part].float().mean():.1f}" for part in parts]
        cells.append(f"{100 * far[far_unseen].float().mean():.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
