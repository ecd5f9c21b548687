"""A network of your own: FILE.py:NAME, a Python file and a class or function in it that gives an nn.Module.

It keeps the contract of mnist_sum.models. The file may have a dict RECIPE with settings of recipes.Recipe;
these then are the network's defaults.
"""

import hashlib
import os
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from mnist_sum.console import UserError
from mnist_sum.recipes import HEXADECIMAL, OWN, RECIPES, Recipe, impossible_setting
from mnist_sum.system.files import read_regular

SUFFIX = ".py:"
SETTINGS = [name for name in Recipe.__dataclass_fields__ if name not in HEXADECIMAL]  # those are a run's
SHOWN = 5  # lines of the user's code, the last ones, where it fails


@dataclass(frozen=True)
class Architecture:
    """What a model is built by: its name, build() -> nn.Module, its Recipe, an own file's source and path.

    name is a registered name, or "FILE.py:NAME" with FILE.py without its folder. channels_last: whether it
    is fastest in that memory format; never for an own network, since view() on its maps would fail.
    """

    name: str
    build: Callable
    recipe: Recipe
    source: bytes | None = None
    path: Path | None = None
    channels_last: bool = False

    @property
    def sha256(self):
        """Of the source, as 64 hexadecimal digits; None for a registered model."""
        return None if self.source is None else hashlib.sha256(self.source).hexdigest()

    @property
    def slug(self):
        """The name as part of a file's name."""
        return self.name.replace(SUFFIX, "-")


def is_own_name(name):
    """Whether it is "FILE.py:NAME" without a folder and fit to be printed: an own Architecture's name."""
    return len(name) < 200 and name.isprintable() and re.fullmatch(r"[^/\\]+\.py:\w+", name) is not None


def load_own(model):
    """Import the network "FILE.py:NAME" -> its Architecture.

    Raises UserError where there is no such file or name, where the file's own code fails, which is then
    shown, or where its RECIPE is unfit.
    """
    file, _, name = str(model).rpartition(":")
    path = Path(file)
    if path.suffix != ".py" or not name.isidentifier():
        raise UserError(f"{model!r:.80} is neither {', '.join(RECIPES)} nor FILE.py:NAME")
    if not is_own_name(f"{path.name}:{name}"):
        raise UserError(f"the name of {file!r:.80} is too long or cannot be printed; rename the file")
    try:
        source = read_regular(path)
    except OSError as error:
        raise UserError(f"cannot read {path}, the file of the network {name}: {error.strerror}") from None
    module = ModuleType(f"own_network_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # as dataclasses in the file expect
    with _folder_first(path), own_errors(path, "cannot be imported"):
        exec(compile(source, path, "exec"), vars(module))  # what sha256 is of, and no cache of an older one
    make = getattr(module, name, None)
    if isinstance(make, nn.Module) or not callable(make):
        kinds = [key for key, value in vars(module).items() if isinstance(value, type) and
                 issubclass(value, nn.Module) and value.__module__ == module.__name__]  # fmt: skip
        known = f"; it has {', '.join(kinds)}" if kinds else ""
        raise UserError(f"{path} has no class or function {name}{known}")

    def build():
        with _folder_first(path), own_errors(path, f"{name}() failed"):
            network = make()
        if not isinstance(network, nn.Module):
            raise UserError(f"{name} of {path} gives a {type(network).__name__}, not a torch.nn.Module")
        if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
            with torch.no_grad(), own_errors(path, "forward failed on two black images"):
                network.eval()(torch.zeros(2, 1, 28, 28), torch.eye(10)[:2])  # which decides their shapes
        return network.train()

    return Architecture(f"{path.name}:{name}", build, _own_recipe(path, module), source, path)


def _own_recipe(path, module):
    settings = getattr(module, "RECIPE", {})
    if not isinstance(settings, dict):
        raise UserError(f"RECIPE of {path} is a {type(settings).__name__}, not a dict")
    if unknown := [key for key in settings if key not in SETTINGS]:
        known = ", ".join(SETTINGS)
        raise UserError(f"RECIPE of {path} has no setting {unknown[0]!r:.60}; there are {known}")
    floats = {name for name in SETTINGS if Recipe.__dataclass_fields__[name].type is float}
    whole = {k for k, v in settings.items() if k in floats and type(v) is int and abs(v) < 2**63}
    recipe = OWN.overridden(**{k: float(v) if k in whole else v for k, v in settings.items()})
    if problem := impossible_setting(recipe):
        raise UserError(f"RECIPE of {path} has an impossible {problem}: {settings[problem]!r:.60}")
    return recipe


@contextmanager
def _folder_first(path):
    """Within it the file's folder is where Python looks first. What was imported from there is forgotten
    afterwards: of several networks, each in its folder, each may have, say, a layers.py."""
    folder, before = path.resolve().parent, set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):  # the file's code may have changed it
            sys.path.remove(str(folder))
        for top in {name.partition(".")[0] for name in set(sys.modules) - before} - before:
            file = getattr(sys.modules.get(top), "__file__", None) or os.devnull
            if Path(file).parent in (folder, folder / top):
                for name in [name for name in sys.modules if f"{name}.".startswith(f"{top}.")]:
                    del sys.modules[name]


@contextmanager
def own_errors(path, problem):
    """Within it any exception becomes a UserError, which shows the lines of the file at path it came from."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__)
                  if Path(frame.filename).resolve() == path.resolve()]  # fmt: skip
        if isinstance(error, SyntaxError) and error.filename == str(path) and error.lineno:
            frames.append(traceback.FrameSummary(path, error.lineno, "", line=error.text))
        lines = [f"  {path}, line {frame.lineno}: {(frame.line or '').strip()}" for frame in frames[-SHOWN:]]
        text = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: {problem}: {type(error).__name__}: {text:.300}", lines) from error
