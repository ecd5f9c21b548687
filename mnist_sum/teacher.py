"""Knowledge distillation (Hinton et al. 2015): a trained model's answers beside the labels.

The teacher reads every training image once, as it is, before the first step. A label names one digit,
here and there a wrong one; the answer also says how much the image resembles the other nine. Only
reading is taught: the sum's target is the answer's digit, added to the number exactly, whatever the
teacher's own adder makes of it.
"""

import hashlib
from functools import cached_property

import torch

from mnist_sum import checkpoint
from mnist_sum.dataset import normalised, one_hot
from mnist_sum.errors import Fault
from mnist_sum.models.exact_addition import add_exactly

IMAGES_AT_ONCE = 1000


class Teacher:
    """What a trained model makes of the training images, by their index.

    model: in evaluation mode; images (N, 28, 28) uint8; archive: the bytes of the model's checkpoint.
    """

    def __init__(self, model, images, archive):
        self.model, self.images, self.archive = model, images, archive
        self.digest = digest(archive)

    @cached_property
    def digit_logits(self):
        """(N, 10), on the model's device, read when first asked for: a resumed run may have no step to do."""
        device = next(self.model.parameters()).device
        answers = []
        with torch.no_grad():
            for part in self.images.split(IMAGES_AT_ONCE):
                nothing = one_hot(torch.zeros(len(part), dtype=torch.long, device=device))  # to add
                answers.append(self.model(normalised(part.unsqueeze(1).to(device)), nothing)[0])
        return torch.cat(answers)

    def answers(self, index, number):
        """digit_logits (B, 10) and sum_logits (B, 19) for the images index (B,) with number (B, 10)."""
        digit_logits = self.digit_logits[index]
        return digit_logits, add_exactly(digit_logits, number)


def digest(archive):
    """The SHA-256 of a checkpoint's bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(archive).hexdigest()


def load_teacher(path, data, device, wanted=None):
    """The Teacher whose checkpoint is at path, for a run on data; wanted: its digest, where that is known.

    Raises Fault where it is another, has learned nothing yet, or was trained on other data, some of
    which may be the run's test images.
    """
    archive = checkpoint.read(path)
    if wanted not in (None, digest(archive)):
        raise Fault(f"{path} is not the teacher that the run began with; put that one back")
    model, stored = checkpoint.load_model(path, device, archive)
    theirs, ours = stored["data"], checkpoint.describe_data(data)
    if theirs != ours:
        sides = [f"{side['train_images']:,} images of {side['name']}" for side in (theirs, ours)]
        raise Fault(f"{path} learned from {sides[0]}, this run would from {sides[1]}, whose test images that "
                    "teacher may know; train one with this run's --data, --split and --limit")  # fmt: skip
    if stored["epoch"] == 0:
        raise Fault(f"{path} has not done an epoch yet, so it has nothing to teach; train it first")
    return Teacher(model, data.train.images, archive)
