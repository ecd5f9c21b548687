"""The study of held-out pairs: which pairs they are, what a run comes to, and that it resumes."""

import json
import shutil
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mnist_sum import data, models, runs, study, training
from mnist_sum.console import UserError
from mnist_sum.contract import check
from mnist_sum.data import Split
from mnist_sum.dataset import MnistSum
from mnist_sum.evaluation.exhaustive import Predictions
from mnist_sum.loss import summed_loss
from mnist_sum.models.exact_addition import add_exactly
from mnist_sum.recipes import STUDIED, held_out_mask, held_out_pairs
from mnist_sum.runs import checkpoint
from mnist_sum.runs.series import ROW
from mnist_sum.studies import pairs
from mnist_sum.system.files import folder_lock, make_folder
from mnist_sum.training import fit

# The test parts of KFold(10, shuffle=True, random_state=376483).split(range(100)) in scikit-learn 1.9.1.
SKLEARN = """
6 32 50 71 75 77 82 85 86 99 / 3 29 33 35 39 48 55 65 83 96 / 2 7 11 17 58 63 79 87 92 93
4 8 12 13 14 21 24 56 61 97 / 16 25 26 27 51 59 67 73 90 98 / 9 10 20 37 41 52 68 80 81 95
22 28 40 46 49 62 66 84 89 94 / 0 15 30 42 47 53 64 70 74 76 / 5 19 23 31 57 60 69 72 78 88
1 18 34 36 38 43 44 45 54 91
"""
NETWORK = """
from torch import nn

RECIPE = {"epochs": 3, "batch_size": 32}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.number = nn.Linear(784, 29), nn.Linear(10, 29)

    def forward(self, image, number):
        return (self.image(image.flatten(1)) + self.number(number)).split((10, 19), 1)
"""


def own(name):
    """An untrained model of the study's own."""
    return models.find(str(pairs.Path(pairs.__file__).parent / STUDIED[name])).build().eval()


@pytest.fixture
def command(few, tmp_path, monkeypatch, capsys):
    """Run the quick study of a small network of one's own on noise: the exit code, and the rows printed."""
    monkeypatch.setattr(pairs, "QUICK_EPOCHS", 2)
    for module in (data, runs):
        monkeypatch.setattr(module, "load", lambda *_: few)
    (tmp_path / "net.py").write_text(NETWORK)

    def run(*flags):
        given = ["--models", f"{tmp_path / 'net.py'}:Net", "--output-dir", str(tmp_path / "study")]
        code = study.main(["pairs", "--quick", "--json", "--data", "sample", *given, *flags])
        return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_the_folds_are_scikit_learns_and_hold_out_each_pair_once():
    parts = [part for text in SKLEARN.strip().splitlines() for part in text.split(" / ")]
    assert pairs.folds() == [[divmod(int(place), 10) for place in part.split()] for part in parts]
    assert (9, 9) in pairs.folds()[0] and (0, 0) in pairs.folds()[7]
    assert sorted(sum(pairs.folds(), [])) == list(product(range(10), repeat=2))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_every_rung_of_the_ladder_each_digit_number_and_sum_is_still_seen(seed):
    rungs = [set(pairs.ladder(count, seed)) for count in pairs.LADDER]
    assert [len(rung) for rung in rungs] == [30, 50, 70, 81]
    assert rungs[0] < rungs[1] < rungs[2] < rungs[3]
    seen = set(product(range(10), repeat=2)) - rungs[3]
    assert seen == {(digit, 0) for digit in range(10)} | {(9, number) for number in range(10)}
    assert {digit + number for digit, number in seen} == set(range(19))
    assert pairs.ladder(30, seed) != pairs.ladder(30, seed + 1)


def test_a_mask_is_read_back_as_its_pairs():
    for held_out in (*pairs.folds(), pairs.ladder(81, 0), [(0, 0)], [(9, 9)]):
        mask = held_out_mask(held_out)
        assert len(mask) == 25 and held_out_pairs(mask) == sorted(held_out)
    assert held_out_mask([(0, 3)]) == f"{8:025x}" and held_out_pairs("none") == []


