"""Checkpoints: a safetensors file, which holds tensors and text and cannot express code.

Tensors: `model.NAME` as the model's state_dict() names them; `history`, a row of training.ROW for each
epoch; until the last epoch is done `optimizer.INDEX.NAME` and, where the model is a moving average,
`raw.NAME`, the weights that the optimizer moves; and in the middle of an epoch `sums`. The header's
metadata has one key, `mnist_sum`, with the rest as JSON text; in it stands the SHA-256 of all other
content, so that one flipped bit is noticed. Any other program reads the weights so:

    from safetensors import safe_open
    with safe_open("checkpoint.safetensors", "pt") as file:
        weights = {name[6:]: file.get_tensor(name) for name in file.keys() if name.startswith("model.")}
"""

import copy
import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path
from shlex import quote

import safetensors.torch
import torch

from mnist_sum import __version__, models
from mnist_sum.console import UserError, warn
from mnist_sum.metrics import no_sums
from mnist_sum.own import is_own_name
from mnist_sum.recipes import Recipe, impossible_setting
from mnist_sum.system.device import place
from mnist_sum.system.files import read_regular, write_atomically
from mnist_sum.system.processes import size
from mnist_sum.training import ROW, TrainingState, make_optimizer

KEY, FORMAT = "mnist_sum", 2
OLDER = "a model of an older version has to be trained again"
LARGEST_FILE = 32 << 20  # bytes; the largest registered model with Adam's state takes 6 MB
LARGEST_OWN_FILE = 1 << 30  # of a network of the user's own
LARGEST_HEADER = 1 << 20  # bytes; a thousand tensors take 200 kB
TYPES = {
    "model_name": (str,),
    "source_sha256": (str, type(None)),
    "recipe": (dict,),
    "seed": (int,),
    "precision": (str,),
    "epoch": (int,),
    "step": (int,),
    "seconds": (float,),
    "data": (dict,),
    "data_dir": (str, type(None)),
    "environment": (dict,),
}


def save(path, state, data, data_dir=None):
    """Write the training state to path, whole or not at all; raises UserError where that fails.

    data: what describe_data() said of its data; data_dir: the folder that MNIST lay in.
    """
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    if state.epoch < state.recipe.epochs:  # a finished run has no step to do that would need momenta
        tensors |= _flat(state.optimizer.state_dict()["state"])
        if state.raw is not state.model:
            tensors |= {f"raw.{name}": tensor for name, tensor in state.raw.state_dict().items()}
    if state.sums is not None:
        tensors["sums"] = state.sums
    rows = [[row[name] for name in ROW] for row in state.history]
    tensors["history"] = torch.tensor(rows, dtype=torch.float64).view(-1, len(ROW))
    text = {name: getattr(state, name) for name in ("model_name", "seed", "precision", "epoch", "step")}
    text["source_sha256"] = state.architecture.sha256
    text |= {"format": FORMAT, "recipe": dataclasses.asdict(state.recipe), "seconds": state.seconds}
    text |= {"data": data, "data_dir": data_dir}
    text["environment"] = environment(next(state.model.parameters()).device)
    content = encode(tensors, text)
    if len(content) > LARGEST_OWN_FILE:
        raise UserError(f"the checkpoint has {len(content) >> 20} MB, more than the limit of "
                        f"{LARGEST_OWN_FILE >> 20} MB; train without --save or a smaller net")  # fmt: skip
    write_atomically(path, content)


def describe_data(data):
    """What a checkpoint remembers of its data: name, sizes, fingerprint."""
    return {
        "name": data.name,
        "train_images": len(data.train),
        "test_images": len(data.test),
        "fingerprint": data.fingerprint(),
    }


