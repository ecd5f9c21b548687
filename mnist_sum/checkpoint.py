"""Checkpoints: saved so that no kill can hurt, loaded so that no byte can.

A checkpoint is torch.save's zip of plain tensors and primitives, and the zip's comment holds the
SHA-256 of everything before it, so one flipped bit is found. The digest guards against accidents;
against malice stand the size limits, weights_only=True, and a check of every field.
"""

import hashlib
import io
import math
import pickletools
import warnings
import zipfile
from dataclasses import asdict
from pathlib import Path

import torch

from mnist_sum import __version__, models
from mnist_sum.device import place
from mnist_sum.distributed import size
from mnist_sum.errors import Fault
from mnist_sum.files import write_atomically
from mnist_sum.metrics import no_sums
from mnist_sum.recipes import RECIPES, Recipe
from mnist_sum.training import ROW, Run, make_optimizer

FORMAT, VERSION = "mnist_sum checkpoint", 1
LARGEST_FILE = 32 << 20  # bytes; the largest model with Adam's state takes 6 MB
LARGEST_NUMBER = 1e300  # of a history; not a number and infinity are above it, and so is 10**400
DIGEST_MARK = b"sha256:"
GLOBALS = {  # all that our pickles name; weights_only lets more through, say bytearray(10**10)
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in ("Float", "Double", "Long")),
}
TYPES = {
    "model_name": str,
    "recipe": dict,
    "seed": int,
    "precision": str,
    "model": dict,
    "optimizer": dict,
    "epoch": int,
    "step": int,
    "seconds": float,
    "sums": (torch.Tensor, type(None)),
    "history": list,
    "data": dict,
    "environment": dict,
}


def save(path, run, data):
    """Write the run to path, whole or not at all. data: what describe_data() said of its data."""
    finished = run.epoch == run.recipe.epochs  # and has no step to do that would need momenta
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model_name": run.model_name,
        "recipe": asdict(run.recipe),
        "seed": run.seed,
        "precision": run.precision,
        "model": {name: _plain(tensor) for name, tensor in run.model.state_dict().items()},
        "optimizer": {"state": {}} if finished else _plain(run.optimizer.state_dict()),
        "epoch": run.epoch,
        "step": run.step,
        "seconds": run.seconds,
        "sums": _plain(run.sums),
        "history": run.history,
        "data": data,
        "environment": environment(next(run.model.parameters()).device),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, sealed(buffer.getvalue()))


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


def sealed(archive):
    """The zip archive (bytes) with a comment that holds the SHA-256 of everything before it."""
    comment = len(DIGEST_MARK) + 64
    body = archive[:-2] + comment.to_bytes(2, "little")
    return body + DIGEST_MARK + hashlib.sha256(body).hexdigest().encode()


def load(path, archive=None):
    """The checkpoint at path as a dict whose every field has been checked.

    Raises Fault, whose one line names the path and the first thing wrong. Runs no code from the
    file. archive: its bytes, where read() has fetched them already.
    """
    try:
        content = _unsealed(read(path) if archive is None else archive)
        _check(content)
    except _Unfit as unfit:
        raise Fault(f"{path} {unfit}") from None
    return content


def read(path):
    """The bytes of the file at path, which load() has still to check.

    Raises Fault where it cannot be read or has more than LARGEST_FILE bytes.
    """
    path = Path(path)
    try:
        if not path.is_file():
            folder = "is a folder; name the checkpoint.pt in it"
            raise Fault(f"{path} {folder if path.is_dir() else 'does not exist'}")
        if path.stat().st_size > LARGEST_FILE:
            raise Fault(f"{path} is larger than any checkpoint of ours ({LARGEST_FILE >> 20} MB)")
        return path.read_bytes()
    except OSError as error:
        raise Fault(f"{path} cannot be read: {error.strerror}") from None


def load_model(path, device, archive=None):
    """(model in evaluation mode on the device, the checked checkpoint) from the file at path; see load."""
    content = load(path, archive)
    model = models.build(content["model_name"])
    model.load_state_dict(content["model"])
    return place(model, device).eval(), content


