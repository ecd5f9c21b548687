"""A run: training with a folder, in which its settings, history, checkpoint and pictures lie.

    with opened(...) as run:
        run.announce()
        for row in fit(run.state, run.data.train, run.data.test):
            run.record(row)
        run.finish()

Every process of a run does this; what only rank 0 may do, print and write, is a no-op on the others.
"""

import os
import signal
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from mnist_sum import console, models
from mnist_sum.console import UserError, one_line
from mnist_sum.contract import check
from mnist_sum.data import Data, load
from mnist_sum.recipes import default_batch_size, impossible_setting
from mnist_sum.runs import checkpoint, folder, report
from mnist_sum.runs.distillation import load_teacher
from mnist_sum.system.device import choose_device, choose_precision, describe_device
from mnist_sum.system.files import check_output, folder_lock, write_atomically
from mnist_sum.system.processes import broadcast, rank, size
from mnist_sum.training import TrainingState, check_batch_size, new_state


@dataclass
class Run:
    """A run while it is open: its state, its data and where they lie.

    state       training.TrainingState, which fit() advances
    data        data.Data; data_dir, the folder that MNIST lies in
    path        the run's folder
    save        whether checkpoints are written
    """

    state: TrainingState
    data: Data
    data_dir: str
    path: Path
    save: bool

    @property
    def exit_code(self):
        """0, or 128 + the number of the signal that stopped the run."""
        return 0 if self.state.stop_signal is None else 128 + self.state.stop_signal

    def announce(self, summary=False):
        """Print how the run is set up, with its layer table if asked to; write its first files."""
        if rank() > 0:
            return
        state, recipe = self.state, self.state.recipe
        processes = f", {size()} processes" if size() > 1 else ""
        console.note(f"device: {describe_device(self._device)}{processes}, {state.precision}")
        console.note(f"data: {self.data.name}, {len(self.data.train):,} training and "
                     f"{len(self.data.test):,} test images")  # fmt: skip
        console.note(f"model: {state.model_name}, {recipe.epochs} epochs, batch {recipe.batch_size}, "
                     f"lr {recipe.learning_rate:g} {recipe.schedule}, seed {state.seed}")  # fmt: skip
        console.note(f"run: {one_line(self.path)}")
        if summary:
            from mnist_sum.figures.layers import layer_table

            console.note(layer_table(state.model))
        if self.save and state.teacher is not None:
            write_atomically(self.path / folder.TEACHER, state.teacher.content)
        if state.architecture.source is not None:
            write_atomically(self.path / folder.SOURCE, state.architecture.source)
        if state.epoch == state.step == 0:
            self._save_checkpoint()  # a full disk is noticed now
        settings = report.settings_json(state, checkpoint.describe_data(self.data), self.data_dir)
        write_atomically(self.path / folder.SETTINGS, settings)
        write_atomically(self.path / folder.HISTORY, report.history_csv(state.history))
        console.note(report.table_head())

    def record(self, row):
        """Print an epoch's row, and bring the checkpoint and history.csv up to it."""
        if rank() > 0:
            return
        self._save_checkpoint()
        write_atomically(self.path / folder.HISTORY, report.history_csv(self.state.history))
        console.results([row], report.table_line(row))

    def finish(self, plot_graph=False, write_report=False):
        """Save a stopped run, draw the pictures, write report.md, print what was reached and what is next."""
        if rank() > 0:
            return
        state = self.state
        finished = state.epoch == state.recipe.epochs
        if not finished:
            self._save_checkpoint()
        if (plot_graph or write_report) and state.history:
            report.draw_pictures(state, self.data, self.path)
            console.note(f"pictures: {', '.join(report.PICTURES)} in {one_line(self.path)}")
        if write_report and state.history:
            described, environment = checkpoint.describe_data(self.data), checkpoint.environment(self._device)
            write_atomically(self.path / folder.REPORT, report.run_report(state, described, environment))
            console.note(f"report: {one_line(self.path / folder.REPORT)}")
        if state.history:
            console.note(report.result_line(state, len(self.data.test)))
        if not self.save:
            console.note(f"{'' if finished else 'stopped; '}nothing was saved; --save keeps the model")
        elif finished:
            console.note(f"saved: {one_line(self.path / folder.CHECKPOINT)}")
            console.note(f"next: {folder.evaluate_command(self.path, state.architecture)}")
        else:
            console.note(f"stopped; resume with: {folder.resume_command(self.path, state.architecture)}")

    @property
    def _device(self):
        return next(self.state.model.parameters()).device

    def _save_checkpoint(self):
        if self.save:
            described = checkpoint.describe_data(self.data)
            checkpoint.save(self.path / folder.CHECKPOINT, self.state, described, self.data_dir)