def test_each_run_gives_a_row_a_table_and_a_picture_and_the_command_resumes(command, tmp_path):
    code, rows = command()
    assert code == 0 and [row["case"] for row in rows] == ["fold-0", "held-81"]
    assert {row["model"] for row in rows} == {"net.py:Net"}
    assert held_out_pairs(rows[0]["held_out"]) == pairs.folds()[0]
    stored = checkpoint.load(
        tmp_path / "study/net-Net-held-81-0/checkpoint.safetensors",
        own=[models.find(f"{tmp_path}/net.py:Net")],
    )
    assert stored["recipe"]["held_out"] == rows[1]["held_out"] and stored["epoch"] == pairs.QUICK_EPOCHS
    table = (tmp_path / "study" / pairs.TABLE).read_text()
    assert f"| {100 * rows[0]['seen_accuracy']:.2f} | {100 * rows[0]['unseen_accuracy']:.2f} |" in table
    picture = tmp_path / "study" / pairs.PICTURE
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    shutil.rmtree(tmp_path / "study/net-Net-held-81-0")
    again = tmp_path / "study/net-Net-fold-0-0/checkpoint.safetensors"
    before = again.stat().st_mtime_ns
    code, resumed = command()
    for row in (*rows, *resumed):
        del row["seconds"], row["checkpoint"]  # which is also of the seconds
    assert code == 0 and resumed == rows and picture.exists() and again.stat().st_mtime_ns == before


def test_training_draws_every_pair_but_those_held_out_also_after_a_stop(command, monkeypatch):
    drawn = set()

    def noted(digit_logits, sum_logits, digit, total):
        drawn.update(zip(digit.tolist(), (total - digit).tolist(), strict=True))
        return summed_loss(digit_logits, sum_logits, digit, total)

    def stopped(state, *splits):
        state.stop_signal = 15
        return fit(state, *splits)

    monkeypatch.setattr(training, "summed_loss", noted)
    monkeypatch.setattr(pairs, "cases", lambda *_: {"fold-0": pairs.folds()[0]})
    with monkeypatch.context() as patch:
        patch.setattr("mnist_sum.runs.series.fit", stopped)
        assert command("--epochs", "40")[0] == 143 and 0 < len(drawn) < 90
    assert command("--epochs", "40")[0] == 0
    assert drawn == set(pairs.PAIRS) - set(pairs.folds()[0])


def test_a_run_that_is_stopped_ends_the_command_and_another_ones_row_is_refused(
    command, tmp_path, monkeypatch
):
    def stopped(state, *_):
        state.stop_signal = 15
        return iter(())

    with monkeypatch.context() as patch:
        patch.setattr("mnist_sum.runs.series.fit", stopped)
        assert command() == (143, [])
    assert command()[0] == 0
    row = tmp_path / "study/net-Net-fold-0-0" / ROW
    found = json.loads(row.read_text())
    changed = ({**found, name: value} for name, value in (("checkpoint", "other"), ("seconds", 10**400)))
    for junk in (*map(json.dumps, changed), "[]", "{", "", "[" * 100_000):
        row.write_text(junk)
        with pytest.raises(UserError, match=f"{row} is not the result of the run"):
            command()


def test_a_second_command_into_the_same_folder_is_refused(command, tmp_path):
    with (
        folder_lock(make_folder(tmp_path / "study")),
        pytest.raises(UserError, match="another run is writing"),
    ):
        command()


def test_a_run_with_other_pairs_held_out_is_refused(command, monkeypatch):
    command()
    monkeypatch.setattr(pairs, "FOLDS_SEED", 1)
    with pytest.raises(UserError, match="fold-0-0 holds a run by another recipe"):
        command()


def test_runs_may_have_other_epochs_than_the_recipe(command):
    assert [row["epochs"] for row in command("--epochs", "3")[1]] == [3, 3]
    with pytest.raises(UserError, match="fold-0-0 holds a run by another recipe"):
        command()


