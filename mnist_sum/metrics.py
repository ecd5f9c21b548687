"""Running sums for two outputs: what every figure on the screen is computed from.

The sums of a pass are one float64 tensor (6,), so adding a batch never waits for the device, a
checkpoint can hold a half-finished pass exactly, and several processes need one all-reduce.
"""

import torch

FIELDS = ("digit_loss", "sum_loss", "digit_accuracy", "sum_accuracy", "joint_accuracy")


def no_sums(device):
    """The sums of nothing: float64 (6,), the five FIELDS and the number of cases."""
    return torch.zeros(len(FIELDS) + 1, dtype=torch.float64, device=device)


def batch_sums(digit_loss, sum_loss, digit_logits, sum_logits, digit, total):
    """The sums of one batch, float64 (6,).

    The losses are the batch's means in nats; logits (..., B, 10) and (..., B, 19); digit and total
    (B,). Where there are several readings of each image, a case counts by the share that is right.
    """
    digit_right = digit_logits.argmax(-1) == digit
    sum_right = sum_logits.argmax(-1) == total
    right = torch.stack((digit_right, sum_right, digit_right & sum_right)).flatten(1)
    counts = right.sum(1).double() / (right.shape[1] / len(digit))
    losses = torch.stack((digit_loss.detach(), sum_loss.detach())).double() * len(digit)
    return torch.cat((losses, counts, losses.new_full((1,), len(digit))))


def averages(sums):
    """{field: mean over the cases}: losses in nats, accuracies as fractions in [0, 1]."""
    *totals, cases = sums.tolist()
    return {field: value / cases for field, value in zip(FIELDS, totals, strict=True)}
