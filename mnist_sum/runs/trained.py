"""Trained models: loaded from checkpoints, each with the data that it can be tested on."""

import os
from collections import namedtuple

import torch

from mnist_sum import console, data, images, models
from mnist_sum.console import UserError
from mnist_sum.evaluation.predict import predict
from mnist_sum.runs import folder
from mnist_sum.runs.checkpoint import load_model
from mnist_sum.system.device import choose_device, describe_device, keep_freed_memory


class Trained(namedtuple("Trained", "path model stored files")):
    """A model in evaluation mode, its checkpoint's path, and the checkpoint as checkpoint.load returns it.

    files: the paths of all that was read, so that none of it is written to.
    """

    @property
    def name(self):
        return self.stored["model_name"]

    def describe(self):
        """In words: the model, its file, and what it was trained on."""
        trained = self.stored["data"]
        return (f"{self.name} from {console.one_line(self.path)}, trained for {self.stored['epoch']} epochs "
                f"on {trained['name']} ({trained['train_images']:,} images)")  # fmt: skip

    def predict(self, image, number):
        """The predict.Prediction for an image and a number 0 to 9.

        image: the path of a PNG or JPEG file, a PIL image, or a tensor of MNIST's own kind, uint8 (28, 28),
        white on black. Raises UserError where it is none of these, or shows no single digit; for a page of
        several there are images.find_digits and inference.py --image.
        """
        if number not in range(10):
            raise UserError(f"the number to add has to be from 0 to 9, not {number!r:.40}")
        if isinstance(image, torch.Tensor):
            if image.dtype != torch.uint8 or image.shape[-2:] != (28, 28) or image.numel() != 28 * 28:
                raise UserError(f"a tensor has to be uint8 (28, 28), one image, not {image.dtype} "
                                f"{tuple(image.shape)}")  # fmt: skip
        elif isinstance(image, (str, os.PathLike)):
            image = _only(images.load_page(image)[1])
        elif hasattr(image, "convert"):
            image = _only(images.find_digits(images.to_rgb(image)))
        else:
            raise UserError(f"an image is a path, a PIL image or a tensor, not a {type(image).__name__}")
        return predict(self.model, image, int(number))

    def test_data(self, name, data_dir):
        """The Data whose test split the model is tested on; prints which, and a warning if it is other data.

        name: "auto", "mnist" or "sample"; data_dir: None for the folder that the model's run had.
        """
        data_dir = folder.data_folder(data_dir, self.stored["data_dir"])
        found = data.load(name, data_dir, self.stored["recipe"]["split"])
        names, split = (self.stored["data"]["name"], found.name), self.stored["recipe"]["split"]
        if names[0] != names[1] and (*names, split) != ("sample", "mnist", "standard"):  # a fair test
            console.warn(
                f"tested on {names[1]} but trained on {names[0]}; the sample's images are all among MNIST's "
                "training images, so the model was trained on some of these"
            )
        console.note(f"data: {found.name}, {len(found.test):,} test images")
        return found


def _only(found):
    """The pixels of the one images.Found on a page; raises UserError where there are several."""
    if len(found) > 1:
        raise UserError(f"there are {len(found)} digits on the page, and predict() takes one; crop the image "
                        "to it, or use inference.py --image")  # fmt: skip
    return found[0].pixels


def load(checkpoint, device="auto", own=()):
    """The Trained model of a checkpoint's path, or of "tiny", "compact" or "large", which ship.

    device: "auto", "cpu" or "cuda". own: "FILE.py:NAME" of a network of your own, or a list of them; the
    file is imported. Raises UserError where the checkpoint or the device cannot be had.
    """
    own = [own] if isinstance(own, str) else own
    own = [models.find(model) for model in own]
    path = folder.checkpoint_path(checkpoint)
    files = [path, *(architecture.path for architecture in own)]
    return Trained(path, *load_model(path, choose_device(device), own=own), files)


def load_all(paths, device_name, own=None):
    """The Trained models of the checkpoints at the paths, or of the default checkpoint if paths is None.

    A path may be the name of a model that ships. device_name: "auto", "cpu" or "cuda"; own: "FILE.py:NAME" of
    the user's own networks among them. Raises UserError where a checkpoint or the device cannot be had.
    """
    keep_freed_memory()  # else the images a second depend on what was tested before
    loaded = [load(path, device_name, own or ()) for path in paths or [folder.default_checkpoint()]]
    console.note(f"device: {describe_device(choose_device(device_name))}")
    for number, trained in enumerate(loaded, 1):
        console.note(f"model{f' {number}' if len(loaded) > 1 else ''}: {trained.describe()}")
    return loaded