def load_run(path, device):
    """(the Run that the checkpoint holds, on the device, ready for fit(), the checked checkpoint)."""
    model, content = load_model(path, device)
    recipe = Recipe(**content["recipe"])
    optimizer = make_optimizer(model, recipe)
    optimizer.load_state_dict(content["optimizer"])
    for parameter, state in optimizer.state.items():  # in the parameter's memory format, as fused
        for name, value in state.items():  # steps walk both in the order of their memory
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)
    sums = content["sums"]
    run = Run(
        **{name: content[name] for name in ("model_name", "seed", "precision", "epoch", "step")},
        **{name: content[name] for name in ("seconds", "history")},
        recipe=recipe,
        model=model,
        optimizer=optimizer,
        sums=None if sums is None else sums.to(device),
    )
    return run, content


class _Unfit(Exception):
    """What is wrong with a checkpoint, as the end of a sentence that starts with its path."""


def _plain(value):
    """The value with its tensors detached, on the CPU and contiguous."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().contiguous()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value


def _unsealed(archive):
    """The content of the archive, after checks that make unpacking it safe."""
    body, mark, digest = archive.rpartition(DIGEST_MARK)
    if not mark or archive[:4] != b"PK\x03\x04":
        raise _Unfit("is not a mnist_sum checkpoint, or is cut short")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise _Unfit("is damaged: its checksum does not match")
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            if sum(entry.file_size for entry in file.infolist()) > LARGEST_FILE:
                raise _Unfit("would unpack to more than any checkpoint of ours")
            records = {entry.filename: file.read(entry) for entry in file.infolist()}
        # torch has a zip reader of its own, which may see other records and sizes in a hostile
        # archive than zipfile did; so it gets one that was written here.
        checked = io.BytesIO()
        with zipfile.ZipFile(checked, "w") as file:
            for name, record in records.items():
                file.writestr(name, record)
                if name.lower().endswith("data.pkl"):
                    _check_globals(record)
        checked.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a damaged pickle: the Fault says enough
            return torch.load(checked, map_location="cpu", weights_only=True)
    except _Unfit:
        raise
    except Exception:  # whatever a hostile archive can make the unpickler raise
        raise _Unfit("is not a mnist_sum checkpoint: it does not unpack to plain tensors") from None


def _check_globals(pickled):
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name == "GLOBAL" and argument not in GLOBALS:
            raise _Unfit("is not a mnist_sum checkpoint: it holds more than plain tensors")


def _check(content):
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _Unfit("is not a mnist_sum checkpoint")
    version = content.get("version")
    if type(version) is not int or version != VERSION:
        shown = f" {version}" if type(version) is int and abs(version) < 10**6 else ""
        raise _Unfit(f"has an unknown format version{shown}, this program reads {VERSION}")
    for name, kind in TYPES.items():
        if name not in content:
            raise _Unfit(f"lacks the field {name}")
        if not isinstance(content[name], kind) or isinstance(content[name], bool):
            raise _Unfit(f"has a field {name} of type {type(content[name]).__name__}")
    name = content["model_name"]
    if name not in RECIPES:
        raise _Unfit(f"holds a model {name!r:.40}, which this version does not know")
    if not set(content["recipe"]) <= set(Recipe.__dataclass_fields__):
        raise _Unfit("has a recipe with unknown settings")
    try:
        recipe = Recipe(**content["recipe"])
    except (TypeError, ValueError) as error:
        raise _Unfit(f"has an unfit recipe: {error}") from None
    if recipe.architecture != RECIPES[name].architecture:
        raise _Unfit(f"holds a {recipe.architecture!r:.60}, which is not this version's {name}")
    model = models.build(name)
    _check_tensors("model", content["model"], model.state_dict())
    _check_optimizer(content, make_optimizer(model, recipe))
    if not 0 <= content["seed"] < 2**63 or content["precision"] not in ("fp32", "bf16"):
        raise _Unfit("has an impossible seed or precision")
    if not (0 <= content["epoch"] <= recipe.epochs and len(content["history"]) == content["epoch"]):
        raise _Unfit("has a history that does not match its epoch")
    if (content["sums"] is None) != (content["step"] == 0) or content["step"] < 0:
        raise _Unfit("has sums that do not match its step")
    if content["sums"] is not None:
        _check_tensors("sums", {"sums": content["sums"]}, {"sums": no_sums("cpu")})
    _check_history(content["history"])
    _check_data(content["data"])
    _check_environment(content["environment"])
    steps = math.ceil(content["data"]["train_images"] / recipe.batch_size)
    if content["step"] > (steps if content["epoch"] < recipe.epochs else 0):
        raise _Unfit("has an impossible step")
    if content["step"] and not content["sums"][-1] > 0:
        raise _Unfit("has sums that do not match its step")
    if not (math.isfinite(content["seconds"]) and content["seconds"] >= 0):
        raise _Unfit("has impossible seconds")


def _check_tensors(what, found, expected):
    for name, wanted in expected.items():
        tensor = found.get(name)
        if not isinstance(tensor, torch.Tensor):
            raise _Unfit(f"lacks the {what} tensor {name}; an older version's has to be trained anew")
        if tensor.shape != wanted.shape:
            raise _Unfit(f"has {what} tensor {name} of shape {tuple(tensor.shape)}, not "
                         f"{tuple(wanted.shape)}; an older version's has to be trained anew")  # fmt: skip
        if tensor.dtype != wanted.dtype:
            raise _Unfit(f"has {what} tensor {name} of type {tensor.dtype}, not {wanted.dtype}")
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.requires_grad or not tensor.is_contiguous():
            raise _Unfit(f"has a {what} tensor {name} that is not a plain one")
        if not torch.isfinite(tensor).all():
            raise _Unfit(f"has a {what} tensor {name} that is not finite")
    for name in found:
        if name not in expected:
            shown = f" {name!r:.60}" if isinstance(name, str) else ""
            raise _Unfit(f"has an unknown {what} tensor{shown}")


def _check_optimizer(content, optimizer):
    """Against the state that a fresh optimizer has after one step with gradients of zero."""
    state = content["optimizer"].get("state")
    if not isinstance(state, dict) or not all(isinstance(entry, dict) for entry in state.values()):
        raise _Unfit("has an optimizer without a state")
    unused = content["epoch"] == content["recipe"]["epochs"] or content["epoch"] == content["step"] == 0
    if unused and not state:
        content["optimizer"] = optimizer.state_dict()
        return
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    expected = optimizer.state_dict()
    if set(state) != set(expected["state"]):
        raise _Unfit("has an optimizer state for other tensors than the model's")
    content["optimizer"] = {"state": state, "param_groups": expected["param_groups"]}
    _check_tensors("optimizer", _flat(state), _flat(expected["state"]))


def _flat(state):
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def _check_history(history):
    for epoch, row in enumerate(history, 1):
        if not isinstance(row, dict) or tuple(row) != ROW:
            raise _Unfit(f"has a history whose row {epoch} is not ours")
        numbers = all(type(value) in (int, float) and abs(value) < LARGEST_NUMBER for value in row.values())
        if not numbers or row["epoch"] != epoch:
            raise _Unfit(f"has a history whose row {epoch} does not hold its numbers")


def _check_data(data):
    if set(data) != {"name", "train_images", "test_images", "fingerprint"}:
        raise _Unfit("does not say which data it was trained on")
    if not isinstance(data["name"], str) or not isinstance(data["fingerprint"], str):
        raise _Unfit("does not say which data it was trained on")
    if not _printable(data["name"]):
        raise _Unfit("has an impossible name of its data")
    for name in ("train_images", "test_images"):
        if type(data[name]) is not int or not 0 < data[name] < 2**31:
            raise _Unfit("does not say how much data it was trained on")


def _check_environment(found):
    """Its values are shown beside this machine's when a run is resumed."""
    if set(found) != set(environment(torch.device("cpu"))):
        raise _Unfit("does not say in which environment it was trained")
    texts = [value for name, value in found.items() if name != "threads"]
    if type(found["threads"]) is not int or not all(isinstance(t, str) and _printable(t) for t in texts):
        raise _Unfit("has an impossible environment")


def _printable(text):
    return text.isprintable() and len(text) < 200
