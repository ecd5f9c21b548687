"""What a program says, on which stream, and how it ends."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_sum import console
from mnist_sum.console import UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """A console that has been told nothing, and is as before after the test."""
    for name, value in {
        "_stdout_is_json": False,
        "_silent": False,
        "_quiet": False,
        "_program": "mnist_sum",
    }.items():
        monkeypatch.setattr(console, name, value)
    for name in ("MPLBACKEND", "MATPLOTLIBRC"):  # which run_script() sets
        monkeypatch.setenv(name, "nonsense")


@pytest.fixture
def end_of(monkeypatch):
    """end_of(main) runs it as the script x.py and returns its exit code."""

    def run(main):
        monkeypatch.setattr(sys, "argv", ["x.py", "--flag"])
        with pytest.raises(SystemExit) as caught:
            console.run_script(main, "x.py")
        return caught.value.code

    return run


class Terminal(io.StringIO):
    def isatty(self):
        return True


def say_everything():
    console.results([{"a": 1}, {"a": "é\n"}], "two\nresults")
    console.note("by the way")
    console.warn("look\nout")
    console.error("wrong")
    assert list(console.progress([1, 2, 3])) == [1, 2, 3]


def test_quiet_keeps_back_results_and_notes_alone(capsys):
    with console.quiet():
        say_everything()
    assert capsys.readouterr() == ("", "warning: look\\nout\nmnist_sum: error: wrong\n")
    console.note("again")
    assert capsys.readouterr().out == "again\n"


def test_results_and_notes_are_on_stdout_and_warnings_and_errors_on_stderr(capsys):
    say_everything()
    assert capsys.readouterr() == (
        "two\nresults\nby the way\n", "warning: look\\nout\nmnist_sum: error: wrong\n"
    )  # fmt: skip


def test_json_mode_has_one_object_a_line_on_stdout_and_nothing_else(capsys):
    console.keep_stdout_for_json(True)
    say_everything()
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [{"a": 1}, {"a": "é\n"}]
    assert err == "by the way\nwarning: look\\nout\nmnist_sum: error: wrong\n"


@pytest.mark.parametrize("silent", [False, True])
def test_a_progress_bar_is_shown_on_a_terminal_and_a_silent_process_prints_errors_only(
    silent, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "stderr", Terminal())
    console.silence(silent)
    say_everything()
    assert (capsys.readouterr().out == "") == silent
    assert ("0/3" in sys.stderr.getvalue()) == (not silent)
    assert (sys.stderr.getvalue() == "mnist_sum: error: wrong\n") == silent


def test_a_line_printed_during_a_progress_bar_begins_at_the_left(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    for number in console.progress([1, 2], desc="images"):
        console.note(f"image {number}")
    before, _, _ = screen.getvalue().partition("image 1\n")
    assert "images:   0%" in before and re.search(r"\r *\r$", before)  # the bar was cleared


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb\r", "a\\nb\\r"),
        ("\udcff.png", "\\udcff.png"),
        ("é $x$ 数 'ß' e\u0301 🙂 \\", "é $x$ 数 'ß' e\u0301 🙂 \\"),
        ("\x1b[31m\x7f\x9b\t\0", "\\x1b[31m\\x7f\\x9b\\t\\x00"),
        ("a\u2028b\u2029c\x85d", "a\\u2028b\\u2029c\\x85d"),
        ("\u202egnp.exe\u2066\ufeff\u200b", "\\u202egnp.exe\\u2066\\ufeff\\u200b"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_any_text_becomes_one_line_that_can_be_printed(text, line, capsys):
    assert console.one_line(text) == str(UserError(text)) == line
    line.encode()
    console.note(text.replace("\n", ""))
    console.results([{"a": text}], f"{text}\n{text}")
    console.warn(text)
    printed = capsys.readouterr()
    kept = text.replace("\n", "").replace("\r", "")  # a text of several lines keeps its line breaks
    assert all(each.isprintable() for each in (printed.out + printed.err).replace("\n", ""))
    assert console.one_line(kept) in printed.out.replace("\\r", "") and line in printed.err


@given(st.text())
def test_a_printed_line_shows_every_character_and_breaks_nowhere(text):
    line = console.one_line(text)
    assert line.isprintable() and len(f"{line}.".splitlines()) == 1
    assert console.one_line(line) == line


@given(st.text())
def test_json_is_printable_and_reads_back(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.StringIO())
        patch.setattr(console, "_stdout_is_json", True)
        console.results([{"file": text}], "")
        line = sys.stdout.getvalue().removesuffix("\n")
    assert line.isprintable() and json.loads(line) == {"file": text}


@pytest.mark.parametrize("missing", ["stdout", "stderr"])
def test_a_closed_stream_is_done_without_and_not_replaced_by_the_other(missing, end_of, capsys, monkeypatch):
    monkeypatch.setattr(sys, missing, None)  # as Python has it after `2>&-`
    console.keep_stdout_for_json(True)
    assert end_of(lambda _: say_everything()) is None
    out, err = capsys.readouterr()
    assert (out.count("\n"), err.count("\n")) == {"stdout": (0, 3), "stderr": (2, 0)}[missing]


def test_a_script_runs_with_streams_of_any_type_and_encoding(end_of, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw := io.BytesIO(), "ascii"))
    assert end_of(lambda _: console.note("é") or console.warn("é")) is None
    assert (sys.stdout.getvalue(), raw.getvalue()) == ("é\n", b"warning: \\xe9\n")


@pytest.mark.parametrize("closed", ["2>&-", "1>&-", "<&- >&- 2>&-"])
def test_a_file_that_is_opened_never_becomes_a_closed_stream(closed, tmp_path):
    """Or what a library writes to its descriptor, 2 say, would land in a checkpoint."""
    (tmp_path / "x.py").write_text(
        "import os\nfrom mnist_sum import console\n"
        "def main(argv):\n"
        "    with open('opened', 'w') as file: file.write(str(file.fileno()))\n"
        "    console.warn('unseen'); os.write(2, b'from a library'); os.write(1, b'from another')\n"
        "console.run_script(main, 'x.py')\n"
    )
    command = f"exec {shlex.quote(sys.executable)} x.py {closed}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert int((tmp_path / "opened").read_text()) > 2


@pytest.mark.parametrize("swallow", ["except BaseException: pass", "except BaseException: raise ImportError"])
def test_ctrl_c_is_not_lost_while_a_library_is_imported(swallow, tmp_path):
    interrupt = "import os, signal\ntry: os.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "library.py").write_text(f"{interrupt}{swallow}\n")
    (tmp_path / "x.py").write_text(
        "import signal\nfrom mnist_sum import console\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # in the background it is ignored
        "def main(argv):\n    import library\n    console.note('on and on')\n"
        "console.run_script(main, 'x.py')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "x.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("signum", console.STOPS, ids=str)
def test_a_signal_elsewhere_unwinds_and_the_next_ends_the_process(signum, end_of):
    unwound = []
    signal.signal(signum, signal.SIG_DFL)  # as in the foreground; in the background SIGINT is ignored

    def main(_):
        try:
            os.kill(os.getpid(), signum)
        finally:
            unwound.append(signal.getsignal(signum))

    assert end_of(main) == 128 + signum and unwound == [console._end]


def test_a_signal_that_a_library_turns_into_an_error_of_its_own_is_no_error(end_of, capsys):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def main(_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise UserError("no matrix") from None

    assert end_of(main) == 143 and capsys.readouterr() == ("", "")


def test_an_ignored_signal_stays_ignored(end_of):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as by nohup

    def main(_):
        os.kill(os.getpid(), signal.SIGHUP)

    assert end_of(main) is None


@pytest.mark.parametrize(
    "place",
    ["atexit.register(os.kill, os.getpid(), 2)\nmain = print",
     "class Thing: pass\n"
     "def main(argv):\n"
     "    thing = Thing()\n"
     "    reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), 2))\n"
     "    del thing"],
    ids=["while the interpreter ends", "in a callback"],
)  # fmt: skip
def test_a_signal_where_python_cannot_raise_it_is_not_lost_and_no_traceback(place, tmp_path):
    (tmp_path / "x.py").write_text(
        f"import atexit, os, signal, weakref\nfrom mnist_sum import console\n{place}\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # in the background it is ignored
        "console.run_script(main, 'x.py')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "x.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


def test_scripts_draw_alike_whatever_matplotlib_is_set_to(end_of):
    end_of(lambda _: None)
    assert (os.environ["MPLBACKEND"], os.environ["MATPLOTLIBRC"]) == ("agg", os.devnull)


def test_what_tqdm_is_set_to_does_not_stop_its_import(end_of, monkeypatch):
    monkeypatch.setenv("TQDM_NCOLS", "wide")
    for name in [name for name in sys.modules if name.partition(".")[0] == "tqdm"]:
        monkeypatch.delitem(sys.modules, name)
    assert end_of(lambda _: bool(import_module("tqdm"))) is True


def after(first, second):
    """The second exception, raised while the first was handled."""
    second.__context__ = first
    return second


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        RuntimeError("[enforce fail] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2.00 GiB"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
        SystemError("error return without exception set"),
        after(MemoryError(), AttributeError("half imported")),
    ],
)
def test_too_little_memory_is_one_line_that_says_what_to_do(problem, end_of, capsys):
    assert end_of(failing(problem)) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("x.py: error: out of memory; ") and "--batch-size" in err
    assert err.count("\n") == 1


def test_no_folder_for_temporary_files_is_one_line_that_says_what_to_do(end_of, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [os.devnull])
    assert end_of(lambda _: tempfile.gettempdir()) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("x.py: error: there is no folder for temporary files; ")
    assert err.endswith("set TMPDIR to one that can be written\n") and err.count("\n") == 1


def failing(problem):
    def main(_argv):
        raise problem

    return main


@pytest.mark.parametrize(
    ("main", "code", "error"),
    [
        (lambda argv: 143 if argv == ["--flag"] else 2, 143, ""),
        (failing(UserError("no\nfile")), 1, "x.py: error: no\\nfile\n"),
        (failing(ModuleNotFoundError(name="torch")), 1,
         "x.py: error: torch is not installed; run: pip install -e .\n"),
        (failing(KeyboardInterrupt()), 130, ""),
    ],
)  # fmt: skip
def test_exit_code_and_the_one_line_of_an_error(main, code, error, end_of, capsys):
    assert end_of(main) == code
    assert capsys.readouterr() == ("", error)


@pytest.mark.parametrize("defect", [ZeroDivisionError(), RuntimeError("shapes"), ImportError("no such name")])
def test_a_defect_keeps_its_traceback(defect, end_of):
    with pytest.raises(type(defect)):
        end_of(failing(defect))
