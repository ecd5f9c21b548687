"""fit() in-process: what a run yields, that it is exact, and what it refuses to yield."""

import dataclasses
import math
from functools import partial

import pytest
import torch
from stress.outcome import bits
from torch.utils._python_dispatch import TorchDispatchMode

from mnist_sum import dataset, loss, models, training
from mnist_sum.augment import affine
from mnist_sum.console import UserError
from mnist_sum.recipes import RECIPES
from mnist_sum.runs import checkpoint
from mnist_sum.runs.distillation import Teacher
from mnist_sum.training import ROW, fit, learning_rate, new_state

CPU = torch.device("cpu")
WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


def small_state(name="compact", epochs=2, batch_size=16, seed=0, **overrides):
    recipe = RECIPES[name].overridden(epochs=epochs, batch_size=batch_size, **overrides)
    return new_state(name, recipe, seed, CPU, "fp32")


def all_finite(state):
    return all(tensor.isfinite().all() for tensor in state.model.state_dict().values())


def spoil_loss(monkeypatch, spoilt):
    """Have each step's pair of losses, digit and sum, go through spoilt(call, digit_loss, sum_loss)."""
    calls, original = [], loss.digit_and_sum_loss

    def digit_and_sum_loss(*arguments):
        calls.append(None)
        return spoilt(len(calls), *original(*arguments))

    monkeypatch.setattr(loss, "digit_and_sum_loss", digit_and_sum_loss)


def test_fit_yields_one_row_of_plain_numbers_per_epoch(few):
    state = small_state()
    rows = list(fit(state, few.train, few.test))
    assert [row["epoch"] for row in rows] == [1, 2]
    for row in rows:
        assert tuple(row) == ROW
        assert all(type(value) in (int, float) and math.isfinite(value) for value in row.values())
        assert 0 <= row["test_sum_accuracy"] <= 1
    assert state.history == rows


@pytest.mark.parametrize("name", RECIPES)
def test_same_seed_gives_bit_identical_weights_and_another_seed_does_not(name, few):
    first, second, other = (small_state(name, epochs=1, seed=seed) for seed in (0, 0, 2**63 - 1))
    for state in (first, second, other):
        list(fit(state, few.train, few.test))
    assert bits(first.model.state_dict()) == bits(second.model.state_dict())
    assert bits(first.model.state_dict()) != bits(other.model.state_dict())


def test_training_learns_what_there_is_to_learn(few):
    rows = list(fit(small_state("mlp_adder", epochs=12), few.train, few.train))
    assert rows[-1]["train_digit_loss"] < rows[0]["train_digit_loss"] / 10
    assert rows[-1]["test_digit_accuracy"] > 0.9


@pytest.mark.parametrize("augmentation", ["none", "affine"])
def test_every_image_is_augmented_in_every_epoch_where_the_recipe_says_so(augmentation, few, monkeypatch):
    seen = []

    def noted(images, matrices):
        seen.extend(map(tuple, matrices.flatten(1).tolist()))
        return affine(images, matrices)

    monkeypatch.setattr(training, "affine", noted)
    list(fit(small_state("tiny", epochs=2, augmentation=augmentation), few.train, few.test))
    assert len(seen) == len(set(seen)) == (0 if augmentation == "none" else 2 * len(few.train))


@pytest.mark.parametrize("reloaded", [False, True], ids=["kept in memory", "saved and loaded"])
@pytest.mark.parametrize("name", [*RECIPES, "distilled"])
def test_a_run_stopped_after_any_step_resumes_bit_identically(name, reloaded, few, tmp_path):
    train, path = few.train.first(48), tmp_path / "c.safetensors"  # three steps an epoch
    torch.manual_seed(1)
    teacher = Teacher(models.build("compact").eval()) if name == "distilled" else None

    def trained(stops):
        """(weights, raw ones, optimizer, rows) of a run that a signal stops after each of these steps."""
        overrides = {} if teacher is None else {"teacher": 64 * "0"}
        state = small_state("tiny" if teacher else name, **overrides)
        while True:
            state.teacher = teacher
            hook = state.optimizer.register_step_post_hook(partial(stop, state, stops))
            list(fit(state, train, few.test))
            hook.remove()
            if state.stop_signal is None:
                assert stops == []
                weights = [bits(model.state_dict()) for model in (state.model, state.raw)]
                return *weights, bits(state.optimizer.state_dict()), state.history
            state.stop_signal = None
            if reloaded:
                checkpoint.save(path, state, checkpoint.describe_data(few))
                state, _ = checkpoint.load_state(path, CPU)
            torch.manual_seed(99)  # the global random state must not matter

    def stop(state, stops, *_):
        if stops and stops[0] == (state.epoch, state.step):
            state.stop_signal = 15
            stops.pop(0)

    *interrupted, history = trained([(0, 0), (0, 2), (1, 1)])
    *uninterrupted, expected = trained([])
    assert interrupted == uninterrupted
    assert [{**row, "seconds": 0} for row in history] == [{**row, "seconds": 0} for row in expected]


def test_a_stop_signal_ends_fit_after_the_step_and_a_second_fit_goes_on_counting(few):
    state = small_state()
    state.stop_signal = 15
    assert list(fit(state, few.train, few.test)) == state.history == []
    assert (state.epoch, state.step, state.stop_signal) == (0, 1, 15) and state.seconds > 0
    state.stop_signal, state.seconds = None, 100.0
    assert 100 < next(fit(state, few.train, few.test))["seconds"] < 200


