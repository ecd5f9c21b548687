"""Your own images: a photograph, scan or drawing -> the digits on it, each like an image of MNIST."""

from mnist_sum.console import UserError
from mnist_sum.images.decode import decode, to_rgb
from mnist_sum.images.prepare import prepare

__all__ = ["decode", "load_image", "prepare", "to_rgb"]


def load_image(path):
    """Load one image: path -> (the image (PIL, RGB), what the model sees of it (uint8 (28, 28))).

    Raises UserError, which names the path, as decode() and prepare() do.
    """
    image = decode(path)
    try:
        return image, prepare(image)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
