"""fit(): what it minimizes, the rate, the average, and that a run is a function of its settings."""

import copy
import io
import math
import re
from dataclasses import replace

import pytest
import torch
from tqdm import tqdm

from mnist_sum import training
from mnist_sum.augment import affine, random_matrices
from mnist_sum.cli import UserError
from mnist_sum.data import BACKGROUND, normalize
from mnist_sum.device import generator
from mnist_sum.loss import summed_loss
from mnist_sum.recipes import CUSTOM, RECIPES, Recipe, default_batch_size
from mnist_sum.training import fit, float_tensors, learning_rate, new_state, update_average

CPU = torch.device("cpu")


def state_of(name, seed=0, **settings):
    return new_state(name, replace(RECIPES.get(name, CUSTOM), **settings), seed, CPU, "fp32")


def test_loss_is_the_sum_of_two_cross_entropies():
    digit_logits, sum_logits = torch.randn(4, 10), torch.randn(4, 19)
    digit, total = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 18])
    loss, digit_loss, sum_loss = summed_loss(digit_logits, sum_logits, digit, total)
    by_hand = -digit_logits.log_softmax(1)[range(4), digit].mean(), -sum_logits.log_softmax(1)[range(4), total].mean()
    assert torch.allclose(torch.stack((digit_loss, sum_loss)), torch.stack(by_hand))
    assert loss == digit_loss + sum_loss
    members = summed_loss(digit_logits.expand(3, 4, 10), sum_logits.expand(3, 4, 19), digit, total)
    assert torch.allclose(members[0], loss)


@pytest.mark.parametrize("name", RECIPES)
def test_every_model_learns_a_few_images(name, sample):
    state = state_of(name, epochs=3, batch_size=32, split="standard")
    rows = list(fit(state, sample.train[:256], sample.test[:20]))
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["train_digit_loss"] < rows[0]["train_digit_loss"]
    assert all(0 <= row["test_sum_accuracy"] <= 1 for row in rows)
    assert state.history == rows


def test_a_seed_repeats_a_run_and_another_one_does_not(few):
    runs = [list(fit(state_of("compact", seed, epochs=2, batch_size=16), few.train, few.test)) for seed in (1, 1, 2)]
    for row in (row for run in runs for row in run):
        row.pop("seconds")
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_the_bar_shows_loss_accuracy_and_the_time_left_of_the_run(few, monkeypatch):
    terminal = io.StringIO()
    shown = {"disable": False, "file": terminal, "mininterval": 0, "ncols": 100}
    monkeypatch.setattr(training, "tqdm", lambda **settings: tqdm(**settings | shown))
    for row in fit(state_of("compact", epochs=2, batch_size=16), few.train, few.test):
        assert terminal.getvalue().split("\r")[-1] == ""  # cleared for the row
        assert f"epoch {row['epoch']}/2" in terminal.getvalue()
    assert re.search(r"epoch 2/2:  62% \|.+ left, loss \d\.\d+, acc [\d.]+ / [\d.]+%", terminal.getvalue())


def test_a_diverging_run_says_what_to_do_and_keeps_the_epoch_before(few):
    state = state_of("linear_adder", epochs=3, batch_size=16, learning_rate=1e6)
    with pytest.raises(UserError, match="smaller --lr"):
        list(fit(state, few.train, few.test))
    assert all(math.isfinite(value) for row in state.history for value in row.values())


def test_rate_rises_over_30_percent_of_the_steps_and_falls_to_zero():
    recipe = Recipe(1, 1, 0.5, "onecycle")
    rates = [learning_rate(recipe, step, 100) for step in range(101)]
    assert rates[0] == 0.5 / 25
    assert max(rates) == rates[30] == 0.5
    assert rates[100] == 0
    assert learning_rate(Recipe(1, 1, 0.5), 7, 100) == 0.5


def test_average_begins_with_the_weights_and_follows_them_slowly():
    model = torch.nn.BatchNorm1d(3)
    average = copy.deepcopy(model)
    for step in range(100):
        with torch.no_grad():
            model.weight.fill_(step)
            model.running_mean.fill_(step)
        update_average(float_tensors(average), float_tensors(model), step, 100)
        if step == 0:
            assert torch.equal(average.weight, model.weight)
    assert 80 < average.weight[0] < 95
    assert torch.equal(average.weight, average.running_mean)


def test_the_averaged_model_is_tested_and_the_other_one_trained(few):
    state = state_of("tiny", epochs=1, batch_size=16)
    before = copy.deepcopy(state.model.state_dict())
    list(fit(state, few.train, few.test))
    for key, tensor in state.model.state_dict().items():
        if tensor.is_floating_point():
            assert not torch.equal(tensor, before[key])
            assert not torch.equal(tensor, state.ema_model.state_dict()[key])


def test_augmentation_moves_ink_but_not_far(sample):
    image = normalize(sample.train.images[:50]).unsqueeze(1)
    moved = affine(image, random_matrices(50, generator(0, "affine"), CPU))
    assert moved.shape == image.shape
    ink = [(each - BACKGROUND).clamp(min=0).flatten(1) for each in (image, moved)]
    similarity = torch.cosine_similarity(*ink)
    assert 0.5 < similarity.mean() < 0.9
    identity = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]).expand(50, 2, 3)
    assert torch.allclose(affine(image, identity), image, atol=1e-4)


@pytest.mark.parametrize(("images", "size"), [(60_000, 512), (4000, 32), (100, 16), (30_000, 256)])
def test_less_data_has_smaller_batches(images, size):
    assert default_batch_size(RECIPES["compact"], images) == size
    assert default_batch_size(RECIPES["tiny"], images) == 128


@pytest.mark.parametrize("settings", [{"schedule": "cosine"}, {"epochs": 0}, {"learning_rate": float("nan")}])
def test_a_recipe_that_cannot_be_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        replace(CUSTOM, **settings)
