"""Predict with a trained model: parse the flags, load a checkpoint, predict, print, draw."""

import json
import secrets
import sys
from functools import partial
from pathlib import Path

from mnist_sum import cli

LARGEST_PICTURE = 100  # images; more would be too small to look at and take minutes to draw


def main(argv):
    args = cli.parse_inference(argv)

    from mnist_sum import checkpoint, dataset, runs
    from mnist_sum.device import choose_device, describe_device

    say = partial(cli.say, file=sys.stderr if args.json else sys.stdout)
    device = choose_device(args.device)
    path = Path(args.checkpoint) if args.checkpoint else runs.default_checkpoint()
    model, stored = checkpoint.load_model(path, device)
    trained = stored["data"]
    say(f"device: {describe_device(device)}")
    say(f"model: {stored['model_name']} from {path}, trained for {stored['epoch']} epochs on "
        f"{trained['name']} ({trained['train_images']:,} images)")  # fmt: skip
    data = dataset.load(args.data, args.data_dir, stored["recipe"]["split"])
    if data.name != trained["name"]:
        cli.say(
            f"warning: tested on {data.name} but trained on {trained['name']}; the sample's images are "
            "all among MNIST's training images, so these are not test results",
            sys.stderr,
        )
    say(f"data: {data.name}, {len(data.test):,} test images")
    if args.evaluate:
        evaluate(model, data, device, args.json)
    else:
        predict(model, data, device, args, say)
    return 0


def evaluate(model, data, device, as_json):
    """The exhaustive test: print three accuracies with their intervals."""
    from mnist_sum.dataset import MnistSum
    from mnist_sum.evaluation import accuracy_interval, right_cases

    right = right_cases(model, MnistSum(data.test, device=device))
    images, cases = right.shape[1], right[0].numel()
    figures = dict(zip(("digit", "sum", "joint"), map(accuracy_interval, right), strict=True))
    if as_json:
        accuracies = {f"{name}_accuracy": figure[0] for name, figure in figures.items()}
        cli.say(json.dumps({"data": data.name, "images": images, "cases": cases, **accuracies}))
        return
    cli.say(f"{images:,} test images of {data.name}, each with ten numbers: {cases:,} cases")
    for name, (accuracy, low, high) in figures.items():
        cli.say(f"{name:>5} accuracy  {accuracy:8.3%}  (95% interval {low:.3%} to {high:.3%})")


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
