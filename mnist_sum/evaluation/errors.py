"""Where a model errs: figures of exhaustive.Predictions, the exhaustive test's 10 N cases."""

import torch

from mnist_sum.dataset import MnistSum
from mnist_sum.evaluation.exhaustive import accuracy_interval, images_per_second, predict_all

BINS = 15  # of equal width; Guo et al. 2017, "On calibration of modern neural networks"
OUTPUTS = {"digit": 10, "sum": 19}  # and their classes


def evaluate_on(model, data):
    """The exhaustive test of the model on data's test split: (Predictions, values, intervals).

    values: {name: value} as inference.py --evaluate --json prints them: the data's name, counts of images,
    cases and causes of wrong sums, accuracies and other shares as fractions; intervals: {"digit", "sum",
    "joint": (low, high)}, the accuracies' 95% intervals.
    """
    device = next((parameter.device for parameter in model.parameters()), "cpu")
    predictions = predict_all(model, MnistSum(data.test, device=device))
    values = {"data": data.name, "images": len(data.test), "cases": predictions.digit.numel()}
    intervals = {}
    for output, correct in zip(("digit", "sum", "joint"), predictions.correct, strict=True):
        values[f"{output}_accuracy"], *intervals[output] = accuracy_interval(correct)
    values["gap"] = values["digit_accuracy"] - values["sum_accuracy"]
    values |= {"consistency": consistency(predictions), **attribution(predictions)}
    values |= {f"{output}_calibration_error": calibration_error(predictions, output) for output in OUTPUTS}
    return predictions, values, intervals


def evaluate(model, data):
    """The exhaustive test of any module that keeps the contract of mnist_sum.models, on data's test split.

    model: an nn.Module, on any device, which is tested in evaluation mode and stays in the mode that it had;
    data: data.Data. Returns evaluate_on's values, a dict; accuracies are fractions.
    """
    training = model.training
    try:
        return evaluate_on(model, data)[1]
    finally:
        model.train(training)


def comparison(trained, data):
    """A row of the table of several models, as a dict of JSON values.

    trained: a runs.trained.Trained. Beside evaluate_on's values: checkpoint, model, parameters,
    images_per_second, and the pairs digit_interval, sum_interval and joint_interval.
    """
    _, values, intervals = evaluate_on(trained.model, data)
    return {
        "checkpoint": str(trained.path),
        "model": trained.name,
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        **values,
        **{f"{output}_interval": interval for output, interval in intervals.items()},
        "images_per_second": images_per_second(trained.model, data.test),
    }


def confusion(predictions, output):
    """Counts (classes, classes) int64: row the true class, column the predicted one."""
    classes = OUTPUTS[output]
    true = (
        predictions.totals
        if output == "sum"
        else predictions.digits.unsqueeze(1).expand_as(predictions.digit)
    )
    place = true * classes + getattr(predictions, output)
    return place.flatten().bincount(minlength=classes**2).view(classes, classes)


def sum_grid(predictions):
    """The sum's accuracy (10, 10) for each digit (row) and number (column); NaN where no image is."""
    correct = torch.zeros(10, 10).index_add_(0, predictions.digits, predictions.sum_correct.float())
    return correct / predictions.digits.bincount(minlength=10).unsqueeze(1)


def consistency(predictions):
    """How often the predicted sum is the predicted digit plus the number, a fraction."""
    return (predictions.sum == predictions.digit + torch.arange(10)).float().mean().item()


def attribution(predictions):
    """Counts of cases: why each wrong sum is wrong, and the sums that are correct by chance.

    digit_misread: the digit was wrong, and the number was added to it correctly. addition_wrong: the
    digit was correct. both_wrong: the digit was wrong, and the sum is not that digit plus the number
    either. errors_cancel: the digit was wrong and the sum is correct (not a wrong sum).
    """
    added = predictions.sum == predictions.digit + torch.arange(10)
    digit_correct, sum_correct = predictions.digit_correct, predictions.sum_correct
    return {
        "digit_misread": (~sum_correct & ~digit_correct & added).sum().item(),
        "addition_wrong": (~sum_correct & digit_correct).sum().item(),
        "both_wrong": (~sum_correct & ~digit_correct & ~added).sum().item(),
        "errors_cancel": (sum_correct & ~digit_correct).sum().item(),
    }


def reliability(predictions, output):
    """(confidence, accuracy, share), each (BINS,), of the cases sorted into bins by confidence.

    Confidence is the probability that the model gives to its own prediction; a bin without a case has
    share 0 and NaN in the others. The bin's expected calibration error is |confidence - accuracy|.
    """
    probability = getattr(predictions, f"{output}_probability").flatten().double()
    correct = getattr(predictions, f"{output}_correct").flatten().double()
    place = (probability * BINS).long().clamp(max=BINS - 1)
    count = place.bincount(minlength=BINS)
    confidence, accuracy = (
        torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, values) / count
        for values in (probability, correct)
    )
    return confidence, accuracy, count / count.sum()


def calibration_error(predictions, output):
    """Expected calibration error, a fraction: mean |confidence - accuracy|, bins weighted by share."""
    confidence, accuracy, share = reliability(predictions, output)
    return ((confidence - accuracy).abs().nan_to_num() * share).sum().item()


def confident_mistakes(predictions, count):
    """The images with the most confident mistakes, one case each, the most confident first.

    A list of dicts: image (its place), number, digit, sum, predicted_digit, predicted_sum, and
    probability, that of the wrong output, or of the more confident one where both are wrong.
    """
    probability = torch.maximum(
        predictions.digit_probability * ~predictions.digit_correct,
        predictions.sum_probability * ~predictions.sum_correct,
    )
    worst, number = probability.max(1)
    images = [i for i in worst.argsort(descending=True).tolist() if worst[i] > 0][:count]
    return [
        {
            "image": i,
            "number": (n := number[i].item()),
            "digit": predictions.digits[i].item(),
            "sum": predictions.totals[i, n].item(),
            "predicted_digit": predictions.digit[i, n].item(),
            "predicted_sum": predictions.sum[i, n].item(),
            "probability": worst[i].item(),
        }
        for i in images
    ]
