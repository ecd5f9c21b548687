"""`tiny` and `large`: one reader in two widths, and addition that is exact and has no parameters.

P(sum = s | image, n) = P(digit = s - n | image), so the sum's logits are the digit's, shifted by
the number, and every sum that the number rules out gets none. All parameters serve reading the
digit, and a sum is right exactly when its digit is.
"""

import torch

IMPOSSIBLE = -1e4  # a logit whose probability is exactly 0 in every float type, and still a number


def add_exactly(digit_logits, number):
    """sum_logits (B, 19): sum_logits[s] = digit_logits[s - n], and IMPOSSIBLE outside 0 <= s - n < 10.

    digit_logits (B, 10); number (B, 10) one-hot. Differentiable in digit_logits; the entries are
    moved, never computed with, so the result is exact in every float type.
    """
    digit = torch.arange(19, device=number.device) - number.argmax(1, keepdim=True)  # (B, 19)
    possible = (digit >= 0) & (digit < 10)
    return digit_logits.gather(1, digit.clamp(0, 9)).masked_fill(~possible, IMPOSSIBLE)
