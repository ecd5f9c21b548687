"""Predictions for your own images, or for random test images."""

import os
from collections import namedtuple

import torch

from mnist_sum import console, images
from mnist_sum.console import UserError
from mnist_sum.dataset import MnistSum, normalised, one_hot
from mnist_sum.evaluation.exhaustive import require_numbers
from mnist_sum.evaluation.occlusion import occlusion_maps
from mnist_sum.images.novelty import unlike_digits
from mnist_sum.system.files import check_output
from mnist_sum.system.randomness import generator

SUFFIXES = (".png", ".jpg", ".jpeg")  # of the files that are read of a folder
TOUCHING, NO_DIGIT = "touching: perhaps several digits", "perhaps no digit"


class Prediction(namedtuple("Prediction", "digit total digit_probabilities sum_probabilities")):
    """What a model predicts for an image and a number.

    digit 0 to 9 and total 0 to 18 are the most probable classes; the probabilities, (10,) and (19,)
    float32 on the CPU, are those of all classes.
    """


def predict(model, pixels, number):
    """The Prediction of a model in evaluation mode for an image, uint8 (28, 28), and a number 0 to 9."""
    return predict_batch(model, pixels.view(1, 28, 28), number)[0]


@torch.no_grad()
def predict_batch(model, pixels, number):
    """The Predictions, a list, for images, uint8 (N, 28, 28), each with the number 0 to 9; one forward."""
    device = next(model.parameters()).device
    image = normalised(pixels.unsqueeze(1).to(device))
    logits = model(image, one_hot(torch.tensor([number], device=device)).expand(len(image), -1))
    require_numbers(*logits)
    probabilities = zip(*(output.float().softmax(1).cpu() for output in logits), strict=True)
    return [Prediction(digit.argmax().item(), total.argmax().item(), digit, total)
            for digit, total in probabilities]  # fmt: skip


def image_files(paths, output, failed):
    """The image files that the paths name, a list: of a folder its PNG and JPEG files, by name.

    Where a folder has none or cannot be read, the reason is printed as an error and the folder is added to
    the list failed. Raises UserError where the output is one of the files, or cannot be written.
    """
    files = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        try:
            names = sorted(os.listdir(path))
        except OSError as problem:
            console.error(UserError(f"cannot read {path}: {problem.strerror}"))
            failed.append(path)
            continue
        inside = [
            os.path.join(path, name) for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]  # fmt: skip
        if not inside:
            console.error(UserError(f"{path} is a folder without PNG or JPEG files"))
            failed.append(path)
        files += inside
    check_output(output, files)
    return files


def predict_files(model, files, number, failed):
    """Predict image files, of one digit or a page of them: yields (cases, picture) of each file.

    cases: a dict of JSON values for each digit, what inference.py --image prints; picture: a dict for
    plots.draw_own_images. Where a file cannot be read or shows no digit, the reason is printed as an error
    and the file is added to the list failed.
    """
    for file in console.progress(files, desc="images", delay=2):
        try:
            yield predict_file(model, file, number)
        except UserError as problem:
            console.error(problem)
            failed.append(file)


def predict_file(model, file, number):
    """(cases, picture) of one image file, as predict_files; raises UserError where it cannot be predicted."""
    original, digits = images.load_page(file)
    pixels = torch.stack([digit.pixels for digit in digits])
    predictions, doubts = predict_batch(model, pixels, number), doubts_about(digits)
    cases = [
        {
            "file": file,
            "line": found.line,
            "place": found.place,
            "box": list(found.box),
            "digit": prediction.digit,
            "number": number,
            "sum": prediction.total,
            "digit_probability": prediction.digit_probabilities.max().item(),
            "sum_probability": prediction.sum_probabilities.max().item(),
            "unsure": bool(doubt),
        }
        for found, prediction, doubt in zip(digits, predictions, doubts, strict=True)
    ]
    picture = {"file": file, "original": original, "number": number, "doubts": doubts}
    if len(digits) > 1:
        width = original.width
        original.thumbnail((1600, 1600))  # only to be looked at from here on
        return cases, picture | {"scale": original.width / width, "cases": cases}
    original.thumbnail((480, 480))
    digit, total = predictions[0][2:]
    maps = occlusion_maps(model, pixels[0], number)
    return cases, picture | {"seen": pixels[0], "maps": maps, "digit": digit, "sum": total}


def doubts_about(digits):
    """Why the answer to each images.Found is unsure, in words; "" where it is not."""
    unlike = unlike_digits(torch.stack([digit.pixels for digit in digits])).tolist()
    return [
        TOUCHING if digit.touching else NO_DIGIT if each else ""
        for digit, each in zip(digits, unlike, strict=True)
    ]


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
