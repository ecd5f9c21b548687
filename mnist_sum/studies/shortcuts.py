"""The study `shortcuts`: learning from sums where these do not tell what the digits are.

The protocol is rsbench's MNIST-Half (unitn-sml/rsbench-code, rsseval/rss/datasets/halfmnist.py): the sum of
two digits from 0 to 4 is told; seven ordered pairs of digits occur in training, the eighteen others do not.
A network that takes 2, 3, 4 for 3, 2, 3 or for 4, 1, 2 has these seven sums right, too: a reasoning shortcut
(Marconato et al. 2023). It shows in the sums of unseen pairs alone. So no accuracy is a goal here.

Network, loss and loop are those of track a of the study `sums`, but for five classes. Every training image is
used at most once, in pairs that stay the same. rsbench draws its images at random, and has another network.
"""

import time
from dataclasses import asdict
from functools import partial
from types import SimpleNamespace

import torch

from mnist_sum import console
from mnist_sum import data as images
from mnist_sum.data import Split
from mnist_sum.evaluation.errors import calibration_error
from mnist_sum.models.addition import add_log_probabilities
from mnist_sum.own import Architecture
from mnist_sum.recipes import Recipe
from mnist_sum.runs.folder import data_folder
from mnist_sum.runs.series import mean_and_deviation, row_of
from mnist_sum.studies.sums import QUICK_IMAGES, LeNet, digit_probabilities, train
from mnist_sum.system.device import choose_device, choose_precision, keep_freed_memory
from mnist_sum.system.files import check_output, make_folder, write_atomically
from mnist_sum.training import new_state

TABLE = "shortcuts.md"
CLASSES = 5
SEEN = ((0, 0), (0, 1), (1, 0), (2, 3), (3, 2), (2, 4), (4, 2))
RECIPE = Recipe(10, 64, 0.003, "onecycle", "adam", averaging="ema")
FIGURES = ("seen_accuracy", "unseen_accuracy", "seen_digit_accuracy", "unseen_digit_accuracy",
           "digit_accuracy", "calibration_error", "seconds")  # fmt: skip
PUBLISHED = """\
| semantic loss, as reported | 99.62 | 0.48 | 42.88 | 38.92 | - | - | - | - |
| DeepProbLog's loss, as reported | 98.24 | 5.81 | 42.76 | 38.97 | - | - | - | - |
| NeSyDM, unconditional entropy, as reported | 99.12 | 10.90 | 79.41 | 57.22 | - | - | - | - |
| NeSyDM, conditional entropy, as reported | 99.12 | 28.44 | 71.16 | 62.76 | - | - | - | - |

Reported: NeSyDM's paper (arXiv 2505.13138), table 3, ten seeds, with rsbench's network and images; the second
row is called PNP there. Its calibration errors are by another measure. Ours is the digit's, of 15 bins."""


def study(data, data_dir, split, seeds, output_dir, quick):
    """Do the runs that are not done yet; print a row for each run, and write the table.

    All as cli.parse_study gives them. A run that was stopped begins anew. Returns the exit code.
    """
    folder = make_folder(output_dir)
    check_output(folder / TABLE)
    keep_freed_memory()
    loaded = images.load(data, data_folder(data_dir), split, QUICK_IMAGES if quick else None)
    about = {
        "data": loaded.name,
        "fingerprint": loaded.fingerprint(),
        "split": split,
        "recipe": asdict(RECIPE),
    }
    rows = []
    for seed in console.progress(range(seeds or (1 if quick else 10)), desc="runs"):
        row, _ = row_of(folder / str(seed), {"seed": seed, **about}, partial(run, seed, loaded))
        rows.append(row)
        console.results([row], line(row))
        write_atomically(folder / TABLE, table(rows).encode())
    console.note(f"\n{table(rows).rstrip()}")
    return 0


