"""Every registered model, and the layer tables that the seeds print, written down from them."""

import copy

import pytest
import torch

from mnist_sum import models
from mnist_sum.loss import summed_loss
from mnist_sum.recipes import RECIPES
from mnist_sum.summary import layer_rows, layer_table

PUBLISHED = {
    "channel_fusion": """
        Conv2d 7,26,26 70 | Linear 1,676 7436
        Conv2d 16,24,24 1168 | MaxPool2d 16,12,12 0 | BatchNorm2d 16,12,12 32
        Conv2d 32,10,10 4640 | MaxPool2d 32,5,5 0 | BatchNorm2d 32,5,5 64
        Conv2d 64,3,3 18496 | Linear 10 5770 | Linear 19 10963
    """,
    # Seed 002 prints its modules in the order of their making, without shapes; it uses each pool
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
        Conv2d 10,1,1 18150 | MNISt 10+10 0
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
PARAMETERS = {
    "channel_fusion": 48_639,
    "linear_adder": 452_678,
    "deep_adder": 34_563,
    "compact": 7_364,
    "tiny": 7_274,
    "large": 465_930,
}
READINGS_IN_TRAINING = {"tiny": (1,), "large": (5,)}


def published_rows(text):
    """The table above as summary.layer_rows gives a model's."""
    rows = []
    for place, row in enumerate((row for line in text.strip().splitlines() for row in line.split("|")), 1):
        layer, shape, parameters = row.split()
        shapes = [str([-1, *map(int, part.split(","))]) for part in shape.split("+")]
        shape = shapes[0] if len(shapes) == 1 else f"[{', '.join(shapes)}]"
        rows.append((f"{layer}-{place}", shape, int(parameters)))
    return rows


@pytest.fixture(params=RECIPES)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    torch.manual_seed(0)
    return models.build(name)


@pytest.fixture
def batch():
    draw = torch.Generator().manual_seed(1)
    image = torch.randn(6, 1, 28, 28, generator=draw)
    digit = torch.arange(6)
    number = torch.arange(4, 10)
    return image, torch.nn.functional.one_hot(number, 10).float(), digit, digit + number


@pytest.mark.parametrize("name", PUBLISHED)
def test_summary_shows_the_seeds_own_rows(name):
    assert layer_rows(models.build(name)) == published_rows(PUBLISHED[name])


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name):
    assert sum(parameter.numel() for parameter in models.build(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("training", [True, False])
def test_outputs_are_raw_logits_of_the_contracted_shapes(training, name, model, batch):
    image, number, _, _ = batch
    digit_logits, sum_logits = model.train(training)(image, number)
    readings = READINGS_IN_TRAINING.get(name, ()) if training else ()
    assert digit_logits.shape == (*readings, 6, 10)
    assert sum_logits.shape == (*readings, 6, 19)
    sums = digit_logits.exp().sum(-1)
    assert not torch.allclose(sums, torch.ones_like(sums)), "a softmax in the model"


def test_every_parameter_gets_a_finite_gradient(model, batch):
    image, number, digit, total = batch
    loss, _, _ = summed_loss(*model(image, number), digit, total)
    assert torch.isfinite(loss)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_evaluation_mode_is_deterministic_and_ignores_the_rest_of_the_batch(model, batch):
    image, number, _, _ = batch
    model.eval()
    with torch.no_grad():
        first, again, alone = model(image, number), model(image, number), model(image[:1], number[:1])
    for one, two, single in zip(first, again, alone, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one[:1], single)


def test_the_number_reaches_the_sum(model, batch):
    image, number, _, _ = batch
    model.eval()
    with torch.no_grad():
        assert not torch.allclose(model(image, number)[1], model(image, number.roll(1, 1))[1])


def test_forward_is_join_after_encode(model, batch):
    image, number, _, _ = batch
    model.eval()
    with torch.no_grad():
        for whole, parts in zip(model(image, number), model.join(model.encode(image), number), strict=True):
            assert torch.equal(whole, parts)


def test_summary_leaves_model_and_random_state_as_they_were(model):
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert model.training
    layer_table(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key
