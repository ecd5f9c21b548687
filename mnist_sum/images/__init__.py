"""Your own images: a photograph, scan or drawing -> the digits on it, each like an image of MNIST."""

from mnist_sum.images.decode import image_files
from mnist_sum.images.page import Digit, Page, read_page

__all__ = ["Digit", "Page", "image_files", "read_page"]
