"""The rules of the house that a few lines can hold: sizes, imports that go down, one owner of each power."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = [  # each may import from the floors after it, and from its own
    {"train", "inference", "reproduce", "export", "demo", "study", "studies"},
    {"runs", "figures"},
    {"training"},
    {"evaluation"},
    {"contract", "models", "own", "loss", "metrics", "augment", "images"},
    {"dataset", "data"},
    {"system"},
    {"console", "cli", "recipes", "__init__"},
]
OWNERS = {
    "argparse": "cli",
    "fcntl": "system.files",
    "gradio": "demo",
    "matplotlib": "figures.plots",
    "mlxtend": "data.sample",
    "onnxruntime": "export",
    "PIL": "images",
    "safetensors": ("runs.checkpoint", "images.novelty"),
    "scipy": "images.page",
    "signal": ("console", "runs"),  # how a process ends, and a run
    "torch.distributed": "system.processes",
    "torch.nn.parallel": "system.processes",
    "torchsummary": "figures.layers",
    "torchvision": "data.download",
    "tqdm": "console",
    "urllib": "data.download",
}
PICKLES = {"torch.save", "torch.load", "pickle.load", "pickle.loads", "pickle.dump", "pickle.dumps"}


def module_name(path):
    """ "runs.checkpoint" for mnist_sum/runs/checkpoint.py, "train" for train.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "mnist_sum" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


SOURCES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"))
    for path in [ROOT / "train.py", ROOT / "inference.py", *ROOT.glob("mnist_sum/**/*.py")]
}


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor(name):
    return next(level for level, folders in enumerate(FLOORS) if name.partition(".")[0] in folders)


@pytest.mark.parametrize("name", ["train.py", "inference.py"])
def test_a_script_has_at_most_80_lines(name):
    assert len((ROOT / name).read_text().splitlines()) <= 80


def test_training_imports_the_console_alone_before_ctrl_c_is_handled():
    assert set(imports(ast.Module(SOURCES["train"].body[:-2], []))) == {"mnist_sum", "mnist_sum.console"}


def test_the_readme_is_one_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 160
    assert len(text.split()) <= 1500


def test_the_tests_named_for_each_fault_exist():
    text = (ROOT / "tests" / "stress" / "README.md").read_text()
    suite = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named and named <= set(re.findall(r"^def (test_\w+)", suite, re.MULTILINE))


SCRIPTS = [path for path in sorted((ROOT / "tests").rglob("*.py")) if not path.name.startswith("test_")]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_that_is_run_by_hand_imports_from_the_package_is_there(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mnist_sum"):
            module = importlib.import_module(node.module)
            for name in [alias.name for alias in node.names if not hasattr(module, alias.name)]:
                importlib.import_module(f"{node.module}.{name}")


def test_an_architecture_fits_a_screen():
    for path in ROOT.glob("mnist_sum/models/*.py"):
        assert len(path.read_text().splitlines()) <= 75, path.name


@pytest.mark.parametrize("name", SOURCES)
def test_imports_only_go_down(name):
    ours = {other.removeprefix("mnist_sum.") for other in imports(SOURCES[name]) if "mnist_sum." in other}
    ours = {other for other in ours if other in SOURCES}
    assert all(floor(other) >= floor(name) for other in ours), f"{name} imports {ours}"


@pytest.mark.parametrize("power", OWNERS)
def test_each_power_has_one_owner(power):
    users = {
        name for name, tree in SOURCES.items() if any(f"{i}.".startswith(f"{power}.") for i in imports(tree))
    }
    assert users
    owners = (OWNERS[power],) if isinstance(OWNERS[power], str) else OWNERS[power]
    assert all(f"{name}.".startswith(tuple(f"{owner}." for owner in owners)) for name in users), users


def test_only_the_console_prints():
    for name, tree in SOURCES.items():
        calls = {getattr(node.func, "id", None) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert name == "console" or "print" not in calls, name


def test_nothing_is_pickled_or_unpickled():
    for name, tree in SOURCES.items():
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not calls & PICKLES, name


def test_the_console_the_flags_and_the_recipes_need_the_standard_library_alone():
    code = "import sys, mnist_sum.console, mnist_sum.cli, mnist_sum.recipes; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    roots = {name.partition(".")[0] for name in found.stdout.split()}
    assert "mnist_sum" in roots
    assert not roots & {"torch", "numpy", "matplotlib", "safetensors", "tqdm"}
