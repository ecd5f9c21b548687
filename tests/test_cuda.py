"""The CUDA path on a machine without a GPU: fake tensors have a device and a shape, and no content.

Under PyTorch's FakeTensorMode an operation on tensors of different devices raises, as on a GPU. What needs
a driver has a stand-in: the backward pass, the seed of dropout, and moving a model to the device.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mnist_sum import training
from mnist_sum.augment import random_matrices
from mnist_sum.data import Split
from mnist_sum.dataset import MnistSum, batches
from mnist_sum.evaluation.exhaustive import evaluate, exhaustive_logits
from mnist_sum.metrics import no_sums
from mnist_sum.recipes import RECIPES
from mnist_sum.runs.distillation import Teacher
from mnist_sum.system.randomness import generator
from mnist_sum.training import moving_average, new_state, train_step, update_average

pytestmark = [
    pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch is built without CUDA"),
    pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning"),  # autocast's
]


@pytest.fixture
def cuda(monkeypatch):
    """The device "cuda", on which every tensor is fake."""
    monkeypatch.setattr(torch.Tensor, "backward", lambda _loss: None)
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda _seed: None)
    monkeypatch.setattr(training, "place", lambda model, *_: model)
    with FakeTensorMode():
        yield torch.device("cuda")


def fake_state(name, device, **overrides):
    """A state whose model was made on the device."""
    recipe = RECIPES[name].overridden(batch_size=16, averaging="none", **overrides)  # no copy of fake tensors
    with device:
        return new_state(name, recipe, 0, device, "bf16")


def fake_set(device, numbers="fresh"):
    images, digits = torch.zeros(40, 28, 28, dtype=torch.uint8), torch.zeros(40, dtype=torch.long)
    return MnistSum(Split(images, digits), 0, numbers, device)


@pytest.mark.parametrize("name", RECIPES)
def test_a_training_step_and_the_exhaustive_test_stay_on_the_device(name, cuda):
    state, train_set = fake_state(name, cuda), fake_set(cuda, RECIPES[name].numbers)
    state.sums = no_sums(cuda)
    matrices = random_matrices(len(train_set), generator(0, "affine"), cuda)
    for batch in batches(len(train_set), 16, 0, 0, cuda):
        train_step(state, state.raw, train_set, batch, matrices)
    assert state.sums.device.type == evaluate(state.model, train_set).device.type == "cuda"
    for logits in exhaustive_logits(state.model, train_set):
        assert {part.device.type for part in logits} == {"cuda"}


def test_a_distilled_step_stays_on_the_device(cuda):
    state, train_set = fake_state("tiny", cuda, teacher=64 * "0"), fake_set(cuda)
    state.teacher, state.sums = Teacher(fake_state("large", cuda).model.eval()), no_sums(cuda)
    train_step(state, state.raw, train_set, batches(len(train_set), 16, 0, 0, cuda)[0])
    assert state.sums.device.type == "cuda"


def test_the_moving_average_stays_on_the_device(cuda):
    state, other = fake_state("tiny", cuda), fake_state("tiny", cuda)
    state.model = other.raw
    update_average(*moving_average(state), 5, 3)
    assert {tensor.device.type for tensor in state.model.state_dict().values()} == {"cuda"}


def test_tensors_of_two_devices_are_told_apart(cuda):
    with pytest.raises(RuntimeError, match="device"):
        torch.zeros(3, device=cuda) + torch.zeros(3)
