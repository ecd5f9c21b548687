"""fit(): the training loop, a generator that yields one plain row per epoch.

A run is a function of its settings, the versions and the number of threads: order, numbers, augmentation and
dropout of an epoch are drawn from (seed, epoch), so a run that was killed resumes from its last whole epoch and
ends with the same bits.
"""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from mnist_sum.augment import affine, random_matrices
from mnist_sum.cli import UserError
from mnist_sum.data import MnistSum, Split, batches
from mnist_sum.device import derived_seed, generator, rank, shard, world_size
from mnist_sum.evaluation import exhaustive_test, loss_and_accuracy
from mnist_sum.loss import summed_loss
from mnist_sum.models import build_model
from mnist_sum.recipes import Recipe

Row = dict[str, float]


@dataclass
class TrainingState:
    """How a run was set up and how far it has come: what a checkpoint holds.

    The optimizer moves model. We test and save ema_model, an exponential moving average (EMA) of its weights that
    is accurate from the first epochs on; without averaging it is model itself.
    """

    name: str
    recipe: Recipe
    seed: int
    precision: str
    model: nn.Module
    ema_model: nn.Module
    optimizer: torch.optim.Optimizer
    history: list[Row] = field(default_factory=list)
    weights: str = ""  # the checkpoint whose weights it began with

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return len(self.history)


def new_state(name: str, recipe: Recipe, seed: int, device: torch.device, precision: str) -> TrainingState:
    """A run before its first step; the seed decides the initial weights."""
    torch.manual_seed(derived_seed(seed, "weights"))
    model = build_model(name, device)
    ema_model = copy.deepcopy(model) if recipe.averaging == "ema" else model
    return TrainingState(name, recipe, seed, precision, model, ema_model, make_optimizer(model, recipe))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters, rate, decay = model.parameters(), recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, rate, (recipe.momentum, 0.999), weight_decay=decay, fused=True)
    nesterov = recipe.optimizer == "nesterov"
    return torch.optim.SGD(parameters, rate, recipe.momentum, weight_decay=decay, nesterov=nesterov, fused=True)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate of a step (from 0) of all steps.

    "onecycle" rises linearly from 1/25 of the peak over the first 30% of the steps, then falls to zero. (PyTorch's
    OneCycleLR has its peak a step earlier and its zero at the last step.)
    """
    if recipe.schedule == "constant":
        return recipe.learning_rate
    peak = 0.3 * steps
    if step < peak:
        return recipe.learning_rate * (1 / 25 + (1 - 1 / 25) * step / peak)
    return recipe.learning_rate * (steps - step) / (steps - peak)


def update_average(ema: list[Tensor], current: list[Tensor], step: int, steps_per_epoch: int) -> None:
    """Move the averaged tensors toward the current ones, after `step` earlier steps.

    The time constant is 0.4 epochs, but at most a ninth of the steps so far, so that the first ones are forgotten
    soon (polynomial decay, Shamir and Zhang 2013).
    """
    constant = max(1, min(0.4 * steps_per_epoch, step / 9 + 1))
    get_ema_multi_avg_fn(1 - 1 / constant)(ema, current, None)


def float_tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and batch normalization's statistics: averaged weights need the statistics of the same steps."""
    return [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]


