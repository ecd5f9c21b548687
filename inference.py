"""Predict with a trained model, or test it: parse the flags, load checkpoints, predict, print, draw."""

import json
import os
import secrets
import sys
from functools import partial
from pathlib import Path

from mnist_sum import cli

LARGEST_PICTURE = 100  # images; more would be too small to look at and take minutes to draw
MOST_READ = 12  # own images in one picture, each a row
MISTAKES = 20
ACCURACIES = ("digit", "sum", "joint")  # in evaluation.Predictions.right's order


def main(argv):
    args = cli.parse_inference(argv)

    from mnist_sum import checkpoint, runs
    from mnist_sum.device import choose_device, describe_device

    say = partial(cli.say, file=sys.stderr if args.json else sys.stdout)
    device = choose_device(args.device)
    paths = list(map(Path, args.checkpoint or [runs.default_checkpoint()]))
    loaded = [(path, *checkpoint.load_model(path, device)) for path in paths]
    say(f"device: {describe_device(device)}")
    for path, _, stored in loaded:
        trained = stored["data"]
        say(f"model: {stored['model_name']} from {path}, trained for {stored['epoch']} epochs on "
            f"{trained['name']} ({trained['train_images']:,} images)")  # fmt: skip
    if len(loaded) > 1:
        compare(loaded, device, args, say)
        return 0
    ((_, model, stored),) = loaded
    if args.image is not None:
        return read(model, args, say)
    data = test_data(stored, args, say)
    if args.evaluate:
        evaluate(model, stored["model_name"], data, device, args, say)
    else:
        predict(model, data, device, args, say)
    return 0


def test_data(stored, args, say):
    """The data whose test split the checkpoint is tested on."""
    from mnist_sum import dataset

    data = dataset.load(args.data, args.data_dir, stored["recipe"]["split"])
    if data.name != stored["data"]["name"]:
        cli.say(
            f"warning: tested on {data.name} but trained on {stored['data']['name']}; the sample's images "
            "are all among MNIST's training images, so these are not test results",
            sys.stderr,
        )
    say(f"data: {data.name}, {len(data.test):,} test images")
    return data


def figures_of(found):
    """Of evaluation.Predictions: {digit, sum, joint: (accuracy, low, high)}, and the other figures."""
    from mnist_sum import analysis
    from mnist_sum.evaluation import accuracy_interval

    accuracies = dict(zip(ACCURACIES, map(accuracy_interval, found.right), strict=True))
    return accuracies, {
        "gap": accuracies["digit"][0] - accuracies["sum"][0],
        "consistency": analysis.consistency(found),
        **analysis.attribution(found),
        **{f"{name}_calibration_error": analysis.calibration_error(found, name) for name in analysis.OUTPUTS},
    }


def evaluate(model, name, data, device, args, say):
    """The exhaustive test: print the figures and, if asked, draw where the model errs."""
    from mnist_sum.dataset import MnistSum
    from mnist_sum.evaluation import predictions
    from mnist_sum.files import make_folder

    if args.plot_graph:
        make_folder(args.output)  # before the work
    found = predictions(model, MnistSum(data.test, device=device))
    accuracies, others = figures_of(found)
    images, cases = len(found.digits), found.digit.numel()
    if args.json:
        values = {f"{output}_accuracy": figure[0] for output, figure in accuracies.items()}
        cli.say(json.dumps({"data": data.name, "images": images, "cases": cases, **values, **others}))
    else:
        cli.say(f"{images:,} test images of {data.name}, each with ten numbers: {cases:,} cases")
        for output, (accuracy, low, high) in accuracies.items():
            cli.say(f"{output:>5} accuracy  {accuracy:8.3%}  (95% interval {low:.3%} to {high:.3%})")
        cli.say(f"from digit to sum {others['gap']:.3%} are lost; the sum is the digit as read plus the "
                f"number in {others['consistency']:.3%} of the cases")  # fmt: skip
        wrong = cases - found.sum_right.sum().item()
        cli.say(f"{wrong:,} wrong sums: {others['digit_misread']:,} with the digit misread and rightly "
                f"added, {others['addition_wrong']:,} with the digit right and wrongly added, "
                f"{others['both_wrong']:,} with both wrong; "
                f"{others['errors_cancel']:,} right sums of a misread digit")  # fmt: skip
        cli.say(f"expected calibration error: digit {others['digit_calibration_error']:.3%}, "
                f"sum {others['sum_calibration_error']:.3%}")  # fmt: skip
    if args.plot_graph:
        draw_errors(found, data.test.images, f"{name} on {data.name}", args.output, say)


