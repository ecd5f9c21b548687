"""Two inputs, an MNIST image and a number 0-9; two outputs, the digit in the image and the sum."""

__version__ = "2.0.0"
