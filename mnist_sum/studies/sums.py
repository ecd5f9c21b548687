"""The study `sums`: two handwritten numbers of N digits; only their sum is told, never a digit.

The protocol is DeepProbLog's (ML-KULeuven/deepproblog, src/deepproblog/examples/MNIST): every image is used
once, in the order of MNIST's files. Of 2N images in a row the first N are the first number, its highest digit
first, the others the second number; a rest at the end that makes no sum is not used. That gives 60,000 / 2N
sums to learn from and 10,000 / 2N to test with. Training never pairs the images anew, and never sees a
digit's label.

The loss is the exact joint log-likelihood of all digits of the sum, by a carry chain. Predicted is the sum of
the most probable digits, as the larger N are tested in A-NeSI (HEmile/a-nesi, anesi/anesi.py, prior_y).

Track a is the network of that protocol, a LeNet, without augmentation; track b tiny's, with augmentation.
"""

import statistics
import time
from dataclasses import asdict, replace
from functools import partial
from itertools import product

import torch
from torch import nn
from torch.nn.functional import pad
from torch.nn.utils import clip_grad_norm_

from mnist_sum import console, models
from mnist_sum import data as images
from mnist_sum.augment import affine, random_matrices
from mnist_sum.console import UserError
from mnist_sum.dataset import MEAN, STD, batches, normalised
from mnist_sum.figures.plots import draw_sums
from mnist_sum.models.addition import NEVER, add_log_probabilities, log_sum_exp
from mnist_sum.own import Architecture
from mnist_sum.recipes import RECIPES, Recipe
from mnist_sum.runs.folder import data_folder
from mnist_sum.runs.series import mean_and_deviation, row_of
from mnist_sum.system.device import choose_device, choose_precision, keep_freed_memory
from mnist_sum.system.files import check_output, make_folder, write_atomically
from mnist_sum.system.randomness import generator
from mnist_sum.training import learning_rate, moving_average, new_state, update_average

TABLE, PICTURE = "sums.md", "sums.png"
TRACKS = ("a", "b")
DIGITS = (1, 2, 4, 15)
REPAIRINGS = 100  # of the test images, to tell a network's accuracy from the luck of one grouping
LARGEST_NORM = 1.0  # of the gradient
IMAGES_AT_ONCE = 1000  # in a test
QUICK_IMAGES, QUICK_EPOCHS = 4000, 10
# Sum accuracy in percent, with minutes of training where told, as the sources report them; none was run here.
PUBLISHED = {
    "NeurASP [1]": {1: (98.00, 44)},
    "DeepProbLog [1]": {1: (97.78, 52)},
    "DeepStochLog [1]": {1: (97.73, 11)},
    "semantic loss [1]": {1: (97.37, 55)},
    "LTN [1]": {1: (90.1, 12)},
    "DeepProbLog [2]": {1: (97.2, None), 2: (95.2, None)},
    "NeurASP [2]": {1: (97.3, None), 2: (93.9, None)},
    "DeepStochLog [2, 3]": {1: (97.9, None), 2: (96.4, None), 4: (92.7, 141)},
    "Embed2Sym [2]": {1: (97.62, None), 2: (93.81, None), 4: (91.65, None), 15: (60.46, None)},
    "A-NeSI [2, 3]": {1: (97.66, None), 2: (95.96, None), 4: (92.6, 70), 15: (75.9, 917)},
    "Scallop [3]": {4: (92.3, 74)},
    "EXAL [3]": {4: (91.8, 32), 15: (73.3, 145)},
    "PLIA [4]": {4: (91.84, None), 15: (79.00, None)},
    "NeSyDM [4]": {4: (92.49, None), 15: (77.29, None)},
    "DeepSoftLog [3]": {4: (93.5, 880), 15: (77.1, 1325)},
    "DPrL, exact [3]": {4: (94.0, 25), 15: (80.8, 42), 100: (37.8, 106)},
}
SOURCES = """\
Without "measured here": only reported, not run. [1] eurnie/NeSyComparison, summary_final_0.json, means of
ten seeds with 27,000 training sums and early stopping; [2] HEmile/a-nesi, data-analysis:
results_other_methods.csv, and of A-NeSI the ten runs of runs.csv that only predict; [3] DeepProofLog,
arXiv 2511.08581; [4] NeSyDM's paper. With two sources, N = 1 and 2 are of the first. Minutes are those of the
source's own machine."""


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


def track_a(epochs, batch_size, rate, optimizer="nesterov", weight_decay=5e-4):
    return Recipe(epochs, batch_size, rate, "onecycle", optimizer, averaging="ema", weight_decay=weight_decay)


def track_b(epochs, batch_size, rate):
    """tiny's recipe, but for these settings."""
    return RECIPES["tiny"].overridden(epochs=epochs, batch_size=batch_size, learning_rate=rate)


