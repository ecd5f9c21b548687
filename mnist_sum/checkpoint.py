"""Checkpoints: safetensors files, which hold tensors and text and cannot hold code.

The tensors are the state_dict() of the model that is tested. Until the last epoch is done there are also
training.model.NAME, where that is an average, and training.optimizer.INDEX.NAME. The metadata has one key,
mnist_sum: JSON text with model, recipe, seed, precision, history, data, data_dir and environment. So a finished
run's weights are read with model.load_state_dict(safetensors.torch.load_file(path)).
"""

import copy
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mnist_sum import __version__
from mnist_sum.cli import UserError
from mnist_sum.data import Data, load_data
from mnist_sum.device import describe_device
from mnist_sum.files import write_atomically
from mnist_sum.models import ARCHITECTURES, WEIGHTS, build_model
from mnist_sum.recipes import DEFAULT_MODEL, Recipe
from mnist_sum.training import TrainingState, make_optimizer

RUNS, CHECKPOINT, FORMAT = Path("runs"), "checkpoint.safetensors", 3
TRAINING = "training."


def save(path: Path, state: TrainingState, data: Data) -> None:
    """Write the training state, whole or not at all."""
    tensors = dict(state.ema_model.state_dict())
    if state.epoch < state.recipe.epochs:  # what the remaining epochs need
        if state.ema_model is not state.model:
            tensors |= {f"{TRAINING}model.{key}": tensor for key, tensor in state.model.state_dict().items()}
        for index, entry in state.optimizer.state_dict()["state"].items():
            tensors |= {f"{TRAINING}optimizer.{index}.{key}": tensor for key, tensor in entry.items()}
    tensors = {
        key: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for key, tensor in tensors.items()
    }
    info = {"format": FORMAT, **describe_run(state, data), "history": state.history}
    write_atomically(path, safetensors.torch.save(tensors, {"mnist_sum": json.dumps(info)}))


def describe_run(state: TrainingState, data: Data) -> dict[str, Any]:
    """What decides the run's result, as JSON values; of a custom model's file only the name."""
    device = next(state.model.parameters()).device
    return {
        "model": os.path.basename(state.name),
        "recipe": dataclasses.asdict(state.recipe),
        "weights": state.weights,
        "seed": state.seed,
        "precision": state.precision,
        "data": {"name": data.name, "train_images": len(data.train), "test_images": len(data.test)},
        "data_dir": data.folder,
        "environment": {
            "mnist_sum": __version__,
            "torch": str(torch.__version__),
            "device": describe_device(device),
        },
    }


def read_info(path: Path) -> dict[str, Any]:
    """The metadata of a checkpoint, as save() wrote it."""
    try:
        with safe_open(path, "pt") as file:
            info = json.loads(file.metadata()["mnist_sum"])
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise UserError(f"{path} is no checkpoint of mnist_sum, or is damaged") from None
    if info.get("format") != FORMAT:
        raise UserError(f"{path} was written by another version of mnist_sum; train the model again")
    return info


def load_model(
    path: Path, device: torch.device | str = "cpu", custom: Sequence[str] = ()
) -> tuple[nn.Module, dict[str, Any]]:
    """(the tested model in evaluation mode, read_info); custom: FILE.py:NAME of custom models it may hold."""
    info = read_info(path)
    model = build_model(_model_name(path, info["model"], custom), device)
    tensors = safetensors.torch.load_file(path)
    _load_weights(path, model, {key: each for key, each in tensors.items() if not key.startswith(TRAINING)})
    return model.eval(), info


