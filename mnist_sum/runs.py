"""A run's folder: where it is, what lies in it, and which one is the newest."""

import os
import shlex
import time
from pathlib import Path

from mnist_sum.errors import Fault
from mnist_sum.files import make_folder, write_atomically
from mnist_sum.recipes import DEFAULT_MODEL

RUNS = Path("runs")
CHECKPOINT, HISTORY, SETTINGS, REPORT = "checkpoint.pt", "history.csv", "settings.json", "report.md"
TEACHER = "teacher.pt"  # a copy, so that the run can always go on
SHIPPED = Path(__file__).resolve().parent.parent / "assets"


def new_folder(wanted, model_name):
    """The folder of a new run, created: the wanted one, else a fresh one under runs/.

    Raises Fault where it cannot be written to.
    """
    if wanted is None:
        stem = RUNS / time.strftime(f"%Y%m%d-%H%M%S-{model_name}")
        wanted, attempt = stem, 1
        while wanted.exists():
            attempt += 1
            wanted = stem.with_name(f"{stem.name}-{attempt}")
    return make_folder(wanted)


def refuse_to_overwrite(folder):
    """Raise Fault if the folder already holds a run."""
    if (folder / CHECKPOINT).exists():
        raise Fault(f"{folder} already holds a run; continue it with {resume_command(folder)}, or "
                    "choose another --output-dir")  # fmt: skip
    if (folder / HISTORY).exists():
        raise Fault(f"{folder} already holds a run ({HISTORY}); choose another --output-dir")


def keep_teacher(folder, archive):
    """Write the teacher's checkpoint into the run's folder; raises Fault where anything else lies there."""
    path = folder / TEACHER
    try:
        free = not path.exists() or path.read_bytes() == archive
    except OSError:  # a folder, or a file that is not ours to read
        free = False
    if not free:
        raise Fault(f"{path} is there already and is not this run's teacher; choose another --output-dir")
    write_atomically(path, archive)


def resume_command(folder, data_folder=None):
    """The command line that goes on with the run in the folder."""
    data = [] if data_folder is None else ["--data-dir", str(data_folder)]
    return shlex.join(["python", "train.py", "--resume", str(folder), *data])


def existing_folder(folder):
    """The folder of a run to go on with; raises Fault where there is no checkpoint in it."""
    folder = Path(folder)
    if not os.path.isfile(folder / CHECKPOINT):
        raise Fault(f"there is no {CHECKPOINT} in {folder}; a run can be resumed if it was "
                    "started with --save")  # fmt: skip
    return make_folder(folder)


def default_checkpoint():
    """The newest checkpoint of a whole epoch under runs/, else the one that ships."""
    trained = [path for path in RUNS.glob(f"*/{CHECKPOINT}") if _epochs(path.parent)]
    if trained:
        return max(trained, key=lambda path: path.stat().st_mtime)
    return shipped_checkpoint()


def shipped_checkpoint():
    """The checkpoint in assets/ of the default model."""
    path = SHIPPED / f"{DEFAULT_MODEL}.pt"
    if not path.is_file():
        raise Fault("there is no checkpoint yet; train one with: python train.py --save")
    return path


def _epochs(folder):
    """The whole epochs in the folder's history."""
    try:
        return len((folder / HISTORY).read_text().splitlines()) - 1
    except OSError:
        return 0
