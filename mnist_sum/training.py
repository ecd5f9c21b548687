"""fit(): the training loop, a generator that yields one plain row per epoch.

A run is a pure function of its settings and its data. Order, numbers and dropout are drawn
from (seed, epoch, step), so a run that stops after any step and resumes from its checkpoint
ends with the same weights, bit for bit, as an uninterrupted one.

Several processes (see system/processes.py) share every batch and the test images among them. The draws,
the loss and the statistics of batch normalisation are those of the whole batch, so each step is the
one that a single process would take, within rounding; but not with dropout, whose masks each process
draws for its own shard.
"""

import copy
import math
import time
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mnist_sum import console, models
from mnist_sum.augment import affine, random_matrices
from mnist_sum.console import UserError
from mnist_sum.dataset import MnistSum, batches
from mnist_sum.evaluation.exhaustive import evaluate
from mnist_sum.loss import distillation_loss, summed_loss
from mnist_sum.metrics import averages, batch_sums, no_sums
from mnist_sum.recipes import Recipe
from mnist_sum.system.batch_norm import synchronised
from mnist_sum.system.device import place
from mnist_sum.system.processes import all_reduce, any_stop_signal, rank, shard, size, wrapped_in_ddp
from mnist_sum.system.randomness import derived_seed, generator

MOMENTUM = 0.9
ONECYCLE_START = 1 / 25  # of the peak: the rate of the first step
ONECYCLE_RISE = 0.3  # of all steps: where the peak is
AVERAGED_EPOCHS = 0.4  # the moving average's time constant, in epochs
AVERAGED_SHARE = 1 / 9  # and at most so much of the steps so far, so that the first ones are forgotten soon
FIGURES = ("digit_loss", "sum_loss", "digit_accuracy", "sum_accuracy")
ROW = ("epoch", "lr", "seconds", *(f"{part}_{name}" for part in ("train", "test") for name in FIGURES))


@dataclass
class TrainingState:
    """How a run was set up and how far it has come: what a checkpoint holds.

    raw is the network whose weights the optimizer moves, model the one that is tested and saved: raw
    itself, or, where the recipe averages, a copy that holds the moving average of raw's weights.

    epoch counts finished epochs; step counts the steps done of the one after them, whose sums
    (metrics.no_sums; of several processes, all their sums only once fit has stopped) and seconds are
    kept beside it. A stop_signal has fit stop after its step. Where the recipe names a teacher, teacher
    (runs.distillation.Teacher) has to be set before fit; it and stop_signal are not in a checkpoint.
    """

    architecture: models.Architecture
    recipe: Recipe
    seed: int
    precision: str
    raw: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    sums: torch.Tensor | None = None
    history: list = field(default_factory=list)
    stop_signal: int | None = None
    teacher: object | None = None

    @property
    def model_name(self):
        return self.architecture.name


def new_state(model, recipe, seed, device, precision):
    """A TrainingState before its first step, its weights drawn from the seed; model: see models.find."""
    architecture = models.find(model)
    torch.manual_seed(derived_seed(seed, "weights"))
    raw = place(architecture.build(), device, architecture.channels_last)
    model = copy.deepcopy(raw) if recipe.averaging == "ema" else raw
    return TrainingState(architecture, recipe, seed, precision, raw, model, make_optimizer(raw, recipe))


def make_optimizer(model, recipe):
    """The recipe's optimizer over all of the model's parameters, in PyTorch's fused form."""
    settings = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), **settings)
    nesterov = recipe.optimizer == "nesterov"
    return torch.optim.SGD(model.parameters(), momentum=MOMENTUM, nesterov=nesterov, **settings)


