"""Checkpoints: what was saved comes back bit for bit; whatever else lies there is refused in one line."""

import copy
import dataclasses
import io
import json
import math
import os
import pickle
import random
from contextlib import suppress
from pathlib import Path

import pytest
import safetensors.torch
import torch
from stress import forks
from stress.outcome import bits

from mnist_sum import training
from mnist_sum.console import UserError
from mnist_sum.recipes import RECIPES, Recipe
from mnist_sum.runs import checkpoint, folder

CPU = torch.device("cpu")
WEIGHT, MOMENTUM = "model.trunk.0.0.weight", "optimizer.0.momentum_buffer"
SUSPECT = "suspect.safetensors"


def stopped_state(name, few):
    """A state stopped after the second step of its second epoch, which has something of everything."""
    recipe = dataclasses.replace(RECIPES[name], epochs=2, batch_size=16)
    state = training.new_state(name, recipe, 3, CPU, "fp32")
    stop = state.optimizer.register_step_post_hook(
        lambda *_: setattr(state, "stop_signal", 15 if (state.epoch, state.step) == (1, 1) else None)
    )
    assert len(list(training.fit(state, few.train, few.test))) == 1 and state.step == 2
    stop.remove()
    state.stop_signal = None
    return state


@pytest.fixture(scope="module")
def good(few, tmp_path_factory):
    """The bytes of a good checkpoint, of a stopped compact."""
    path = tmp_path_factory.mktemp("good") / "checkpoint.safetensors"
    checkpoint.save(path, stopped_state("compact", few), checkpoint.describe_data(few))
    return path.read_bytes()


@pytest.fixture(scope="module")
def parts(good):
    """Its tensors and its text, unpacked without any of the package's code."""
    header = json.loads(good[8 : 8 + int.from_bytes(good[:8], "little")])
    text = json.loads(header["__metadata__"]["mnist_sum"])
    del text["sha256"]
    return safetensors.torch.load(good), text


@pytest.fixture
def problem(tmp_path):
    """A function: what is said of a checkpoint's path or bytes, without the path; None if they load."""

    def refusal(path):
        if not isinstance(path, Path):
            (tmp_path / SUSPECT).write_bytes(path)
            path = tmp_path / SUSPECT
        try:
            checkpoint.load_state(path, CPU)
        except UserError as error:
            message = str(error)
            assert message.startswith(f"{path} ") and message.isprintable()  # so it is one line, too
            assert len(message) < len(str(path)) + 300
            return message.removeprefix(f"{path} ")
        return None

    return refusal


def changed(content, place, value):
    """A copy of nested dicts with the value at the place, a tuple of keys; a value of `...` deletes it."""
    content = entry = copy.deepcopy(content)
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = value
    if value is ...:
        del entry[place[-1]]
    return content


def container(header):
    """A file laid out as safetensors does it, with any header and no tensors."""
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize("name", RECIPES)
def test_a_stopped_run_comes_back_bit_for_bit(name, few, tmp_path):
    state, path = stopped_state(name, few), tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, state, checkpoint.describe_data(few), "a/folder")
    loaded, content = checkpoint.load_state(path, CPU)
    for field in ("model_name", "recipe", "seed", "precision", "epoch", "step", "seconds", "history"):
        assert getattr(loaded, field) == getattr(state, field), field
    assert (content["data"], content["data_dir"]) == (checkpoint.describe_data(few), "a/folder")
    for ours, saved in ((loaded.model, state.model), (loaded.raw, state.raw)):
        assert bits(dict(ours.state_dict())) == bits(dict(saved.state_dict()))
    assert bits(loaded.optimizer.state_dict()["state"]) == bits(state.optimizer.state_dict()["state"])
    assert bits(loaded.sums) == bits(state.sums)


@pytest.mark.parametrize("name", ["compact", "tiny"])
def test_a_finished_run_is_saved_without_what_only_training_needs(name, few, tmp_path):
    state, path = stopped_state(name, few), tmp_path / "checkpoint.safetensors"
    list(training.fit(state, few.train, few.test))
    checkpoint.save(path, state, checkpoint.describe_data(few))
    loaded, content = checkpoint.load_state(path, CPU)
    saved = path.read_bytes()
    assert (content["epoch"], content["raw"], content["optimizer"], content["sums"]) == (2, {}, {}, None)
    assert bits(dict(loaded.model.state_dict())) == bits(dict(state.model.state_dict()))
    checkpoint.save(path, loaded, checkpoint.describe_data(few))
    assert path.read_bytes() == saved


