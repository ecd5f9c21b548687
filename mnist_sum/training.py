"""fit(): the training loop, a generator that yields one plain row per epoch.

A run is a pure function of its settings and its data. Order, numbers and dropout are drawn anew
from (seed, epoch, step), so a run that stops after any step and goes on from its checkpoint
ends with the same weights, bit for bit, as one that never stopped.

Several processes (see distributed.py) share every batch and the test images among them. The draws,
the loss and the statistics of batch normalisation are those of the whole batch, so each step is the
one that a single process would take, within rounding; but not with dropout, whose masks each process
draws for its own share.
"""

import math
import sys
import time
from dataclasses import dataclass, field

import torch
from torch import nn

from mnist_sum import models
from mnist_sum.augment import affine_draws, random_affine
from mnist_sum.dataset import MnistSum, batches
from mnist_sum.device import place
from mnist_sum.distributed import add_up, agreed, rank, replicated, share, size
from mnist_sum.errors import Fault
from mnist_sum.evaluation import evaluate
from mnist_sum.loss import distillation_loss, summed_loss
from mnist_sum.metrics import averages, batch_sums, no_sums
from mnist_sum.normalisation import batch_normalised
from mnist_sum.randomness import derived_seed, generator
from mnist_sum.recipes import Recipe

MOMENTUM = 0.9
ONECYCLE_START = 1 / 25  # of the peak: the rate of the first step
ONECYCLE_RISE = 0.3  # of all steps: where the peak is
KEPT = "nothing of this epoch is kept; try a smaller --lr"  # how such a run ends
FIGURES = ("digit_loss", "sum_loss", "digit_accuracy", "sum_accuracy")
ROW = ("epoch", "lr", "seconds", *(f"{part}_{name}" for part in ("train", "test") for name in FIGURES))


@dataclass
class Run:
    """What a run was told and how far it has come: what a checkpoint holds.

    epoch counts finished epochs; step counts the steps done of the one after them, whose sums
    (metrics.no_sums; of several processes, all their sums only once fit has stopped) and seconds are
    kept beside it. stop_signal asks fit to stop after a step. Where the recipe names a teacher, teacher
    (teacher.Teacher) has to be there before fit; it and stop_signal are not in a checkpoint.
    """

    model_name: str
    recipe: Recipe
    seed: int
    precision: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    sums: torch.Tensor | None = None
    history: list = field(default_factory=list)
    stop_signal: int | None = None
    teacher: object | None = None


class Stopped(Exception):
    """fit stopped between two steps because run.stop_signal was set; the run can go on from there."""


def new_run(model_name, recipe, seed, device, precision):
    """A run at its first step, the model's weights drawn from the seed."""
    torch.manual_seed(derived_seed(seed, "weights"))
    model = place(models.build(model_name), device)
    return Run(model_name, recipe, seed, precision, model, make_optimizer(model, recipe))


def make_optimizer(model, recipe):
    """The recipe's optimizer over all of the model's parameters, in PyTorch's fused form."""
    settings = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), **settings)
    nesterov = recipe.optimizer == "nesterov"
    return torch.optim.SGD(model.parameters(), momentum=MOMENTUM, nesterov=nesterov, **settings)


def learning_rate(recipe, step, steps):
    """The rate of the step-th of all `steps` steps.

    "constant" is the recipe's rate. "onecycle" (Smith 2018) rises in a straight line from 1/25 of
    the recipe's rate to all of it over the first 30% of the steps, then falls to zero. (PyTorch's
    OneCycleLR, linear, has its peak one step earlier and its zero at the last step.)
    """
    if recipe.schedule == "constant":
        return recipe.learning_rate
    peak = ONECYCLE_RISE * steps
    if step < peak:
        return recipe.learning_rate * (ONECYCLE_START + (1 - ONECYCLE_START) * step / peak)
    return recipe.learning_rate * (steps - step) / (steps - peak)


def fit(run, train_split, test_split):
    """Train until the recipe's last epoch; yield a row (a dict of plain numbers) after each epoch.

    The row's keys are ROW: epoch (from 1), lr (of the epoch's first step), seconds (training and
    test), and for both splits the losses in nats and the accuracies as fractions.
    Training figures are means over the epoch's steps while the weights move, and over the members of
    an ensemble; test figures are those
    of the exhaustive test after it. Raises Fault at the end of an epoch in which the loss or the
    weights were not finite, before its row, and Stopped when run.stop_signal is set, in one process
    or another.
    """
    if (run.teacher is None) != (run.recipe.teacher == "none"):
        raise Fault("a run and its recipe disagree whether there is a teacher; set run.teacher")
    device = next(run.model.parameters()).device
    train_set = MnistSum(train_split, run.seed, run.recipe.numbers, device)
    test_set = MnistSum(test_split[share(len(test_split))], device=device)
    check_batches(run, len(train_set))
    model = replicated(batch_normalised(run.model))
    while run.epoch < run.recipe.epochs:
        started = time.perf_counter() - run.seconds
        try:
            rate = train_epoch(run, model, train_set)
        except Stopped:
            run.seconds = time.perf_counter() - started
            raise
        figures = averages(run.sums), averages(add_up(evaluate(run.model, test_set)))
        seconds = time.perf_counter() - started
        values = [run.epoch + 1, rate, seconds, *(part[name] for part in figures for name in FIGURES)]
        row = dict(zip(ROW, values, strict=True))
        if not all(map(math.isfinite, values)):
            raise Fault(f"the test loss is not finite after epoch {run.epoch + 1}; {KEPT}")
        run.history.append(row)
        run.epoch, run.step, run.seconds, run.sums = run.epoch + 1, 0, 0.0, None
        yield row