def learning_rate(recipe, step, steps):
    """The rate of the step-th of all `steps` steps.

    "constant" is the recipe's rate. "onecycle" (Smith 2018, "Super-convergence") rises in a straight
    line from 1/25 of the recipe's rate to all of it over the first 30% of the steps, then falls to
    zero. (PyTorch's OneCycleLR, linear, has its peak one step earlier and its zero at the last step.)
    """
    if recipe.schedule == "constant":
        return recipe.learning_rate
    peak = ONECYCLE_RISE * steps
    if step < peak:
        return recipe.learning_rate * (ONECYCLE_START + (1 - ONECYCLE_START) * step / peak)
    return recipe.learning_rate * (steps - step) / (steps - peak)


def fit(state, train_split, test_split):
    """Train until the recipe's last epoch; yield a row (a dict of plain numbers) after each epoch.

    The row's keys are ROW: epoch (from 1), lr (of the epoch's first step), seconds (training and
    test), and for both splits the losses in nats and the accuracies as fractions. Training figures
    are means over the epoch's steps while the weights move, and over the members of an ensemble; test
    figures are those of the exhaustive test after it.

    With state.stop_signal set it ends after the current step; a second fit resumes there. Raises
    UserError at the end of an epoch in which the loss or the weights were not finite, before its row.
    """
    if (state.teacher is None) != (state.recipe.teacher == "none"):
        raise UserError("a run and its recipe disagree about whether there is a teacher; set state.teacher")
    device = next(state.raw.parameters()).device
    recipe = state.recipe
    train_set = MnistSum(train_split, state.seed, recipe.numbers, device, recipe.held_out)
    test_set = MnistSum(test_split[shard(len(test_split))], device=device)
    check_batch_size(state, len(train_set))
    model = wrapped_in_ddp(synchronised(state.raw))
    while state.epoch < state.recipe.epochs:
        started = time.perf_counter() - state.seconds
        rate, stopped = train_epoch(state, model, train_set)
        if stopped:
            state.seconds = time.perf_counter() - started
            return
        figures = averages(state.sums), averages(all_reduce(evaluate(state.model, test_set)))
        seconds = time.perf_counter() - started
        values = [state.epoch + 1, rate, seconds, *(part[name] for part in figures for name in FIGURES)]
        row = dict(zip(ROW, values, strict=True))
        require_finite(all(map(math.isfinite, values)), "the test loss is not finite after", state)
        state.history.append(row)
        state.epoch, state.step, state.seconds, state.sums = state.epoch + 1, 0, 0.0, None
        yield row


def train_epoch(state, model, train_set):
    """Do the remaining steps of the current epoch.

    model is state.raw or, with several processes, what is wrapped around it. Returns the rate of the
    epoch's first step, and whether a stop signal came before the epoch was done.

    Nothing in a step waits for the device, so a GPU always has its next step to do. That is why
    whether all numbers are finite is checked only once, before any of them is used.
    """
    device = train_set.digits.device
    train_set.set_epoch(state.epoch)
    parts = batches(len(train_set), state.recipe.batch_size, state.seed, state.epoch, device)
    first, steps = state.epoch * len(parts), state.recipe.epochs * len(parts)
    if state.sums is None or rank() > 0:  # what was before a stop is for rank 0 to count
        state.sums = no_sums(device)
    average, matrices = moving_average(state), None
    if state.recipe.augmentation == "affine":
        draws = generator(state.seed, "affine", state.epoch)
        matrices = random_matrices(len(train_set), draws, device)
    model.train()
    bar = {"desc": f"epoch {state.epoch + 1}/{state.recipe.epochs}", "initial": state.step, "unit": "batch"}
    stopped = False
    for batch in console.progress(parts[state.step :], total=len(parts), **bar):
        state.optimizer.param_groups[0]["lr"] = learning_rate(state.recipe, first + state.step, steps)
        train_step(state, model, train_set, batch, matrices)
        if average is not None:
            update_average(*average, first + state.step, len(parts))
        state.step += 1
        if (stop_signal := any_stop_signal(state.stop_signal)) is not None:
            state.stop_signal, stopped = stop_signal, True
            break
    all_reduce(state.sums)
    tensors = [state.sums, *state.raw.state_dict().values()]
    tensors += [tensor for entry in state.optimizer.state.values() for tensor in entry.values()]
    finite = all(torch.isfinite(tensor).all() for tensor in tensors)
    require_finite(finite, "the loss or the weights are no longer finite in", state)
    return learning_rate(state.recipe, first, steps), stopped


