"""A network of your own: FILE.py:NAME, a Python file and a class or function in it that gives an nn.Module.

It keeps the contract of mnist_sum.models. The file may have a dict RECIPE with settings of recipes.Recipe;
these then are the network's defaults.
"""

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from mnist_sum.console import UserError
from mnist_sum.recipes import OWN, Recipe, impossible_setting

SUFFIX = ".py:"


@dataclass(frozen=True)
class Architecture:
    """What a model is built by: its name, build() -> nn.Module, its Recipe, and the source of an own file.

    name is a registered name, or "FILE.py:NAME" with FILE.py without its folder.
    """

    name: str
    build: Callable
    recipe: Recipe
    source: bytes | None = None

    @property
    def sha256(self):
        """Of the source, as 64 hexadecimal digits; None for a registered model."""
        return None if self.source is None else hashlib.sha256(self.source).hexdigest()

    @property
    def slug(self):
        """The name as part of a file's name."""
        return self.name.replace(SUFFIX, "-")


def load_own(model):
    """Import the network "FILE.py:NAME" -> its Architecture.

    Raises UserError where there is no such file or name, where the file's own code fails, which is then
    shown, or where its RECIPE is unfit.
    """
    file, _, name = str(model).rpartition(":")
    path = Path(file)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}, the file of the network {name}: {error.strerror}") from None
    spec = importlib.util.spec_from_file_location(f"own_network_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as dataclasses and pickling in the file expect
    sys.path.insert(0, str(path.resolve().parent))  # for what the file imports from beside it
    try:
        with own_errors(path, "cannot be imported"):
            spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    make = getattr(module, name, None)
    if not callable(make):
        kinds = [key for key, value in vars(module).items() if isinstance(value, type) and
                 issubclass(value, nn.Module) and value.__module__ == spec.name]  # fmt: skip
        known = f"; it has {', '.join(kinds)}" if kinds else ""
        raise UserError(f"{path} has no class or function {name}{known}")

    def build():
        with own_errors(path, f"{name}() failed"):
            network = make()
        if not isinstance(network, nn.Module):
            raise UserError(f"{name} of {path} gives a {type(network).__name__}, not a torch.nn.Module")
        if any(map(is_lazy, network.parameters())):  # whose shapes a first forward pass decides
            with torch.no_grad(), own_errors(path, "forward failed on two black images"):
                network.eval()(torch.zeros(2, 1, 28, 28), torch.eye(10)[:2])
        return network.train()

    return Architecture(f"{path.name}:{name}", build, _own_recipe(path, module), source)


def _own_recipe(path, module):
    settings = getattr(module, "RECIPE", {})
    known = Recipe.__dataclass_fields__
    if not isinstance(settings, dict) or not set(settings) <= set(known):
        raise UserError(f"RECIPE of {path} is not a dict with settings of {', '.join(known)}")
    numbers = {"learning_rate", "weight_decay"}
    settings = {k: float(v) if k in numbers and type(v) is int else v for k, v in settings.items()}
    recipe = OWN.overridden(**settings)
    if problem := impossible_setting(recipe):
        raise UserError(f"RECIPE of {path} has an impossible {problem}: {settings[problem]!r:.60}")
    return recipe


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
        if isinstance(error, SyntaxError) and error.filename == str(path):
            frames.append(traceback.FrameSummary(path, error.lineno, "", line=error.text))
        lines = [f"  {path}, line {frame.lineno}: {(frame.line or '').strip()}" for frame in frames]
        text = str(error).partition("\n")[0]
        raise UserError(f"{path}: {problem}: {type(error).__name__}: {text:.300}", lines) from error