def test_another_program_reads_the_weights_with_safetensors_alone(good, tmp_path, monkeypatch):
    code, scope = [line[4:] for line in checkpoint.__doc__.splitlines() if line.startswith("    ")], {}
    assert len(code) == 3 and "mnist_sum" not in str(code)
    (tmp_path / "checkpoint.safetensors").write_bytes(good)
    monkeypatch.chdir(tmp_path)
    exec("\n".join(code), scope)
    model, _ = checkpoint.load_model("checkpoint.safetensors", CPU)
    assert bits(scope["weights"]) == bits(dict(model.state_dict())) and not model.training


def test_a_checkpoint_truncated_anywhere_is_refused(good, problem):
    lengths = [*range(40), *random.Random(0).sample(range(len(good)), 150), *range(len(good) - 40, len(good))]
    assert all(problem(good[:length]) for length in lengths)


def test_one_flipped_bit_is_refused_or_changes_nothing(good, problem, tmp_path):
    (tmp_path / "good").write_bytes(good)
    wanted = {**bits(checkpoint.load(tmp_path / "good")), "sha256": None}
    draw, header, refused = random.Random(0), 8 + int.from_bytes(good[:8], "little"), 0
    for place in (*draw.sample(range(header), 300), *draw.sample(range(header, len(good)), 100)):
        raw = bytearray(good)
        raw[place] ^= 1 << draw.randrange(8)
        if problem(raw) is not None:
            refused += 1
        else:  # 1e-05 and 1E-05, say, are the same number
            assert {**bits(checkpoint.load(tmp_path / SUSPECT)), "sha256": None} == wanted
    assert refused > 390


NO_CHECKPOINTS = [
    b"", bytes(100), b"<html>not here</html>" * 100, random.Random(0).randbytes(2000),
    (2**64 - 1).to_bytes(8, "little") + b"{}", (1 << 40).to_bytes(8, "little") + b"{}" * 1000,
    *map(container, (b"[", b"[" * 100_000, b'{"a":' * 100_000, b"[]", b"{}", b"null", b"\xff")),
    container(b'{"__metadata__":[]}'), container(b'{"__metadata__":{}}'),
    safetensors.torch.save({"weight": torch.zeros(3)}, {"format": "pt"}),
]  # fmt: skip
NO_TEXTS = [
    "", "null", "7", '"text"', "[]", "{}", "[NaN]", "9" * 5000, "not JSON", '{"epoch": 1e999999}',
    "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000,
]  # fmt: skip


def test_a_file_or_metadata_of_anything_else_is_refused(parts, problem):
    files = [*NO_CHECKPOINTS, *(safetensors.torch.save(parts[0], {"mnist_sum": text}) for text in NO_TEXTS)]
    for raw in files:
        assert problem(raw).startswith("is not a mnist_sum checkpoint, or is "), raw[:200]


def test_what_is_no_file_or_too_large_is_not_even_read(problem, tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no room
    assert "larger" in problem(tmp_path / "large")
    assert problem(tmp_path) == "is a folder; name the checkpoint.safetensors in it"
    assert {problem(tmp_path / name) for name in ("missing", "empty/below")} == {"does not exist"}
    os.mkfifo(tmp_path / "pipe")
    for name in ("loop", "pipe", "a" * 300):
        assert "cannot be read: " in problem(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", -0.1), ("seconds", -1.0), ("train_sum_loss", -0.01), ("test_digit_accuracy", -0.01),
     ("train_digit_accuracy", 1.01), ("test_sum_accuracy", 99.0), ("train_digit_loss", 1e308)],
)  # fmt: skip
def test_impossible_values_in_a_history_are_refused(name, value, parts, problem):
    tensors, text = changed(parts[0], ("history",), parts[0]["history"].clone()), parts[1]
    assert problem(checkpoint.encode(tensors, text)) is None
    tensors["history"][0, training.ROW.index(name)] = value
    assert problem(checkpoint.encode(tensors, text)) == "has impossible values in its history"


