"""The study of sums alone: its protocol by hand, its likelihood by brute force, its runs on noise."""

import json
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_sum.console import UserError
from mnist_sum.models.addition import NEVER
from mnist_sum.own import Architecture
from mnist_sum.recipes import Recipe
from mnist_sum.runs.series import ROW
from mnist_sum.studies import shortcuts, sums
from mnist_sum.training import new_state

FLAGS = {"data": "mnist", "data_dir": None, "split": "standard", "seeds": 1, "quick": True}


def brute_force(probabilities):
    """P(total), (2 * 10^N,), of P(digit), (2, N, 10): all 10^2N cases one by one, in float64."""
    cases = torch.ones((), dtype=probabilities.dtype)
    for digit in probabilities.flatten(0, 1):
        cases = cases.unsqueeze(-1) * digit
    numbers = torch.arange(10 ** probabilities.shape[1])
    totals = numbers.unsqueeze(1) + numbers
    return probabilities.new_zeros(2 * len(numbers)).index_add(0, totals.flatten(), cases.flatten())


def as_digits(number, count):
    return torch.tensor([int(each) for each in str(number).zfill(count)])


@pytest.mark.parametrize("places", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_likelihood_and_gradient_are_those_of_all_cases(places, scale):
    logits = scale * torch.randn(2, places, 10, generator=torch.Generator().manual_seed(places)).double()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = brute_force(theirs.softmax(-1)).log()
    some = torch.arange(0, 2 * 10**places - 1, 1 if places == 1 else 7 ** (places - 1))
    totals = torch.stack([as_digits(each.item(), places + 1) for each in some])
    log_likelihood = sums.sum_log_likelihood(ours.log_softmax(-1).expand(len(some), -1, -1, -1), totals)
    torch.testing.assert_close(log_likelihood, expected[some])
    log_likelihood.sum().backward()
    expected[some].sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_likelihoods_of_all_totals_add_up_to_one():
    totals = torch.stack([as_digits(total, 3) for total in range(200)])
    log_probabilities = torch.randn(1, 2, 2, 10).log_softmax(-1).expand(200, -1, -1, -1)
    likelihood = sums.sum_log_likelihood(log_probabilities, totals).exp()
    torch.testing.assert_close(likelihood.sum(), torch.tensor(1.0))
    assert likelihood[199] == 0, "99 + 99 = 198 is the largest"


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(*[st.lists(st.integers(0, 9), min_size=n, max_size=n)] * 2)
    )
)
def test_certain_digits_have_their_sum_and_no_other(numbers):
    digits = torch.tensor(numbers)
    total = sums.total_digits(digits)
    expected = sum(int("".join(map(str, number))) for number in numbers)
    assert int("".join(map(str, total.tolist()))) == expected
    log_probabilities = torch.full((2, *digits.shape, 10), NEVER)
    log_probabilities[:, torch.arange(2)[:, None], torch.arange(digits.shape[1]), digits] = 0.0
    log_probabilities.requires_grad_()
    other = as_digits((expected + 1) % 10 ** len(total), len(total))
    log_likelihood = sums.sum_log_likelihood(log_probabilities, torch.stack([total, other]))
    assert log_likelihood.tolist() == [0.0, NEVER]
    log_likelihood[0].backward()
    assert torch.equal(log_probabilities.grad[0], log_probabilities[0].exp())


def test_images_are_grouped_in_the_order_of_the_files():
    assert sums.grouped(torch.arange(7), 1).tolist() == [[[0], [1]], [[2], [3]], [[4], [5]]]
    assert sums.grouped(torch.arange(11), 2).tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    sizes = [len(sums.grouped(torch.arange(60_000), places)) for places in (1, 2, 4, 15, 100)]
    assert sizes == [30_000, 15_000, 7_500, 2_000, 300]


def test_accuracies_by_hand():
    digits, predicted = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([2, 1, 3, 5, 5])
    found = sums.accuracies(predicted, digits, 1)
    assert found["sum_accuracy"] == 0.5, "1 + 2 = 2 + 1, as two errors cancel; 3 + 5 is not 3 + 4"
    assert found["digit_accuracy"] == pytest.approx(0.4)


def test_every_pairing_uses_each_image_once():
    """One wrong digit among 30 makes one of 15 sums wrong, however the images are paired; beside another
    wrong one, which it can meet, between one and two."""
    digits = torch.randint(10, (30,), generator=torch.Generator().manual_seed(0))
    wrong = digits.clone()
    wrong[7] = (wrong[7] + 1) % 10
    assert sums.accuracies(wrong, digits, 1)["repaired_sum_accuracy"] == pytest.approx(14 / 15)
    wrong[22] = (wrong[22] + 5) % 10
    assert 13 / 15 < sums.accuracies(wrong, digits, 1)["repaired_sum_accuracy"] < 13.2 / 15


