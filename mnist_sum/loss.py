"""The loss, a sum of two cross-entropies, one for each output; and the loss of distillation.

B is the batch size. An ensemble in training has the logits of each member along a leading axis,
(members, B, 10) and (members, B, 19); every mean is then over the members, too.
"""

from torch.nn.functional import cross_entropy

TEMPERATURE = 4.0  # of distillation: what all logits are divided by (see models/README.md)


def digit_and_sum_loss(digit_logits, sum_logits, digit, total):
    """The two cross-entropies in nats, each averaged over the batch: a pair of float32 scalars.

    digit_logits (..., B, 10) and sum_logits (..., B, 19) are raw, of any float type; digit and total
    (B,) are class indices. The softmax is taken in float32.
    """
    return mean_cross_entropy(digit_logits, digit), mean_cross_entropy(sum_logits, total)


def mean_cross_entropy(logits, target):
    """Cross-entropy in nats of logits (..., B, C) against class indices (B,): the mean, a float32 scalar."""
    targets = target.expand(logits.shape[:-1])
    return cross_entropy(logits.float().flatten(0, -2), targets.flatten())


def summed_loss(digit_logits, sum_logits, digit, total):
    """Cross-entropy of the digit plus that of the sum, in nats, averaged over the batch.

    Returns the scalars (loss, digit_loss, sum_loss): what is minimised, and its two parts for the record.
    Shapes as in digit_and_sum_loss. The weights are equal: the two losses start near ln 10 and ln 19, so
    neither dominates.
    """
    digit_loss, sum_loss = digit_and_sum_loss(digit_logits, sum_logits, digit, total)
    return digit_loss + sum_loss, digit_loss, sum_loss


def distillation_loss(logits, teacher_logits):
    """The summed loss against a teacher's probabilities in place of the labels: a scalar in nats.

    logits: the model's pair of outputs, digit (..., B, 10) and sum (..., B, 19); teacher_logits: the
    teacher's pair, (B, 10) and (B, 19). As in Hinton et al. 2015 student and teacher go through a softmax at
    temperature T; but each cross-entropy counts T times, not T squared times. So its gradient is the
    difference of the probabilities at T, with the same factor as that of the labels' loss: 1.
    """
    loss = 0.0
    for student, teacher in zip(logits, teacher_logits, strict=True):
        target = (teacher.float() / TEMPERATURE).softmax(-1).expand(student.shape)
        logits_at_t = (student.float() / TEMPERATURE).flatten(0, -2)
        loss = loss + TEMPERATURE * cross_entropy(logits_at_t, target.flatten(0, -2))
    return loss