FIELDS = [
    *((name,) for name in ("format", *checkpoint.TYPES)),
    *(("recipe", field.name) for field in dataclasses.fields(Recipe)),
    *(("data", name) for name in ("name", "train_images", "test_images", "fingerprint")),
    *(("environment", name) for name in ("mnist_sum", "torch", "device", "threads")),
]
JUNK = {
    "absent": ..., "null": None, "true": True, "minus one": -1, "huge": 2**80, "half": 0.5,
    "not a number": math.nan, "infinity": math.inf, "lines": "one\ntwo\x1b[31m", "long": "x" * 5000,
    "surrogate": "\ud800", "list": [1, [2]], "dict": {"a\nb": 1}, "deep": json.loads("[" * 400 + "]" * 400),
}  # fmt: skip
FITTING = {
    ("seconds",): {"half"},
    ("source_sha256",): {"null"},  # of a registered model
    ("data_dir",): {"null", "lines", "long", "surrogate"},  # a folder that is not there is not used
    ("recipe", "learning_rate"): {"half"},
    **{("recipe", field.name): {"absent"} for field in dataclasses.fields(Recipe)[3:]},
    ("recipe", "weight_decay"): {"half", "absent"},
}


@pytest.mark.parametrize("place", FIELDS, ids=".".join)
def test_a_wrong_or_absent_field_is_refused(place, parts, problem):
    raws = {name: checkpoint.encode(parts[0], changed(parts[1], place, junk)) for name, junk in JUNK.items()}
    assert {name for name, raw in raws.items() if problem(raw) is None} == FITTING.get(place, set())


MESSAGES = [
    (("format",), 3, "unknown format 3; this version of mnist_sum reads 2"),
    (("model_name",), "resnet", "'resnet', which this version does not know"),
    (("model_name",), "mlp_adder", f"{WEIGHT} of type torch.float32 and shape (8, 1, 3, 3), expected type"),
    (("recipe", "batch_size"), 2**80, "batch_size"), (("recipe", "teacher"), "G" * 64, "teacher"),
    (("recipe", "held_out"), "0" * 24, "held_out"), (("recipe", "held_out"), "f" * 25, "held_out"),
    (("recipe", "held_out"), f"{1023 << 30:025x}", "held_out"),  # all numbers of the digit 3
    (("recipe", "optimizer"), "adam", "lacks the tensor optimizer."), (("recipe", "a\nb"), 1, "settings"),
    (("seed",), 2**63, "seed"), (("precision",), "fp8", "precision"), (("seconds",), -1.0, "seconds"),
    (("epoch",), 0, "history"), (("epoch",), 3, "epoch or step"), (("step",), 10**6, "epoch or step"),
    (("step",), 0, "unknown tensor 'sums'"), (("data", "more"), 1, "data"), (("format",), 2.0, "format;"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "said"), MESSAGES)
def test_the_refusal_says_which_field_is_wrong(place, value, said, parts, problem):
    assert said in problem(checkpoint.encode(parts[0], changed(parts[1], place, value)))


@pytest.mark.parametrize("epochs", [2**40, 2**62])
def test_a_claim_of_more_epochs_than_memory_holds_is_refused(epochs, parts, problem):
    text = changed(changed(parts[1], ("recipe", "epochs"), epochs + 1), ("epoch",), epochs)
    assert "history that does not match its epoch" in problem(checkpoint.encode(parts[0], text))


@pytest.mark.parametrize("name", [WEIGHT, MOMENTUM, "sums", "history"])
def test_an_unfit_or_absent_tensor_is_refused_by_name(name, parts, problem):
    tensor, dtypes = parts[0][name], {torch.float32, torch.float64, torch.float16, torch.bfloat16}
    dtypes |= {torch.float8_e4m3fn, torch.bool, torch.int64}
    unfit = [..., tensor[None], tensor[:0], tensor.flatten()[0], tensor * math.nan, tensor - math.inf]
    unfit += [tensor.to(dtype) for dtype in dtypes - {tensor.dtype}]
    unfit += [torch.zeros_like(tensor)] if name in ("sums", "history") else []
    for value in unfit:
        assert name in problem(checkpoint.encode(changed(parts[0], (name,), value), parts[1])), value


@pytest.mark.parametrize("name", ["a\nb", "model.more", "optimizer.0.x", "optimizer.00.momentum_buffer"])
def test_an_unknown_tensor_is_refused_by_name(name, parts, problem):
    """An optimizer's state under other keys, too: torch would leave it aside and the momentum be lost."""
    tensors = {**parts[0], name: parts[0][MOMENTUM]}
    assert f"unknown tensor {name!r}" in problem(checkpoint.encode(tensors, parts[1]))