def fit(state: TrainingState, train: Split, test: Split) -> Iterator[Row]:
    """Train until the recipe's last epoch; yield a row after each one, which is also in state.history.

    A row has epoch (from 1), lr (of the first step), seconds (training and test), and {train,test}_{digit,sum}_loss
    in nats and _accuracy as fractions. Training figures are means over the epoch while the weights move; test
    figures are those of the exhaustive test. Raises UserError where they are not finite; the row is not kept then.
    """
    recipe, seed, model = state.recipe, state.seed, state.model
    device = next(model.parameters()).device
    train_set = MnistSum(train, recipe.held_out, device)
    ema, current = float_tensors(state.ema_model), float_tensors(model)
    ddp_model = model
    if world_size() > 1:  # processes share each batch, and DDP averages their gradients
        ddp_model = nn.SyncBatchNorm.convert_sync_batchnorm(model) if device.type == "cuda" else model
        ddp_model = DistributedDataParallel(ddp_model)

    steps_per_epoch = len(batches(len(train_set), recipe.batch_size, seed, 0))  # the same in every epoch
    steps = recipe.epochs * steps_per_epoch
    with tqdm(
        total=steps,
        initial=state.epoch * steps_per_epoch,
        bar_format="{desc}{percentage:3.0f}% |{bar}| {elapsed}, {remaining} left{postfix}",
        smoothing=0,  # the time left of the whole run, at its mean speed
        leave=False,
        disable=rank() > 0 or None,  # None: shown in a terminal only
    ) as progress:
        for epoch in range(state.epoch, recipe.epochs):
            started = time.perf_counter()
            train_set.fix_numbers(seed, 0 if recipe.numbers == "fixed" else epoch)
            parts = batches(len(train_set), recipe.batch_size, seed, epoch, device)
            if recipe.augmentation == "affine":
                matrices = random_matrices(len(train_set), generator(seed, "affine", epoch), device)  # (N, 2, 3)
            torch.manual_seed(derived_seed(seed, "dropout", epoch) + rank())
            outputs = []  # of each step; on the device, so that no step waits for it
            ddp_model.train()
            progress.set_description(f"epoch {epoch + 1}/{recipe.epochs}", refresh=False)
            for step, batch in enumerate(parts, epoch * steps_per_epoch):
                for group in state.optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, step, steps)
                index = batch[shard(len(batch))]
                (image, number), (digit, total) = train_set[index]  # (B, 1, 28, 28), (B, 10); (B,), (B,)
                if recipe.augmentation == "affine":
                    image = affine(image, matrices[index])
                # forward
                with torch.autocast(device.type, torch.bfloat16, enabled=state.precision == "bf16"):
                    digit_logits, sum_logits = ddp_model(image, number)  # (B, 10), (B, 19)
                loss, *_ = summed_loss(digit_logits, sum_logits, digit, total)
                # backward; DDP averages the gradients of the processes, so each counts by the size of its shard
                state.optimizer.zero_grad(set_to_none=True)
                weight = len(index) * world_size() / len(batch)
                (loss * weight).backward()
                state.optimizer.step()
                # average
                if recipe.averaging == "ema":
                    update_average(ema, current, step, steps_per_epoch)
                outputs.append((digit_logits.detach(), sum_logits.detach(), digit, total))
                if progress.update():  # redrawn, at most ten times a second; the next time with these figures
                    pairs = (digit_logits, digit), (sum_logits, total)
                    right = [100 * (logits.argmax(-1) == true).float().mean() for logits, true in pairs]
                    progress.set_postfix_str("loss {:.3f}, acc {:.1f} / {:.1f}%".format(loss, *right), refresh=False)

            progress.set_postfix_str("testing")
            train_figures = loss_and_accuracy(outputs)
            if world_size() > 1:  # test the model that is saved: each process has its own batch statistics
                for tensor in float_tensors(state.ema_model):
                    dist.broadcast(tensor.detach(), 0)
            test_figures = exhaustive_test(state.ema_model, test)
            row: Row = {"epoch": epoch + 1, "lr": learning_rate(recipe, epoch * steps_per_epoch, steps)}
            row["seconds"] = time.perf_counter() - started
            row |= {f"train_{name}": value for name, value in train_figures.items()}
            row |= {f"test_{name}": value for name, value in test_figures.items()}
            if not all(map(math.isfinite, row.values())):
                raise UserError(f"the loss is not finite in epoch {epoch + 1}; try a smaller --lr")
            state.history.append(row)
            progress.clear()
            yield row
