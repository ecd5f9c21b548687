"""What a model is given: items of image and number, and the order of an epoch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, default_collate

from mnist_sum.data import Split, load
from mnist_sum.dataset import BACKGROUND, MEAN, STD, MnistSum, batches, normalised
from mnist_sum.recipes import RECIPES, default_batch_size, held_out_mask
from mnist_sum.system.randomness import generator


def test_an_item_is_image_and_number_then_digit_and_total(few):
    (image, number), (digit, total) = MnistSum(few.train, seed=3)[5]
    assert image.shape == (1, 28, 28)
    assert image.dtype == torch.float32
    torch.testing.assert_close(image[0], (few.train.images[5] / 255 - MEAN) / STD)
    assert number.shape == (10,)
    assert sorted(number.tolist()) == [0.0] * 9 + [1.0]
    assert digit == few.train.digits[5]
    assert total == digit + number.argmax()


def test_a_list_of_indices_gives_the_stacked_items(few):
    items = MnistSum(few.train)
    stacked = default_collate([items[index] for index in (4, 0, 9)])
    torch.testing.assert_close(items[[4, 0, 9]], stacked, rtol=0, atol=0)


@pytest.mark.parametrize("whole_batches", [False, True])
def test_a_plain_dataloader_takes_it(few, whole_batches):
    items = MnistSum(few.train)
    sampler = BatchSampler(SequentialSampler(items), 20, drop_last=False)
    options = {"sampler": sampler, "batch_size": None} if whole_batches else {"batch_size": 20}
    seen = [(image.shape, total.tolist()) for (image, _), (_, total) in DataLoader(items, **options)]
    assert [shape[0] for shape, _ in seen] == [20, 20, 20, 4]
    assert sum((totals for _, totals in seen), []) == (items.digits + items.numbers).tolist()


def test_numbers_are_a_pure_function_of_seed_epoch_and_image(few):
    items, fixed = MnistSum(few.train, seed=1), MnistSum(few.train, seed=1, numbers="fixed")
    first = items.numbers
    for each in (items, fixed):
        each.set_epoch(7)
    assert not torch.equal(items.numbers, first)
    assert torch.equal(fixed.numbers, first), "fixed numbers depend on the epoch"
    items.set_epoch(0)
    assert torch.equal(items.numbers, first)
    assert not torch.equal(MnistSum(few.train, seed=2).numbers, first)
    assert torch.equal(MnistSum(few.train.first(10), seed=1).numbers, first[:10]), "limit changes draws"


@pytest.mark.parametrize("count", [5, 64])
def test_with_no_pair_held_out_the_numbers_are_those_of_plain_draws(few, count):
    items = MnistSum(few.train.first(count), seed=4)
    items.set_epoch(2)
    assert torch.equal(items.numbers, torch.randint(10, (count,), generator=generator(4, "numbers", 2)))


@pytest.mark.parametrize("numbers", ["fresh", "fixed"])
def test_a_held_out_pair_is_never_drawn_and_the_others_equally_often(few, numbers):
    digits = torch.arange(3).repeat(4_000)
    split = Split(few.train.images[:1].expand(len(digits), 28, 28), digits)
    kept = {0: [4], 1: [2, 3, 9], 2: [0, 1, 2, 3, 4, 5, 6, 8, 9]}
    mask = held_out_mask((d, n) for d in range(3) for n in range(10) if n not in kept[d])
    items = MnistSum(split, 1, numbers, held_out=mask)
    items.set_epoch(3)
    for digit, some in kept.items():
        counts = items.numbers[digits == digit].bincount(minlength=10)
        assert counts.nonzero().flatten().tolist() == some
        assert counts[some].min() > 0.85 * 4_000 / len(some)


def test_all_ten_numbers_are_drawn_about_equally_often(few):
    split = Split(few.train.images[:1].expand(20_000, 28, 28), torch.zeros(20_000).long())
    counts = MnistSum(split).numbers.bincount(minlength=10)
    assert counts.min() > 1_800
    assert counts.max() < 2_200


@given(st.integers(1, 300), st.integers(1, 64), st.integers(0, 2**63 - 1), st.integers(0, 99))
def test_an_epoch_has_every_image_once_and_no_batch_of_a_few(size, batch_size, seed, epoch):
    parts = batches(size, batch_size, seed, epoch)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(size))
    sizes = [len(part) for part in parts]
    assert all(part == batch_size for part in sizes[:-1])
    if size > 1 and batch_size > 1:
        assert min(sizes) >= min(size, max(2, batch_size / 8))
    assert max(sizes) < batch_size + max(2, batch_size / 8)


def test_each_epoch_has_an_order_of_its_own():
    assert not torch.equal(batches(100, 100, 0, 0)[0], batches(100, 100, 0, 1)[0])
    assert torch.equal(batches(100, 100, 0, 1)[0], batches(100, 100, 0, 1)[0])


@settings(max_examples=50)
@given(st.integers(1, 200_000))
def test_the_default_batch_size_follows_the_data(images):
    recipe = RECIPES["compact"]
    size = default_batch_size(recipe, images)
    assert 16 <= size <= recipe.batch_size
    if size > 16:
        assert 80 <= images / size <= 170 or size == recipe.batch_size  # about 117 steps an epoch


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_default_batch_size_is_the_recipes_on_mnist_and_on_its_pooled_split(recipe):
    assert default_batch_size(recipe, 60_000) == default_batch_size(recipe, 56_000) == recipe.batch_size


def test_normalised_training_images_have_mean_0_and_standard_deviation_1(mnist_folder):
    images = normalised(load("mnist", mnist_folder).train.images)
    assert abs(images.mean().item()) < 1e-3
    assert abs(images.std().item() - 1) < 1e-3
    assert images.min().item() == pytest.approx(BACKGROUND)
