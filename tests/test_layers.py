"""The layer table is torchsummary's and right, and never stops or changes a run."""

import pytest
import torch
from torch import nn

from mnist_sum.layers import layer_rows, layer_table
from mnist_sum.models import build_model
from mnist_sum.recipes import RECIPES


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.position, self.head = nn.Parameter(torch.zeros(28, 28)), nn.Linear(18, 29)
        self.rnn = nn.LSTM(28, 8, batch_first=True)  # its output is no tensor

    def forward(self, image, number):
        hidden = self.rnn(image[:, 0] + self.position)[1][0][-1]
        return self.head(torch.cat((hidden, number), 1)).split((10, 19), 1)


@pytest.mark.parametrize("name", RECIPES)
def test_table_and_rows_have_all_parameters_and_change_nothing(name):
    model = build_model(name)
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    count = sum(parameter.numel() for parameter in model.parameters())
    table = layer_table(model)
    assert f"Total params: {count:,}\n" in table
    assert type(model).__name__ not in table
    assert sum(row.parameters for row in layer_rows(model)) == count
    assert model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_rows_tell_where_the_number_and_the_image_join():
    sees = {name: [row.sees_number for row in layer_rows(build_model(name))] for name in RECIPES}
    assert [sees[name].index(True) for name in ("channel_fusion", "compact")] == [1, 29]
    assert not any(sees["tiny"]), "its addition is no layer"
    large = layer_rows(build_model("large"))
    assert [place for place, row in enumerate(large) if row.takes_image] == [0, 17, 34, 51, 68]


def test_a_custom_model_that_torchsummary_cannot_list_or_count_is_listed_all_the_same():
    assert layer_table(Recurrent()).startswith(f"{Recurrent()}\ntorchsummary cannot list this model: ")
    assert [row.parameters for row in layer_rows(Recurrent())] == [1216, 551, 784]
    model = build_model("compact")
    model.extra = nn.Parameter(torch.zeros(5))
    assert "\nThe model has 7,369 parameters; torchsummary counts" in layer_table(model)
