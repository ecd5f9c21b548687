"""The one exception that is meant for the person at the keyboard."""


class Fault(Exception):
    """Something the user can act on; its message is one line that says what is wrong and what to do.

    The scripts print it as `train.py: error: …` and exit 1. Anything else that is raised is a
    defect of this package and keeps its traceback.
    """
