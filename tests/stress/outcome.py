"""What of a finished run must not depend on whether it was killed on the way."""

import csv

import torch

from mnist_sum import checkpoint

PARTS = ("model", "optimizer", "epoch", "step", "sums", "recipe", "seed", "data", "history")


def outcome(folder):
    """All of it, so that two runs can be compared by ==: weights, optimizer, history, settings."""
    content = checkpoint.load(folder / "checkpoint.pt")
    rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    for row in (*rows, *content["history"]):
        del row["seconds"]  # a clock's reading, never twice the same
    return {**{name: bits(content[name]) for name in PARTS}, "history.csv": rows}


def epochs_done(folder):
    """Whole epochs in the folder's history.csv so far."""
    try:
        return len((folder / "history.csv").read_text().splitlines()) - 1
    except OSError:
        return 0


def bits(value):
    """The value with each tensor as its bytes: equal only if every bit is."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(entry) for key, entry in value.items()}
    return value
