"""The models: sizes as published, the contract, exact addition; custom models and what is wrong with some."""

import pytest
import torch

from mnist_sum.cli import UserError
from mnist_sum.data import BACKGROUND, one_hot
from mnist_sum.models import ARCHITECTURES, build_model, recipe_of
from mnist_sum.models.digit_classifier import Deskew
from mnist_sum.models.exact_addition import add_exactly
from tests.conftest import CUSTOM

PARAMETERS = {
    "channel_fusion": 48_639,
    "mlp_adder": 40_493,
    "linear_adder": 452_678,
    "deep_adder": 34_563,
    "compact": 7_364,
    "tiny": 7_274,
    "large": 465_930,
    "quick": 50_810,
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sizes_and_outputs(name):
    torch.manual_seed(0)
    model = build_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    image, number = torch.randn(4, 1, 28, 28), one_hot(torch.tensor([0, 3, 9, 9]))
    digit_logits, sum_logits = model(image, number)
    assert digit_logits.shape[-2:] == (4, 10)
    assert sum_logits.shape[-2:] == (4, 19)
    model.eval()
    outputs, joined = model(image, number), model.join(model.encode(image), number)
    assert all(map(torch.equal, outputs, joined))
    assert not torch.equal(outputs[1], model(image, number.flip(0))[1])


def test_exact_addition_moves_the_digits_probabilities():
    logits, numbers = torch.randn(10, 10), torch.arange(10)
    probabilities = add_exactly(logits, one_hot(numbers)).softmax(1)
    for number in range(10):
        assert torch.allclose(probabilities[number, number : number + 10], logits[number].softmax(0))
    assert torch.allclose(probabilities.sum(1), torch.ones(10))


def test_deskewing_makes_a_leaning_stroke_upright():
    image = torch.full((1, 1, 28, 28), BACKGROUND)
    for row in range(4, 24):
        image[0, 0, row, 20 - row // 2 : 23 - row // 2] = 2.0
    widths = [((each[0, 0] > 0).any(0)).sum().item() for each in (image, Deskew()(image))]
    assert widths[1] <= 5 < 10 < widths[0]
    blank = torch.full((1, 1, 28, 28), BACKGROUND)
    assert torch.allclose(Deskew()(blank), blank)


def test_a_custom_model_has_the_recipe_of_its_file(custom):
    recipe = recipe_of(custom)
    assert (recipe.epochs, recipe.batch_size, recipe.optimizer) == (2, 16, "adam")
    assert build_model(custom).training


JOIN = """    encode = lambda self, image: image
    join = lambda self, image, number: [3 * each for each in self(image, number)]

    def forward"""
MISTAKES = {
    r"has to return \(digit_logits": ("return self.layer(", "return 2 * self.layer("),
    r"sum_logits has to be \(B, 19\)": ("(10, 19), 1)", "(10, 18, 1), 1)[:2]"),
    "are probabilities": (".split((10, 19), 1)", ".softmax(1)[:, :19].split((10, 9), 1)[0].softmax(1), None"),
    "holds NaN": ("self.layer(torch", "self.layer(float('nan') * torch"),
    "no parameters": ("torch.nn.Linear(794, 29)", "lambda x: torch.zeros(len(x), 29)"),
    "not a torch.nn.Module": ("class Net(torch.nn.Module):", "def Net(): return 3\nclass Other:"),
    "no class or function Net": ("class Net", "class Nets"),
    "RECIPE of": ('"epochs": 2', '"epoch": 2'),
    "schedule is 'cosine'": ('"epochs": 2', '"schedule": "cosine"'),
    "is not forward": ("    def forward", JOIN),
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_in_a_custom_model_is_one_line(line, custom, tmp_path):
    (tmp_path / "net.py").write_text(CUSTOM.replace(*MISTAKES[line]))
    with pytest.raises(UserError, match=line) as error:
        recipe_of(custom) and build_model(custom)
    assert "\n" not in str(error.value)


def test_errors_in_a_custom_file_keep_their_traceback(custom, tmp_path):
    (tmp_path / "net.py").write_text(CUSTOM.replace("794", "795"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        build_model(custom)
    with pytest.raises(UserError, match="there is no model"):
        build_model("nowhere.py:Net")


def test_lazy_layers_and_neighboring_files_work(custom, tmp_path):
    (tmp_path / "layers_of_mine.py").write_text("import torch\nLinear = torch.nn.LazyLinear\n")
    text = CUSTOM.replace("import torch", "import torch\nfrom layers_of_mine import Linear")
    (tmp_path / "net.py").write_text(text.replace("torch.nn.Linear(794, 29)", "Linear(29)"))
    assert build_model(custom).layer.weight.shape == (29, 794)
