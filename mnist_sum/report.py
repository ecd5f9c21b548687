"""A run as text: the table on the screen, history.csv, report.md and its pictures."""

import csv
import dataclasses
import io
import sys
from pathlib import Path
from typing import Any

import torch

from mnist_sum.data import Data
from mnist_sum.device import describe_device, generator
from mnist_sum.evaluation import evaluate, images_per_second
from mnist_sum.predict import TrainedModel
from mnist_sum.training import Row, TrainingState

TABLE_HEAD = """\
                        |     training loss         accuracy |         test loss         accuracy
epoch        lr seconds |    digit      sum   digit     sum |    digit      sum   digit     sum"""
PICTURES = {
    "training.png": "Loss and accuracy on the training images, by epoch",
    "testing.png": "Loss and accuracy of the exhaustive test, by epoch",
    "samples.png": "Random samples of the dataset",
    "model.png": "The layers; those that depend on the number are orange",
    "occlusion.png": "Occlusion maps of digit and sum for random test images",
}


def describe(state: TrainingState) -> str:
    r = state.recipe
    return (
        f"model: {state.name}, {r.epochs} epochs, batch {r.batch_size}, lr {r.learning_rate:g} {r.schedule}, "
        f"seed {state.seed}"
    )


def table_line(row: Row) -> str:
    """Losses in nats, accuracies in percent."""
    line = f"{row['epoch']:5} {row['lr']:9.6f} {row['seconds']:7.1f}"
    for part in ("train", "test"):
        line += f" | {row[f'{part}_digit_loss']:8.4f} {row[f'{part}_sum_loss']:8.4f}"
        line += f" {row[f'{part}_digit_accuracy']:7.2%} {row[f'{part}_sum_accuracy']:7.2%}"
    return line


def result_line(state: TrainingState, data: Data) -> str:
    last, seconds = state.history[-1], sum(row["seconds"] for row in state.history)
    part = "validation" if state.recipe.split == "validation" else "test"
    return (
        f"reached: digit {last['test_digit_accuracy']:.2%}, sum {last['test_sum_accuracy']:.2%} on "
        f"{len(data.test):,} {part} images x 10 numbers; {state.epoch}/{state.recipe.epochs} epochs, {seconds:.0f} s"
    )


