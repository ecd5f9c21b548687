"""The loss: the sum of two cross-entropies, one for each output."""

from torch.nn.functional import cross_entropy

# Of distillation (see the README).
TEMPERATURE = 2.0  # what logits are divided by
TEACHERS_SHARE = 0.9  # of the loss


def digit_and_sum_loss(digit_logits, sum_logits, digit, total):
    """The two cross-entropies in nats, each averaged over the batch, as a pair of scalars.

    digit_logits (..., B, 10) and sum_logits (..., B, 19) are raw, of any float type; digit and total
    are (B,) class indices. The softmax is taken in float32. Where there are several readings of each
    image, the average is over theirs too: each has a loss of its own.
    """
    return mean_cross_entropy(digit_logits, digit), mean_cross_entropy(sum_logits, total)


def mean_cross_entropy(logits, target):
    """Cross-entropy in nats of logits (..., B, C) against target (B,), averaged over all but C."""
    every_target = target.expand(logits.shape[:-1])
    return cross_entropy(logits.float().flatten(0, -2), every_target.flatten())


def distillation_loss(loss, logits, answers):
    """The loss towards the labels and that towards a teacher's answers, in their shares: a scalar in nats.

    logits: the pair of a model's outputs, digit (..., B, 10) and sum (..., B, 19); answers: its teacher's,
    (B, 10) and (B, 19). As in Hinton et al. 2015, cross-entropies at a temperature; but times T, not T
    squared: so the gradient is the difference of the probabilities at T, as large as the labels' is at 1.
    """
    soft = 0.0
    for ours, theirs in zip(logits, answers, strict=True):
        target = (theirs.float() / TEMPERATURE).softmax(-1).expand(ours.shape)
        soft = soft + cross_entropy((ours.float() / TEMPERATURE).flatten(0, -2), target.flatten(0, -2))
    return (1 - TEACHERS_SHARE) * loss + TEACHERS_SHARE * TEMPERATURE * soft


def summed_loss(digit_logits, sum_logits, digit, total):
    """Cross-entropy of the digit plus that of the sum, in nats, averaged over the batch.

    Returns (loss, digit_loss, sum_loss): what is trained on, and its two parts for the record.
    Shapes as in digit_and_sum_loss. Equal weights: the two losses start near ln 10 and ln 19, so
    neither drowns the other.
    """
    digit_loss, sum_loss = digit_and_sum_loss(digit_logits, sum_logits, digit, total)
    return digit_loss + sum_loss, digit_loss, sum_loss
