"""The table of all models: finished runs are not repeated, and the table says what the runs reached."""

import os
from dataclasses import replace

import pytest

from mnist_sum import data, models, reproduce
from mnist_sum.cli import UserError


def test_runs_are_tabulated_drawn_and_not_repeated(few, tmp_path, monkeypatch, capsys):
    recipes = {"compact": replace(models.recipe_of("compact"), epochs=1)}
    monkeypatch.setattr(models, "recipe_of", recipes.get)
    monkeypatch.setattr(data, "load_data", lambda *_: few)
    flags = ["--models", "compact", "--seeds", "2", "--output-dir", str(tmp_path), "--device", "cpu"]
    reproduce.main(flags)
    table = capsys.readouterr().out
    assert "| `compact` | 7,364 |" in table
    assert "| 99.17 / 98.49 |" in table
    assert table == (tmp_path / "reproduction.md").read_text() + "\n"
    assert sorted(os.listdir(tmp_path)) == ["compact-0", "compact-1", "reproduction.md"]
    written = os.stat(tmp_path / "compact-1" / "checkpoint.safetensors").st_mtime_ns
    reproduce.main(flags)
    assert os.stat(tmp_path / "compact-1" / "checkpoint.safetensors").st_mtime_ns == written
    recipes["compact"] = replace(recipes["compact"], learning_rate=1.0)
    with pytest.raises(UserError, match="other settings"):
        reproduce.main(flags)


def test_mean_and_deviation():
    assert reproduce.mean_and_deviation([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert reproduce.mean_and_deviation([1.0]) == "1.00"
