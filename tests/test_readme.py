"""README and side pages: what they show exists, and what they say stays short."""

import re
import subprocess

import pytest

from tests.conftest import ROOT

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("mnist_sum/*/README.md"), *ROOT.glob("tests/*/README.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_of_a_page_exist(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    for link in links:
        assert link.startswith("http") or (page.parent / link).exists(), link


@pytest.mark.parametrize("script", ["train.py", "inference.py"])
def test_flags_in_the_pages_exist(script):
    help_text = subprocess.run(["python", ROOT / script, "--help"], capture_output=True, text=True, check=True).stdout
    for page in PAGES:
        for command in re.findall(rf"python {re.escape(script)} ([^\n`#|]*)", page.read_text()):
            for flag in re.findall(r"--[a-z-]+", command):
                assert flag in help_text, (page.name, command)


def test_custom_model_of_the_readme_trains(train, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (film,) = (block for block in blocks if "class Film" in block)
    (tmp_path / "film.py").write_text(film)
    assert train("--model", "film.py:Film", "--limit", 64, "--epochs", 1)[0] == 0
