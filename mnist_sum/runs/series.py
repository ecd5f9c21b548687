"""Many runs, one after another, each in a folder of its own: what reproduce.py and the studies share."""

import hashlib
import json
import os
import statistics

from mnist_sum import models, runs
from mnist_sum.console import UserError
from mnist_sum.recipes import Recipe, default_batch_size
from mnist_sum.runs import checkpoint
from mnist_sum.runs.folder import CHECKPOINT
from mnist_sum.system.device import choose_device, keep_freed_memory
from mnist_sum.system.files import make_folder, read_regular, write_atomically
from mnist_sum.training import fit

ROW = "row.json"


def architectures(names):
    """{name: Architecture} of the models, as models.find takes them; raises UserError where two of them
    are called the same."""
    found = {name: models.find(name) for name in names}
    called = [architecture.name for architecture in found.values()]
    if twice := [name for name in called if called.count(name) > 1]:
        raise UserError(f"two of the models are called {twice[0]}; rename the file of one")
    return found


def train(model, folder, seed, data, data_dir=None, teacher=None, teacher_sha256="none", **overrides):
    """Do the run, or resume it, in its folder; return its exit code, 0 when it has done all its epochs.

    model: as models.find takes it; data: "mnist" or "sample"; overrides: settings in place of the recipe's.
    Raises UserError where the folder holds another run.
    """
    architecture, path = models.find(model), folder / CHECKPOINT
    if os.path.exists(path):
        stored = checkpoint.load(path, own=[architecture])
        recipe = architecture.recipe.overridden(teacher=teacher_sha256, **overrides)
        size = default_batch_size(recipe, stored["data"]["train_images"])
        expected = (architecture.name, architecture.sha256, seed, data, recipe.overridden(batch_size=size))
        begun = (*map(stored.get, ("model_name", "source_sha256", "seed")), stored["data"]["name"])
        if (*begun, Recipe(**stored["recipe"])) != expected:
            raise UserError(f"{folder} holds a run by another recipe than {architecture.name}'s of this "
                            "version, of a file that has changed, of other data, or by another teacher; move "
                            "it away, or choose another --output-dir")  # fmt: skip
        if stored["epoch"] == recipe.epochs:
            return 0
        settings = {"resume": folder}
    else:
        settings = {"seed": seed, "data": data, "save": True, "output_dir": folder, "teacher": teacher}
        settings |= overrides
    keep_freed_memory()
    with runs.opened(choose_device("auto"), model=model, data_dir=data_dir, **settings) as run:
        run.announce()
        for row in fit(run.state, run.data.train, run.data.test):
            run.record(row)
        run.finish()
    return run.exit_code


def row_of(folder, expected, run):
    """(row, new): the row of the run in the folder, JSON values in a dict, and whether run() just made it.

    expected: the values that identify the run; run() returns the others. A new row is written into the
    folder with a SHA-256 of its values. Raises UserError where the folder holds the row of another run, or a
    damaged one.
    """
    try:
        row = json.loads(read_regular(folder / ROW))
        fits = row.pop("sha256") == _sha256(row) and expected.items() <= row.items()
    except FileNotFoundError:
        row = expected | run()
        content = json.dumps({**row, "sha256": _sha256(row)}, indent=1)
        write_atomically(make_folder(folder) / ROW, content.encode())
        return row, True
    except Exception:  # whatever a file that is not ours can make the parser raise
        fits = False
    if not fits:
        raise UserError(f"{folder / ROW} is not the result of the run in that folder, or was changed; move "
                        "it away, or choose another --output-dir")  # fmt: skip
    return row, False


def _sha256(row):
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()


def mean_and_deviation(values):
    """ "mean ± standard deviation" over the seeds."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"