class Charge:
    """Unpickled without care, it creates the file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_in_a_file_of_the_older_formats_never_runs(form, parts, problem, tmp_path):
    charge, buffer = Charge(tmp_path / "marker"), io.BytesIO()
    content = {**parts[1], "model": parts[0], "history": charge}
    if form == "pickle":
        pickle.dump(content, buffer, protocol=2)
    else:
        torch.save(content, buffer, _use_new_zipfile_serialization=form == "zip")
    with suppress(pickle.UnpicklingError, RuntimeError):
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert charge.marker.exists(), "the charge is a dud, so the test would prove nothing"
    charge.marker.unlink()
    said = problem(buffer.getvalue())
    assert not charge.marker.exists()
    assert ("older format" in said and "train the model again" in said) == (form == "zip")


MEASURE = """
import contextlib, resource, sys, time
from mnist_sum.runs import checkpoint
spent = lambda: (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.process_time())
checkpoint.load(sys.argv[1])
before = spent()
with contextlib.suppress(checkpoint.UserError):
    checkpoint.load(sys.argv[2])
print(*(after - earlier for after, earlier in zip(spent(), before)))
"""


def largest_files(tensors, text):
    """Files of the largest size, each made to cost much, and how many MB each may cost."""
    many, full = b"[" + b"{}," * 300_000 + b"{}]", checkpoint.LARGEST_FILE
    shapes = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(17_000))
    yield container(b"[" + b"{}," * 11_000_000 + b"{}]"), 98  # 1.5 times the file and 50 MB
    yield container(b'{"__metadata__":{"mnist_sum":"{}"},"a":' + many + b"}").ljust(full), 98
    yield container(b'{"__metadata__":{"mnist_sum":"{}"},' + shapes + b"}").ljust(full), 98
    yield container(b'{"__metadata__":{"mnist_sum":"' + many + b'"}}').ljust(full), 98
    more = torch.zeros((full - checkpoint.LARGEST_HEADER) // 4)
    yield checkpoint.encode({**tensors, "more": more}, {**text, "more": [{}] * 240_000}), 98
    epochs = full // (8 * len(training.ROW)) - 2000  # it loads; a run of as many epochs needs as much
    history = torch.arange(1.0, epochs + 1, dtype=torch.float64)[:, None].repeat(1, len(training.ROW))
    text = changed(changed(text, ("epoch",), epochs), ("recipe", "epochs"), epochs + 1)
    yield checkpoint.encode({**tensors, "history": history}, text), 500


def test_the_largest_hostile_files_cost_little_memory_and_time(good, parts, tmp_path):
    (tmp_path / "measure.py").write_text(MEASURE)
    (tmp_path / "good").write_bytes(good)
    for raw, limit in largest_files(*parts):
        assert 0.9 * checkpoint.LARGEST_FILE < len(raw) <= checkpoint.LARGEST_FILE
        (tmp_path / "suspect").write_bytes(raw)
        code, stdout, stderr = forks.run(*(tmp_path / name for name in ("measure.py", "good", "suspect")))
        assert (code, stderr) == (0, "")
        megabytes, seconds = map(float, stdout.split())
        assert megabytes < limit and seconds < 5, raw[:200]


@pytest.mark.parametrize("data_dir", ["\0", "a\0b", "/not/there", __file__, "\ud800", "x" * 10_000, "a\nb"])
def test_a_hostile_data_folder_is_left_aside(data_dir, parts, problem, monkeypatch):
    monkeypatch.setenv("MNIST_SUM_DATA", "our folder")
    assert problem(checkpoint.encode(parts[0], changed(parts[1], ("data_dir",), data_dir))) is None
    assert folder.data_folder(None, data_dir) == "our folder"


def test_both_scripts_refuse_a_bad_checkpoint_in_one_line(good, tmp_path):
    path = tmp_path / folder.CHECKPOINT
    path.write_bytes(good[:-7])
    for script, *flags in (("inference.py", "--checkpoint", path), ("train.py", "--resume", tmp_path)):
        code, stdout, stderr = forks.run(script, *flags)
        assert (code, stdout) == (1, "")
        assert stderr == f"{script}: error: {path} is not a mnist_sum checkpoint, or is damaged\n"