def train_step(state, model, train_set, batch, matrices=None):
    """One step on the images of index batch (B,): forward pass, loss, backward pass, update, sums.

    matrices: the affine map of each image of the train_set in this epoch, or None.
    """
    device, mine = batch.device, shard(len(batch))
    (image, number), (digit, total) = train_set[batch[mine]]
    if matrices is not None:
        image = affine(image, matrices[batch[mine]])
    # torch.manual_seed also asks devices that are not there, and takes half a millisecond for it.
    dropout = torch.cuda if device.type == "cuda" else torch.default_generator
    dropout.manual_seed(derived_seed(state.seed, "dropout", state.epoch, state.step) + rank())
    with torch.autocast(device.type, torch.bfloat16, enabled=state.precision == "bf16"):
        digit_logits, sum_logits = model(image, number)
    loss, digit_loss, sum_loss = summed_loss(digit_logits, sum_logits, digit, total)
    if state.teacher is not None:
        with torch.autocast(device.type, torch.bfloat16, enabled=state.precision == "bf16"):
            teacher_logits = state.teacher.logits(image, number)
        loss = distillation_loss((digit_logits, sum_logits), teacher_logits)
    state.optimizer.zero_grad(set_to_none=True)
    # Gradients are averaged over the processes and have to be averaged over the images.
    (loss * (len(digit) * size() / len(batch))).backward()
    state.optimizer.step()
    state.sums += batch_sums(digit_loss, sum_loss, digit_logits, sum_logits, digit, total)


def moving_average(state):
    """(averaged, raw): the numbers, parameters and batch-norm statistics, of state.model and state.raw.

    A pair of equally long lists of tensors, or None where the recipe does not average. Without the statistics
    of the same steps, averaged weights would not fit theirs.
    """
    if state.model is state.raw:
        return None
    tensors = ((*each.parameters(), *each.buffers()) for each in (state.model, state.raw))
    return tuple([tensor for tensor in each if tensor.is_floating_point()] for each in tensors)


def update_average(averaged, raw, done, steps):
    """Move the averaged numbers towards the raw ones, after `done` earlier steps, of so many an epoch.

    An exponential moving average, whose time constant grows with the run (polynomial decay, Shamir and
    Zhang 2013) up to AVERAGED_EPOCHS: so it forgets the first steps soon.
    """
    constant = max(1, min(AVERAGED_EPOCHS * steps, AVERAGED_SHARE * done + 1))
    get_ema_multi_avg_fn(1 - 1 / constant)(averaged, raw, None)


def require_finite(finite, problem, state):
    """Raise UserError, before the current epoch is saved, where it is not finite."""
    if not finite:
        raise UserError(f"{problem} epoch {state.epoch + 1}; this epoch is discarded; "
                        "try a smaller --lr")  # fmt: skip


def check_batch_size(state, images):
    """Raise UserError if a batch would hold a single image and the model has batch normalisation, or
    if a batch would hold fewer images than there are processes."""
    if size() > 1:
        smallest = min(map(len, batches(images, state.recipe.batch_size, state.seed, epoch=0)))
        if smallest < size():
            raise UserError(f"{size()} processes cannot share a batch of {smallest} of the {images:,} "
                            "training images; use fewer processes or another --batch-size")  # fmt: skip
    if min(state.recipe.batch_size, images) > 1:
        return
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in state.model.modules()):
        cause = "--batch-size 1" if images > 1 else "a single training image"
        raise UserError(f"{state.model_name} has batch normalisation, which cannot learn from {cause}; "
                        "use at least 2")  # fmt: skip
