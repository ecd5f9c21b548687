"""Our batch normalisation in one process against PyTorch's. (Over several: the tests of processes.)"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mnist_sum import models
from mnist_sum.system import batch_norm
from mnist_sum.system.batch_norm import BatchNorm1d, BatchNorm2d, combine_moments, fold_lanes, synchronised

FORMATS = [torch.channels_last, torch.contiguous_format]


def step(norm, x, gradient):
    """Everything that a training step computes in a normalisation."""
    own = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = norm(own)
    y.backward(gradient)
    weights = norm.weight.grad, norm.bias.grad
    return y.detach(), own.grad, *weights, norm.running_mean, norm.running_var, norm.num_batches_tracked


def norms(channels, dtype):
    """nn.BatchNorm2d with random weights, and ours with the same."""
    theirs, ours = nn.BatchNorm2d(channels, dtype=dtype), BatchNorm2d(channels, dtype=dtype)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@settings(deadline=None, max_examples=100)
@given(
    shape=st.tuples(*[st.integers(1, 17)] * 4).filter(lambda s: s[0] * s[2] * s[3] > 1),
    mean=st.sampled_from([0.0, 1000.0]),
    memory_format=st.sampled_from(FORMATS),
    seed=st.integers(0, 99),
)
def test_training_step_and_evaluation_equal_those_of_pytorch(shape, mean, memory_format, seed):
    torch.manual_seed(seed)
    theirs, ours = norms(shape[1], torch.float64)
    x = (torch.randn(shape, dtype=torch.float64) + mean).contiguous(memory_format=memory_format)
    gradient = torch.randn(shape, dtype=torch.float64)
    for expected, computed in zip(step(theirs, x, gradient), step(ours, x, gradient), strict=True):
        torch.testing.assert_close(computed, expected, rtol=1e-6, atol=1e-6)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_in_bfloat16_it_is_as_exact_as_pytorch():
    torch.manual_seed(0)
    theirs, ours = norms(8, torch.float32)
    exact = nn.BatchNorm2d(8, dtype=torch.float64)
    exact.load_state_dict(theirs.state_dict())
    x = torch.randn(32, 8, 14, 14).relu().bfloat16().contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(32, 8, 14, 14).bfloat16()
    expected = step(exact, x.double(), gradient.double())
    computed = [step(norm, x, gradient) for norm in (theirs, ours)]
    assert computed[1][0].dtype == computed[1][1].dtype == torch.bfloat16
    for true, *each in zip(expected, *computed, strict=True):
        error, our_error = ((one - true).double().norm() for one in each)
        assert our_error <= max(2 * error, 1e-5 * true.double().norm())


@pytest.mark.parametrize(("channels", "width"), [(8, 32), (10, 160), (12, 96), (15, 480), (16, 32)])
def test_lanes_fill_vector_registers_and_are_a_view(channels, width):
    x = torch.zeros(32, channels, 6, 6).contiguous(memory_format=torch.channels_last)
    folded = fold_lanes(x)
    assert folded.shape[1] == width
    assert folded.data_ptr() == x.data_ptr()


def test_combined_moments_equal_those_worked_out_by_hand():
    # Groups 1, 3 and 5, 5, 5, 9: means 2 and 6, variances 1 and 3; of all six, mean 14/3 and variance 53/9.
    means, variances, counts = torch.tensor([[[2.0], [6]], [[1], [3]], [[2], [4]]])
    assert torch.cat(combine_moments(means, variances, counts)).tolist() == pytest.approx([14 / 3, 53 / 9, 6])


def test_synchronised_over_several_processes_shares_all_tensors_with_the_model(monkeypatch):
    model = models.build("compact")
    assert synchronised(model) is model
    monkeypatch.setattr(batch_norm, "size", lambda: 2)
    twin = synchronised(model)
    kinds = [type(module) for module in twin.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert kinds == [BatchNorm2d] * 6 + [BatchNorm1d]
    assert [type(module) for module in model.modules()].count(nn.BatchNorm2d) == 3
    state, shared = model.state_dict(keep_vars=True), twin.state_dict(keep_vars=True)
    assert list(state) == list(shared) and all(state[key] is shared[key] for key in state)