# The Recipe of each N; a batch is so many sums. Chosen on validation images: README.md here has the trials.
SETTINGS = {
    "a": {
        1: track_a(15, 64, 0.05),
        2: track_a(15, 32, 0.05),
        4: track_a(20, 32, 0.004, "adam", 1e-4),
        15: track_a(60, 8, 0.05, weight_decay=1e-3),
    },
    "b": {
        1: track_b(40, 128, 0.1),
        2: track_b(30, 32, 0.1),
        4: track_b(40, 32, 0.05),
        15: track_b(60, 8, 0.05),
    },
}


def grouped(order, places):
    """Image indices order (n,) -> (S, 2, N): the sums that they make, as the protocol groups them."""
    count = len(order) // (2 * places)
    return order[: count * 2 * places].view(count, 2, places)


def total_digits(digits):
    """Two numbers' digits (..., 2, N) -> their total's (..., N + 1); the highest digit is the first."""
    columns, carry, total = digits.sum(-2), 0, []
    for column in columns.unbind(-1)[::-1]:
        carry = column + carry
        total.insert(0, carry % 10)
        carry = carry // 10
    return torch.stack([carry, *total], -1)


def sum_log_likelihood(log_probabilities, total):
    """log P(total), (B,) in nats, of log P(digit), (B, 2, N, 10), and total_digits (B, N + 1).

    A carry chain, a hidden Markov model of two states: from the lowest column to the highest it keeps the
    joint log-probability of the columns so far and of the carry out of them.
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
    those of state.recipe. Raises UserError where the loss is not finite.
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
            if not clip_grad_norm_(parameters, LARGEST_NORM).isfinite():
                raise UserError(f"the loss is no longer finite in epoch {epoch + 1}; this run is discarded; "
                                "try a smaller learning_rate in its Recipe")  # fmt: skip
            state.optimizer.step()
            if average is not None:
                update_average(*average, step, len(parts))


@torch.no_grad()
def digit_probabilities(model, images):
    """P(class), float32 (n, classes), of uint8 images (n, 28, 28)."""
    model.eval()
    parts = images.unsqueeze(1).split(IMAGES_AT_ONCE)
    return torch.cat([model.encode(normalised(part)).float().softmax(1) for part in parts])


def accuracies(predicted, digits, places):
    """Of predicted and true digits (n,) the accuracy, a fraction, of the protocol's sums, of those of images
    that are paired at random (the mean of 100 times), and of the digits."""

    def sum_accuracy(order):
        groups = grouped(order, places)
        return (
            (total_digits(predicted[groups]) == total_digits(digits[groups])).all(-1).double().mean().item()
        )

    orders = [
        torch.randperm(len(digits), generator=generator(0, "re-pairing", each)) for each in range(REPAIRINGS)
    ]
    return {
        "sum_accuracy": sum_accuracy(torch.arange(len(digits))),
        "repaired_sum_accuracy": sum(map(sum_accuracy, orders)) / REPAIRINGS,
        "digit_accuracy": (predicted == digits).double().mean().item(),
    }


def shuffled(split):
    """The split in another fixed order: the sample's digits take turns, and so would their sums."""
    return split[torch.randperm(len(split), generator=generator(0, "sample's order"))]


def run(track, places, seed, data, recipe, device):
    """Train and test one network; the figures of its row. data: a data.Data."""
    started = time.perf_counter()
    architecture = (
        Architecture("lenet", LeNet, recipe, channels_last=True) if track == "a" else models.find("tiny")
    )
    state = new_state(architecture, recipe, seed, device, choose_precision("auto", device))
    groups = grouped(torch.arange(len(data.train)), places)
    total = total_digits(data.train.digits[groups]).to(device)

    def log_likelihood(log_probabilities, batch):
        return sum_log_likelihood(log_probabilities.unflatten(1, (2, places)), total[batch])

    train(state, data.train.images.to(device), groups.flatten(1).to(device), log_likelihood)
    predicted = digit_probabilities(state.model, data.test.images.to(device)).argmax(1).cpu()
    return {**accuracies(predicted, data.test.digits, places), "seconds": time.perf_counter() - started}


