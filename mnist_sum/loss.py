"""The loss: the digit's cross-entropy plus the sum's."""

from torch import Tensor
from torch.nn.functional import cross_entropy


def summed_loss(
    digit_logits: Tensor, sum_logits: Tensor, digit: Tensor, total: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, digit_loss, sum_loss), scalars in nats, averaged over the batch.

    digit_logits (..., B, 10) and sum_logits (..., B, 19) are raw logits of any float type; digit and total
    (B,) are class indices. A leading axis holds the members of an ensemble in training, and the mean is over
    them, too. The weights are equal: the losses start near ln 10 and ln 19, so neither dominates.
    """
    losses = []
    for logits, target in ((digit_logits, digit), (sum_logits, total)):
        target = target.expand(logits.shape[:-1]).flatten()  # the same for each member
        losses.append(cross_entropy(logits.float().flatten(0, -2), target))
    digit_loss, sum_loss = losses
    return digit_loss + sum_loss, digit_loss, sum_loss
