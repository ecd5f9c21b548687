"""A run's folder: where it is, what lies in it, and which one is the newest."""

import os
import time
from pathlib import Path

from mnist_sum.errors import Fault
from mnist_sum.files import make_folder

RUNS = Path("runs")
CHECKPOINT, HISTORY, SETTINGS = "checkpoint.pt", "history.csv", "settings.json"
SHIPPED = Path(__file__).resolve().parent.parent / "assets"


def new_folder(wanted, model_name):
    """The folder of a new run, created: the wanted one, else a fresh one under runs/.

    Raises Fault where it cannot be written to or already holds a run, so that none is overwritten.
    """
    if wanted is None:
        stem = RUNS / time.strftime(f"%Y%m%d-%H%M%S-{model_name}")
        wanted, attempt = stem, 1
        while wanted.exists():
            attempt += 1
            wanted = stem.with_name(f"{stem.name}-{attempt}")
    folder = make_folder(wanted)
    for name in (CHECKPOINT, HISTORY):
        if (folder / name).exists():
            raise Fault(
                f"{folder} already holds a run ({name}); continue it with --resume {folder}, "
                "or choose another --output-dir"
            )
    return folder


def existing_folder(folder):
    """The folder of a run to go on with; raises Fault where there is no checkpoint in it."""
    folder = Path(folder)
    if not os.path.isfile(folder / CHECKPOINT):
        raise Fault(f"there is no {CHECKPOINT} in {folder}; a run can be resumed if it was "
                    "started with --save")  # fmt: skip
    return make_folder(folder)


def default_checkpoint():
    """The newest checkpoint under runs/, else the one that ships with the package."""
    trained = list(RUNS.glob(f"*/{CHECKPOINT}"))
    if trained:
        return max(trained, key=lambda path: path.stat().st_mtime)
    shipped = sorted(SHIPPED.glob("*.pt"))
    if not shipped:
        raise Fault("there is no checkpoint yet; train one with: python train.py --save")
    return shipped[0]
