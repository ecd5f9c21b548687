"""A run's folder: where it is, what lies in it, and which one is the newest."""

import os
import shlex
import time
from pathlib import Path

from mnist_sum import models
from mnist_sum.console import UserError
from mnist_sum.data import default_folder
from mnist_sum.recipes import DEFAULT_MODEL
from mnist_sum.system.files import make_folder, read_regular

RUNS = Path("runs")
CHECKPOINT, TEACHER = "checkpoint.safetensors", "teacher.safetensors"  # the latter a copy, for --resume
SOURCE = "model.py"  # a copy of the file of a network of the user's own
HISTORY, SETTINGS, REPORT = "history.csv", "settings.json", "report.md"
WRITTEN = (CHECKPOINT, HISTORY, SETTINGS, REPORT)


def new_folder(requested, model_name):
    """The folder of a new run, created: the requested one, else a new one under runs/.

    Raises UserError where it cannot be written to.
    """
    if requested is None:
        stem = RUNS / time.strftime(f"%Y%m%d-%H%M%S-{model_name}")
        requested, attempt = stem, 1
        while requested.exists():
            attempt += 1
            requested = stem.with_name(f"{stem.name}-{attempt}")
    return make_folder(requested)


def refuse_to_overwrite(folder, architecture):
    """Raise UserError if the folder already holds a run."""
    if (folder / CHECKPOINT).exists():
        command = resume_command(folder, architecture)
        raise UserError(
            f"{folder} already holds a run; resume it with {command}, or choose another --output-dir"
        )
    if (folder / HISTORY).exists():
        raise UserError(f"{folder} already holds a run ({HISTORY}); choose another --output-dir")


def refuse_other_content(path, content, what):
    """Raise UserError where anything but this content lies at the path of the run's copy of something."""
    try:
        fits = not os.path.lexists(path) or read_regular(path, len(content) + 1) == content
    except OSError:  # a folder, a pipe, or a file that is not ours to read
        fits = False
    if not fits:
        raise UserError(f"{path} already exists and is not this run's {what}; choose another --output-dir")


def resume_command(folder, architecture):
    """The command line that resumes the run in the folder."""
    given = [*_given("--resume", folder), *_model(folder, architecture)]
    return " ".join(map(_quoted, [*_script("train"), *given]))


def evaluate_command(folder, architecture):
    """The command line that tests the model in the folder."""
    given = [*_given("--checkpoint", folder), *_model(folder, architecture)]
    return " ".join(map(_quoted, [*_script("inference"), "--evaluate", *given]))


def _quoted(word):
    """The word quoted for a shell; what cannot be printed as octal codes in $'…' (bash, zsh, POSIX 2024)."""
    if word.isprintable():
        return shlex.quote(word)
    plain = (each if each.isprintable() and each not in "'\\" else None for each in word)
    codes = ("".join(map("\\{:03o}".format, os.fsencode(each))) for each in word)
    return "$'" + "".join(a or b for a, b in zip(plain, codes, strict=True)) + "'"


def _script(name):
    """How a script is started: as a file in a checkout, as a module where the package is installed."""
    return ["python", f"{name}.py"] if os.path.isfile(f"{name}.py") else ["python", "-m", name]


def _model(folder, architecture):
    """The flag that names the folder's copy of an own network."""
    if architecture.source is None:
        return []
    return _given("--model", f"{folder / SOURCE}:{architecture.name.rpartition(':')[2]}")


def _given(flag, value):
    """The flag with its value, as argparse takes it: in one word where the value begins with a dash."""
    return [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]


def checkpoint_path(text):
    """The Path of a checkpoint: text is a file's, a run's folder, or the name of a model that ships."""
    path, shipped = Path(text), models.shipped(text)
    if os.path.isdir(path):
        return path / CHECKPOINT
    named = path.name == str(text) and os.path.isfile(shipped) and not os.path.exists(path)
    return shipped if named else path


def existing_folder(folder):
    """The folder of a run to resume; raises UserError where there is no checkpoint in it."""
    folder = Path(folder)
    if not os.path.isfile(folder / CHECKPOINT):
        if os.path.isfile(folder / "checkpoint.pt"):
            raise UserError(f"{folder} holds a run of mnist_sum 1, whose checkpoint.pt is not read any "
                            "more; train it again, or resume it with mnist_sum 1")  # fmt: skip
        raise UserError(f"there is no {CHECKPOINT} in {folder}; a run can be resumed if it was "
                        "started with --save")  # fmt: skip
    return make_folder(folder)


def data_folder(requested, recorded=None):
    """Where to look for MNIST: in the requested folder, else in the one that a checkpoint recorded if it
    is there, else in $MNIST_SUM_DATA, else in data."""
    if requested is None and recorded is not None and os.path.isdir(os.path.join(recorded, "MNIST", "raw")):
        return recorded
    return requested or default_folder()


def default_checkpoint():
    """The newest checkpoint of a whole epoch under runs/, else the one that ships with the package.

    Of several that were written at the same time, as far as the file system tells, the last one by name.
    """
    files = [path for path in RUNS.glob(f"*/{CHECKPOINT}") if os.path.isfile(path)]
    trained = [path for path in files if _epochs(path.parent) > 0]
    if trained:
        return max(trained, key=lambda path: (os.path.getmtime(path), path))
    return models.shipped(DEFAULT_MODEL)


def _epochs(folder):
    """The whole epochs in the folder's history."""
    try:
        return len(read_regular(folder / HISTORY).splitlines()) - 1
    except OSError:
        return 0