def resume(path: Path, device: torch.device, custom: Sequence[str] = ()) -> tuple[TrainingState, dict[str, Any]]:
    """(the TrainingState, ready for fit(), and read_info) of a run's checkpoint."""
    ema_model, info = load_model(path, device, custom)
    held_out = tuple((digit, number) for digit, number in info["recipe"].pop("held_out"))
    recipe = Recipe(**info["recipe"], held_out=held_out)
    tensors = safetensors.torch.load_file(path)
    model = ema_model
    if recipe.averaging == "ema":
        model = copy.deepcopy(ema_model)
        prefix = f"{TRAINING}model."
        weights = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
        if weights:  # none after the last epoch
            _load_weights(path, model, weights)
    # optimizer; its state in the parameters' memory format, as fused steps walk both in the order of memory
    optimizer = make_optimizer(model, recipe)
    parameters = list(model.parameters())
    entries: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{TRAINING}optimizer."):
            index, name = key.removeprefix(f"{TRAINING}optimizer.").split(".")
            parameter = parameters[int(index)]
            if tensor.shape == parameter.shape:
                tensor = torch.empty_like(parameter).copy_(tensor)
            entries.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
    name = _model_name(path, info["model"], custom)
    settings = name, recipe, info["seed"], info["precision"]
    return TrainingState(*settings, model, ema_model, optimizer, info["history"], info.get("weights", "")), info


def data_of(info: dict[str, Any], name: str, data_dir: str | None = None, limit: int | None = None) -> Data:
    """The dataset of that name with the split of a checkpoint; data_dir defaults to its run's, if that is here."""
    recorded = info["data_dir"] if os.path.isdir(info["data_dir"]) else None
    return load_data(name, data_dir or recorded, info["recipe"]["split"], limit)


def start_from(state: TrainingState, path: Path) -> None:
    """Give a new run the weights of a checkpoint of the same model."""
    if (name := read_info(path)["model"]) != os.path.basename(state.name):
        raise UserError(f"{path} holds {name}; add --model {name}")
    tensors = safetensors.torch.load_file(path)
    weights = {key: tensor for key, tensor in tensors.items() if not key.startswith(TRAINING)}
    for model in (state.model, state.ema_model):
        _load_weights(path, model, weights)
    state.weights = path.name if path.parent == WEIGHTS else str(path)


def _model_name(path: Path, stored: str, custom: Sequence[str]) -> str:
    """The stored model's name; of a custom one the given FILE.py:NAME, as no checkpoint has a file imported."""
    if stored in ARCHITECTURES:
        return stored
    for name in sorted(custom, key=lambda name: os.path.basename(name) != stored):  # its file may have been renamed
        if name.rpartition(":")[2] == stored.rpartition(":")[2]:
            return name
    raise UserError(f"{path} holds the custom model {stored}; name its file: --model {stored}")


def _load_weights(path: Path, model: nn.Module, weights: dict[str, Tensor]) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} does not fit the model: {reason:.300}") from None


# where checkpoints lie


def find_checkpoint(text: str | Path) -> Path:
    """The path of a checkpoint: of a file, in a run's folder, or of a model that ships."""
    path, shipped = Path(text), WEIGHTS / f"{text}.safetensors"
    if path.is_dir():
        return path / CHECKPOINT
    if not path.exists() and not shipped.is_file():
        names = ", ".join(sorted(each.stem for each in WEIGHTS.glob("*.safetensors")))
        raise UserError(f"{path} does not exist; give a file, a run's folder, or one that ships: {names}")
    return path if path.exists() else shipped


def newest() -> Path:
    """The newest checkpoint under runs/ with an epoch done, else the shipped default model."""
    for path in sorted(RUNS.glob(f"*/{CHECKPOINT}"), key=os.path.getmtime, reverse=True):
        with suppress(UserError):  # of an older version, say
            if read_info(path)["history"]:
                return path
    return WEIGHTS / f"{DEFAULT_MODEL}.safetensors"


def new_run_dir(requested: str | None, model: str) -> Path:
    """Create the folder of a new run: the requested one, which may not hold a run, or a new one under runs/."""
    folder = stem = RUNS / time.strftime(f"%Y%m%d-%H%M%S-{Path(model).name.replace('.py:', '-')}")
    attempt = 1
    try:
        if requested is not None:
            folder = Path(requested)
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / "history.csv").exists() or (folder / CHECKPOINT).exists():
                raise UserError(f"{folder} already holds a run; resume it with --resume {folder}, or choose another")
            return folder
        while True:  # several runs may begin in the same second
            with suppress(FileExistsError):
                folder.mkdir(parents=True)
                return folder
            attempt += 1
            folder = stem.with_name(f"{stem.name}-{attempt}")
    except OSError as error:
        raise UserError(f"cannot write into {requested or RUNS}: {error.strerror}") from None
