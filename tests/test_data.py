"""The dataset: where it comes from, which numbers are drawn, how it is batched."""

import gzip
import shutil
import socket

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST

from mnist_sum.cli import UserError
from mnist_sum.data import MEAN, STD, MnistSum, batches, load_data, normalize


def test_mnist_and_its_splits_have_the_published_sizes(mnist_folder):
    sizes = {split: load_data("mnist", mnist_folder, split) for split in ("standard", "pooled", "validation")}
    assert [(len(data.train), len(data.test)) for data in sizes.values()] == [
        *((60_000, 10_000), (56_000, 14_000), (50_000, 10_000))
    ]
    assert torch.equal(sizes["validation"].test.digits, sizes["standard"].train.digits[50_000:])
    pixels = normalize(sizes["standard"].train.images)
    assert abs(pixels.mean()) < 1e-3
    assert abs(pixels.std() - 1) < 1e-3


def test_sample_is_stratified_and_its_digits_take_turns(sample):
    assert (len(sample.train), len(sample.test)) == (4000, 1000)
    assert sample.train.digits[:20].tolist() == [*range(10), *range(10)]
    assert sample.test.digits.bincount().tolist() == [100] * 10


def test_limit_keeps_the_first_images(sample):
    data = load_data("sample", limit=7)
    assert (len(data.train), len(data.test)) == (7, 7)
    assert torch.equal(data.train.images, sample.train.images[:7])


def test_archives_that_lie_in_the_folder_are_used(mnist_folder, tmp_path, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    archives = [(name.removesuffix(".gz"), md5) for name, md5 in MNIST.resources]
    for name, _ in archives:
        with gzip.open(raw / f"{name}.gz", "wb", compresslevel=1) as file:
            file.write((mnist_folder / "MNIST" / "raw" / name).read_bytes())
    monkeypatch.setattr(MNIST, "resources", [(f"{name}.gz", None) for name, _ in archives])  # ours are packed anew
    assert len(load_data("mnist", tmp_path).train) == 60_000


def test_without_mnist_auto_is_the_sample_with_a_warning_and_mnist_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert load_data("auto", tmp_path).name == "sample"
    warning = capsys.readouterr().err.splitlines()[-1]
    assert warning.startswith("warning: using the 5,000-image sample")
    with pytest.raises(UserError, match="--data-dir"):
        load_data("mnist", tmp_path)
    assert socket.getdefaulttimeout() is None


def test_damaged_mnist_is_one_line(mnist_folder, tmp_path):
    shutil.copytree(mnist_folder / "MNIST", tmp_path / "MNIST")
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.chmod(0o644)
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(UserError, match="is damaged"):
        load_data("mnist", tmp_path)


def test_an_item_is_a_normalized_image_a_one_hot_number_and_both_targets(few):
    (image, number), (digit, total) = MnistSum(few.train)[5]
    assert image.shape == (1, 28, 28)
    assert number.shape == (10,)
    assert total == digit + number.argmax()
    assert torch.allclose((image * STD + MEAN) * 255, few.train.images[5].float(), atol=1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_pass_draws_new_numbers_and_a_seed_repeats_them(workers, few):
    loader = DataLoader(MnistSum(few.train), batch_size=64, num_workers=workers, persistent_workers=workers > 0)

    def passes():
        torch.manual_seed(3)
        return [next(iter(loader))[0][1].argmax(1).tolist() for _ in range(3)]

    first = passes()
    assert len(set(map(tuple, first))) == 3
    if workers == 0:
        assert passes() == first
    else:
        loader = DataLoader(MnistSum(few.train), batch_size=64, num_workers=workers, persistent_workers=True)
        assert passes() == first


def test_fixed_numbers_depend_on_seed_and_epoch_and_a_batch_is_its_items(few):
    dataset = MnistSum(few.train)
    drawn = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        dataset.fix_numbers(seed, epoch)
        drawn.append(dataset[torch.arange(64)][0][1].argmax(1))
    assert torch.equal(drawn[0], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert [dataset[i][0][1].argmax().item() for i in range(64)] == drawn[3].tolist()


def test_held_out_pairs_are_never_drawn_and_all_others_are(sample):
    held_out = (*((3, number) for number in range(9)), (7, 2))
    dataset = MnistSum(sample.train, held_out)
    dataset.fix_numbers(0, 0)
    pairs = set(zip(dataset.digits.tolist(), dataset.numbers.tolist(), strict=True))
    assert pairs == {(digit, number) for digit in range(10) for number in range(10)} - set(held_out)


@given(size=st.integers(1, 300), batch_size=st.integers(1, 64))
@settings(deadline=None, max_examples=50)
def test_batches_hold_every_image_once_and_the_last_is_not_tiny(size, batch_size):
    parts = batches(size, batch_size, seed=0, epoch=0)
    assert sorted(torch.cat(parts).tolist()) == list(range(size))
    if len(parts) > 1:
        assert {len(part) for part in parts[:-1]} == {batch_size}
        assert len(parts[-1]) >= batch_size / 8
