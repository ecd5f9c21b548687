"""Checkpoints. One that loads is harmless if its every field is fit by a second, independent check."""

import contextlib
import copy
import dataclasses
import json
import math
import sys
from collections import Counter
from functools import partial

import safetensors.torch
import torch
from verdict import mutated, report, verdict

from mnist_sum import data, recipes, training
from mnist_sum.runs import checkpoint

CPU = torch.device("cpu")


def small_state():
    """A state in the middle of its second epoch, and what its checkpoint says of its data."""
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (48, 28, 28), dtype=torch.uint8, generator=draw)
    split = data.Split(pixels, torch.arange(48) % 10)
    recipe = dataclasses.replace(recipes.RECIPES["compact"], epochs=3, batch_size=16)
    state = training.new_state("compact", recipe, 3, CPU, "fp32")
    state.optimizer.register_step_post_hook(
        lambda *_: setattr(state, "stop_signal", 15 if (state.epoch, state.step) == (1, 1) else None)
    )
    list(training.fit(state, split, split.first(10)))
    return state, checkpoint.describe_data(data.Data("noise", split, split.first(10)))


def fuzz_checkpoint(change, draw, cases, scratch):
    """Load a good checkpoint's bytes after change(draw, bytes), again and again."""
    path, counts, (state, described) = scratch / "case.safetensors", Counter(), small_state()
    checkpoint.save(path, state, described, str(scratch))
    good, kinds = path.read_bytes(), kinds_of(state)
    for case in range(cases + 1):
        path.write_bytes(change(draw, good) if case else good)
        load, size = partial(checkpoint.load_state, path, CPU), path.stat().st_size
        end = verdict(load, [str(path)], lambda both: fit(*both, kinds), size)
        if case:
            counts[end] += 1
        elif end != "harmless":
            sys.exit("the untouched checkpoint does not load, so nothing would be shown")
    return counts


def fit(state, content, kinds):
    """Whether a loaded checkpoint can be one, written without a look at checkpoint.py."""
    history, recipe, described, sums = content["history"], state.recipe, content["data"], state.sums
    facts = {
        "tensors": kinds_of(state) == kinds,
        "format": type(content["format"]) is int and content["format"] == 2,
        "model": state.model_name == "compact" and state.precision in ("fp32", "bf16"),
        "seed": type(state.seed) is int and 0 <= state.seed < 2**63,
        "epoch": type(state.epoch) is int and 0 <= state.epoch <= recipe.epochs,
        "step": type(state.step) is int and 0 <= state.step <= 10**4 and (sums is None) == (state.step == 0),
        "seconds": type(state.seconds) is float and 0 <= state.seconds < math.inf,
        "sums": sums is None or (sums.shape == (6,) and sums.isfinite().all() and sums[-1].item() > 0),
        "history": [row["epoch"] for row in history] == list(range(1, state.epoch + 1)),
        "rows": all(tuple(row) == training.ROW and all(map(math.isfinite, row.values())) for row in history),
        "recipe": 0 < recipe.batch_size < 2**63 and 0 < recipe.learning_rate < math.inf,
        "choices": all(getattr(recipe, name) in choices for name, choices in recipes.CHOICES.items()),
        "data": all(type(described[f"{part}_images"]) is int for part in ("train", "test")),
        "texts": all(map(str.isprintable, (described["name"], described["fingerprint"]))),
        "data_dir": type(content["data_dir"]) in (str, type(None)),
        "environment": set(content["environment"]) == {"mnist_sum", "torch", "device", "threads"},
    }
    unfit = [name for name, fact in facts.items() if not fact]
    if unfit:
        report("unfit", unfit)
    return not unfit


def kinds_of(state):
    """{name: (shape, type)} of its weights and optimizer state; False for one that is not finite."""
    groups = {"model": state.model.state_dict(), "raw": state.raw.state_dict()}
    groups |= state.optimizer.state_dict()["state"]
    tensors = {f"{group}.{name}": tensor for group in groups for name, tensor in groups[group].items()}
    return {name: bool(t.isfinite().all()) and (t.shape, t.dtype) for name, t in tensors.items()}


def unpacked(raw):
    """(header, text, tensors' bytes) of a good checkpoint's bytes."""
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    return header, json.loads(header["__metadata__"]["mnist_sum"]), raw[end:]


def packed(header, body):
    """The bytes of a checkpoint with this header, and the SHA-256 of what they hold if they can be parsed."""
    raw = len(header).to_bytes(8, "little") + header + body
    with contextlib.suppress(Exception):
        _, text, _ = unpacked(raw)
        stored = text.pop("sha256")
        return raw.replace(stored.encode(), checkpoint.digest(safetensors.torch.load(raw), text).encode())
    return raw


