"""Interrupted runs and saves. "Caught" is a signal after which nothing was missing."""

import contextlib
import dataclasses
import os
import shutil
import signal
import sys
import time
from collections import Counter
from functools import partial

from checkpoints import small_state
from forks import run, start, wait, wait_for
from outcome import outcome
from verdict import report

from mnist_sum.runs import checkpoint
from mnist_sum.runs.folder import CHECKPOINT
from mnist_sum.system.files import TEMPORARY

SHORT = ("--save", "--data", "sample", "--limit", "256", "--epochs", "4", "--batch-size", "32")
STOPS = (signal.SIGTERM, signal.SIGINT)


def interrupt_runs(draw, cases, scratch, signals=(signal.SIGKILL,), saving=False):
    """Runs sent a signal and resumed until they are done; each end compared with the uninterrupted run's.

    A signal is lost if what it left could not be resumed, or if its run ended otherwise.
    """
    counts, pending, runs, folder, out, err = Counter(), 0, 0, None, scratch / "out", scratch / "err"
    while counts.total() < cases or folder:
        if folder is None:
            model = draw.choice(("compact", "channel_fusion"))
            flags = (*SHORT, "--seed", str(draw.randrange(2**32)), "--model", model)
            expected, span = uninterrupted(scratch / f"uninterrupted-{runs}", flags)
            folder, runs, pending = scratch / f"run-{runs}", runs + 1, 0
        for path in (out, err):
            path.write_text("")
        resumed = ("--resume", folder) if (folder / CHECKPOINT).exists() else (*flags, "--output-dir", folder)
        pid, signum = start("train.py", resumed, out, err), draw.choice(signals)
        if counts.total() + pending < cases:
            if saving:
                wait_for_save(folder, draw)
            else:
                if signum in STOPS:  # which the run handles from before it prints the head of its table
                    wait_for(lambda: "epoch " in out.read_text() or err.read_text())
                time.sleep(draw.uniform(0, 0.7 * span))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        code = wait(pid)
        interrupted = code == (128 + signum if signum in STOPS else -signum)
        problem = err.read_text() or unfit_checkpoint(folder / CHECKPOINT)
        if interrupted and not problem:
            pending += 1
            continue
        if code or problem:
            end = report("tracebacks" if "Traceback" in str(problem) else "lost", f"{code}: {problem}")
        else:
            same = outcome(folder) == expected
            end = "caught" if same else report("lost", f"{folder.name} ended otherwise, {flags}")
        counts[end] += max(pending, end != "caught")
        shutil.rmtree(folder)
        folder = None
    return counts


def uninterrupted(folder, flags):
    """(outcome, seconds) of a run that nobody disturbs."""
    began = time.monotonic()
    code, _, stderr = run("train.py", *flags, "--output-dir", folder)
    if code:
        sys.exit(f"the uninterrupted run failed: {stderr}")
    return outcome(folder), time.monotonic() - began


def wait_for_save(folder, draw):
    """Return as soon as one of the next few writes into the folder has its temporary file open."""

    def writing():
        return any(folder.glob(TEMPORARY.format("*")))

    for _ in range(draw.randint(1, 3)):
        end = time.monotonic() + 5
        while not writing() and time.monotonic() < end:
            pass
        while draw.random() < 0.5 and writing():
            pass


def unfit_checkpoint(path):
    """What is wrong with the checkpoint of an interrupted run, if there is one; None if nothing is."""
    try:
        return None if not path.exists() or checkpoint.load(path) else "empty"
    except Exception as error:
        return repr(error)


SAVES = """
import sys, torch
from mnist_sum.runs import checkpoint
state, content = checkpoint.load_state(sys.argv[1], torch.device("cpu"))
while True:
    state.seed = 1 - state.seed
    checkpoint.save(sys.argv[1], state, content["data"])
"""


def kill_saves(draw, cases, scratch):
    """A process that saves two contents in turn, killed: the file is one of the two, whole."""
    (state, described), path, counts = small_state(), scratch / CHECKPOINT, Counter()
    (scratch / "saves.py").write_text(SAVES)
    checkpoint.save(path, dataclasses.replace(state, seed=0), described)
    for _ in range(cases):
        pid = start(scratch / "saves.py", [path], scratch / "out", scratch / "err")
        time.sleep(draw.uniform(0.02, 0.12))
        os.kill(pid, signal.SIGKILL)
        ended = wait(pid) != -signal.SIGKILL and f"it ended by itself: {(scratch / 'err').read_text()}"
        problem = ended or unfit_checkpoint(path)
        counts[report("lost", problem) if problem else "caught"] += 1
    return counts


ROWS = [
    ("SIGKILL at a random moment of train.py --save, then --resume", interrupt_runs, 100),
    ("SIGKILL during a save of train.py, then --resume", partial(interrupt_runs, saving=True), 100),
    ("SIGKILL in a loop of saves", kill_saves, 200),
    ("SIGTERM or SIGINT, then --resume", partial(interrupt_runs, signals=STOPS), 40),
]
