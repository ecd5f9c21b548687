"""The probabilities of a sum from those of its parts, in log space; it has no parameters.

Where one part is known for certain, this is add_exactly() of exact_addition.py, which only moves entries.
"""

import torch
from torch.nn.functional import pad

NEVER = -torch.inf  # the log-probability of what is impossible


def add_log_probabilities(first, second):
    """log P(a + b = s), (..., A + B - 1), of independent a and b: a convolution in log space.

    first (..., A) and second (..., B) are log P(a) and log P(b), floats, with the same leading axes or ones
    that broadcast; a, b and s count from 0. -inf, for what is impossible, is allowed in both, and no gradient
    goes through it.
    """
    pairs = first.unsqueeze(-1) + second.unsqueeze(-2)  # (..., A, B): of a and b together
    rows, columns = pairs.shape[-2:]
    # Padded to rows of A + B, then cut into rows that are one shorter, row a lies a places to the right.
    skewed = pad(pairs, (0, rows), value=NEVER).flatten(-2)[..., : rows * (rows + columns - 1)]
    return log_sum_exp(skewed.unflatten(-1, (rows, -1)), -2)


def log_sum_exp(values, dim):
    """torch.logsumexp, but where all values are -inf the gradient is 0, not NaN."""
    never = (values == NEVER).all(dim, keepdim=True)
    return values.masked_fill(never, 0).logsumexp(dim).masked_fill(never.squeeze(dim), NEVER)
