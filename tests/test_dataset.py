import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from mnist_sum import dataset
from mnist_sum.dataset import MEAN, STD, MnistSum, batches
from mnist_sum.errors import Fault
from mnist_sum.recipes import RECIPES, default_batch_size


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
    (images, numbers), (digits, totals) = items[[4, 0, 9]]
    for place, index in enumerate((4, 0, 9)):
        (image, number), (digit, total) = items[index]
        assert torch.equal(images[place], image)
        assert torch.equal(numbers[place], number)
        assert digits[place] == digit
        assert totals[place] == total


@pytest.mark.parametrize("whole_batches", [False, True])
def test_a_plain_dataloader_takes_it(few, whole_batches):
    items = MnistSum(few.train)
    if whole_batches:
        sampler = BatchSampler(SequentialSampler(items), 20, drop_last=False)
        loader = DataLoader(items, sampler=sampler, batch_size=None)
    else:
        loader = DataLoader(items, batch_size=20)
    seen = [(image.shape, total.tolist()) for (image, _), (_, total) in loader]
    assert [shape[0] for shape, _ in seen] == [20, 20, 20, 4]
    assert sum((totals for _, totals in seen), []) == (items.digits + items.numbers).tolist()


def test_numbers_are_a_pure_function_of_seed_epoch_and_image(few):
    items = MnistSum(few.train, seed=1)
    first = items.numbers
    items.set_epoch(7)
    seventh = items.numbers
    assert not torch.equal(first, seventh)
    items.set_epoch(0)
    assert torch.equal(items.numbers, first)
    assert not torch.equal(MnistSum(few.train, seed=2).numbers, first)
    assert torch.equal(MnistSum(few.train.first(10), seed=1).numbers, first[:10]), "limit changes draws"


def test_fixed_numbers_stay_the_same_in_every_epoch(few):
    items = MnistSum(few.train, numbers="fixed")
    first = items.numbers
    items.set_epoch(3)
    assert torch.equal(items.numbers, first)


def test_all_ten_numbers_are_drawn_about_equally_often(few):
    split = dataset.Split(few.train.images[:1].expand(20_000, 28, 28), torch.zeros(20_000).long())
    counts = MnistSum(split).numbers.bincount(minlength=10)
    assert counts.min() > 1_800
    assert counts.max() < 2_200


@given(st.integers(1, 300), st.integers(1, 64), st.integers(0, 2**63 - 1), st.integers(0, 99))
def test_an_epoch_sees_every_image_once_and_no_batch_of_one(size, batch_size, seed, epoch):
    parts = batches(size, batch_size, seed, epoch)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(size))
    sizes = [len(part) for part in parts]
    assert all(part == batch_size for part in sizes[:-1])
    if batch_size > 1 and size > 1:
        assert min(sizes) > 1


def test_the_order_is_the_epochs_own():
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


def test_the_recipes_own_batch_size_serves_mnist_and_its_pooled_split():
    for recipe in RECIPES.values():
        assert default_batch_size(recipe, 60_000) == recipe.batch_size
        assert default_batch_size(recipe, 56_000) == recipe.batch_size


def test_the_sample_is_stratified_and_its_splits_do_not_overlap(sample):
    assert (len(sample.train), len(sample.test)) == (4000, 1000)
    assert sample.train.digits.bincount().tolist() == [400] * 10
    assert sample.test.digits.bincount().tolist() == [100] * 10
    pixels = torch.cat((sample.train.images, sample.test.images)).view(5000, -1)
    assert len(torch.unique(pixels, dim=0)) == 5000
    assert sample.name == "sample"


def test_a_limited_sample_still_holds_every_digit(sample):
    limited = dataset.load("sample", "nowhere", limit=50)
    assert limited.train.digits.bincount().tolist() == [5] * 10
    assert limited.fingerprint() != sample.fingerprint()


def test_the_pooled_split_holds_every_image_once(sample):
    pooled = dataset.load("sample", "nowhere", split="pooled")
    assert (len(pooled.train), len(pooled.test)) == (4000, 1000)
    both = [torch.cat((data.train.images, data.test.images)) for data in (sample, pooled)]
    assert both[0].long().sum() == both[1].long().sum()
    assert len(torch.unique(both[1].view(5000, -1), dim=0)) == 5000
    assert pooled.train.digits.bincount().tolist() != sample.train.digits.bincount().tolist()


def test_the_validation_split_holds_the_last_sixth_of_the_training_images_out(sample):
    data = dataset.load("sample", "nowhere", split="validation")
    assert (len(data.train), len(data.test)) == (3334, 666)
    assert torch.equal(torch.cat((data.train.images, data.test.images)), sample.train.images)
    assert torch.equal(torch.cat((data.train.digits, data.test.digits)), sample.train.digits)


def test_mnist_is_what_torchvision_reads(mnist_folder):
    from torchvision.datasets import MNIST

    data = dataset.load("mnist", mnist_folder)
    for split, train in ((data.train, True), (data.test, False)):
        theirs = MNIST(mnist_folder, train=train)
        assert torch.equal(split.images, theirs.data)
        assert torch.equal(split.digits, theirs.targets)


def test_normalised_training_images_have_mean_0_and_deviation_1(mnist_folder):
    images = dataset.normalised(dataset.load("mnist", mnist_folder).train.images)
    assert abs(images.mean().item()) < 1e-3
    assert abs(images.std().item() - 1) < 1e-3


def test_without_mnist_and_network_auto_takes_the_sample_and_says_why(tmp_path, monkeypatch, capsys, sample):
    monkeypatch.setenv("MNIST_SUM_MIRROR", "http://127.0.0.1:9")
    data = dataset.load("auto", tmp_path)
    assert data.name == "sample"
    warning = capsys.readouterr().err
    assert warning.startswith("warning:")
    assert "127.0.0.1:9" in warning
    assert "lower" in warning


def test_without_mnist_and_network_mnist_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("MNIST_SUM_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(Fault, match="could not be downloaded"):
        dataset.load("mnist", tmp_path)
