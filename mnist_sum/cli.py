"""What all command lines share. Standard library only, so that --help answers without importing torch."""

import argparse
import sys
from collections.abc import Callable

from mnist_sum.recipes import RECIPES


class UserError(Exception):
    """Something the user can act on; its one line says what is wrong and what to do next."""


def run(main: Callable[[list[str]], int | None], prog: str) -> None:
    """Run main(argv) and exit with its code; a UserError is one line on stderr and code 1."""
    try:
        code = main(sys.argv[1:])
    except UserError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


# argparse types


def positive_int(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def nonnegative_int(text: str) -> int:
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def positive_float(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def custom_model(text: str) -> str:
    file, _, name = text.rpartition(":")
    if not (file.endswith(".py") and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"{text} is not FILE.py:NAME, a custom model")
    return text


def model_name(text: str) -> str:
    """A registered model, or a custom one: FILE.py:NAME."""
    if text in RECIPES:
        return text
    try:
        return custom_model(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor one of {', '.join(RECIPES)}") from None
