"""Where a model errs: figures of evaluation.Predictions, the exhaustive test's 10 N cases."""

import torch

BINS = 15  # of equal width; Guo et al. 2017, "On calibration of modern neural networks"
OUTPUTS = {"digit": 10, "sum": 19}  # and their classes


def confusion(found, output):
    """Counts (classes, classes) int64: row the true class, column the predicted one."""
    classes = OUTPUTS[output]
    true = found.totals if output == "sum" else found.digits.unsqueeze(1).expand_as(found.digit)
    place = true * classes + getattr(found, output)
    return place.flatten().bincount(minlength=classes**2).view(classes, classes)


def sum_grid(found):
    """The sum's accuracy (10, 10) for each digit (row) and number (column); NaN where no image is."""
    right = torch.zeros(10, 10).index_add_(0, found.digits, found.sum_right.float())
    return right / found.digits.bincount(minlength=10).unsqueeze(1)


def consistency(found):
    """How often the predicted sum is the predicted digit plus the number, a fraction."""
    return (found.sum == found.digit + torch.arange(10)).float().mean().item()


def attribution(found):
    """Counts of cases: why each wrong sum is wrong, and the sums that are right by luck.

    digit_misread: the digit was wrong, and the number was added to it rightly. addition_wrong: the
    digit was right. both_wrong: the digit was wrong, and the sum is not that digit plus the number
    either. errors_cancel: the digit was wrong and the sum is right (not a wrong sum).
    """
    added = found.sum == found.digit + torch.arange(10)
    digit_right, sum_right = found.digit_right, found.sum_right
    return {
        "digit_misread": (~sum_right & ~digit_right & added).sum().item(),
        "addition_wrong": (~sum_right & digit_right).sum().item(),
        "both_wrong": (~sum_right & ~digit_right & ~added).sum().item(),
        "errors_cancel": (sum_right & ~digit_right).sum().item(),
    }


def reliability(found, output):
    """(confidence, accuracy, share), each (BINS,), of the cases sorted into bins by confidence.

    Confidence is the probability that the model gives to its own answer; a bin without a case has
    share 0 and NaN in the others. The bin's expected calibration error is |confidence - accuracy|.
    """
    probability = getattr(found, f"{output}_probability").flatten().double()
    right = getattr(found, f"{output}_right").flatten().double()
    place = (probability * BINS).long().clamp(max=BINS - 1)
    count = place.bincount(minlength=BINS)
    confidence, accuracy = (
        torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, values) / count
        for values in (probability, right)
    )
    return confidence, accuracy, count / count.sum()


def calibration_error(found, output):
    """Expected calibration error, a fraction: mean |confidence - accuracy|, bins weighted by share."""
    confidence, accuracy, share = reliability(found, output)
    return ((confidence - accuracy).abs().nan_to_num() * share).sum().item()


def confident_mistakes(found, count):
    """The images with the most confident mistakes, one case each, the most confident first.

    A list of dicts: image (its place), number, digit, sum, predicted_digit, predicted_sum, and
    probability, that of the wrong output, or of the more confident one where both are wrong.
    """
    probability = torch.maximum(
        found.digit_probability * ~found.digit_right, found.sum_probability * ~found.sum_right
    )
    worst, number = probability.max(1)
    images = [i for i in worst.argsort(descending=True).tolist() if worst[i] > 0][:count]
    return [
        {
            "image": i,
            "number": (n := number[i].item()),
            "digit": found.digits[i].item(),
            "sum": found.totals[i, n].item(),
            "predicted_digit": found.digit[i, n].item(),
            "predicted_sum": found.sum[i, n].item(),
            "probability": worst[i].item(),
        }
        for i in images
    ]
