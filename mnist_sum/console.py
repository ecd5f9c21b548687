"""What a program says, on which stream, and how it ends. Standard library only.

stdout has results, stderr has warnings, errors and progress bars. What accompanies the results, such
as where a picture lies, is on stdout too, or on stderr where stdout is for JSON.
"""

import os
import signal
import sys
from contextlib import contextmanager, nullcontext, suppress
from functools import partial

_stdout_is_json = _silent = _quiet = False
_program = "mnist_sum"
_signal = None  # the one that unwinds run_script()'s main, if any
STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
OUT_OF_MEMORY = ("allocate memory", "out of memory", "failed to map segment", "bad_alloc", "bad allocation",
                 "start new thread", "could not create a primitive",
                 "without exception set", "without setting an exception")  # fmt: skip


class UserError(Exception):
    """Something the user can act on; its message is one line that says what is wrong and what to do.

    A program prints it as `train.py: error: …` and exits with 1. Anything else that is raised, but for what
    run_script() names, is a defect of this package and keeps its traceback. details: lines to print before
    it, such as those of the user's own code that failed.
    """

    def __init__(self, message, details=()):
        super().__init__(message)
        self.details = details

    def __str__(self):
        return one_line(super().__str__())


def one_line(text):
    """The text, a file's name say, as one line that can be printed and drawn: what cannot is escaped.

    So are line breaks of all kinds, control characters, and marks that turn the direction of writing.
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(text))


def keep_stdout_for_json(choice):
    """Whether results are printed as JSON from now on, and notes on stderr."""
    global _stdout_is_json
    _stdout_is_json = choice


def silence(choice):
    """Whether this process prints nothing but errors from now on, as ranks above 0 do."""
    global _silent
    _silent = choice


@contextmanager
def quiet():
    """Within it results and notes are not printed; warnings, errors and progress bars are."""
    global _quiet
    _quiet = True
    try:
        yield
    finally:
        _quiet = False


def results(rows, text):
    """Print results on stdout: the text or, where that is for JSON, each of the rows (dicts) as a line."""
    if _stdout_is_json:
        import json  # here, as what is imported before run_script() can be interrupted with a traceback

        text = "\n".join(map(json.dumps, rows)).replace("\x7f", "\\u007f")  # the rest of it is printable
    if not _quiet:
        _print(text, sys.stdout)


def note(text):
    """Print what accompanies the results: on stdout, or on stderr where stdout is for JSON.

    A name in a text of several lines goes through one_line() first.
    """
    if not _quiet:
        _print(text, sys.stderr if _stdout_is_json else sys.stdout)


def warn(text):
    """Print a warning on stderr."""
    _print(f"warning: {one_line(text)}", sys.stderr)


def error(problem):
    """Print an error on stderr, as `train.py: error: …`; on ranks above 0 too."""
    _print(f"{_program}: error: {problem}", sys.stderr, even_if_silent=True)


def progress(iterable=None, **options):
    """A tqdm progress bar over the iterable, on stderr and only where that is a terminal."""
    from tqdm import tqdm

    hidden = _silent or sys.stderr is None  # as after `2>&-`; None has tqdm see whether it is a terminal
    return tqdm(iterable, leave=False, file=sys.stderr, disable=hidden or None, **options)


def run_script(main, program):
    """Run main(argv) and exit with the code it returns; a UserError is one line on stderr and code 1.

    SIGINT, SIGTERM and SIGHUP unwind main, so that no temporary file is left; the code is 128 + the signal.
    One in an import, a second one, or one after main or end_at_signals() ends the process at once.
    """
    global _program, _signal
    _program, _signal = program, None
    _handle(_end, (signal.default_int_handler, signal.SIG_DFL))  # else they are ignored, as under nohup
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a stream that a notebook or a test put there
            stream.reconfigure(errors="backslashreplace")  # a name may have what it cannot encode
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # after `2>&-` the next file would be 2, and libraries would print into it
    os.close(descriptor)
    # Pictures are the same whatever the user's matplotlib is set to, even to a backend it does not have.
    os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
    for name in [name for name in os.environ if name.startswith("TQDM_")]:
        del os.environ[name]  # tqdm, and so PyTorch, cannot be imported with a value that it cannot read
    hook, sys.unraisablehook = sys.unraisablehook, partial(_end_if_interrupted, sys.unraisablehook)
    try:
        _handle(_interrupt, (_end,))
        code = main(sys.argv[1:])
    except (Exception, KeyboardInterrupt) as problem:
        end_at_signals()
        # After a signal a library may raise an error of its own where Python raised KeyboardInterrupt in it.
        code = 128 + _signal if _signal else _explain(problem)
        if code is None:
            raise
    finally:
        sys.unraisablehook = hook
        end_at_signals()  # or one would be a traceback while the interpreter ends
    sys.exit(code)


def end_at_signals():
    """From now on each of STOPS that would unwind main ends the process at once."""
    _handle(_end, (_interrupt,))


def _explain(problem):
    """Print what ended main as one line -> the exit code; nothing and None where it is a defect."""
    if isinstance(problem, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(problem, UserError):
        for line in problem.details:
            _print(one_line(line), sys.stderr, even_if_silent=True)
        error(problem)
    elif isinstance(problem, ModuleNotFoundError):
        error(f"{problem.name} is not installed; run: pip install -e .")
    elif _is_out_of_memory(problem):
        error("out of memory; end other programs, train with a smaller --batch-size, or use --device cpu "
              "where the memory is a GPU's")  # fmt: skip
    elif isinstance(problem, OSError) and "temporary directory" in str(problem):  # Python's, matplotlib's
        error("there is no folder for temporary files; free some space, or set TMPDIR to one that can be "
              "written")  # fmt: skip
    else:
        return None
    return 1


def _is_out_of_memory(problem):
    """Whether the exception, or one it came from, says so; PyTorch and the loader have no type for it."""
    if isinstance(problem, MemoryError) or any(words in str(problem) for words in OUT_OF_MEMORY):
        return True
    return problem.__context__ is not None and _is_out_of_memory(problem.__context__)


def _interrupt(signum, frame):
    """Raise KeyboardInterrupt or, in an import, where libraries may lose that, end at once."""
    global _signal
    _signal = signum
    end_at_signals()
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _end(signum)
        frame = frame.f_back
    raise KeyboardInterrupt


def _end_if_interrupted(hook, unraisable):
    """End at a KeyboardInterrupt that Python cannot pass on, as from a weak reference's callback."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        _end(_signal or signal.SIGINT)
    hook(unraisable)


def _handle(handler, before):
    """Have the handler in place of those before for each of STOPS."""
    for signum in STOPS:
        if signal.getsignal(signum) in before:
            signal.signal(signum, handler)


def _end(signum, _frame=None):
    os._exit(128 + signum)


def _print(text, stream, even_if_silent=False):
    """Print and flush; a closed stream (`2>&-`), a closed pipe (`| head -1`) or a full disk is no error."""
    if stream is None or _silent and not even_if_silent:
        return
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    bars = tqdm and tqdm._instances  # on the terminal: cleared for the line, and drawn again
    try:
        with tqdm.external_write_mode(stream) if bars else nullcontext():
            print("\n".join(map(one_line, text.split("\n"))), file=stream, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
