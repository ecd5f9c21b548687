"""Predictions for your own images, or for random test images."""

import os
from collections import namedtuple

import torch

from mnist_sum import console, images
from mnist_sum.console import UserError
from mnist_sum.dataset import MnistSum, normalised, one_hot
from mnist_sum.evaluation.exhaustive import require_numbers
from mnist_sum.system.randomness import generator


class Prediction(namedtuple("Prediction", "digit total digit_probabilities sum_probabilities")):
    """What a model predicts for an image and a number.

    digit 0 to 9 and total 0 to 18 are the most probable classes; the probabilities, (10,) and (19,)
    float32 on the CPU, are those of all classes.
    """


@torch.no_grad()
def predict(model, pixels, number):
    """The Prediction of a model in evaluation mode for an image, uint8 (28, 28), and a number 0 to 9."""
    device = next(model.parameters()).device
    image = normalised(pixels.view(1, 1, 28, 28).to(device))
    logits = model(image, one_hot(torch.tensor([number], device=device)))
    require_numbers(*logits)
    digits, sums = (output.float().softmax(1).squeeze(0).cpu() for output in logits)
    return Prediction(digits.argmax().item(), sums.argmax().item(), digits, sums)


def predict_files(model, files, number, failed):
    """Predict image files: yields (case, picture) of each, what inference.py --image prints and draws.

    case: a dict of JSON values; picture: a dict for plots.draw_own_images. Where a file cannot be read or
    does not show one digit, the reason is printed as an error and the file is added to the list failed.
    """
    for file in console.progress(files, desc="images", delay=2):
        try:
            case, picture = predict_file(model, file, number)
        except UserError as problem:
            console.error(problem)
            failed.append(file)
        else:
            yield case, picture


def predict_file(model, file, number):
    """(case, picture) of one image file, as predict_files; raises UserError where it cannot be predicted."""
    original, pixels = images.load_image(file)
    prediction = predict(model, pixels, number)
    case = {
        "file": file,
        "digit": prediction.digit,
        "number": number,
        "sum": prediction.total,
        "digit_probability": prediction.digit_probabilities.max().item(),
        "sum_probability": prediction.sum_probabilities.max().item(),
    }
    original.thumbnail((480, 480))  # only to be looked at from here on
    return case, {
        "file": file,
        "original": original,
        "seen": pixels,
        "number": number,
        "digit": prediction.digit_probabilities,
        "sum": prediction.sum_probabilities,
    }


def refuse_to_overwrite(files, output):
    """Raise UserError where the output is one of the image files."""
    for file in files:
        if os.path.exists(file) and os.path.exists(output) and os.path.samefile(file, output):
            raise UserError(f"--output {output} is one of the images; give it another name")


@torch.no_grad()
def predict_random(model, split, total, seed):
    """Predict `total` random images of the split, each with a random number, all drawn from the seed.

    Returns a list of dicts: image (its index), number, digit, predicted_digit, sum, predicted_sum.
    Raises UserError where the split has fewer images.
    """
    if total > len(split):
        raise UserError(f"--total {total} is more than the {len(split):,} test images")
    device = next(model.parameters()).device
    test_set = MnistSum(split, seed, device=device)
    index = torch.randperm(len(test_set), generator=generator(seed, "images"))[:total].to(device)
    (image, number), (digit, total) = test_set[index]
    digit_logits, sum_logits = model(image, number)
    require_numbers(digit_logits, sum_logits)
    columns = {
        "image": index,
        "number": number.argmax(1),
        "digit": digit,
        "predicted_digit": digit_logits.argmax(1),
        "sum": total,
        "predicted_sum": sum_logits.argmax(1),
    }
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]
