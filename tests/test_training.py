import dataclasses
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mnist_sum import dataset, loss, training
from mnist_sum.augment import random_affine
from mnist_sum.errors import Fault
from mnist_sum.recipes import RECIPES, Recipe
from mnist_sum.training import ROW, Stopped, fit, learning_rate, new_run

CPU = torch.device("cpu")
WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


def small_run(name="compact", epochs=2, batch_size=16, seed=0, **changes):
    changes |= {"epochs": epochs, "batch_size": batch_size}
    return new_run(name, dataclasses.replace(RECIPES[name], **changes), seed, CPU, "fp32")


def same(one, two):
    return all(torch.equal(one[key], two[key]) for key in one)


def test_fit_yields_one_row_of_plain_numbers_an_epoch(few):
    run = small_run()
    rows = list(fit(run, few.train, few.test))
    assert [row["epoch"] for row in rows] == [1, 2]
    for row in rows:
        assert tuple(row) == ROW
        assert all(type(value) in (int, float) and math.isfinite(value) for value in row.values())
        assert 0 <= row["test_sum_accuracy"] <= 1
    assert run.history == rows


@pytest.mark.parametrize("name", RECIPES)
def test_two_runs_of_one_seed_have_bit_identical_weights_and_another_seed_has_not(name, few):
    first, second, other = (small_run(name, seed=seed) for seed in (5, 5, 6))
    for run in (first, second, other):
        list(fit(run, few.train, few.test))
    assert same(first.model.state_dict(), second.model.state_dict())
    assert not same(first.model.state_dict(), other.model.state_dict())


def test_training_learns_what_there_is_to_learn(few):
    rows = list(fit(small_run("mlp_adder", epochs=12), few.train, few.train))
    assert rows[-1]["train_digit_loss"] < rows[0]["train_digit_loss"] / 10
    assert rows[-1]["test_digit_accuracy"] > 0.9


@pytest.mark.parametrize("augmentation", ["none", "affine"])
def test_every_batch_is_moved_where_the_recipe_says_so(augmentation, few, monkeypatch):
    reaches = []

    def noted(images, moves):
        reaches.append(moves.abs().max().item())
        return random_affine(images, moves)

    monkeypatch.setattr(training, "random_affine", noted)
    run = small_run("tiny", epochs=1, augmentation=augmentation)
    list(fit(run, few.train, few.test))
    assert len(reaches) == (0 if augmentation == "none" else math.ceil(len(few.train) / 16))
    assert all(0.9 < reach <= 1 for reach in reaches)


def test_a_run_stopped_after_any_step_goes_on_bit_identically(few):
    unbroken = small_run()
    list(fit(unbroken, few.train, few.test))
    broken = small_run()
    for _ in range(3):
        broken.stop_signal = 15
        with pytest.raises(Stopped):
            list(fit(broken, few.train, few.test))
        broken.stop_signal = None
        torch.manual_seed(99)  # the global random state must not matter
    assert (broken.epoch, broken.step) == (0, 3)
    list(fit(broken, few.train, few.test))
    assert same(unbroken.model.state_dict(), broken.model.state_dict())
    for one, two in zip(unbroken.history, broken.history, strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_a_batch_larger_than_the_data_is_one_smaller_batch(few):
    run = small_run(epochs=1, batch_size=1000)
    before = {key: tensor.clone() for key, tensor in run.model.state_dict().items()}
    (row,) = fit(run, few.train, few.test)
    assert not same(before, run.model.state_dict())
    assert row["train_digit_loss"] > 0


def test_a_batch_of_one_is_refused_where_batch_normalisation_cannot_learn_from_it(few):
    with pytest.raises(Fault, match="batch normalisation"):
        list(fit(small_run(batch_size=1), few.train, few.test))
    with pytest.raises(Fault, match="batch normalisation"):
        list(fit(small_run(), few.train.first(1), few.test))
    assert list(fit(small_run("linear_adder", 1, 1), few.train.first(3), few.test.first(2)))


@pytest.mark.parametrize("stopped", [False, True], ids=["epoch end", "stopped"])
def test_an_epoch_with_a_loss_that_is_not_finite_is_named_and_never_handed_on(stopped, few, monkeypatch):
    run, calls = small_run(), []
    original = loss.digit_and_sum_loss

    def spoilt(*arguments):
        calls.append(None)
        if stopped and len(calls) == 5:
            run.stop_signal = 15
        digit_loss, sum_loss = original(*arguments)
        return (digit_loss * math.nan if len(calls) == 5 else digit_loss), sum_loss

    monkeypatch.setattr(loss, "digit_and_sum_loss", spoilt)
    rows = fit(run, few.train.first(48), few.test)
    assert next(rows)["epoch"] == 1
    with pytest.raises(Fault, match="no longer finite in epoch 2;"):
        next(rows)
    assert len(run.history) == run.epoch == 1


def test_a_loss_that_is_not_finite_is_found_even_if_the_weights_stay_finite(few, monkeypatch):
    def infinite(digit_logits, sum_logits, *_):
        return digit_logits.sum() * 0 + math.inf, sum_logits.sum() * 0

    monkeypatch.setattr(loss, "digit_and_sum_loss", infinite)
    run = small_run()
    with pytest.raises(Fault, match="no longer finite in epoch 1;"):
        list(fit(run, few.train, few.test))
    assert all(torch.isfinite(parameter).all() for parameter in run.model.parameters())


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_in_a_step_waits_for_the_device(name, few, monkeypatch):
    """Any tensor's value that Python asks for is such a wait; on a CPU one_hot asks, on a GPU not."""
    monkeypatch.setattr(dataset, "one_hot", lambda numbers: torch.eye(10)[numbers])
    asked = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
            asked.append(operation in WAITS)
            return operation(*arguments, **(keywords or {}))

    def asked_in_an_epoch(batch_size):
        run = small_run(name, 1, batch_size)
        asked.clear()
        with Watch():
            list(fit(run, few.train, few.test.first(1)))
        return sum(asked)

    assert 0 < asked_in_an_epoch(8) == asked_in_an_epoch(32)


def test_weights_that_a_step_has_spoilt_are_never_handed_on(few):
    run = small_run("linear_adder", learning_rate=1e30)
    with pytest.raises(Fault, match="epoch 1"):
        list(fit(run, few.train, few.test))


def test_the_one_cycle_schedule_has_the_rates_of_seed_000s_log():
    recipe, steps = RECIPES["channel_fusion"], 10 * 875
    rates = [round(learning_rate(recipe, epoch * 875, steps), 6) for epoch in range(10)]
    logged = [0.00004, 0.00036, 0.00068, 0.001, 0.000857, 0.000714, 0.000571, 0.000428, 0.000286, 0.000143]
    logged[7] = 0.000429  # ours: the peak lies one step later than PyTorch's, which the log shows here
    assert rates == logged


def test_a_constant_schedule_is_constant():
    recipe = RECIPES["compact"]
    assert {learning_rate(recipe, step, 100) for step in range(100)} == {recipe.learning_rate}


@pytest.mark.parametrize(
    ("setting", "value"),
    [("epochs", 0), ("epochs", True), ("batch_size", -1), ("learning_rate", math.nan)]
    + [("learning_rate", 1), ("schedule", "cosine"), ("numbers", "some"), ("optimizer", ["sgd"])],
)
def test_a_recipe_refuses_what_cannot_be(setting, value):
    settings = {**dataclasses.asdict(RECIPES["compact"]), setting: value}
    with pytest.raises(ValueError, match=setting):
        Recipe(**settings)
