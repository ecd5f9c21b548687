"""Trained models: loaded from checkpoints, each with the data that it can be tested on."""

from collections import namedtuple
from pathlib import Path

from mnist_sum import console, data
from mnist_sum.runs import checkpoint, folder
from mnist_sum.system.device import choose_device, describe_device


class Trained(namedtuple("Trained", "path model stored")):
    """A model in evaluation mode, its checkpoint's path, and the checkpoint as checkpoint.load returns it."""

    @property
    def name(self):
        return self.stored["model_name"]

    def describe(self):
        """In words: the model, its file, and what it was trained on."""
        trained = self.stored["data"]
        return (f"{self.name} from {self.path}, trained for {self.stored['epoch']} epochs on "
                f"{trained['name']} ({trained['train_images']:,} images)")  # fmt: skip

    def test_data(self, name, data_dir):
        """The Data whose test split the model is tested on; prints which, and a warning if it is other data.

        name: "auto", "mnist" or "sample"; data_dir: None for the folder that the model's run had.
        """
        data_dir = folder.data_folder(data_dir, self.stored["data_dir"])
        found = data.load(name, data_dir, self.stored["recipe"]["split"])
        if found.name != self.stored["data"]["name"]:
            console.warn(
                f"tested on {found.name} but trained on {self.stored['data']['name']}; the sample's images "
                "are all among MNIST's training images, so these are not test results"
            )
        console.note(f"data: {found.name}, {len(found.test):,} test images")
        return found


def load_all(paths, device_name):
    """The Trained models of the checkpoints at the paths, or of the default checkpoint if paths is None.

    device_name: "auto", "cpu" or "cuda". Raises UserError where a checkpoint or the device cannot be had.
    """
    device = choose_device(device_name)
    paths = paths or [folder.default_checkpoint()]
    models = [Trained(Path(path), *checkpoint.load_model(path, device)) for path in paths]
    console.note(f"device: {describe_device(device)}")
    for number, trained in enumerate(models, 1):
        console.note(f"model{f' {number}' if len(models) > 1 else ''}: {trained.describe()}")
    return models
