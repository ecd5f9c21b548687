"""Signals at any moment of a command, its imports and its last lines included. Linux only.

Every command is an interpreter of its own. "Caught" is a signal that ended it without a trace, "harmless" one
after which it did all of its work. reproduce.py is left out: it trains as train.py does, on all of MNIST.
"""

import base64
import csv
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

import onnx
from forks import ROOT
from interruptions import unfit_checkpoint
from PIL import Image
from verdict import report

from mnist_sum.system.files import TEMPORARY

SECONDS, HANGS = 10, 120  # of its processor's time after a signal, and on a busy machine in all, at most
TRAIN = "train.py --data sample --limit 64 --epochs 1 --save --output-dir run"
PICTURES = " ".join(str(ROOT / "assets" / name) for name in ("own.png", "samples.png", "demo.png"))
PAGE = "-m mnist_sum.demo --port 0"
COMMANDS = (
    TRAIN,
    f"{TRAIN} --plot-graph",
    f"{TRAIN} --report",
    "inference.py --checkpoint tiny --data sample --total 4 --output out.png",
    "inference.py --checkpoint tiny --data sample --evaluate",
    "inference.py --checkpoint tiny --data sample --evaluate --plot-graph --output pictures",
    f"inference.py --checkpoint tiny --number 3 --output out.png --image {PICTURES}",
    "-m mnist_sum.export tiny --output out.onnx",
    "-m mnist_sum.study sums --digits 1 --track a --quick --output-dir study",
    PAGE,
    PAGE,
)
INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
SIGNALS = ((INT,), (INT,), (TERM,), (HUP,), (INT, INT), (INT, INT), (INT, TERM), (TERM, TERM), (HUP, TERM))
OWN = {"stdout", "stderr", "tmp"}  # not what the command writes


class Command:
    """A command that is started in a new folder, where its streams and its temporary files are, too."""

    def __init__(self, command, folder):
        self.folder, self.temporary = folder, folder / "tmp"
        self.temporary.mkdir(parents=True)
        words = [ROOT / word if word.endswith(".py") else word for word in command.split()]
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary)}
        with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *words], cwd=folder, env={**os.environ, **environment}, stdout=out,
                stderr=err, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=as_in_foreground,
            )  # fmt: skip
        self.pid = self.process.pid
        self.descriptor = os.pidfd_open(self.pid)

    def seconds(self):
        """What its main thread has had of the processor; also of one that has ended, until close()."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    def ended(self, seconds=0.0005):
        """Whether it ends within these seconds."""
        return bool(select.select([self.descriptor], [], [], seconds)[0])

    def wait_for(self, condition):
        while not self.ended() and not condition():
            pass

    def says(self, stream):
        return (self.folder / stream).read_text("utf-8", "replace")

    def is_up(self):
        return "the page: " in self.says("stdout")

    def files(self):
        """{name: path} of what it has written."""
        found = [path for path in self.folder.rglob("[!.]*") if path.is_file()]
        found = {str(path.relative_to(self.folder)): path for path in found}
        return {name: path for name, path in found.items() if name.partition("/")[0] not in OWN}

    def close(self):
        """Its exit code, or minus the signal that killed it; and whether a process of it was left alive."""
        if not self.ended(0):
            self.process.kill()
        code = self.process.wait()
        os.close(self.descriptor)
        left = any(map(runs_python, processes_of_group(self.pid)))
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return code, left


def processes_of_group(group):
    """The folders in /proc of the processes of that group, but for those that have ended."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, group_of_it = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(group_of_it) == group and state not in "ZX":
                yield folder


def runs_python(folder, seconds=1):
    """Whether it runs our interpreter for so long. (Importing torch starts ldconfig, which ends soon.)"""
    end = time.monotonic() + seconds
    with suppress(OSError):
        while (folder / "exe").resolve(strict=True) == Path(sys.executable).resolve():
            if time.monotonic() > end:
                return True
            time.sleep(0.01)
    return False


def as_in_foreground():
    for signum in (INT, TERM, HUP):
        signal.signal(signum, signal.SIG_DFL)


def signal_commands(draw, cases, scratch):
    counts, undisturbed, before = Counter(), {}, 0
    for case in range(cases):
        text, signals = draw.choice(COMMANDS), draw.choice(SIGNALS)
        moment, within, gap = draw.random(), draw.random(), draw.choice((0, 0.01, 0.1, 1)) * draw.random()
        if text not in undisturbed:
            undisturbed[text] = run_undisturbed(text, scratch / "undisturbed")
        span, files, *_ = undisturbed[text]
        folder = scratch / str(case)
        command = Command(text, folder)
        wait_for_moment(command, text, moment, within, span, len(files))
        at = command.seconds()
        for number, signum in enumerate(signals):
            if number:
                command.ended(gap)
            with suppress(ProcessLookupError):
                os.kill(command.pid, signum)
        names = [each.name for each in signals]
        evidence = f"{names}, {gap:.3f} s between, at {at:.3f} of {span:.3f} s of {text}"
        end, python = verdict_of(command, signals, at, undisturbed[text], evidence)
        counts[end] += 1
        before += python
        shutil.rmtree(folder)
    print(f"{before} SIGINTs came before run_script(): Python's own tracebacks", file=sys.stderr)
    return counts