def test_every_step_has_a_learning_rate_and_dropout_masks_of_its_own(few):
    state, steps = small_state(schedule="onecycle"), []
    rate = partial(learning_rate, state.recipe, steps=8)
    state.optimizer.register_step_pre_hook(
        lambda optimizer, *_: steps.append((optimizer.param_groups[0]["lr"], torch.initial_seed()))
    )
    rows = list(fit(state, few.train, few.test))
    rates, seeds = zip(*steps, strict=True)
    assert list(rates) == [rate(step) for step in range(8)]
    assert len(set(seeds)) == 8
    assert [row["lr"] for row in rows] == [rate(0), rate(4)]


@pytest.mark.parametrize("name", RECIPES)
def test_a_batch_size_larger_than_the_data_gives_one_smaller_batch(name, few):
    state = small_state(name, epochs=1, batch_size=10**6)
    before = bits(state.model.state_dict())
    (row,) = fit(state, few.train, few.test)
    assert math.isfinite(row["train_digit_loss"]) and before != bits(state.model.state_dict())


@pytest.mark.parametrize(("images", "batch_size", "cause"),
                         [(4, 1, "--batch-size 1;"), (1, 16, "a single training image;")])  # fmt: skip
@pytest.mark.parametrize("name", RECIPES)
def test_a_batch_of_one_is_refused_by_batch_normalisation_alone(name, images, batch_size, cause, few):
    state = small_state(name, 1, batch_size)
    rows = fit(state, few.train.first(images), few.test.first(2))
    if any("BatchNorm" in type(module).__name__ for module in state.model.modules()):
        with pytest.raises(UserError, match=f"batch normalisation, which cannot learn from {cause}"):
            next(rows)
    else:
        assert len(list(rows)) == 1


@pytest.mark.parametrize("stopped", [False, True], ids=["end of the epoch", "stopped"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_epoch_whose_loss_is_not_finite_is_named_and_not_yielded(value, stopped, few, monkeypatch):
    state = small_state()

    def spoilt(call, digit_loss, sum_loss):
        if stopped and call == 5:
            state.stop_signal = 15
        return (digit_loss * value if call == 5 else digit_loss), sum_loss

    spoil_loss(monkeypatch, spoilt)
    rows = fit(state, few.train.first(48), few.test)
    assert next(rows)["epoch"] == 1
    with pytest.raises(UserError, match="no longer finite in epoch 2;.*--lr"):
        next(rows)
    assert len(state.history) == state.epoch == 1


def test_a_loss_that_is_not_finite_ends_the_run_even_if_the_weights_stay_finite(few, monkeypatch):
    spoil_loss(monkeypatch, lambda _, digit_loss, sum_loss: (digit_loss * 0 + math.inf, sum_loss * 0))
    state = small_state()
    with pytest.raises(UserError, match="no longer finite in epoch 1;"):
        next(fit(state, few.train, few.test))
    assert all_finite(state)


@pytest.mark.parametrize("stop_signal", [None, 15])
def test_an_optimizer_state_that_is_not_finite_ends_the_run(stop_signal, few, monkeypatch):
    """Gradients beyond 1e19 square to infinity in Adam's state, while weights and losses stay finite."""
    spoil_loss(monkeypatch, lambda _, *losses: [loss * 1e25 for loss in losses])
    state = small_state("channel_fusion")
    state.stop_signal = stop_signal
    with pytest.raises(UserError, match="no longer finite in epoch 1;"):
        next(fit(state, few.train, few.test))
    assert all_finite(state) and state.sums.isfinite().all()


def test_weights_that_the_last_step_has_spoilt_end_the_run(few):
    state = small_state("linear_adder", batch_size=64, learning_rate=1e39)
    with pytest.raises(UserError, match="no longer finite in epoch 1;"):
        next(fit(state, few.train, few.test))
    assert state.step == 1 and state.sums.isfinite().all()


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_in_a_step_waits_for_the_device(name, few, monkeypatch):
    """Any tensor's value that Python asks for is such a wait; on a CPU one_hot asks, on a GPU not."""
    monkeypatch.setattr(dataset, "one_hot", lambda numbers: torch.eye(10)[numbers])
    waits = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
            waits.append(operation in WAITS)
            return operation(*arguments, **(keywords or {}))

    def waits_in_an_epoch(batch_size):
        state = small_state(name, 1, batch_size)
        waits.clear()
        with Watch():
            list(fit(state, few.train, few.test.first(1)))
        return sum(waits)

    assert 0 < waits_in_an_epoch(8) == waits_in_an_epoch(32)


def test_the_one_cycle_schedule_has_the_learning_rates_of_channel_fusions_log():
    recipe, steps = RECIPES["channel_fusion"], 10 * 875
    rates = [round(learning_rate(recipe, epoch * 875, steps), 6) for epoch in range(10)]
    logged = [0.00004, 0.00036, 0.00068, 0.001, 0.000857, 0.000714, 0.000571, 0.000428, 0.000286, 0.000143]
    logged[7] = 0.000429  # ours: the peak lies one step later than PyTorch's, which the log shows here
    assert rates == logged


def test_a_constant_schedule_is_constant():
    recipe = dataclasses.replace(RECIPES["channel_fusion"], schedule="constant")
    assert {learning_rate(recipe, step, 100) for step in range(100)} == {recipe.learning_rate}