def recipe_of(track, places, quick=False):
    """The Recipe of a run; of an N without settings that of the next smaller N, in smaller batches."""
    known = max(each for each in SETTINGS[track] if each <= places)
    recipe = SETTINGS[track][known]
    recipe = recipe.overridden(batch_size=max(1, recipe.batch_size * known // places))
    return recipe.overridden(epochs=min(QUICK_EPOCHS, recipe.epochs)) if quick else recipe


def study(digits, track, data, data_dir, split, seeds, output_dir, quick):
    """Do the runs that are not done yet; print a row for each run, and write the table and the picture.

    All as cli.parse_study gives them. A run that was stopped begins anew. Returns the exit code.
    """
    folder = make_folder(output_dir)
    for name in TABLE, PICTURE:
        check_output(folder / name)
    keep_freed_memory()
    device = choose_device("auto")
    loaded = images.load(data, data_folder(data_dir), split, QUICK_IMAGES if quick else None)
    if loaded.name == "sample":
        loaded = replace(loaded, train=shuffled(loaded.train), test=shuffled(loaded.test))
    digits = sorted(set(digits or ((1, 2) if quick else DIGITS)))
    if 2 * digits[-1] > len(loaded.test):
        raise UserError(f"{len(loaded.test):,} test images make no two numbers of {digits[-1]:,} digits; use "
                        "a smaller --digits")  # fmt: skip
    about = {"data": loaded.name, "fingerprint": loaded.fingerprint(), "split": split}
    plan = [
        (places, one, seed)
        for places, one in product(digits, [track] if track else TRACKS)
        for seed in range(seeds or (1 if quick else 5 if places >= 15 else 10))
    ]
    rows = []
    for places, one, seed in console.progress(plan, desc="runs"):
        recipe = recipe_of(one, places, quick).overridden(split=split)
        expected = {"track": one, "digits": places, "seed": seed, **about, "recipe": asdict(recipe)}
        task = partial(run, one, places, seed, loaded, recipe, device)
        row, new = row_of(folder / f"{one}-{places}-{seed}", expected, task)
        rows.append(row)
        console.results([row], line(row))
        if new or len(rows) == len(plan):
            write_atomically(folder / TABLE, tables(rows).encode())
            draw(rows, folder / PICTURE)
    console.note(f"\n{tables(rows).rstrip()}\n\npicture: {console.one_line(folder / PICTURE)}")
    return 0


def line(row):
    """A row as a line to print."""
    return (f"track {row['track']}, N = {row['digits']:<3} seed {row['seed']}: sum {row['sum_accuracy']:.2%} "
            f"(re-paired {row['repaired_sum_accuracy']:.2%}), digit {row['digit_accuracy']:.2%}, "
            f"{row['seconds']:.0f} s")  # fmt: skip


def by_kind(rows):
    """{(track, N): the rows of its seeds}, in order."""
    found = {}
    for row in sorted(rows, key=lambda row: (row["track"], row["digits"])):
        found.setdefault((row["track"], row["digits"]), []).append(row)
    return found


def tables(rows):
    """Two Markdown tables: the runs of the rows, and track a beside what others report for its protocol."""
    kinds, first = by_kind(rows), rows[0]
    part = "validation" if first["split"] == "validation" else "test"
    lines = [
        f"Means ± standard deviations over the seeds, in percent, on the {part} images of {first['data']}.",
        "",
        "| track | N | sum | sum, 100 re-pairings | digit | digit to the power 2N | seconds | seeds |",
        "|" + 8 * "---|",
    ]
    for (track, places), runs in kinds.items():
        names = "sum_accuracy", "repaired_sum_accuracy", "digit_accuracy"
        cells = [mean_and_deviation([100 * row[name] for row in runs]) for name in names]
        cells.append(f"{100 * ceiling(runs, places):.2f}")
        cells.append(mean_and_deviation([row["seconds"] for row in runs]))
        lines.append(f"| {track} | {places} | {' | '.join(cells)} | {len(runs)} |")
    columns = sorted({places for system in PUBLISHED.values() for places in system})
    lines += ["", f"| sum % (minutes) | {' | '.join(f'N = {places}' for places in columns)} |"]
    lines.append("|" + (1 + len(columns)) * "---|")
    cells = []
    for places in columns:
        runs = kinds.get(("a", places), [])
        minutes = statistics.mean(row["seconds"] for row in runs) / 60 if runs else 0
        sums = mean_and_deviation([100 * row["sum_accuracy"] for row in runs]) if runs else "-"
        cells.append(f"{sums} ({minutes:.1f})" if runs else sums)
    lines.append(f"| track a, measured here | {' | '.join(cells)} |")
    for system, figures in PUBLISHED.items():
        cells = [reported(*figures[places]) if places in figures else "-" for places in columns]
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", SOURCES, ""])


def reported(accuracy, minutes):
    """A published figure as a cell."""
    return f"{accuracy:.2f}" if minutes is None else f"{accuracy:.2f} ({minutes:,})"


def ceiling(runs, places):
    """The sum accuracy of the rows' mean digit accuracy, if errors were independent and none cancelled."""
    return statistics.mean(row["digit_accuracy"] for row in runs) ** (2 * places)


def draw(rows, path):
    """The picture of N against sum accuracy."""
    measured, ceilings = {}, {}
    for (track, places), runs in by_kind(rows).items():
        values = [100 * row["sum_accuracy"] for row in runs]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        measured.setdefault(f"track {track}", {})[places] = (statistics.mean(values), deviation)
        ceilings.setdefault(f"track {track}", {})[places] = 100 * ceiling(runs, places)
    reported = [
        (places, accuracy) for system in PUBLISHED.values() for places, (accuracy, _) in system.items()
    ]
    draw_sums(measured, ceilings, {"track a": reported}, path)
