"""A run as text: the table on the screen, history.csv and settings.json."""

import csv
import dataclasses
import io
import json

from mnist_sum.training import ROW


def table_head(train_cases, test_cases):
    """The two lines above the table. Cases are what the counts are out of: a test image counts
    ten times, once with each number."""
    titles = f"{'digit loss':>10} {'sum loss':>8} {'digit right':>14} {'sum right':>14}"
    return (
        f"{'':23} | {f'training, of {train_cases:,} cases':49} | test, of {test_cases:,} cases\n"
        f"epoch {'lr':>9} {'s':>7} | {titles} | {titles}"
    )


def table_line(row, train_cases, test_cases):
    """One epoch's row as one line: losses in nats, accuracies in percent and as counts."""
    parts = [f"{row['epoch']:5} {row['lr']:9.6f} {row['seconds']:7.1f}"]
    for part, cases in (("train", train_cases), ("test", test_cases)):
        right = [
            f"{row[f'{part}_{output}_accuracy']:7.2%} {round(row[f'{part}_{output}_accuracy'] * cases):6}"
            for output in ("digit", "sum")
        ]
        losses = f"{row[f'{part}_digit_loss']:10.4f} {row[f'{part}_sum_loss']:8.4f}"
        parts.append(f"{losses} {right[0]} {right[1]}")
    return " | ".join(parts)


def history_csv(history):
    """The rows as the bytes of history.csv, numbers in full so that they read back exactly."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ROW, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()


def settings_json(run, data):
    """What decides the run, as the bytes of settings.json; data as checkpoint.describe_data says."""
    settings = {
        "model": run.model_name,
        "seed": run.seed,
        "precision": run.precision,
        "recipe": dataclasses.asdict(run.recipe),
        "data": data,
    }
    return (json.dumps(settings, indent=2) + "\n").encode()
