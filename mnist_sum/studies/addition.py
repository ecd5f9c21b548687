"""The probabilities of a sum from those of its parts, in log space."""

import torch
from torch import Tensor
from torch.nn.functional import pad

NEVER = -torch.inf  # the log-probability of what is impossible


def add_log_probabilities(first: Tensor, second: Tensor) -> Tensor:
    """log P(a) (..., A) and log P(b) (..., B) -> log P(a + b), (..., A + B - 1), by a convolution in log space.

    a and b are independent and count from 0. The leading axes broadcast. No gradient goes through an entry of -inf.
    """
    pairs = first.unsqueeze(-1) + second.unsqueeze(-2)  # (..., A, B): of a and b together
    rows, columns = pairs.shape[-2:]
    # padded to rows of A + B, then cut into rows that are one shorter: row a lies a places to the right
    skewed = pad(pairs, (0, rows), value=NEVER).flatten(-2)[..., : rows * (rows + columns - 1)]
    return log_sum_exp(skewed.unflatten(-1, (rows, -1)), -2)


def log_sum_exp(values: Tensor, dim: int) -> Tensor:
    """torch.logsumexp, but where all values are -inf the gradient is 0, not NaN."""
    never = (values == NEVER).all(dim, keepdim=True)
    return values.masked_fill(never, 0).logsumexp(dim).masked_fill(never.squeeze(dim), NEVER)