def train_epoch(run, model, train_set):
    """Do the steps of the current epoch that are still to do; return the rate of its first step.

    model is run.model or, with several processes, what stands for it in training.
    Nothing in a step waits for the device, so a GPU always has its next step to do. That is why
    whether all numbers are finite is asked only once, before anything is made of them.
    """
    device = train_set.digits.device
    train_set.set_epoch(run.epoch)
    parts = batches(len(train_set), run.recipe.batch_size, run.seed, run.epoch, device)
    first, steps = run.epoch * len(parts), run.recipe.epochs * len(parts)
    if run.sums is None or rank() > 0:  # what was before a stop is the first process's to count
        run.sums = no_sums(device)
    model.train()
    for batch in progress_bar(parts[run.step :], run, len(parts)):
        mine = share(len(batch))
        (image, number), (digit, total) = train_set[batch[mine]]
        if run.recipe.augmentation == "affine":
            draws = generator(run.seed, "affine", run.epoch, run.step)
            image = random_affine(image, affine_draws(len(batch), draws, device)[:, mine])
        rate = learning_rate(run.recipe, first + run.step, steps)
        run.optimizer.param_groups[0]["lr"] = rate
        # torch.manual_seed also asks devices that are not there, and takes half a millisecond for it.
        dropout = torch.cuda if device.type == "cuda" else torch.default_generator
        dropout.manual_seed(derived_seed(run.seed, "dropout", run.epoch, run.step) + rank())
        with torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "bf16"):
            digit_logits, sum_logits = model(image, number)
        loss, digit_loss, sum_loss = summed_loss(digit_logits, sum_logits, digit, total)
        if run.teacher is not None:
            answers = run.teacher.answers(batch[mine], number)
            loss = distillation_loss(loss, (digit_logits, sum_logits), answers)
        run.optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged over the processes and have to be averaged over the images.
        (loss * (len(digit) * size() / len(batch))).backward()
        run.optimizer.step()
        run.sums += batch_sums(digit_loss, sum_loss, digit_logits, sum_logits, digit, total)
        run.step += 1
        if (stop_signal := agreed(run.stop_signal)) is not None:
            run.stop_signal = stop_signal
            complete_sums(run)
            raise Stopped
    complete_sums(run)
    return learning_rate(run.recipe, first, steps)


def complete_sums(run):
    """Make run.sums those of all processes.

    Raises Fault if the epoch had a loss, or a step has left weights or momenta, that is no number.
    """
    add_up(run.sums)
    states = [{"sums": run.sums}, run.model.state_dict(), *run.optimizer.state.values()]
    if not all(torch.isfinite(tensor).all() for state in states for tensor in state.values()):
        raise Fault(f"the loss or the weights are no longer finite in epoch {run.epoch + 1}; {KEPT}")


def progress_bar(parts, run, steps):
    """A tqdm bar on stderr, silent where stderr is no terminal."""
    from tqdm import tqdm

    return tqdm(
        parts,
        desc=f"epoch {run.epoch + 1}/{run.recipe.epochs}",
        initial=run.step,
        total=steps,
        unit="batch",
        leave=False,
        file=sys.stderr,
        disable=None if rank() == 0 else True,
    )


def check_batches(run, images):
    """Raise Fault if a batch would hold a single image and the model has batch normalisation, or
    if a batch would hold fewer images than there are processes."""
    if size() > 1:
        smallest = min(map(len, batches(images, run.recipe.batch_size, run.seed, epoch=0)))
        if smallest < size():
            raise Fault(f"{size()} processes cannot share a batch of {smallest} of the {images:,} training "
                        "images; use fewer processes or another --batch-size")  # fmt: skip
    if min(run.recipe.batch_size, images) > 1:
        return
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in run.model.modules()):
        cause = "--batch-size 1" if images > 1 else "a single training image"
        raise Fault(f"{run.model_name} has batch normalisation, which cannot learn from {cause}; "
                    "use at least 2")  # fmt: skip
