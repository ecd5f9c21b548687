"""Exact addition against brute force over all pairs of digit and number, and the ensemble around it."""

import pytest
import torch

from mnist_sum import models
from mnist_sum.dataset import BACKGROUND, one_hot
from mnist_sum.loss import digit_and_sum_loss, summed_loss
from mnist_sum.models.digit_classifier import Deskew
from mnist_sum.models.exact_addition import add_exactly

TYPES = [torch.float32, torch.bfloat16]
DIGITS, NUMBERS = torch.cartesian_prod(torch.arange(10), torch.arange(10)).T  # all hundred pairs


def brute_force(digit_logits, number):
    """Each sum's probability, added up pair by pair in Python: P(s) = sum of P(d) with d + n = s."""
    probabilities = torch.zeros(len(digit_logits), 19, dtype=torch.float64)
    for case, n in enumerate(number.argmax(1).tolist()):
        for d, p in enumerate(digit_logits[case].double().softmax(0)):
            probabilities[case, d + n] = probabilities[case, d + n] + p
    return probabilities


@pytest.mark.parametrize("dtype", TYPES)
def test_sum_probabilities_are_the_digits_shifted_by_the_number(dtype):
    number, digit_logits = one_hot(NUMBERS), (5 * torch.randn(100, 10)).to(dtype)
    sums = add_exactly(digit_logits, number)
    assert sums.dtype == dtype
    assert sums.shape == (100, 19)
    expected = brute_force(digit_logits, number)
    torch.testing.assert_close(sums.double().softmax(1), expected)
    assert torch.equal(sums.softmax(1) == 0, expected == 0), "an impossible sum has no probability at all"


@pytest.mark.parametrize("dtype", TYPES)
def test_loss_and_gradient_of_the_sum_are_those_of_brute_force(dtype):
    number, total = one_hot(NUMBERS), DIGITS + NUMBERS
    logits = torch.randn(100, 10).to(dtype)
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    digit_loss, sum_loss = digit_and_sum_loss(ours, add_exactly(ours, number), DIGITS, total)
    expected = -brute_force(theirs, number)[torch.arange(100), total].log().mean()
    sum_loss.backward()
    expected.backward()
    torch.testing.assert_close(sum_loss.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sum_loss, digit_loss)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-4
    torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=tolerance, rtol=10 * tolerance)


def test_a_sum_is_correct_exactly_when_its_digit_is():
    torch.manual_seed(0)
    with torch.no_grad():
        digit_logits, sum_logits = models.build("tiny").eval()(torch.randn(100, 1, 28, 28), one_hot(NUMBERS))
    digit_correct = digit_logits.argmax(1) == DIGITS
    assert torch.equal(sum_logits.argmax(1) == DIGITS + NUMBERS, digit_correct)
    assert digit_correct.any()
    assert not digit_correct.all()


def test_each_member_of_an_ensemble_is_added_to_by_itself():
    number, logits = one_hot(NUMBERS), torch.randn(3, 100, 10)
    for member, sums in zip(logits, add_exactly(logits, number), strict=True):
        assert torch.equal(sums, add_exactly(member, number))


def test_digit_logits_are_the_mean_over_tta_views_and_members():
    tiny, large = models.build("tiny").eval(), models.build("large").eval()
    image = torch.full((2, 1, 28, 28), BACKGROUND)
    image[:, :, 4:24, 4:24] = torch.randn(2, 1, 20, 20)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), value=BACKGROUND)
    corners = [(1, 1), (0, 0), (2, 2)]  # the first row and column of each view
    views = [tiny.members[0](padded[:, :, y : y + 28, x : x + 28]) for y, x in corners]
    torch.testing.assert_close(tiny.encode(image), torch.stack(views).mean(0))
    outputs = [member(image) for member in large.members]
    torch.testing.assert_close(large.encode(image), torch.stack(outputs).mean(0))


def test_the_last_member_of_large_sees_the_image_deskewed():
    large, image = models.build("large").eval(), torch.full((2, 1, 28, 28), BACKGROUND)
    image[:, 0, range(6, 22), range(6, 22)] = torch.randn(2, 16)  # a slope of 45 degrees
    deskewed = Deskew()(image)
    assert not torch.equal(deskewed, image)
    for place, member in enumerate(large.members):
        layers, seen = (member[1:], deskewed) if place == 4 else (member, image)
        torch.testing.assert_close(member(image), layers(seen))


def test_each_member_is_trained_by_its_own_loss_alone():
    large, image, digit = models.build("large"), torch.randn(8, 1, 28, 28), torch.arange(8)
    number = one_hot(digit)
    summed_loss(*large(image, number), digit, 2 * digit)[0].backward()
    member = large.members[-1]
    in_the_ensemble = [weight.grad.clone() for weight in member.parameters()]
    member.zero_grad()
    logits = member(image)
    summed_loss(logits, add_exactly(logits, number), digit, 2 * digit)[0].backward()
    for one, weight in zip(in_the_ensemble, member.parameters(), strict=True):
        torch.testing.assert_close(one, weight.grad / 5)
