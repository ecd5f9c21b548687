"""Adding in log space against adding up pair by pair."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_sum.dataset import one_hot
from mnist_sum.models.addition import NEVER, add_log_probabilities
from mnist_sum.models.exact_addition import add_exactly

# Log-probabilities, also impossible ones and such that their exponentials vanish or overflow.
logs = st.one_of(st.just(NEVER), st.floats(-5, 0, width=32), st.sampled_from([-1e4, -200.0, 200.0, 1e4]))
parts = st.lists(logs, min_size=1, max_size=4)


def pair_by_pair(first, second):
    """log P(s), one s after the other, each from the list of its pairs, in float64."""
    sums = [[] for _ in range(len(first) + len(second) - 1)]
    for a, left in enumerate(first):
        for b, right in enumerate(second):
            sums[a + b] += [left + right] if left + right != NEVER else []
    never = first.new_tensor(NEVER)
    return torch.stack([torch.stack(each).logsumexp(0) if each else never for each in sums])


@settings(deadline=None, max_examples=50)
@given(parts, parts)
def test_sums_and_their_gradients_are_those_of_all_pairs(first, second):
    ours = [torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (first, second)]
    theirs = [each.detach().clone().requires_grad_() for each in ours]
    sums, expected = add_log_probabilities(*ours), pair_by_pair(*theirs)
    torch.testing.assert_close(sums, expected)
    weights = torch.arange(1, len(sums) + 1).double()
    for result, inputs in ((sums, ours), (expected, theirs)):
        possible = result[result != NEVER]
        if len(possible):
            (possible * weights[: len(possible)]).sum().backward()
        for each in inputs:
            each.grad = torch.zeros_like(each) if each.grad is None else each.grad
    for each, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(each.grad, other.grad)


def test_a_loss_over_impossible_sums_has_no_nan_in_its_gradient():
    first = torch.tensor([0.0, NEVER, NEVER], requires_grad=True)
    sums = add_log_probabilities(first, torch.tensor([NEVER, 0.0]))
    assert sums.tolist() == [NEVER, 0.0, NEVER, NEVER]
    sums.exp().sum().backward()
    assert first.grad.tolist() == [1.0, 0.0, 0.0]


def test_leading_axes_broadcast():
    first, second = torch.randn(4, 1, 3), torch.randn(5, 2)
    sums = add_log_probabilities(first, second)
    assert sums.shape == (4, 5, 4)
    torch.testing.assert_close(sums[2, 3], add_log_probabilities(first[2, 0], second[3]))


def test_exact_addition_is_the_case_of_a_certain_second_part():
    logits, number = torch.randn(100, 10), one_hot(torch.arange(100) % 10)
    sums = add_log_probabilities(logits.log_softmax(1), number.log())
    torch.testing.assert_close(sums.exp(), add_exactly(logits, number).softmax(1))
