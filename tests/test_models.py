"""Every registered model, and the layer tables that the sources print, written down from them."""

import copy
import re

import pytest
import torch

from mnist_sum import models
from mnist_sum.figures.layers import layer_rows, layer_table
from mnist_sum.loss import summed_loss
from mnist_sum.recipes import RECIPES

PUBLISHED = {
    "channel_fusion": """
        Conv2d 7,26,26 70 | Linear 1,676 7436
        Conv2d 16,24,24 1168 | MaxPool2d 16,12,12 0 | BatchNorm2d 16,12,12 32
        Conv2d 32,10,10 4640 | MaxPool2d 32,5,5 0 | BatchNorm2d 32,5,5 64
        Conv2d 64,3,3 18496 | Linear 10 5770 | Linear 19 10963
    """,
    # This source prints its modules in the order of their making, without shapes; it uses each pool
    # after every second convolution, which gives these.
    "linear_adder": """
        Conv2d 16,28,28 160 | Conv2d 32,28,28 4640 | MaxPool2d 32,14,14 0
        Conv2d 64,14,14 18496 | Conv2d 64,14,14 36928 | MaxPool2d 64,7,7 0
        Conv2d 128,5,5 73856 | Conv2d 256,3,3 295168 | Conv2d 10,1,1 23050 | Linear 19 380
    """,
    "deep_adder": """
        Conv2d 10,26,26 90 | BatchNorm2d 10,26,26 20 | ReLU 10,26,26 0 | Dropout 10,26,26 0
        Conv2d 10,24,24 900 | BatchNorm2d 10,24,24 20 | ReLU 10,24,24 0 | Dropout 10,24,24 0
        Conv2d 15,22,22 1350 | BatchNorm2d 15,22,22 30 | ReLU 15,22,22 0 | MaxPool2d 15,11,11 0
        Conv2d 10,1,1 18150 | MNISt 10,10 0
        Linear 32 672 | BatchNorm1d 32 64 | ReLU 32 0 | Dropout 32 0
        Linear 64 2112 | BatchNorm1d 64 128 | ReLU 64 0 | Dropout 64 0
        Linear 128 8320 | BatchNorm1d 128 256 | ReLU 128 0 | Dropout 128 0
        Linear 19 2451
    """,
    "compact": """
        Conv2d 8,28,28 72 | ReLU 8,28,28 0 | BatchNorm2d 8,28,28 16
        Conv2d 16,28,28 1152 | ReLU 16,28,28 0 | BatchNorm2d 16,28,28 32
        Conv2d 8,28,28 136 | MaxPool2d 8,14,14 0 | Dropout 8,14,14 0
        Conv2d 8,14,14 576 | ReLU 8,14,14 0 | BatchNorm2d 8,14,14 16
        Conv2d 16,14,14 1152 | ReLU 16,14,14 0 | BatchNorm2d 16,14,14 32
        Conv2d 8,14,14 136 | MaxPool2d 8,7,7 0 | Dropout 8,7,7 0
        Conv2d 8,7,7 576 | ReLU 8,7,7 0 | BatchNorm2d 8,7,7 16
        Conv2d 16,7,7 1152 | ReLU 16,7,7 0 | BatchNorm2d 16,7,7 32
        Conv2d 8,7,7 136 | MaxPool2d 8,3,3 0 | Dropout 8,3,3 0
        Conv2d 16,1,1 1152 | Conv2d 10,1,1 160
        Linear 20 400 | BatchNorm1d 20 40 | ReLU 20 0 | Linear 19 380
    """,
}
UNPUBLISHED = {"mlp_adder": 40_493, "tiny": 7_274, "large": 465_930}  # parameters of the other models
MEMBERS = {"tiny": (1,), "large": (5,)}  # the leading axis of an ensemble's logits in training


def are_raw(logits):
    """Whether these are neither probabilities nor their logarithms, which add up to 1."""
    ones = torch.ones(logits.shape[:-1])
    return not any(torch.allclose(sums, ones) for sums in (logits.sum(-1), logits.exp().sum(-1)))


@pytest.fixture(params=RECIPES)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    torch.manual_seed(0)
    return models.build(name)


@pytest.fixture
def batch():
    image = torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    digit, number = torch.arange(6), torch.arange(4, 10)
    return image, torch.nn.functional.one_hot(number, 10).float(), digit, digit + number


def test_every_recipe_has_an_architecture_and_the_three_shipped_models_are_there():
    assert list(models.ARCHITECTURES) == list(RECIPES)
    assert [name for name in RECIPES if models.shipped(name).is_file()] == ["compact", "tiny", "large"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_summary_shows_the_published_rows(name):
    published = [row.split() for row in re.split(r"[|\n]", PUBLISHED[name].strip())]
    rows = [
        [layer.split("-")[0], ",".join(re.findall(r"(?<!-)\b\d+", shape)), str(parameters)]
        for layer, shape, parameters in layer_rows(models.build(name))
    ]
    assert rows == published


def test_number_of_parameters(name, model):
    rows = re.split(r"[|\n]", PUBLISHED.get(name, "").strip())
    expected = UNPUBLISHED.get(name) or sum(int(row.split()[-1]) for row in rows)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("training", [True, False])
def test_outputs_are_raw_logits_of_the_contracted_shapes(training, name, model, batch):
    digit_logits, sum_logits = model.train(training)(*batch[:2])
    members = MEMBERS.get(name, ()) if training else ()
    assert digit_logits.shape == (*members, 6, 10)
    assert sum_logits.shape == (*members, 6, 19)
    assert are_raw(digit_logits) and are_raw(sum_logits)


@pytest.mark.parametrize("softmax", [torch.softmax, torch.log_softmax])
@pytest.mark.parametrize("output", [0, 1])
def test_a_softmax_inside_a_model_is_not_raw(softmax, output, model, batch):
    def mutate(model, inputs, outputs):
        return [softmax(logits, -1) if i == output else logits for i, logits in enumerate(outputs)]

    model.register_forward_hook(mutate)
    assert [are_raw(logits) for logits in model(*batch[:2])] == [i != output for i in range(2)]


def test_every_parameter_gets_a_finite_gradient(model, batch):
    image, number, digit, total = batch
    loss, _, _ = summed_loss(*model(image, number), digit, total)
    assert torch.isfinite(loss)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_evaluation_mode_is_deterministic_and_independent_of_the_rest_of_the_batch(model, batch):
    image, number, _, _ = batch
    model.eval()
    first, again, alone = model(image, number), model(image, number), model(image[:1], number[:1])
    for one, two, single in zip(first, again, alone, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one[:1], single)


@torch.no_grad()
def test_sum_logits_depend_on_the_number(model, batch):
    image, number, _, _ = batch
    model.eval()
    assert not torch.allclose(model(image, number)[1], model(image, number.roll(1, 1))[1])


@torch.no_grad()
def test_forward_is_join_after_encode(model, batch):
    image, number, _, _ = batch
    model.eval()
    for whole, parts in zip(model(image, number), model.join(model.encode(image), number), strict=True):
        assert torch.equal(whole, parts)


def test_summary_leaves_model_and_random_state_unchanged(model):
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert model.training
    layer_table(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key
