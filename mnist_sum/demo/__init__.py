"""A web page to draw a digit on, which shows what the models predict: `python -m mnist_sum.demo`."""

HOST = "127.0.0.1"
