import math

import pytest
import torch

from mnist_sum.loss import digit_and_sum_loss, summed_loss


def test_losses_of_uniform_logits_are_the_logarithms_of_the_class_counts():
    digit_loss, sum_loss = digit_and_sum_loss(
        torch.zeros(4, 10), torch.zeros(4, 19), torch.arange(4), torch.arange(4)
    )
    assert digit_loss.item() == pytest.approx(math.log(10))
    assert sum_loss.item() == pytest.approx(math.log(19))


def test_summed_loss_equals_the_value_worked_out_by_hand():
    # Two cases. Digit: logit 2 for the true class against nine zeros, then 0 against a 1.
    digit_logits = torch.zeros(2, 10)
    digit_logits[0, 3], digit_logits[1, 5] = 2.0, 1.0
    first, second = math.log(math.exp(2) + 9) - 2, math.log(math.e + 9)
    sum_logits = torch.zeros(2, 19)
    sum_logits[0, 18] = 3.0
    third, fourth = math.log(math.exp(3) + 18) - 3, math.log(19)
    loss, digit_loss, sum_loss = summed_loss(
        digit_logits, sum_logits, torch.tensor([3, 4]), torch.tensor([18, 0])
    )
    assert digit_loss.item() == pytest.approx((first + second) / 2, rel=1e-6)
    assert sum_loss.item() == pytest.approx((third + fourth) / 2, rel=1e-6)
    assert loss.item() == pytest.approx((first + second) / 2 + (third + fourth) / 2, rel=1e-6)


def test_cross_entropy_on_logits_is_negative_log_likelihood_on_log_softmax():
    logits, digit = torch.randn(8, 10), torch.randint(10, (8,))
    nll = torch.nn.functional.nll_loss(torch.log_softmax(logits, 1), digit)
    digit_loss, _ = digit_and_sum_loss(logits, torch.zeros(8, 19), digit, digit)
    torch.testing.assert_close(digit_loss, nll)


def test_losses_are_taken_in_float32_whatever_the_logits_are():
    loss, _, _ = summed_loss(
        torch.randn(4, 10).bfloat16(), torch.randn(4, 19).bfloat16(), torch.arange(4), torch.arange(4)
    )
    assert loss.dtype == torch.float32


def test_several_readings_have_a_loss_each_and_the_mean_is_trained_on():
    digit, total = torch.randint(10, (8,)), torch.randint(19, (8,))
    digit_logits, sum_logits = torch.randn(3, 8, 10), torch.randn(3, 8, 19)
    alone = [summed_loss(*reading, digit, total)[0] for reading in zip(digit_logits, sum_logits, strict=True)]
    torch.testing.assert_close(
        summed_loss(digit_logits, sum_logits, digit, total)[0], torch.stack(alone).mean()
    )