def history_csv(history: list[Row]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, history[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()


def draw_training(state: TrainingState, data: Data, folder: Path) -> None:
    from mnist_sum import plots

    title = f"{state.name} on {data.name}: training"
    plots.draw_history(state.history, "train", title, folder / "training.png")


def draw_samples(state: TrainingState, data: Data, path: Path) -> None:
    from mnist_sum import plots

    draws = generator(state.seed, "samples")
    index = torch.randint(len(data.train), (20,), generator=draws)
    pairs = zip(data.train.digits[index].tolist(), torch.randint(10, (20,), generator=draws).tolist(), strict=True)
    cases = [{"digit": digit, "number": number, "sum": digit + number} for digit, number in pairs]
    plots.draw_cases(data.train.images[index], cases, "samples: image and number in, digit and sum out", path)


def draw_pictures(state: TrainingState, data: Data, folder: Path) -> list[str]:
    """Draw PICTURES into the folder; returns their names."""
    from mnist_sum import plots
    from mnist_sum.layers import layer_rows
    from mnist_sum.occlusion import occlusion_maps
    from mnist_sum.predict import predict_random

    title, model = f"{state.name} on {data.name}", state.ema_model.eval()
    draw_training(state, data, folder)
    plots.draw_history(state.history, "test", f"{title}: exhaustive test", folder / "testing.png")
    draw_samples(state, data, folder / "samples.png")
    plots.draw_model(layer_rows(model), state.name, folder / "model.png")
    cases = predict_random(model, data.test, min(10, len(data.test)), state.seed)
    images = data.test.images[[case["image"] for case in cases]]
    maps = [occlusion_maps(model, image, case["number"]) for image, case in zip(images, cases, strict=True)]
    plots.draw_cases(images, cases, f"{title}: what the answers rest on", folder / "occlusion.png", maps)
    return list(PICTURES)


def run_report(state: TrainingState, data: Data) -> bytes:
    """report.md, which shows PICTURES."""
    from mnist_sum.layers import layer_table

    last, recipe = state.history[-1], state.recipe
    images = f"{len(data.test):,} {'validation' if recipe.split == 'validation' else 'test'} images"
    settings = "\n".join(f"| {name} | {value} |" for name, value in dataclasses.asdict(recipe).items())
    table = "\n".join([TABLE_HEAD, *map(table_line, state.history)])
    pictures = "\n\n".join(f"![{caption}]({name})\n\n*{caption}*" for name, caption in PICTURES.items())
    device = next(state.model.parameters()).device
    architecture = sys.modules[type(state.model).__module__].__doc__ or state.name
    return f"""\
# {state.name} on {data.name}, {state.epoch} epochs, seed {state.seed}

Two inputs, an image of a digit and a number from 0 to 9; two outputs, the digit and the sum. After the last epoch
**{last["test_digit_accuracy"]:.2%} of the digits and {last["test_sum_accuracy"]:.2%} of the sums** are right.

## Data

{len(data.train):,} training images and {images} of {data.name}. An image is one channel of 28x28, normalized by
MNIST's training mean and standard deviation; the number is one-hot. Targets are classes: the digit (10), the sum (19).

## Model

```
{architecture.strip()}
```

```
{layer_table(state.ema_model)}
```

## Training

The loss is the digit's cross-entropy plus the sum's, in nats. It ran on {describe_device(device)}, in
{state.precision}, with torch {torch.__version__}.

| setting | value |
|---|---|
{settings}

## Results

The exhaustive test: the {images} with each of the ten numbers, so no figure depends on a draw. Training figures are
means over the epoch while the weights move.

```
{table}
```

{pictures}
""".encode()


# for inference.py


def cases_text(cases: list[dict[str, int]]) -> str:
    """A line for each case of predict.predict_random."""
    lines = ["        image  number   digit  predicted     sum  predicted"]
    for case in cases:
        wrong = any(case[key] != case[f"predicted_{key}"] for key in ("digit", "sum"))
        lines.append(
            f"{case['image']:13}  {case['number']:6}  {case['digit']:6}  {case['predicted_digit']:9}  "
            f"{case['sum']:6}  {case['predicted_sum']:9}{'  wrong' if wrong else ''}"
        )
    return "\n".join(lines)


def evaluation_text(values: dict[str, Any]) -> str:
    """The figures of evaluation.summarize."""
    wrong = values["digit_misread"] + values["addition_wrong"] + values["both_wrong"]
    lines = [f"{values['images']:,} test images of {values['data']}, each with ten numbers: {values['cases']:,} cases"]
    for output in ("digit", "sum", "joint"):
        accuracy, (low, high) = values[f"{output}_accuracy"], values[f"{output}_interval"]
        lines.append(f"{output:>5} accuracy  {accuracy:8.3%}  (95% interval {low:.3%} to {high:.3%})")
    return (
        "\n".join(lines)
        + f"""
accuracy lost from digit to sum: {values["gap"]:.3%}
predicted sum = predicted digit + number in {values["consistency"]:.3%} of the cases
wrong sums: {wrong:,}
{values["digit_misread"]:9,} digit wrong, number added to it correctly
{values["addition_wrong"]:9,} digit correct, addition wrong
{values["both_wrong"]:9,} both wrong
correct sums in spite of a wrong digit: {values["errors_cancel"]:,}
expected calibration error: digit {values["digit_calibration_error"]:.3%}, sum {values["sum_calibration_error"]:.3%}"""
    )


def comparison_row(trained: TrainedModel, data: Data) -> dict[str, Any]:
    return {
        "checkpoint": str(trained.path),
        "model": trained.name,
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        **evaluate(trained.model, data),
        "images_per_second": images_per_second(trained.model, data.test),
    }


def comparison_text(rows: list[dict[str, Any]]) -> str:
    """Two tables of several models: accuracies with 95% intervals, and causes of wrong sums."""
    columns: dict[str, list[str]] = {
        "model": [f"{number} {row['model']}" for number, row in enumerate(rows, 1)],
        "params": [f"{row['parameters']:,}" for row in rows],
    }
    for output in ("digit", "sum", "joint"):
        figures = [(row[f"{output}_accuracy"], *row[f"{output}_interval"]) for row in rows]
        columns[f"{output} % (95%)"] = [f"{100 * a:.2f} ({100 * b:.2f}-{100 * c:.2f})" for a, b, c in figures]
    columns["images/s"] = [f"{row['images_per_second']:,.0f}" for row in rows]
    causes = {"model": columns["model"]}
    causes |= {name: [f"{row[name]:.2%}" for row in rows] for name in ("gap", "consistency")}
    for name in ("digit_misread", "addition_wrong", "both_wrong", "errors_cancel"):
        causes[name.replace("_", " ")] = [f"{row[name]:,}" for row in rows]
    tables = []
    for table in (columns, causes):
        widths = [max(map(len, (title, *texts))) for title, texts in table.items()]
        lines = [
            "  ".join(f"{text:{'>' if i else '<'}{widths[i]}}" for i, text in enumerate(line))
            for line in (table, *zip(*table.values(), strict=True))
        ]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)