def environment(device):
    """What else can change a result's last bits: versions, device and processes, threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "mnist_sum": __version__,
        "torch": str(torch.__version__),
        "device": name if size() == 1 else f"{name}, {size()} processes",
        "threads": torch.get_num_threads(),
    }


def encode(tensors, text):
    """The bytes of a safetensors file with these {name: tensor} and this dict of JSON values."""
    # Copies, because safetensors takes no tensors that share memory, as tied weights do.
    copied = {"copy": True, "memory_format": torch.contiguous_format}
    tensors = {name: tensor.detach().to("cpu", **copied) for name, tensor in tensors.items()}
    text = json.dumps({**text, "sha256": digest(tensors, text)})
    # One key: safetensors writes several in an order that differs from save to save.
    return safetensors.torch.save(tensors, {KEY: text})


def digest(tensors, text):
    """SHA-256 over the text and over each tensor's name, type, shape and bytes: 64 hexadecimal digits."""
    found = hashlib.sha256(json.dumps(text, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def read_file(path, own=()):
    """The bytes of the file at path; raises UserError where it cannot be read or is too large.

    own: the Architectures of the user's own networks, whose checkpoints may be larger.
    """
    path, limit = Path(path), LARGEST_OWN_FILE if own else LARGEST_FILE
    try:
        content = read_regular(path, limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        reason = "is a folder; name the checkpoint.safetensors in it"
        reason = reason if os.path.isdir(path) else f"cannot be read: {error.strerror}"
        raise UserError(f"{path} {reason}") from None
    if len(content) > limit:
        hint = "" if own else "; if the network is your own, name its file: --model FILE.py:NAME"
        raise UserError(f"{path} is larger than the {limit >> 20} MB limit of a checkpoint{hint}")
    return content


def load(path, content=None, own=()):
    """The checkpoint at path as a dict whose every field has been checked.

    Its keys are those of TYPES, sha256, architecture, model and raw {name: tensor}, optimizer {index: {name:
    tensor}}, sums (a tensor or None) and history (a list of rows). content: the file's bytes, where they
    have been read already. own: the Architectures of the user's own networks; no checkpoint has one imported.
    Raises UserError, whose one line names the path and the first thing wrong.
    """
    try:
        return _checked(*_decoded(read_file(path, own) if content is None else content), own)
    except _InvalidCheckpoint as problem:
        raise UserError(f"{path} {problem}") from None


def load_model(path, device, content=None, own=()):
    """(model in evaluation mode on the device, the checked checkpoint) from the file at path; see load."""
    stored = load(path, content, own)
    model = stored["architecture"].build()
    model.load_state_dict(stored["model"])
    return place(model, device, stored["architecture"].channels_last).eval(), stored


def load_state(path, device, own=()):
    """(a TrainingState on the device, ready for fit(), and the checked checkpoint) of the file at path."""
    model, stored = load_model(path, device, own=own)
    recipe, raw = Recipe(**stored["recipe"]), model
    if stored["raw"]:
        raw = copy.deepcopy(model)
        raw.load_state_dict(stored["raw"])
    optimizer = make_optimizer(raw, recipe)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": stored["optimizer"], "param_groups": groups})
    for parameter, entry in optimizer.state.items():  # in the parameter's memory format, as fused
        for name, value in entry.items():  # steps walk both in the order of their memory
            if value.shape == parameter.shape:
                entry[name] = torch.empty_like(parameter).copy_(value)
    sums = stored["sums"]
    state = TrainingState(
        **{name: stored[name] for name in ("architecture", "seed", "precision", "epoch", "step")},
        **{name: stored[name] for name in ("seconds", "history")},
        recipe=recipe,
        raw=raw,
        model=model,
        optimizer=optimizer,
        sums=None if sums is None else sums.to(device),
    )
    return state, stored


class _InvalidCheckpoint(Exception):
    """What is wrong with a checkpoint, as the end of a sentence that starts with its path."""


def _decoded(content):
    """(tensors, text) of a safetensors file's bytes, their SHA-256 verified."""
    if content.startswith(b"PK\x03\x04"):
        raise _InvalidCheckpoint("is a checkpoint of the older format (mnist_sum 1, a zip of pickles), which "
                                 "is not read any more; train the model again, or use it with "
                                 "mnist_sum 1")  # fmt: skip
    header_bytes = int.from_bytes(content[:8], "little")
    if header_bytes > min(LARGEST_HEADER, len(content)):
        raise _InvalidCheckpoint("is not a mnist_sum checkpoint, or is truncated")
    try:
        header = json.loads(content[8 : 8 + header_bytes])
        text = json.loads(header["__metadata__"][KEY])
        tensors = safetensors.torch.load(content)
        expected = text.pop("sha256")
        found = digest(tensors, text)
    except Exception:  # whatever a damaged or hostile file can make the parsers raise
        raise _InvalidCheckpoint("is not a mnist_sum checkpoint, or is damaged") from None
    if found != expected:
        raise _InvalidCheckpoint("is damaged: its SHA-256 does not match")
    return tensors, {**text, "sha256": expected}


def _checked(tensors, text, own):
    """The checkpoint as a dict, from what its file holds, after checks of every field and tensor."""
    version = text.get("format")
    if type(version) is not int or version != FORMAT:
        shown = f" {version}" if type(version) is int and abs(version) < 10**6 else ""
        raise _InvalidCheckpoint(f"has an unknown format{shown}; this version of mnist_sum reads {FORMAT}")
    for name, types in TYPES.items():
        if name not in text or type(text[name]) not in types:
            raise _InvalidCheckpoint(f"is invalid: field {name} is missing or has the wrong type")
    epoch, step = text["epoch"], text["step"]
    architecture = _checked_architecture(text["model_name"], text["source_sha256"], own)
    recipe = _checked_recipe(text["recipe"])
    if not 0 <= text["seed"] < 2**63 or text["precision"] not in ("fp32", "bf16"):
        raise _InvalidCheckpoint("has an impossible value for seed or precision")
    if not (math.isfinite(text["seconds"]) and text["seconds"] >= 0):
        raise _InvalidCheckpoint("has an impossible value for seconds")
    _check_texts("data", text["data"], numbers=("train_images", "test_images"),
                 texts=("name", "fingerprint"))  # fmt: skip
    _check_texts("environment", text["environment"], ("threads",), ("mnist_sum", "torch", "device"))
    steps = math.ceil(text["data"]["train_images"] / recipe.batch_size) if epoch < recipe.epochs else 0
    if not (0 <= epoch <= recipe.epochs and 0 <= step <= steps):
        raise _InvalidCheckpoint("has an impossible value for epoch or step")

    history = tensors.get("history")
    if history is None or history.shape != (epoch, len(ROW)):
        raise _InvalidCheckpoint("has a history that does not match its epoch")
    model = architecture.build()
    expected = {"history": torch.empty_like(history, dtype=torch.float64)}
    expected |= {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    if step > 0:
        expected["sums"] = no_sums("cpu")
    if recipe.averaging == "ema" and epoch < recipe.epochs:
        expected |= {f"raw.{key}": tensor for key, tensor in model.state_dict().items()}
    if epoch + step > 0 and epoch < recipe.epochs:
        expected |= _flat(_optimizer_state(model, recipe))
    _check_tensors(tensors, expected)
    if step > 0 and not tensors["sums"][-1] > 0:
        raise _InvalidCheckpoint("has sums that do not match its step")
    rows = history.tolist()
    if [row[0] for row in rows] != list(range(1, epoch + 1)):
        raise _InvalidCheckpoint("has a history that does not match its epoch")
    accuracies = [column for column, name in enumerate(ROW) if name.endswith("accuracy")]
    largest = torch.finfo(torch.float32).max  # of a loss
    if (history < 0).any() or (history > largest).any() or (history[:, accuracies] > 1).any():
        raise _InvalidCheckpoint("has impossible values in its history")
    optimizer = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, entry = key.split(".")
            optimizer.setdefault(int(index), {})[entry] = tensor
    return {
        **text,
        "architecture": architecture,
        **{
            part: {key[len(part) + 1 :]: tensors[key] for key in tensors if key.startswith(f"{part}.")}
            for part in ("model", "raw")
        },
        "optimizer": optimizer,
        "sums": tensors.get("sums"),
        "history": [dict(zip(ROW, (int(number), *row), strict=True)) for number, *row in rows],
    }


def _checked_recipe(settings):
    try:
        recipe = Recipe(**settings)
    except TypeError:
        raise _InvalidCheckpoint("has missing or unknown recipe settings") from None
    if problem := impossible_setting(recipe):
        raise _InvalidCheckpoint(f"has an impossible value for {problem} in its recipe")
    return recipe


def _checked_architecture(name, sha256, own):
    """The registered Architecture, or of a network of the user's own the one that was given."""
    if sha256 is None and name in models.ARCHITECTURES:
        return models.find(name)
    if sha256 is None or not is_own_name(name):
        raise _InvalidCheckpoint(f"holds a model {name!r:.40}, which this version does not know")
    attribute = name.rpartition(":")[2]
    given = [each for each in own if each.name.rpartition(":")[2] == attribute]
    if not given:
        raise _InvalidCheckpoint(f"holds a network of somebody's own; name its file: --model {quote(name)}")
    same = [each for each in given if each.sha256 == sha256]
    chosen = (same or [each for each in given if each.name == name] or given)[0]
    if not same:
        warn(f"{chosen.name} has changed since the checkpoint was written")
    return dataclasses.replace(chosen, name=name)


def _check_texts(what, found, numbers, texts):
    """Raise _InvalidCheckpoint unless its values are numbers and short texts that can be printed."""
    fits = set(found) == {*numbers, *texts}
    fits = fits and all(type(found[name]) is int and 0 < found[name] < 2**31 for name in numbers)
    if not fits or not all(_printable(found[name]) for name in texts):
        raise _InvalidCheckpoint(f"has no valid description of its {what}")


def _printable(text):
    return type(text) is str and text.isprintable() and len(text) < 200


def _optimizer_state(model, recipe):
    """The state {index: {name: tensor}} of the recipe's optimizer after a step with gradients of zero."""
    optimizer = make_optimizer(model, recipe)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return optimizer.state_dict()["state"]


def _flat(state):
    """{index: {name: tensor}} as {"optimizer.INDEX.NAME": tensor}."""
    return {
        f"optimizer.{index}.{name}": tensor
        for index, entry in state.items()
        for name, tensor in entry.items()
    }


def _check_tensors(found, expected):
    for name, model in expected.items():
        tensor = found.get(name)
        if tensor is None:
            raise _InvalidCheckpoint(f"lacks the tensor {name}; {OLDER}")
        if tensor.shape != model.shape or tensor.dtype != model.dtype:
            kinds = [f"type {each.dtype} and shape {tuple(each.shape)}" for each in (tensor, model)]
            raise _InvalidCheckpoint(f"has tensor {name} of {kinds[0]:.60}, expected {kinds[1]}; {OLDER}")
        if not torch.isfinite(tensor).all():
            raise _InvalidCheckpoint(f"has values in tensor {name} that are not finite")
    for name in found:
        if name not in expected:
            raise _InvalidCheckpoint(f"has an unknown tensor {name!r:.60}")
