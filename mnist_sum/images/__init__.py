"""Your own images: a photograph, scan or drawing -> the digits on it, each like an image of MNIST."""

from mnist_sum.console import UserError
from mnist_sum.images.decode import decode, to_rgb
from mnist_sum.images.page import Found, find_digits
from mnist_sum.images.prepare import prepare

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
    image = decode(path)
    try:
        return image, look(image)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
