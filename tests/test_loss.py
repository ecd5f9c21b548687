import math

import pytest
import torch

from mnist_sum.loss import digit_and_sum_loss, summed_loss


def test_loss_of_uniform_logits_is_the_logarithm_of_the_number_of_classes():
    losses = digit_and_sum_loss(torch.zeros(4, 10), torch.zeros(4, 19), torch.arange(4), torch.arange(4))
    assert [loss.item() for loss in losses] == pytest.approx([math.log(10), math.log(19)])


def test_summed_loss_equals_the_value_worked_out_by_hand():
    # Two cases. Digit: logit 2 for the true class against nine zeros, then 0 against a 1.
    digit_logits = torch.zeros(2, 10)
    digit_logits[0, 3], digit_logits[1, 5] = 2.0, 1.0
    first, second = math.log(math.exp(2) + 9) - 2, math.log(math.e + 9)
    sum_logits = torch.zeros(2, 19)
    sum_logits[0, 18] = 3.0
    third, fourth = math.log(math.exp(3) + 18) - 3, math.log(19)
    losses = summed_loss(digit_logits, sum_logits, torch.tensor([3, 4]), torch.tensor([18, 0]))
    digit_loss, sum_loss = (first + second) / 2, (third + fourth) / 2
    assert [loss.item() for loss in losses] == pytest.approx([digit_loss + sum_loss, digit_loss, sum_loss])


def test_cross_entropy_on_logits_equals_negative_log_likelihood_on_log_softmax():
    logits, digit = torch.randn(8, 10), torch.randint(10, (8,))
    nll = torch.nn.functional.nll_loss(torch.log_softmax(logits, 1), digit)
    digit_loss, _ = digit_and_sum_loss(logits, torch.zeros(8, 19), digit, digit)
    torch.testing.assert_close(digit_loss, nll)


def test_loss_of_bfloat16_logits_is_computed_in_float32():
    logits = torch.randn(4, 10).bfloat16(), torch.randn(4, 19).bfloat16()
    target = torch.arange(4), torch.arange(4)
    loss, *_ = summed_loss(*logits, *target)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, summed_loss(*(part.float() for part in logits), *target)[0])


def test_loss_of_an_ensemble_is_the_mean_of_its_members_losses():
    digit, total = torch.randint(10, (8,)), torch.randint(19, (8,))
    digit_logits, sum_logits = torch.randn(3, 8, 10), torch.randn(3, 8, 19)
    each = [summed_loss(*member, digit, total)[0] for member in zip(digit_logits, sum_logits, strict=True)]
    loss, *_ = summed_loss(digit_logits, sum_logits, digit, total)
    torch.testing.assert_close(loss, torch.stack(each).mean())
