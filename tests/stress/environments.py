"""Environment variables, standard streams and a matplotlibrc of all kinds, for short commands.

"Caught" is a refusal in one line, "harmless" a command that did its work: its picture or its run is there.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter
from functools import partial

from forks import ROOT, TRACEBACK, start, wait
from verdict import report

REAL = 0.1  # of the cases start an interpreter of their own; the others are forks, whose libraries are loaded
TRAIN = ("--model", "compact", "--data", "sample", "--epochs", "1", "--limit", "64", "--batch-size", "32")
COMMANDS = {  # the script, its flags and what it leaves, or None where it is refused
    "inference.py --total 2 --data sample --output out.png": "out.png",
    "inference.py --total 2 --data sample --json --output out.svg": "out.svg",
    "inference.py --total 2 --data sample --output out.pdf": "out.pdf",
    f"train.py {' '.join(TRAIN)} --save --output-dir run": "run/checkpoint.safetensors",
    f"train.py {' '.join(TRAIN)} --json --plot-graph --output-dir run": "run/testing.png",
    "train.py --epochs none": None,
    "inference.py --checkpoint missing": None,
}
NUMBERS = ("", "x", "-1", "0", "1", "1e3", "9" * 30, "\udcff")
PATHS = ("", "/nowhere", "/dev/null", "/dev/full", ".", "\udcff", "a\nb")  # of libraries, too
VALUES = {
    **dict.fromkeys(
        ("COLUMNS", "LINES", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONOPTIMIZE"), NUMBERS
    ),
    **dict.fromkeys(("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"), NUMBERS),
    **dict.fromkeys(("TQDM_MININTERVAL", "TQDM_DISABLE", "TQDM_NCOLS", "SOURCE_DATE_EPOCH"), NUMBERS),
    **dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR", "MATPLOTLIBRC", "XDG_CACHE_HOME"), PATHS),
    **dict.fromkeys(("MNIST_SUM_DATA", "MASTER_ADDR", "PYTHONSTARTUP"), (*PATHS, "x" * 5000)),
    **dict.fromkeys(("LANG", "LC_ALL"), ("", "C", "POSIX", "C.UTF-8", "xx_YY.nonsense")),
    "MPLBACKEND": ("", "nonsense", "TkAgg", "module://nowhere", "\udcff"),
    "MNIST_SUM_MIRROR": ("", "x", "file:///etc", "ftp://x", "http://127.0.0.1:9", "http://[", "\udcff"),
    "PYTHONIOENCODING": ("ascii", "latin-1:strict", "utf-8:strict", "utf-16"),
    "PYTHONUTF8": ("0", "1"),
    "PYTHONWARNINGS": ("default", "always", "nonsense"),
    "TERM": ("", "dumb", "nonsense"),
    "http_proxy": ("", "nonsense", "http://127.0.0.1:9", "://"),
}
CACHES = {"HOME", "TMPDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME"}  # where libraries keep files of their own
STREAMS = ("closed", "/dev/full", "/dev/null", "dead", "file", "file", "file")
MATPLOTLIBRC = ("", "backend: nonsense", "figure.dpi: -1\nfont.size: x", "\0\0", "text.usetex: True")


def disturb(draw, cases, scratch):
    counts = Counter()
    for case in range(cases):
        folder = scratch / str(case)
        folder.mkdir()
        command, made = draw.choice(list(COMMANDS.items()))
        names = draw.sample(list(VALUES), draw.choice((0, 1, 1, 2, 3)))
        environment = {name: draw.choice(VALUES[name]) for name in names}
        settings = draw.choice(MATPLOTLIBRC) if draw.random() < 0.2 else None
        if settings is not None:
            (folder / "matplotlibrc").write_text(settings)
        real = draw.random() < REAL
        streams = [draw.choice(STREAMS) if real or which else "file" for which in range(3)]
        run = partial(interpreter if real else fork, command.split(), environment, streams, folder)
        counts[verdict_of(run, made, folder, (real, command, settings, environment, streams))] += 1
        shutil.rmtree(folder)
    return counts


def verdict_of(run, made, folder, evidence):
    """What becomes of the command: of its exit code, its stderr where that is kept, and the folder."""
    try:
        code, stderr = run()
    except subprocess.TimeoutExpired:
        return report("lost", f"it hangs: {evidence}")
    if code == TRACEBACK or "Traceback" in stderr or "Exception ignored" in stderr:
        return report("tracebacks", f"{evidence}: {stderr[-2000:]}")
    ours = {"matplotlibrc", "stdin", "stdout", "stderr", (made or "").partition("/")[0]}
    left = {path.name for path in folder.iterdir()} - ours
    if evidence[3].keys() & CACHES:
        left = {name for name in left if name.endswith(".part")}
    if code == 0:
        whole = made is not None and (folder / made).stat().st_size > 1000
        return "harmless" if whole and not left else report("lost", f"{evidence}: exit 0, {left}, {stderr}")
    said = [line for line in stderr.splitlines() if ": error: " in line]
    one = len(said) == 1 if evidence[-1][2] == "file" else not said
    fits = code in (1, 2) and one and not list(folder.rglob("*.part"))
    return "caught" if fits else report("lost", f"{evidence}: exit {code}, {left}, {stderr}")


def fork(command, environment, streams, folder):
    """(exit code, stderr); of the streams what is closed or dead is closed."""
    paths = {"closed": "", "dead": ""}
    out, err = (
        folder / name if kind == "file" else paths.get(kind, kind)
        for name, kind in zip(("stdout", "stderr"), streams[1:], strict=True)
    )
    code = wait(start(command[0], command[1:], out, err, folder, **environment))
    return code, (folder / "stderr").read_text("utf-8", "replace") if streams[2] == "file" else ""


def interpreter(command, environment, streams, folder):
    """(exit code, stderr) of an interpreter of its own."""
    opened = []
    for name, kind in zip(("stdin", "stdout", "stderr"), streams, strict=True):
        if kind == "dead":  # a pipe whose other end has gone
            ours, theirs = os.pipe()[:: 1 if name == "stdin" else -1]
            os.close(theirs)
            opened.append(ours)
        else:
            path = {"file": folder / name, "closed": os.devnull}.get(kind, kind)
            opened.append(os.open(path, os.O_RDWR | os.O_CREAT))

    def close():
        for descriptor, kind in enumerate(streams):
            if kind == "closed":
                os.close(descriptor)

    done = subprocess.run(
        [sys.executable, ROOT / command[0], *command[1:]], cwd=folder, env={**os.environ, **environment},
        stdin=opened[0], stdout=opened[1], stderr=opened[2], preexec_fn=close, timeout=120,
    )  # fmt: skip
    for descriptor in opened:
        os.close(descriptor)
    return done.returncode, (folder / "stderr").read_text("utf-8", "replace") if streams[2] == "file" else ""


ROWS = [("environment variables and standard streams", disturb, 500)]
