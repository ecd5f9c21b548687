"""The exact-addition layer against brute force over all pairs of digit and number."""

import pytest
import torch

from mnist_sum import models
from mnist_sum.dataset import BACKGROUND, MnistSum, one_hot
from mnist_sum.evaluation import predictions
from mnist_sum.loss import digit_and_sum_loss, summed_loss
from mnist_sum.models.exact_addition import add_exactly
from mnist_sum.models.reader import Deskew

TYPES = [torch.float32, torch.bfloat16]


def brute_force(digit_logits, number):
    """Each sum's probability, added up pair by pair in Python: P(s) = sum of P(d) with d + n = s."""
    probabilities = torch.zeros(len(digit_logits), 19, dtype=torch.float64)
    for case, n in enumerate(number.argmax(1).tolist()):
        for d, p in enumerate(digit_logits[case].double().softmax(0)):
            probabilities[case, d + n] = probabilities[case, d + n] + p
    return probabilities


@pytest.mark.parametrize("dtype", TYPES)
def test_sum_probabilities_are_the_digits_shifted_by_the_number(dtype):
    number = one_hot(torch.arange(100) % 10)
    digit_logits = (5 * torch.randn(100, 10)).to(dtype)
    sums = add_exactly(digit_logits, number)
    assert sums.dtype == dtype
    assert sums.shape == (100, 19)
    torch.testing.assert_close(sums.double().softmax(1), brute_force(digit_logits, number))


@pytest.mark.parametrize("dtype", TYPES)
def test_a_certain_digit_gives_a_certain_sum_for_all_hundred_pairs(dtype):
    digits, numbers = torch.cartesian_prod(torch.arange(10), torch.arange(10)).T
    sums = add_exactly((8 * one_hot(digits)).to(dtype), one_hot(numbers))
    assert torch.equal(sums.argmax(1), digits + numbers)
    probabilities = sums.float().softmax(1)
    for case, n in enumerate(numbers.tolist()):
        impossible = [s for s in range(19) if not 0 <= s - n <= 9]
        assert probabilities[case, impossible].eq(0).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_the_gradient_is_that_of_brute_force(dtype):
    digits, numbers = torch.cartesian_prod(torch.arange(10), torch.arange(10)).T
    number, total = one_hot(numbers), digits + numbers
    logits = torch.randn(100, 10).to(dtype)
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    digit_and_sum_loss(ours, add_exactly(ours, number), digits, total)[1].backward()
    (-brute_force(theirs, number)[torch.arange(100), total].log().mean()).backward()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-4
    torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=tolerance, rtol=10 * tolerance)


def test_the_sums_loss_is_the_digits_loss():
    digits, numbers = torch.cartesian_prod(torch.arange(10), torch.arange(10)).T
    logits = torch.randn(100, 10)
    digit_loss, sum_loss = digit_and_sum_loss(
        logits, add_exactly(logits, one_hot(numbers)), digits, digits + numbers
    )
    torch.testing.assert_close(digit_loss, sum_loss)


def test_several_readings_are_added_to_as_each_alone():
    number, logits = one_hot(torch.arange(100) % 10), torch.randn(3, 100, 10)
    for reading, sums in zip(logits, add_exactly(logits, number), strict=True):
        assert torch.equal(sums, add_exactly(reading, number))


def test_the_answer_is_the_mean_of_the_readings():
    tiny, large = models.build("tiny").eval(), models.build("large").eval()
    image = torch.full((2, 1, 28, 28), BACKGROUND)
    image[:, :, 4:24, 4:24] = torch.randn(2, 1, 20, 20)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), value=BACKGROUND)
    places = [(1, 1), (0, 0), (2, 2)]  # the first row and column of what is read
    readings = [tiny.readers[0](padded[:, :, y : y + 28, x : x + 28]) for y, x in places]
    torch.testing.assert_close(tiny.encode(image), torch.stack(readings).mean(0))
    torch.testing.assert_close(
        large.encode(image), torch.stack([read(image) for read in large.readers]).mean(0)
    )


def test_the_last_reader_of_large_sees_the_image_upright():
    large, image = models.build("large").eval(), torch.full((2, 1, 28, 28), BACKGROUND)
    image[:, 0, range(6, 22), range(6, 22)] = torch.randn(2, 16)  # leans by 45 degrees
    upright = Deskew()(image)
    assert not torch.equal(upright, image)
    for read, has_deskew in zip(large.readers, (False, False, False, False, True), strict=True):
        layers = read[1:] if has_deskew else read
        torch.testing.assert_close(read(image), layers(upright if has_deskew else image))


def test_each_reader_learns_by_its_own_loss_alone():
    large, image, digit = models.build("large"), torch.randn(8, 1, 28, 28), torch.arange(8)
    number = one_hot(torch.arange(8))
    summed_loss(*large(image, number), digit, 2 * digit)[0].backward()
    reader = large.readers[-1]
    together = [weight.grad.clone() for weight in reader.parameters()]
    reader.zero_grad()
    alone = reader(image)
    summed_loss(alone, add_exactly(alone, number), digit, 2 * digit)[0].backward()
    for one, other in zip(together, reader.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad / 5)


def test_a_sum_is_right_exactly_when_its_digit_is(few):
    torch.manual_seed(0)
    digit_right, sum_right, _ = predictions(models.build("tiny"), MnistSum(few.test)).right
    assert torch.equal(digit_right, sum_right)
    assert digit_right.any()
    assert not digit_right.all()