def run_undisturbed(text, folder):
    """(seconds, names of its files, exit code, lines on stderr) of the command that nobody disturbs."""
    command = Command(text, folder)
    command.wait_for(command.is_up)
    span, files, errors = command.seconds(), set(command.files()), command.says("stderr").splitlines()
    code, _ = command.close()
    if text != PAGE and code and not files:
        sys.exit(f"the undisturbed command failed: {text}: {errors}")
    shutil.rmtree(folder)
    return span, files, code, errors


def wait_for_moment(command, text, moment, within, span, files):
    """A sixth of the cases wait for a moment of the first 50 ms, a quarter for a write or a request."""
    if moment < 1 / 6:
        span = 0.05
    elif moment < 5 / 12 and text == PAGE:
        command.wait_for(command.is_up)
        if within < 0.7:
            threading.Thread(target=ask, args=(command.says("stdout").split()[-4],), daemon=True).start()
        command.ended(within * 0.4)
        return
    elif moment < 5 / 12 and files:
        seen, until = set(), 1 + int(within * files)
        pattern = TEMPORARY.format("*")

        def writing():
            seen.update(command.folder.rglob(pattern))
            return len(seen) >= until

        command.wait_for(writing)
        return
    command.wait_for(lambda: command.seconds() >= within * span)


def ask(address):
    """Have the page predict a picture, and do not mind that it ends meanwhile."""
    picture = base64.b64encode((ROOT / "assets" / "own.png").read_bytes()).decode()
    connection = HTTPConnection(address.removeprefix("http://"), timeout=20)
    with suppress(OSError):
        body = json.dumps({"data": [f"data:image/png;base64,{picture}", 3, "tiny"]})
        connection.request("POST", "/gradio_api/run/predict", body)
        connection.getresponse().read()


def verdict_of(command, signals, at, undisturbed, evidence):
    """What becomes of the signals, and whether they came before the command's own code.

    Such a SIGINT ends in Python's own traceback: nothing is printed or written by then, and run_script(),
    from which all else is called, is not in it. It is taken for caught, and counted on stderr. So is the rare
    one that a callback in the import system swallows; the command then goes on.
    """
    _, files, done, warnings = undisturbed
    hangs = not command.ended(HANGS)
    seconds = command.seconds() - at
    code, left = command.close()
    errors, printed = command.says("stderr"), command.says("stdout")
    evidence = f"{evidence}: exit {code}: {errors[-3000:]}"
    frozen = all("<frozen" in line for line in errors.splitlines() if line.startswith("  File "))
    nothing_done = not printed and not command.files()
    traceback = "Traceback" in errors or "Exception ignored" in errors
    python = traceback and INT in signals and ", in run_script" not in errors and (nothing_done or frozen)
    if traceback and not python:
        return report("tracebacks", f"{errors.splitlines()[-1]}: {evidence}"), False
    wrong = [f"{name}: {problem}" for name, path in command.files().items() if (problem := damage(path))]
    if len(signals) == 1:  # a second one ends it in the middle of a write, as SIGKILL would
        wrong += [f"left: {path.name}" for path in command.folder.rglob(TEMPORARY.format("*"))]
        wrong += [f"left: {path.name}" for path in command.temporary.iterdir() if "mnist_sum" in path.name]
    if not python:
        wrong += [f"said: {line}" for line in errors.splitlines() if line not in warnings]
    if hangs or left or seconds > SECONDS:
        wrong.append(f"it hangs: {hangs}, a process is left: {left}, {seconds:.1f} s after the signal")
    stopped = code in {*(128 + signum for signum in signals), *(-signum for signum in signals)}
    stopped = stopped or python and nothing_done
    if not stopped and (code != done or set(command.files()) != files):
        wrong.append(f"exit {code}, not {done}, files {sorted(command.files())}")
    if wrong:
        return report("lost", f"{wrong}: {evidence}"), False
    return ("caught" if stopped or python else "harmless"), python


def damage(path):
    """What is wrong with the file, None if nothing is: it is whole, as its own format tells."""
    try:
        if path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".onnx":
            onnx.checker.check_model(onnx.load(path))
        elif path.suffix == ".csv":
            head, *rows = csv.reader(path.read_text().splitlines())
            return None if all(len(row) == len(head) for row in rows) else "a row is cut"
        elif path.suffix == ".md":
            return None if path.read_text().endswith("\n") else "it is cut"
        elif path.suffix == ".safetensors":
            return unfit_checkpoint(path)
        return None
    except Exception as error:
        return repr(error)


ROWS = [("signals at import, data loading, evaluation, pictures, export and the page", signal_commands, 300)]