def row(track, places, seed, sum_accuracy):
    figures = {"sum_accuracy": sum_accuracy, "repaired_sum_accuracy": 0.5, "digit_accuracy": 0.9}
    return {"track": track, "digits": places, "seed": seed, "data": "mnist", "split": "standard", **figures,
            "seconds": 90.0}  # fmt: skip


def test_tables_and_picture_have_each_tracks_figures_and_all_published_ones(monkeypatch):
    rows = [row("a", 1, 0, 0.96), row("a", 1, 1, 0.98), row("b", 2, 0, 0.99)]
    ours, _, others = sums.tables(rows).partition("| sum % (minutes) |")
    assert "| a | 1 | 97.00 ± 1.41 | 50.00 ± 0.00 | 90.00 ± 0.00 | 81.00 | 90.00 ± 0.00 | 2 |" in ours
    assert "| b | 2 | 99.00 | 50.00 | 90.00 | 65.61 | 90.00 | 1 |" in ours
    assert "| track a, measured here | 97.00 ± 1.41 (1.5) | - | - | - | - |" in others
    assert "track b" not in others and "| NeurASP [1] | 98.00 (44) | - | - | - | - |" in others
    drawn = []
    monkeypatch.setattr(sums, "draw_sums", lambda *arguments: drawn.extend(arguments))
    sums.draw(rows, "picture")
    measured, ceilings, reported, _ = drawn
    assert measured["track a"][1] == (pytest.approx(97), pytest.approx(2**0.5))
    assert ceilings["track b"] == {2: pytest.approx(65.61)}
    assert len(reported["track a"]) == sum(map(len, sums.PUBLISHED.values())) and len(reported) == 1


def test_the_network_of_track_a_is_the_protocols():
    network = sums.LeNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 44_426
    pixels = torch.rand(2, 1, 28, 28)
    expected = network((pixels - 0.5) / 0.5)
    torch.testing.assert_close(network.encode((pixels - 0.1307) / 0.3081), expected, atol=1e-5, rtol=1e-5)


def test_digits_are_learned_from_sums_alone():
    digits = torch.randint(10, (320,), generator=torch.Generator().manual_seed(0))
    images = torch.zeros(320, 28, 28, dtype=torch.uint8)
    images[torch.arange(320), 4 + 2 * digits, 6:22] = 255  # a digit is a line at its own height
    recipe = Recipe(10, 16, 0.005, "onecycle", "adam", averaging="ema")
    state = new_state(Architecture("lenet", sums.LeNet, recipe), recipe, 0, torch.device("cpu"), "fp32")
    groups = sums.grouped(torch.arange(320), 1)
    total = sums.total_digits(digits[groups])

    def log_likelihood(log_probabilities, batch):
        return sums.sum_log_likelihood(log_probabilities.unflatten(1, (2, 1)), total[batch])

    sums.train(state, images, groups.flatten(1), log_likelihood)
    assert (sums.digit_probabilities(state.model, images).argmax(1) == digits).double().mean() > 0.95


def test_a_loss_that_is_not_finite_ends_a_run_with_one_line(few):
    recipe = Recipe(2, 16, 0.005, "onecycle", "adam")
    state = new_state(Architecture("lenet", sums.LeNet, recipe), recipe, 0, torch.device("cpu"), "fp32")

    def log_likelihood(log_probabilities, batch):
        return log_probabilities[:, 0, 0] / 0

    before = [parameter.clone() for parameter in state.raw.parameters()]
    with pytest.raises(UserError, match="no longer finite in epoch 1; this run is discarded; try a smaller"):
        sums.train(state, few.train.images, sums.grouped(torch.arange(64), 1).flatten(1), log_likelihood)
    assert all(map(torch.equal, before, state.raw.parameters()))


@pytest.fixture
def noise(few, monkeypatch):
    monkeypatch.setattr(sums.images, "load", lambda *_: few)
    for track in sums.TRACKS:
        short = sums.SETTINGS[track][1].overridden(epochs=1, batch_size=8)
        monkeypatch.setitem(sums.SETTINGS, track, {1: short})


