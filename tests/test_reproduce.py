import dataclasses

import pytest
import torch

from mnist_sum import checkpoint, dataset, reproduce
from mnist_sum.errors import Fault
from mnist_sum.evaluation import predictions
from mnist_sum.recipes import RECIPES
from mnist_sum.training import fit, new_run


@pytest.fixture
def finished(few, tmp_path, monkeypatch):
    """A folder with compact-0 finished and compact-1 not, trained on noise for two epochs."""
    monkeypatch.setattr(dataset, "load", lambda *_: few)
    recipe = dataclasses.replace(RECIPES["compact"], epochs=2, batch_size=16)
    for seed, epochs in ((0, 2), (1, 1)):
        run = new_run("compact", recipe, seed, torch.device("cpu"), "fp32")
        for _ in zip(range(epochs), fit(run, few.train, few.test), strict=False):
            pass
        (tmp_path / f"compact-{seed}").mkdir()
        path = tmp_path / f"compact-{seed}" / "checkpoint.pt"
        checkpoint.save(path, run, checkpoint.describe_data(few))
    return tmp_path


def test_the_table_shows_what_was_measured_beside_what_was_reported(finished):
    figures = reproduce.run_figures(finished / "compact-0", "nowhere")
    table = reproduce.results_table({"compact": [figures, figures], "deep_adder": []})
    head, _, *rows = table.splitlines()
    (row,) = rows
    cells = dict(zip(head.split("|"), row.split("|"), strict=True))
    assert cells[" model "] == " `compact` "
    assert cells[" parameters "] == " 7,364 "
    assert cells[" reported "] == " 99.17 / 98.49 "
    assert cells[" seeds "] == " 2 "
    model, _ = checkpoint.load_model(finished / "compact-0" / "checkpoint.pt", torch.device("cpu"))
    digit_right, _, _ = predictions(model, dataset.MnistSum(dataset.load().test)).right
    assert cells[" digit % "] == f" {100 * digit_right.double().mean():.2f} ± 0.00 "


def test_a_run_is_started_resumed_or_left_alone(finished, monkeypatch):
    commands = []
    monkeypatch.setattr(
        reproduce.subprocess,
        "run",
        lambda command, check: commands.append(command) or type("Done", (), {"returncode": 0}),
    )
    recipe = dataclasses.replace(RECIPES["compact"], epochs=2, batch_size=16)
    monkeypatch.setitem(RECIPES, "compact", recipe)
    for folder in ("compact-0", "compact-1", "compact-2"):
        assert reproduce.train("compact", 2, "data", finished / folder)
    resumed, started = commands
    assert resumed[2:4] == ["--resume", str(finished / "compact-1")]
    assert started[started.index("--seed") + 1] == "2"
    assert "--save" in started


def test_a_run_by_another_recipe_is_not_taken_for_this_ones(finished, monkeypatch):
    recipe = dataclasses.replace(RECIPES["compact"], epochs=2, batch_size=16, learning_rate=0.1)
    monkeypatch.setitem(RECIPES, "compact", recipe)
    with pytest.raises(Fault, match="another recipe"):
        reproduce.train("compact", 0, "data", finished / "compact-0")


def test_a_taught_run_is_started_with_its_teacher_and_is_not_an_untaught_one(finished, monkeypatch):
    commands, teacher = [], finished / "compact-0" / "checkpoint.pt"
    done = type("Done", (), {"returncode": 0})
    monkeypatch.setattr(reproduce.subprocess, "run", lambda command, check: commands.append(command) or done)
    recipe = dataclasses.replace(RECIPES["compact"], epochs=2, batch_size=16)
    monkeypatch.setitem(RECIPES, "compact", recipe)
    assert reproduce.train("compact", 2, "data", finished / "compact-2", teacher)
    assert commands[0][commands[0].index("--teacher") + 1] == teacher
    with pytest.raises(Fault, match="another teacher"):
        reproduce.train("compact", 0, "data", finished / "compact-0", teacher)


def test_the_commands_teacher_teaches_every_run_and_is_named_below_the_table(finished, monkeypatch, capsys):
    teachers = []
    monkeypatch.setattr(reproduce, "train", lambda *told: teachers.append(told[4]) or True)
    big = str(finished / "compact-0" / "checkpoint.pt")
    told = ["--models", "compact", "--seeds", "1", "--teacher", big, "--output-dir", str(finished)]
    assert reproduce.main(told) == 0
    assert teachers == [big]
    table = (finished / "reproduction.md").read_text()
    assert table in capsys.readouterr().out and table.endswith(f"teacher too: {big}\n")
    with pytest.raises(Fault, match="cannot teach channel_fusion, .* --models"):
        reproduce.main(["--teacher", big, "--output-dir", str(finished)])
    assert teachers == [big]


def test_a_run_that_fails_ends_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(reproduce, "train", lambda *_: False)
    assert reproduce.main(["--output-dir", str(tmp_path), "--seeds", "1"]) == 1


def test_the_spread_is_the_standard_deviation_over_seeds():
    assert reproduce.mean_and_spread([1.0, 3.0]) == "2.00 ± 1.41"
    assert reproduce.mean_and_spread([1.0]) == "1.00"
