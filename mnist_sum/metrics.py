"""Running sums for two outputs: what every accuracy and loss on the screen is computed from.

The sums of a pass over the data are one float64 tensor (6,), so that adding a batch never waits for the
device, a checkpoint holds a half-finished pass exactly, and several processes need one all-reduce.
"""

import torch

FIELDS = ("digit_loss", "sum_loss", "digit_accuracy", "sum_accuracy", "joint_accuracy")


def no_sums(device):
    """The sums before the first batch: float64 zeros (6,), for the five FIELDS and the number of cases."""
    return torch.zeros(len(FIELDS) + 1, dtype=torch.float64, device=device)


def batch_sums(digit_loss, sum_loss, digit_logits, sum_logits, digit, total):
    """The sums of one batch of B cases, float64 (6,): losses in nats times B, and numbers of cases.

    digit_loss and sum_loss are the batch's means in nats; digit_logits (..., B, 10), sum_logits
    (..., B, 19); digit and total (B,). A case of an ensemble counts by the fraction of its members that
    are correct. The joint accuracy is of cases whose digit and sum are both correct.
    """
    digit_correct = digit_logits.argmax(-1) == digit
    sum_correct = sum_logits.argmax(-1) == total
    correct = torch.stack((digit_correct, sum_correct, digit_correct & sum_correct)).flatten(1)
    counts = correct.sum(1).double() / (correct.shape[1] / len(digit))
    losses = torch.stack((digit_loss.detach(), sum_loss.detach())).double() * len(digit)
    return torch.cat((losses, counts, losses.new_full((1,), len(digit))))


def averages(sums):
    """{field: mean over the cases}: losses in nats, accuracies as fractions in [0, 1]."""
    *totals, cases = sums.tolist()
    return {field: value / cases for field, value in zip(FIELDS, totals, strict=True)}