def change_parts(draw, good):
    """Bytes of the header, of the text in it or of the tensors; the lengths and the SHA-256 are correct."""
    entries, text, body = unpacked(good)
    part, header = draw.choice(("header", "text", "tensors")), json.dumps(entries).encode()
    if part == "header":
        header = mutated(draw, header)
    elif part == "text":
        text = mutated(draw, json.dumps(text).encode()).decode(errors="replace")
        header = json.dumps({**entries, "__metadata__": {"mnist_sum": text}}).encode()
    else:
        body = mutated(draw, body)[: len(body)].ljust(len(body), b"\0")
    return packed(header, body)


def change_json(draw, good):
    """Entries of the header, or of the text in it, set to other values, left out, added or exchanged."""
    header, text, body = unpacked(good)
    for _ in range(draw.choice((1, 1, 2, 3))):
        change_entry(draw, draw.choice((header, text)), some_value)
    with contextlib.suppress(KeyError, TypeError):  # where the metadata has gone
        header["__metadata__"]["mnist_sum"] = json.dumps(text)
    return packed(json.dumps(header).encode(), body)


def change_fields(draw, good):
    """The same with the text's fields and whole tensors, encoded as ours are."""
    (_, text, _), tensors = unpacked(good), safetensors.torch.load(good)
    del text["sha256"]
    for _ in range(draw.choice((1, 1, 2, 3))):
        change_entry(draw, *draw.choice(((text, some_value), (tensors, partial(some_tensor, tensors)))))
    return checkpoint.encode(tensors, text)


def change_entry(draw, entry, value):
    """One entry of nested dicts and lists, at any depth; value(draw) is what it may become."""
    while True:
        keys = list(entry) if isinstance(entry, dict) else list(range(len(entry)))
        if not keys:
            return
        key = draw.choice(keys)
        if not isinstance(entry[key], (dict, list)) or draw.random() < 0.2:
            break
        entry = entry[key]
    kind = draw.choice(("set", "set", "set", "leave out", "add", "exchange"))
    if kind == "leave out":
        del entry[key]
    elif kind == "add" and isinstance(entry, dict):
        entry[draw.choice(("more", "a\nb", "", "optimizer.0.x", "model.x", "sums", "history"))] = value(draw)
    elif kind == "exchange":
        other = draw.choice(keys)
        entry[key], entry[other] = entry[other], entry[key]
    else:
        entry[key] = value(draw)


def some_value(draw):
    """A value of any kind that JSON can hold."""
    return copy.deepcopy(draw.choice((
        None, True, False, 0, 1, -1, 2, 3, 8, 2**31, 2**40, 2**63, 10**400, 0.0, 1.0, -0.5, 1e-300, 1e300,
        math.nan, math.inf, "", "compact", "mlp_adder", "sample", "fp32", "none", "adam", "a\nb", "\x1b[2J",
        "\0", "\ud800", "x" * 1000, "F32", "F64", "I64", "BF16", "F8_E4M3", "BOOL", [], [1], [0, 8], [8, 0],
        [2**62, 2**62], [-1, 4], {}, {"a": 1}, [[[]]], {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
    )))  # fmt: skip


def some_tensor(tensors, draw):
    """A tensor of any kind, or one of the checkpoint's with a number changed."""
    tensor = draw.choice(list(tensors.values()))
    changed, flat = tensor.clone(), tensor.reshape(-1)
    if len(flat):
        worst = (0, -1, 1e30, math.nan, math.inf) if tensor.is_floating_point() else (0, -1, 2**62)
        changed.view(-1)[draw.randrange(len(flat))] = draw.choice(worst)
    types = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.bool)
    others = (tensor[None], flat, flat[:1], flat[:0], torch.zeros(0, 11).double(), torch.ones(6).double())
    return draw.choice((changed, changed, tensor.to(draw.choice(types)), draw.choice(others)))


ROWS = [
    ("checkpoint: bytes changed, cut, added, moved", partial(fuzz_checkpoint, mutated), 10_000),
    ("checkpoint: the same, SHA-256 made correct", partial(fuzz_checkpoint, change_parts), 10_000),
    ("checkpoint: entries of its JSON, SHA-256 correct", partial(fuzz_checkpoint, change_json), 10_000),
    ("checkpoint: fields and tensors, saved as ours", partial(fuzz_checkpoint, change_fields), 5_000),
]
