"""What several test files share: where the data is, small data made on the spot, running a script."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mnist_sum.data import Data, Split, load_data

torch.set_num_threads(1)  # a few images cost more in waiting for other threads than these save

ROOT = Path(__file__).resolve().parent.parent
CUSTOM = """
import torch

RECIPE = {"epochs": 2, "batch_size": 16}

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(794, 29)

    def forward(self, image, number):
        return self.layer(torch.cat((image.flatten(1), number), 1)).split((10, 19), 1)
"""


@pytest.fixture(scope="session")
def mnist_folder():
    """The folder of the full MNIST, or a skip."""
    for folder in (os.environ.get("MNIST_SUM_DATA"), ROOT.parent / "shared" / "mnist"):
        if folder and (Path(folder) / "MNIST" / "raw").is_dir():
            return Path(folder)
    pytest.skip("needs the full MNIST: set MNIST_SUM_DATA to its folder")


@pytest.fixture(scope="session")
def sample():
    """The 5,000-image sample."""
    return load_data("sample")


@pytest.fixture(scope="session")
def few():
    """64 training and 30 test images of noise."""
    draw = torch.Generator().manual_seed(0)

    def split(count):
        images = torch.randint(256, (count, 28, 28), dtype=torch.uint8, generator=draw)
        return Split(images, torch.randint(10, (count,), generator=draw))

    return Data("noise", split(64), split(30))


@pytest.fixture
def custom(tmp_path):
    """The name of a custom model, FILE.py:NAME."""
    (tmp_path / "net.py").write_text(CUSTOM)
    return f"{tmp_path / 'net.py'}:Net"


@pytest.fixture
def script(tmp_path):
    """Run a script in a process of its own, in an empty folder: script("train.py", "--epochs", 1)."""

    def run(name, *flags, **environment):
        command = [sys.executable, *(["-m", name] if name.startswith("mnist_sum.") else [ROOT / name])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
        return subprocess.run(
            [*command, *map(str, flags)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )

    return run


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """train.py's main in this process, on the sample: train("--epochs", 1) -> (code, stdout, stderr)."""
    return _main("train", ["--data", "sample", "--device", "cpu", "--precision", "fp32"], tmp_path, monkeypatch, capsys)


@pytest.fixture
def infer(tmp_path, monkeypatch, capsys):
    """inference.py's main in this process: infer("--total", 5) -> (code, stdout, stderr)."""
    return _main("inference", ["--device", "cpu"], tmp_path, monkeypatch, capsys)


def _main(name, common, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(ROOT))
    module = __import__(name)

    def run(*flags):
        given = [] if "--resume" in flags else common
        code = module.main([*given, *map(str, flags)])
        return code, *capsys.readouterr()

    return run