@contextmanager
def opened(device="auto", *, resume=None, output_dir=None, save=False, **settings):
    """Within it a run is open, new or resumed; yields its Run.

    device: a torch.device, or "auto", "cpu" or "cuda". resume: the folder of a run to resume; then of the
    settings only data_dir, and model for an own network, are used. output_dir: a new run's folder (default:
    one under runs/). settings: see _new_state. SIGINT and SIGTERM stop the run after its step; a second one
    ends it at once. Raises UserError, before anything is written, where the run cannot be: no data, a folder
    in use, an invalid teacher, network or checkpoint.
    """
    device = choose_device(device) if isinstance(device, str) else device
    first = rank() == 0
    if not first:
        settings["data"] = broadcast()  # by then rank 0 has downloaded the data and checked everything
    if resume is None:
        state, images, data_dir = _new_state(device, **settings)
        path = folder.new_folder(output_dir, state.architecture.slug) if first else None
    else:
        path = folder.existing_folder(resume) if first else Path(resume)
    with folder_lock(path) if first else nullcontext():
        if resume is not None:
            given = settings.get("data_dir"), settings.get("model")
            state, images, data_dir = _resumed_state(path, device, *given)
        elif first:
            folder.refuse_to_overwrite(path, state.architecture)
            if state.teacher is not None:
                folder.refuse_other_content(path / folder.TEACHER, state.teacher.content, "teacher")
            if state.architecture.source is not None:
                folder.refuse_other_content(path / folder.SOURCE, state.architecture.source, "network")
        if first:
            for name in (*folder.WRITTEN, *report.PICTURES):
                check_output(path / name, [settings.get("teacher") or ""])
            broadcast(images.name)
        with _stopping_on_signals(state):
            yield Run(state, images, data_dir, path, save or resume is not None)
    broadcast()  # rank 0 has written everything: now the others may end


def _new_state(device, *, model, data="auto", data_dir=None, limit=None, seed=0, precision="auto",
               teacher=None, batch_size=None, lr=None, **overrides):  # fmt: skip
    """(TrainingState, Data, the data's folder) of a new run.

    All as train.py's flags: None where a default or the recipe's setting is to be used; overrides are
    epochs, schedule and split.
    """
    data_dir = folder.data_folder(data_dir)
    architecture, precision = models.find(model), choose_precision(precision, device)
    if architecture.source is not None:
        check(architecture, architecture.path, device, precision)
    recipe = architecture.recipe.overridden(learning_rate=lr, **overrides)
    images = load(data, data_dir, recipe.split, limit)
    recipe = recipe.overridden(batch_size=batch_size or default_batch_size(recipe, len(images.train)))
    if problem := impossible_setting(recipe):
        raise UserError(f"{problem} cannot be {getattr(recipe, problem)!r:.40}")
    loaded = None
    if teacher is not None:
        teacher = folder.checkpoint_path(teacher)
        loaded, sha256 = load_teacher(teacher, images, device, own=[architecture])
        recipe = recipe.overridden(teacher=sha256)
    state = new_state(architecture, recipe, seed, device, precision)
    state.teacher = loaded
    check_batch_size(state, len(images.train))  # before there is a folder
    return state, images, os.path.abspath(data_dir)


def _resumed_state(path, device, data_dir=None, model=None):
    """(TrainingState, Data, the data's folder) of the run in the folder at path.

    data_dir: None for the folder that the run began with; model: "FILE.py:NAME" of an own network.
    """
    file = path / folder.CHECKPOINT
    own = [] if model is None or model in models.ARCHITECTURES else [models.find(model)]
    state, stored = checkpoint.load_state(file, device, own)
    data_dir = folder.data_folder(data_dir, stored["data_dir"])
    described = stored["data"]
    images = load(described["name"], data_dir, state.recipe.split, described["train_images"])
    if checkpoint.describe_data(images) != described:
        raise UserError(f"{file} was trained on other images than this version takes from {data_dir}; "
                        "name the folder that it began with (--data-dir)")  # fmt: skip
    if state.recipe.teacher != "none":
        teacher = path / folder.TEACHER
        if not teacher.exists():
            raise UserError(f"the teacher that the run began with is missing: put it back as {teacher}")
        state.teacher, _ = load_teacher(teacher, images, device, state.recipe.teacher, own)
    here = checkpoint.environment(device)
    for name, there in stored["environment"].items():
        if there != here[name]:
            console.note(f"note: {name} was {there} and is {here[name]} now, so the last bits may differ "
                         "from an uninterrupted run's")  # fmt: skip
    return state, images, os.path.abspath(data_dir)


@contextmanager
def _stopping_on_signals(state):
    """Within it SIGINT and SIGTERM set the state's stop_signal; a second one ends the process at once.

    Of several processes' second signals most are torchrun's, which ends them after 30 seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return

    def stop(signum, _frame):
        state.stop_signal = signum
        if size() == 1:
            signal.signal(signum, signal.SIG_DFL)

    before = {signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
