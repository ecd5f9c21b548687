"""What a program says, on which stream, and how it ends."""

import io
import json
import re
import sys

import pytest

from mnist_sum import console
from mnist_sum.console import UserError


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """A console that has been told nothing, and is as before after the test."""
    for name, value in {"_stdout_is_json": False, "_silent": False, "_program": "mnist_sum"}.items():
        monkeypatch.setattr(console, name, value)


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
    ("text", "line"), [("a\nb\r", "a\\nb\\r"), ("\udcff.png", "\\udcff.png"), ("é $x$", "é $x$")]
)
def test_any_text_becomes_one_line_that_can_be_printed(text, line):
    assert console.one_line(text) == str(UserError(text)) == line
    line.encode()


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


def test_a_defect_keeps_its_traceback(end_of):
    with pytest.raises(ZeroDivisionError):
        end_of(lambda _: 1 / 0)