def draw_errors(found, images, title, folder, say):
    """Four pictures of where the model errs, into the folder."""
    from mnist_sum import analysis, plots

    folder = Path(folder)
    counts = [analysis.confusion(found, output) for output in analysis.OUTPUTS]
    plots.draw_confusion(*counts, title, folder / "confusion.png")
    plots.draw_sum_grid(analysis.sum_grid(found), title, folder / "sum_grid.png")
    mistakes = analysis.confident_mistakes(found, MISTAKES)
    pictures = ["confusion.png", "sum_grid.png", "reliability.png"]
    if mistakes:
        seen = images[[case["image"] for case in mistakes]]
        heading = f"{title}: the most confident mistakes, with the probability of the wrong answer"
        plots.draw_predictions(seen, mistakes, heading, folder / "mistakes.png")
        pictures.append("mistakes.png")
    curves = {
        output: (*analysis.reliability(found, output), analysis.calibration_error(found, output))
        for output in analysis.OUTPUTS
    }
    plots.draw_reliability(curves, title, folder / "reliability.png")
    say(f"pictures: {', '.join(pictures)} in {folder}")


def compare(loaded, device, args, say):
    """The exhaustive test of several models: one table and one picture."""
    from mnist_sum.dataset import MnistSum
    from mnist_sum.evaluation import images_per_second, predictions
    from mnist_sum.plots import draw_comparison

    rows, names = [], []
    for path, model, stored in loaded:
        data = test_data(stored, args, say)
        accuracies, others = figures_of(predictions(model, MnistSum(data.test, device=device)))
        rows.append({
            "data": data.name,
            "images": len(data.test),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            **accuracies,
            **others,
            "images_per_second": images_per_second(model, data.test),
        })  # fmt: skip
        names.append((stored["model_name"], str(path)))
    if args.json:
        for (path, _, stored), row in zip(loaded, rows, strict=True):
            first = {"checkpoint": str(path), "model": stored["model_name"]}
            values = {f"{output}_accuracy": row[output][0] for output in ACCURACIES}
            others = {name: value for name, value in row.items() if name not in ACCURACIES}
            cli.say(json.dumps({**first, **values, **others}))
    else:
        print_comparison(names, rows)
    draw_comparison(names, rows, "the exhaustive test", args.output)
    say(f"picture: {args.output}")


def print_comparison(names, rows):
    from mnist_sum.errors import one_line

    def percent(figure):
        return f"{figure[0]:.2%} ({figure[1]:.2%}-{figure[2]:.2%})"

    columns = {
        "model": [one_line(f"{model}, {path}") for model, path in names],
        "parameters": [f"{row['parameters']:,}" for row in rows],
        **{f"{name} (95%)": [percent(row[name]) for row in rows] for name in ACCURACIES},
        "gap": [f"{row['gap']:.2%}" for row in rows],
        "consistent": [f"{row['consistency']:.2%}" for row in rows],
        "misread": [f"{row['digit_misread']:,}" for row in rows],
        "misadded": [f"{row['addition_wrong']:,}" for row in rows],
        "both": [f"{row['both_wrong']:,}" for row in rows],
        "cancel": [f"{row['errors_cancel']:,}" for row in rows],
        "images/s": [f"{row['images_per_second']:,.0f}" for row in rows],
    }
    widths = [max(map(len, (title, *values))) for title, values in columns.items()]
    for line in (columns, *zip(*columns.values(), strict=True)):
        first, *others = (f"{text:{'<' if i == 0 else '>'}{widths[i]}}" for i, text in enumerate(line))
        cli.say("  ".join((first, *others)))