def test_finished_runs_are_not_done_again(noise, tmp_path, capsys, monkeypatch):
    flags = {**FLAGS, "digits": [2, 1], "track": None, "output_dir": tmp_path}
    assert sums.study(**flags) == 0
    first = capsys.readouterr().out
    rows = [json.loads((tmp_path / f"{track}-{n}-0" / ROW).read_text()) for n in (1, 2) for track in "ab"]
    assert [(row["track"], row["digits"]) for row in rows] == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert all(0 <= row["digit_accuracy"] <= 1 and row["seconds"] > 0 for row in rows)
    assert (tmp_path / sums.TABLE).read_text().rstrip() in first
    assert (tmp_path / sums.PICTURE).read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(sums, "run", lambda *_: pytest.fail("done again"))
    assert sums.study(**flags) == 0
    assert capsys.readouterr().out == first
    sums.SETTINGS["a"][1] = sums.SETTINGS["a"][1].overridden(epochs=2)
    with pytest.raises(UserError, match="is not the result of the run"):
        sums.study(**flags)


def test_a_run_is_a_function_of_its_seed(noise, few):
    device = torch.device("cpu")
    found = [sums.run("b", 1, seed, few, sums.recipe_of("b", 1), device) for seed in (0, 0, 1)]
    for row in found:
        row.pop("seconds")
    assert found[0] == found[1] != found[2]


def test_too_many_digits_for_the_images_are_refused(noise, tmp_path):
    with pytest.raises(UserError, match="30 test images make no two numbers of 16 digits"):
        sums.study(**FLAGS, digits=[16], track="a", output_dir=tmp_path)


def test_seen_pairs_are_equally_many_and_use_no_image_twice():
    digits = torch.randint(10, (1000,), generator=torch.Generator().manual_seed(0))
    groups = shortcuts.paired(digits)
    pairs, counts = digits[groups].unique(dim=0, return_counts=True)
    assert sorted(map(tuple, pairs.tolist())) == sorted(shortcuts.SEEN)
    assert len(counts.unique()) == 1 and counts[0] > 15
    assert len(groups.unique()) == groups.numel()


def test_three_readings_of_the_digits_have_all_seen_sums_right():
    readings = [
        reading
        for reading in product(range(5), repeat=5)
        if all(reading[a] + reading[b] == a + b for a, b in shortcuts.SEEN)
    ]
    assert readings == [(0, 1, 2, 3, 4), (0, 1, 3, 2, 3), (0, 1, 4, 1, 2)]
    digits = torch.arange(5).repeat(3)
    found = shortcuts.pair_accuracies(torch.tensor(readings[1])[digits], digits)
    assert all(found[pair] == 1 for pair in shortcuts.SEEN)
    assert found[2, 2] == found[1, 2] == 0


def test_pair_accuracies_are_those_of_all_pairs_of_images():
    draw = torch.Generator().manual_seed(0)
    digits = torch.arange(5).repeat(6)
    predicted = torch.randint(5, (30,), generator=draw)
    correct = predicted.unsqueeze(1) + predicted == digits.unsqueeze(1) + digits
    for a, b in product(range(5), repeat=2):
        expected = correct[digits == a][:, digits == b].double().mean()
        assert shortcuts.pair_accuracies(predicted, digits)[a, b] == pytest.approx(expected)


def test_the_study_of_shortcuts_writes_its_table(few, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shortcuts.images, "load", lambda *_: few)
    assert shortcuts.study(**FLAGS, output_dir=tmp_path) == 0
    assert "| measured here |" in (tmp_path / shortcuts.TABLE).read_text()
    assert "calibration error" in capsys.readouterr().out


def test_a_network_that_takes_the_shortcut_has_the_figures_that_are_reported(few, monkeypatch):
    """0 and 1 are read right, 2, 3 and 4 as 3, 2 and 3: of the seen pairs' 14 digits 6 are right, of the
    unseen ones' 36 14, and of the unseen pairs (1, 1) alone has its sum: 42.86, 38.89 and 5.56%."""
    labels = torch.tensor([0, 1, 3, 2, 3])
    digits = few.test.digits[few.test.digits < 5]
    assert len(digits.unique()) == 5
    monkeypatch.setattr(shortcuts, "train", lambda *_: None)
    monkeypatch.setattr(
        shortcuts, "digit_probabilities", lambda *_: 0.6 * torch.eye(5)[labels[digits]] + 0.08
    )
    found = shortcuts.run(0, few)
    assert found["seen_accuracy"] == 1 and found["unseen_accuracy"] == pytest.approx(1 / 18)
    assert found["seen_digit_accuracy"] == pytest.approx(6 / 14)
    assert found["unseen_digit_accuracy"] == pytest.approx(14 / 36)
    assert found["digit_accuracy"] == pytest.approx((digits < 2).double().mean().item())
    assert found["calibration_error"] == pytest.approx(abs(found["digit_accuracy"] - 0.68), abs=1e-6)
