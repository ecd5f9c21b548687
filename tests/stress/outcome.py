"""What of a finished run must not depend on whether it was stopped or killed on the way."""

import csv

import torch

from mnist_sum.runs import checkpoint
from mnist_sum.runs.folder import CHECKPOINT, HISTORY

PARTS = ("model", "optimizer", "epoch", "step", "sums", "recipe", "seed", "data", "history")


def outcome(folder):
    """All of it, so that two runs can be compared by ==: weights, optimizer, history, settings."""
    content = checkpoint.load(folder / CHECKPOINT)
    rows = list(csv.DictReader((folder / HISTORY).read_text().splitlines()))
    for row in (*rows, *content["history"]):
        del row["seconds"]  # a clock's reading, never twice the same
    return {**{name: bits(content[name]) for name in PARTS}, "history.csv": rows}


def epochs_done(folder):
    """Whole epochs in the folder's history.csv so far."""
    try:
        return len((folder / HISTORY).read_text().splitlines()) - 1
    except OSError:
        return 0


def bits(value):
    """The value with each tensor as its bytes: equal only if every bit is."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(entry) for key, entry in value.items()}
    return value