def read(model, args, say):
    """Own images: print what each says, draw them; 1 if one of them could not be read."""
    from mnist_sum import images
    from mnist_sum.errors import Fault, one_line
    from mnist_sum.evaluation import probabilities
    from mnist_sum.plots import draw_read

    if any(os.path.exists(args.output) and os.path.samefile(file, args.output)
           for file in args.image if os.path.exists(file)):  # fmt: skip
        raise Fault(f"--output {args.output} is one of the images; give it another name")
    cases, failed, number = [], 0, args.number
    for file in args.image:
        try:
            original, seen = images.load(file)
        except Fault as fault:
            cli.say(f"inference.py: error: {fault}", sys.stderr)
            failed += 1
            continue
        digit, total = probabilities(model, seen, number)
        answer = {
            "file": file,
            "digit": digit.argmax().item(),
            "number": number,
            "sum": total.argmax().item(),
            "digit_probability": digit.max().item(),
            "sum_probability": total.max().item(),
        }
        if args.json:
            cli.say(json.dumps(answer))
        else:
            cli.say(f"{one_line(file)}: digit {answer['digit']} ({digit.max():.1%}), "
                    f"{answer['digit']} + {number} = {answer['sum']} ({total.max():.1%})")  # fmt: skip
        if len(cases) < MOST_READ:
            original.thumbnail((480, 480))  # only to be looked at from here on
            cases.append({**answer, "original": original, "seen": seen, "digit": digit, "sum": total})
    if cases:
        draw_read(cases, args.output)
        left_out = len(args.image) - failed > len(cases)
        say(f"picture: {args.output}" + (f" (the first {len(cases)})" if left_out else ""))
    return 1 if failed else 0


def predict(model, data, device, args, say):
    """Random test images with random numbers: print a table, draw a picture."""
    import torch

    from mnist_sum.dataset import MnistSum
    from mnist_sum.errors import Fault
    from mnist_sum.plots import draw_predictions
    from mnist_sum.randomness import generator

    if args.total > len(data.test):
        raise Fault(f"--total {args.total} is more than the {len(data.test):,} test images")
    seed = secrets.randbelow(2**32) if args.seed is None else args.seed
    test_set = MnistSum(data.test, seed, device=device)
    index = torch.randperm(len(test_set), generator=generator(seed, "images"))[: args.total].to(device)
    (image, number), (digit, total) = test_set[index]
    with torch.no_grad():
        digit_logits, sum_logits = model(image, number)
    columns = {
        "number": number.argmax(1),
        "digit": digit,
        "predicted_digit": digit_logits.argmax(1),
        "sum": total,
        "predicted_sum": sum_logits.argmax(1),
    }
    columns = {name: values.tolist() for name, values in columns.items()}
    cases = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if args.json:
        for place, case in zip(index.tolist(), cases, strict=True):
            cli.say(json.dumps({"image": place, **case}))
    else:
        print_table(index.tolist(), cases)
    right = [sum(case[name] == case[f"predicted_{name}"] for case in cases) for name in ("digit", "sum")]
    title = f"{len(cases)} test images of {data.name}: {right[0]} digits and {right[1]} sums right"
    say(f"{title} (seed {seed})")
    drawn = min(args.total, LARGEST_PICTURE)
    draw_predictions(data.test.images[index[:drawn].cpu()], cases[:drawn], title, args.output)
    say(f"picture: {args.output}" + (f" (the first {drawn})" if drawn < args.total else ""))


def print_table(places, cases):
    cli.say("        image  number   digit  predicted     sum  predicted")
    for place, case in zip(places, cases, strict=True):
        wrong = case["digit"] != case["predicted_digit"] or case["sum"] != case["predicted_sum"]
        cli.say(f"{place:13}  {case['number']:6}  {case['digit']:6}  {case['predicted_digit']:9}  "
                f"{case['sum']:6}  {case['predicted_sum']:9}{'  wrong' if wrong else ''}")  # fmt: skip


if __name__ == "__main__":
    cli.run(main, "inference.py")
