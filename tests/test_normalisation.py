"""Our batch normalisation (in one process) against PyTorch's, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mnist_sum import models
from mnist_sum.normalisation import BatchNorm, batch_normalised, side_by_side

FORMATS = [torch.channels_last, torch.contiguous_format]


def step(norm, x, gradient):
    """Everything that a training step sees of a normalisation."""
    mine = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = norm(mine)
    y.backward(gradient)
    weights = norm.weight.grad, norm.bias.grad
    return y.detach(), mine.grad, *weights, norm.running_mean, norm.running_var, norm.num_batches_tracked


def norms(channels, dtype):
    """nn.BatchNorm2d with drawn weights, and ours with the same."""
    theirs, twin = (nn.BatchNorm2d(channels, dtype=dtype) for _ in range(2))
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    twin.load_state_dict(theirs.state_dict())
    return theirs, BatchNorm(twin)


@settings(deadline=None, max_examples=100)
@given(
    shape=st.tuples(*[st.integers(1, 17)] * 4).filter(lambda s: s[0] * s[2] * s[3] > 1),
    mean=st.sampled_from([0.0, 1000.0]),
    memory_format=st.sampled_from(FORMATS),
    seed=st.integers(0, 99),
)
def test_a_step_through_it_is_that_of_batch_norm(shape, mean, memory_format, seed):
    torch.manual_seed(seed)
    theirs, ours = norms(shape[1], torch.float64)
    x = (torch.randn(shape, dtype=torch.float64) + mean).contiguous(memory_format=memory_format)
    gradient = torch.randn(shape, dtype=torch.float64)
    for wanted, found in zip(step(theirs, x, gradient), step(ours, x, gradient), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_in_bfloat16_it_is_as_exact_as_batch_norm():
    torch.manual_seed(0)
    theirs, ours = norms(8, torch.float32)
    exact = nn.BatchNorm2d(8, dtype=torch.float64)
    exact.load_state_dict(theirs.state_dict())
    x = torch.randn(32, 8, 14, 14).relu().bfloat16().contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(32, 8, 14, 14).bfloat16()
    wanted = step(exact, x.double(), gradient.double())
    found = [step(norm, x, gradient) for norm in (theirs, ours)]
    assert found[1][0].dtype == found[1][1].dtype == torch.bfloat16
    for right, *each in zip(wanted, *found, strict=True):
        error, our_error = ((one - right).double().norm() for one in each)
        assert our_error <= max(2 * error, 1e-5 * right.double().norm())


@pytest.mark.parametrize(("channels", "width"), [(8, 32), (10, 160), (12, 96), (15, 480), (16, 32)])
def test_the_lanes_fill_vectors_without_a_rest_and_copy_nothing(channels, width):
    x = torch.zeros(32, channels, 6, 6).contiguous(memory_format=torch.channels_last)
    wide = side_by_side(x)
    assert wide.shape[1] == width
    assert wide.data_ptr() == x.data_ptr()


def test_only_layers_that_share_a_cache_line_are_replaced_and_their_tensors_stay_the_models():
    model = models.build("compact")
    twin = batch_normalised(model)
    kinds = [type(module) for module in twin.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert kinds == [BatchNorm, nn.BatchNorm2d] * 3 + [nn.BatchNorm1d]
    assert not any(isinstance(module, BatchNorm) for module in model.modules())
    state, same = model.state_dict(keep_vars=True), twin.state_dict(keep_vars=True)
    assert list(state) == list(same) and all(state[key] is same[key] for key in state)
    wide = models.build("channel_fusion")
    assert batch_normalised(wide) is wide
