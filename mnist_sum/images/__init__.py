"""Your own images: a photograph, scan or drawing -> the digits on it, each like an image of MNIST."""

from mnist_sum.console import UserError
from mnist_sum.images.decode import LARGEST_FILE, decode, to_rgb
from mnist_sum.images.page import Found, find_digits
from mnist_sum.images.prepare import prepare
from mnist_sum.system.files import read_regular

__all__ = ["Found", "decode", "find_digits", "load_image", "load_page", "prepare", "to_rgb"]


def load_image(path):
    """Load an image of one digit: path -> (the image (PIL, RGB), what the model sees (uint8 (28, 28))).

    Raises UserError, which names the path, as decode() and prepare() do.
    """
    return _load(path, prepare)


def load_page(path):
    """Load a page of one or several digits: path -> (the page (PIL, RGB), the digits on it, a list of Found).

    Raises UserError, which names the path, as decode() and find_digits() do.
    """
    return _load(path, find_digits)


def _load(path, look):
    try:
        content = read_regular(path, LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    try:
        image = decode(content)
        return image, look(image)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
