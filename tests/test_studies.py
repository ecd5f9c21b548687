"""The studies: their protocols by hand, the likelihood of a sum by brute force, and whole commands on little data."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from mnist_sum import study
from mnist_sum.cli import UserError
from mnist_sum.data import Data, MnistSum, Split
from mnist_sum.models import build_model, recipe_of
from mnist_sum.models.exact_addition import add_exactly
from mnist_sum.recipes import RECIPES, Recipe
from mnist_sum.studies import STUDIED, pairs, sums
from mnist_sum.studies.addition import NEVER, add_log_probabilities

# the test parts of KFold(10, shuffle=True, random_state=376483).split(range(100)) in scikit-learn 1.9.1
SKLEARN = """6 32 50 71 75 77 82 85 86 99 / 3 29 33 35 39 48 55 65 83 96 / 2 7 11 17 58 63 79 87 92 93
/ 4 8 12 13 14 21 24 56 61 97 / 16 25 26 27 51 59 67 73 90 98 / 9 10 20 37 41 52 68 80 81 95
/ 22 28 40 46 49 62 66 84 89 94 / 0 15 30 42 47 53 64 70 74 76 / 5 19 23 31 57 60 69 72 78 88
/ 1 18 34 36 38 43 44 45 54 91"""


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def as_digits(number, count):
    return torch.tensor([int(each) for each in str(number).zfill(count)])


@pytest.mark.parametrize("places", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_likelihood_and_gradient_are_those_of_all_cases(places, scale):
    logits = scale * torch.randn(2, places, 10, generator=draw(places)).double()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    cases = torch.ones((), dtype=torch.double)  # all 10^2N of them
    for digit in theirs.softmax(-1).flatten(0, 1):
        cases = cases.unsqueeze(-1) * digit
    numbers = torch.arange(10**places)
    totals = (numbers.unsqueeze(1) + numbers).flatten()
    expected = torch.zeros(2 * len(numbers) - 1).double().index_add(0, totals, cases.flatten()).log()
    every = torch.stack([as_digits(total, places + 1) for total in range(len(expected))])
    found = sums.sum_log_likelihood(ours.log_softmax(-1).expand(len(every), -1, -1, -1), every)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.exp().sum().item(), 1.0)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("places", [1, 3, 40])
def test_certain_digits_have_their_sum_and_no_other(places):
    digits = torch.randint(10, (50, 2, places), generator=draw())
    total = sums.total_digits(digits)
    for numbers, found in zip(digits.tolist(), total.tolist(), strict=True):
        assert int("".join(map(str, found))) == sum(int("".join(map(str, number))) for number in numbers)
    certain = one_hot(digits, 10).float().log().requires_grad_()
    assert (sums.sum_log_likelihood(certain, total) == 0).all()
    other = total.clone()
    other[:, -1] = (other[:, -1] + 1) % 10
    found = sums.sum_log_likelihood(certain, other)
    assert (found == NEVER).all()
    found.exp().sum().backward()
    assert certain.grad.isfinite().all()


def test_adding_a_certain_number_is_exact_addition():
    logits, number = torch.randn(100, 10, generator=draw()), one_hot(torch.arange(100) % 10).float()
    found = add_log_probabilities(logits.log_softmax(1), number.log())
    torch.testing.assert_close(found.exp(), add_exactly(logits, number).softmax(1))


def test_folds_are_scikit_learns_and_hold_out_each_pair_once():
    assert pairs.folds() == [[divmod(int(place), 10) for place in part.split()] for part in SKLEARN.split("/")]
    assert sorted(sum(pairs.folds(), [])) == list(product(range(10), repeat=2))
    assert (9, 9) in pairs.folds()[0] and (0, 0) in pairs.folds()[7]


@pytest.mark.parametrize("seed", [0, 1])
def test_on_every_rung_of_the_ladder_each_digit_number_and_sum_is_still_seen(seed):
    rungs = [set(pairs.ladder(count, seed)) for count in pairs.LADDER]
    assert [len(rung) for rung in rungs] == [30, 50, 70, 81] and rungs[0] < rungs[1] < rungs[2] < rungs[3]
    assert set(pairs.PAIRS) - rungs[3] == {(d, 0) for d in range(10)} | {(9, n) for n in range(10)}
    assert pairs.ladder(30, seed) != pairs.ladder(30, seed + 1)


def test_held_out_pairs_are_never_drawn_and_all_others_are():
    held_out = tuple(pairs.folds()[0])
    dataset = MnistSum(Split(torch.zeros(4000, 28, 28, dtype=torch.uint8), torch.arange(4000) % 10), held_out)
    dataset.fix_numbers(0, 0)
    (_, number), (digit, _) = dataset[:]
    assert set(zip(digit.tolist(), number.argmax(1).tolist(), strict=True)) == set(pairs.PAIRS) - set(held_out)


@pytest.mark.parametrize(("name", "parameters"), [("learned_table", 7374), ("line_adder", 7296)])
def test_studied_models_are_custom_models_with_a_recipe_like_tinys(name, parameters):
    model = build_model(STUDIED[name])
    digit_logits, sum_logits = model(torch.randn(4, 1, 28, 28), torch.eye(10)[:4])
    assert digit_logits.shape[-2:] == (4, 10) and sum_logits.shape[-2:] == (4, 19)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert replace(recipe_of(STUDIED[name]), learning_rate=0.25) == RECIPES["tiny"]


def test_both_studied_models_can_add_every_pair():
    table, line = (build_model(STUDIED[name]).eval() for name in ("learned_table", "line_adder"))
    with torch.no_grad():
        table.meaning.copy_(1e4 * torch.eye(10))
        line.position.weight.copy_(torch.arange(10.0).repeat(2))
        line.position.bias.fill_(-9)
        line.log_sharpness.fill_(3)
    digit, number = torch.tensor(pairs.PAIRS).T
    for model in (table, line):
        _, sum_logits = model.join(20 * torch.eye(10)[digit], torch.eye(10)[number])
        assert torch.equal(sum_logits.argmax(1), digit + number)
        assert sum_logits.logsumexp(1).abs().max() < 1e-4, "they are log-probabilities"


def test_tables_and_grids_are_of_the_runs_that_hold_the_pairs_out(tmp_path):
    """Two seeds of fold 0, which holds out (9, 9), and of fold 7, which holds out (0, 0), and a rung."""
    rows = []
    for seed, case, seen, unseen in (
        *((0, "fold-0", 0.9, 0.1), (1, "fold-0", 0.8, 0.3)),
        *((0, "fold-7", 0.7, 0.5), (1, "fold-7", 0.6, 0.7), (0, "held-81", 1.0, 0.25)),
    ):
        held_out = pairs.ladder(81, seed) if case == "held-81" else pairs.folds()[int(case[-1])]
        grid = [[unseen if (digit, number) in held_out else seen for number in range(10)] for digit in range(10)]
        figures = {"seen_accuracy": seen, "unseen_accuracy": unseen, "unseen_known_sum_accuracy": None}
        recipe = {"held_out": list(map(list, held_out)), "split": "standard", "epochs": 2}
        row = {"model": "net", "case": case, "seed": seed, "data": "mnist", "test_images": 7, "grid": grid}
        row |= {"recipe": recipe, "digit_accuracy": 0.95, "parameters": 1234, "seconds": 3.0}
        rows.append(row | figures)
    table = pairs.publish(rows, tmp_path / "pairs.png")
    assert "on the 7 test images of mnist" in table
    assert (
        "| `net` | 1,234 | 75.00 ± 12.91 | 40.00 ± 25.82 | 35.00 ± 38.73 | - | 20.00 ± 14.14 | 60.00 ± 14.14 "
        "| 95.00 ± 0.00 | 4 | 2 | 3.00 ± 0.00 |\n"
    ) in table
    assert "| `net` | 75.00 ± 12.91 / 40.00 ± 25.82 | - | - | - | 100.00 / 25.00 |\n" in table
    columns = pairs.grids(rows)["net"]
    assert list(columns) == ["fold-0", "each as held out", "held-81"]
    accuracy, unseen = columns["each as held out"]
    assert accuracy[9, 9] == 0.1 and accuracy[0, 0] == 0.5 and np.isnan(accuracy).sum() == 80
    assert unseen.sum() == 20 and columns["held-81"][0][9, 9] == 1.0 and columns["held-81"][1].sum() == 81


def test_images_are_grouped_in_the_order_of_the_files():
    assert sums.grouped(torch.arange(7), 1).tolist() == [[[0], [1]], [[2], [3]], [[4], [5]]]
    assert sums.grouped(torch.arange(11), 2).tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_accuracies_by_hand():
    digits, predicted = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([2, 1, 3, 5, 5])
    found = sums.accuracies(predicted, digits, 1)
    assert found["sum_accuracy"] == 0.5, "1 + 2 = 2 + 1, as two errors cancel; 3 + 5 is not 3 + 4"
    assert found["digit_accuracy"] == pytest.approx(0.4)
    many = torch.arange(30) % 10
    wrong = many + (torch.arange(30) == 7)
    assert sums.accuracies(wrong, many, 1)["repaired_sum_accuracy"] == pytest.approx(14 / 15)


def test_digits_are_learned_from_sums_alone():
    digits = torch.randint(10, (320,), generator=draw())
    images = torch.zeros(320, 28, 28, dtype=torch.uint8)
    images[torch.arange(320), 4 + 2 * digits, 6:22] = 255  # a digit is a line at its own height
    data = Data("lines", Split(images, digits), Split(images, digits))
    recipe = Recipe(10, 16, 0.005, "onecycle", "adam", averaging="ema")
    assert sums.run("a", 1, 0, data, recipe)["digit_accuracy"] > 0.95
    with pytest.raises(UserError, match="not finite in epoch 1"):
        sums.run("a", 1, 0, data, replace(recipe, optimizer="sgd", learning_rate=1e30))


def test_the_table_has_means_and_the_picture_the_published_figures(monkeypatch):
    def row(track, places, accuracy):
        row = {"track": track, "digits": places, "data": "mnist", "recipe": {"split": "standard"}, "seconds": 90.0}
        return row | {"sum_accuracy": accuracy, "repaired_sum_accuracy": 0.5, "digit_accuracy": 0.9}

    drawn = []
    monkeypatch.setattr(sums, "draw_sums", lambda *arguments: drawn.extend(arguments))
    table = sums.publish([row("a", 1, 0.96), row("a", 1, 0.98), row("b", 2, 0.99)], "picture")
    assert "| a | 1 | 97.00 ± 1.41 | 50.00 ± 0.00 | 90.00 ± 0.00 | 81.00 | 90.00 ± 0.00 | 2 |\n" in table
    assert "| b | 2 | 99.00 | 50.00 | 90.00 | 65.61 | 90.00 | 1 |\n" in table
    measured, ceilings, reported, _ = drawn
    assert measured["track a"][1] == (pytest.approx(97), pytest.approx(2**0.5))
    assert ceilings["track b"] == {2: pytest.approx(65.61)} and len(reported["track a"]) == 32


@pytest.mark.parametrize("name", ["pairs", "sums"])
def test_a_command_given_again_repeats_nothing(name, few, custom, tmp_path, monkeypatch, capsys):
    for module in (pairs, sums):
        monkeypatch.setattr(module, "load_data", lambda *_: few)
        monkeypatch.setattr(module, "QUICK_EPOCHS", 1)
    own = ["--models", custom, "line_adder"] if name == "pairs" else ["--digits", "2", "1"]
    command = [name, "--quick", "--json", "--output-dir", str(tmp_path / "study"), *own]
    study.main(command)
    first = capsys.readouterr().out
    rows = [json.loads(line) for line in first.splitlines()]
    kinds = [(row.get("model", row.get("track")), row.get("case", row.get("digits"))) for row in rows]
    order = product(("fold-0", "held-81"), ("net.py:Net", "line_adder")) if name == "pairs" else product((1, 2), "ab")
    assert kinds == [(second, first) for first, second in order]
    assert (tmp_path / "study" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert f"{100 * rows[0]['digit_accuracy']:.2f}" in (tmp_path / "study" / f"{name}.md").read_text()
    monkeypatch.setattr(pairs, "finish_run", lambda *_: pytest.fail("done again"))
    monkeypatch.setattr(sums, "build_model", lambda *_: pytest.fail("done again"))
    study.main(command)
    assert capsys.readouterr().out == first
    with pytest.raises(UserError, match="holds a run with other settings"):
        study.main([*command, "--split", "validation"])


def test_more_digits_than_test_images_are_one_line(few, monkeypatch):
    monkeypatch.setattr(sums, "load_data", lambda *_: few)
    with pytest.raises(UserError, match="30 test images make no two numbers of 16 digits"):
        study.main(["sums", "--digits", "16"])


@pytest.mark.parametrize("wrong", ["pairs --digits 1", "sums --models tiny", "sums --epochs 1", "pairs --models no"])
def test_flags_of_the_other_study_and_unknown_models_are_usage_errors(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        study.main(wrong.split())
    assert stop.value.code == 2 and "error: " in capsys.readouterr().err
