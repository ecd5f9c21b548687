"""A web page to draw digits on, which shows what the models predict: `python -m mnist_sum.demo`."""
