"""The detector of what is no digit, on digits and on what no_digits.py draws, prepared as a user's image."""

import numpy as np
import pytest
import torch

from mnist_sum import images
from mnist_sum.images import novelty
from tests import no_digits
from tests.handwriting import drawn

SEED = 2


@pytest.fixture(scope="module")
def others(sample):
    """{kind: uint8 (16, 28, 28)} of every kind that the detector is measured on."""
    return {kind: no_digits.make(kind, "report", 16, SEED, sample.test) for kind in no_digits.kinds("report")}


def flagged(pixels):
    return novelty.unlike_digits(pixels).float().mean().item()


def test_few_digits_are_flagged(sample):
    assert 0.002 < flagged(torch.cat((sample.train.images, sample.test.images))) < 0.015


def test_most_of_what_is_no_digit_is_flagged(others):
    shares = {kind: flagged(pixels) for kind, pixels in others.items()}
    assert sum(shares.values()) / len(shares) >= 0.85, shares
    assert min(shares.values()) >= 0.5, shares


def test_digits_on_synthetic_pages_are_not_flagged():
    pages = [images.prepare(drawn(i % 10, np.random.default_rng([2026, i]))) for i in range(10)]
    assert novelty.unlike_digits(torch.stack(pages)).sum() <= 1


@pytest.mark.parametrize("count", [0, 1, novelty.FEW - 1, novelty.FEW, 1000])
def test_a_score_does_not_depend_on_what_else_is_judged(count, sample):
    pixels = sample.train.images[:1000]
    together = novelty.scores(pixels)
    found = novelty.scores(pixels[:count])
    assert (found.shape, found.dtype) == ((count,), torch.float32)
    assert torch.allclose(found, together[:count], atol=1e-4)
    assert torch.equal(found, novelty.scores(pixels[:count]))


def test_what_draws_no_digits_draws_the_same_again(others, sample):
    kind = "letters by strokes"
    assert torch.equal(no_digits.make(kind, "report", 4, SEED), others[kind][:4])
    assert not torch.equal(no_digits.make(kind, "report", 4, SEED + 1), others[kind][:4])