def test_accuracies_are_those_of_the_seen_and_of_the_held_out_pairs(few, monkeypatch, tmp_path):
    """Two images of a 9, one of a 2, and a model that errs in (9, 9) once, in (9, 1) twice, in (2, 0)."""
    digits = torch.tensor([9, 9, 2])
    total = digits.unsqueeze(1) + torch.arange(10)
    for image, number in ((0, 9), (0, 1), (1, 1), (2, 0)):
        total[image, number] += 1
    predictions = Predictions(digits, digits.unsqueeze(1).expand(3, 10), total, None, None)
    monkeypatch.setattr(pairs, "predict_all", lambda *_: predictions)
    recipe = {"held_out": held_out_mask([(9, 9), (9, 1), (2, 5)])}
    stored = {"recipe": recipe, "history": [{"seconds": 1.5}, {"seconds": 2.0}], "epoch": 2, "sha256": "c"}
    monkeypatch.setattr(checkpoint, "load_model", lambda *_, **__: (torch.nn.Linear(2, 1), stored))
    row = pairs.measured(tmp_path, None, MnistSum(Split(few.test.images[:3], digits)))
    assert row["unseen_accuracy"] == pytest.approx(2 / 5) and row["seen_accuracy"] == pytest.approx(24 / 25)
    assert row["unseen_known_sum_accuracy"] == pytest.approx(1 / 3)
    assert row["grid"][9][9] == 0.5 and row["grid"][2][0] == 0 and row["grid"][3] == [None] * 10
    assert (row["seconds"], row["parameters"], row["digit_accuracy"]) == (3.5, 3, 1)


def test_the_tables_and_the_picture_are_of_the_runs_that_hold_the_pairs_out():
    """Of two seeds: fold 0, which holds out (9, 9), fold 7, which holds out (0, 0), and a rung."""
    rows = []
    for seed, case, seen, unseen in (
        *((0, "fold-0", 0.9, 0.1), (1, "fold-0", 0.8, 0.3)),
        *((0, "fold-7", 0.7, 0.5), (1, "fold-7", 0.6, 0.7), (0, "held-81", 1.0, 0.25)),
    ):
        held_out = pairs.cases(seed, quick=False)[case]
        grid = [[unseen if pair in held_out else seen for pair in pairs.PAIRS[place : place + 10]]
                for place in range(0, 100, 10)]  # fmt: skip
        figures = {"seen_accuracy": seen, "unseen_accuracy": unseen, "unseen_known_sum_accuracy": None}
        rows.append({"model": "net", "case": case, "seed": seed, "held_out": held_out_mask(held_out),
                     "grid": grid, "digit_accuracy": 0.95, "epochs": 2, "parameters": 1234, "seconds": 3.0,
                     **figures})  # fmt: skip
    table = pairs.tables(rows, SimpleNamespace(test=range(7), name="mnist"), "standard")
    assert "on the 7 test images of mnist" in table
    assert (
        "| `net` | 1,234 | 75.00 ± 12.91 | 40.00 ± 25.82 | 35.00 ± 38.73 | - | 20.00 ± 14.14 | 60.00 ± 14.14 "
        "| 95.00 ± 0.00 | 4 | 2 | 3.00 ± 0.00 |\n"
    ) in table
    assert "| `net` | 75.00 ± 12.91 / 40.00 ± 25.82 | - | - | - | 100.00 / 25.00 |\n" in table
    columns = pairs.grids(rows)["net"]
    assert list(columns) == ["fold-0", pairs.EACH, "held-81"]
    accuracy, unseen = columns[pairs.EACH]
    assert accuracy[9, 9] == 0.1 and accuracy[0, 0] == 0.5 and np.isnan(accuracy).sum() == 80
    assert unseen.sum() == 20 and columns["held-81"][0][9, 9] == 1.0 and columns["held-81"][1].sum() == 81


def test_a_table_of_what_the_numbers_mean_adds_exactly():
    model = own("learned_table")
    with torch.no_grad():
        model.meaning.copy_(1e4 * torch.eye(10))
    digit_logits, number = torch.randn(10, 10), torch.eye(10)
    _, sums = model.join(digit_logits, number)
    torch.testing.assert_close(sums.softmax(1), add_exactly(digit_logits, number).softmax(1))


def test_the_line_adder_can_add_every_pair():
    model = own("line_adder")
    with torch.no_grad():
        model.position.weight.copy_(torch.arange(10.0).repeat(2))
        model.position.bias.fill_(-9)
        model.log_sharpness.fill_(3)
    digit, number = torch.cartesian_prod(torch.arange(10), torch.arange(10)).T
    _, sums = model.join(20 * torch.eye(10)[digit], torch.eye(10)[number])
    assert torch.equal(sums.argmax(1), digit + number)
    assert sums.logsumexp(1).abs().max() < 1e-4, "they are log-probabilities"


@pytest.mark.parametrize("name", STUDIED)
def test_the_studys_own_models_keep_the_contract(name):
    path = pairs.Path(pairs.__file__).parent / STUDIED[name]
    check(models.find(str(path)), path)