def run(seed, data):
    """Train and test one network: the figures of its row, fractions and seconds."""
    started, device = time.perf_counter(), choose_device("auto")
    architecture = Architecture("lenet", lambda: LeNet(CLASSES), RECIPE, channels_last=True)
    state = new_state(architecture, RECIPE, seed, device, choose_precision("auto", device))
    groups = paired(data.train.digits)
    total = data.train.digits[groups].sum(1, keepdim=True).to(device)

    def log_likelihood(log_probabilities, batch):
        return add_log_probabilities(*log_probabilities.unbind(1)).gather(1, total[batch]).squeeze(1)

    train(state, data.train.images.to(device), groups.to(device), log_likelihood)
    few = data.test.digits < CLASSES
    tested = Split(data.test.images[few].to(device), data.test.digits[few])
    probability, predicted = digit_probabilities(state.model, tested.images).cpu().max(1)
    correct = predicted == tested.digits
    sums = pair_accuracies(predicted, tested.digits)
    seen = torch.zeros(CLASSES, CLASSES, dtype=torch.bool)
    seen[tuple(zip(*SEEN, strict=True))] = True
    digits = torch.stack([correct[tested.digits == digit].double().mean() for digit in range(CLASSES)])
    cases = SimpleNamespace(digit_probability=probability, digit_correct=correct)
    values = [
        *(sums[pairs].mean() for pairs in (seen, ~seen)),
        *(digits[pairs.nonzero()].mean() for pairs in (seen, ~seen)),
        correct.double().mean(),
        calibration_error(cases, "digit"),
        time.perf_counter() - started,
    ]
    return dict(zip(FIGURES, map(float, values), strict=True))


def paired(digits):
    """Image indices (S, 2): equally many of each of the SEEN pairs; no image twice, each digit's in order."""
    places = [(digits == digit).nonzero().squeeze(1) for digit in range(CLASSES)]
    uses = [sum(pair.count(digit) for pair in SEEN) for digit in range(CLASSES)]
    count = min(len(each) // times for each, times in zip(places, uses, strict=True))
    parts = [iter(each.split(count)) for each in places]
    return torch.cat([torch.stack([next(parts[digit]) for digit in pair], 1) for pair in SEEN])


def pair_accuracies(predicted, digits):
    """Of predicted and true digits (n,), for each ordered pair of digits, (5, 5): the fraction, of all pairs
    of such images, whose predicted digits have the right sum."""
    counts = torch.zeros(CLASSES, CLASSES, dtype=torch.float64)
    counts.index_put_((digits, predicted), torch.ones(()).double(), accumulate=True)
    shares = (counts / counts.sum(1, keepdim=True)).log()  # of the digit (row) how often which is predicted
    sums = add_log_probabilities(shares.unsqueeze(1), shares.unsqueeze(0)).exp()  # (5, 5, 9)
    true = torch.arange(CLASSES).unsqueeze(1) + torch.arange(CLASSES)
    return sums.gather(2, true.unsqueeze(2)).squeeze(2)


def line(row):
    """A row as a line to print."""
    return (f"seed {row['seed']}: sum of seen pairs {row['seen_accuracy']:.2%}, of unseen "
            f"{row['unseen_accuracy']:.2%}, digit {row['digit_accuracy']:.2%}, calibration error "
            f"{row['calibration_error']:.2%}, {row['seconds']:.0f} s")  # fmt: skip


def table(rows):
    """A Markdown table of the rows, means ± standard deviations over the seeds, beside what others report."""
    cells = [
        mean_and_deviation([row[name] * (1 if name == "seconds" else 100) for row in rows])
        for name in FIGURES
    ]
    part = "validation" if rows[0]["split"] == "validation" else "test"
    return f"""\
In percent, on the {part} images of {rows[0]["data"]} with digits from 0 to 4. Every pair counts equally.

| | sum, seen | sum, unseen | digit, seen | digit, unseen | digit | calibration error | seconds | seeds |
|---|---|---|---|---|---|---|---|---|
| measured here | {" | ".join(cells)} | {len(rows)} |
{PUBLISHED}
"""
