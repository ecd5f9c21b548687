"""The one exception that is meant for the person at the keyboard."""


class Fault(Exception):
    """Something the user can act on; its message is one line that says what is wrong and what to do.

    The scripts print it as `train.py: error: …` and exit 1. Anything else that is raised is a
    defect of this package and keeps its traceback.
    """

    def __str__(self):
        return one_line(super().__str__())


def one_line(text):
    """The text, a file's name say, as one line that can be printed and drawn."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n").replace("\r", "\\r")
