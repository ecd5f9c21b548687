"""Knowledge distillation (Hinton et al. 2015): a trained model's logits beside the labels.

The teacher predicts every training image once, as it is, before the first step. A label names one digit,
here and there a wrong one; the logits also say how much the image resembles the other nine. Only
the digit is distilled: the sum's target is computed from the teacher's digit logits and the number,
exactly; the teacher's own sum output is not used.
"""

from functools import cached_property

import torch

from mnist_sum.console import UserError, progress
from mnist_sum.dataset import normalised, one_hot
from mnist_sum.models.exact_addition import add_exactly
from mnist_sum.runs import checkpoint

IMAGES_AT_ONCE = 1000


class Teacher:
    """A trained model's logits for the training images, by their index.

    model: in evaluation mode; images (N, 28, 28) uint8; content: the bytes of its checkpoint's file.
    """

    def __init__(self, model, images, content=b""):
        self.model, self.images, self.content = model, images, content

    @cached_property
    def digit_logits(self):
        """(N, 10), on the model's device; computed when first used: a resumed run may have no step to do."""
        device = next(self.model.parameters()).device
        parts = []
        with torch.no_grad():
            for part in progress(self.images.split(IMAGES_AT_ONCE), desc="teacher"):
                number = one_hot(torch.zeros(len(part), dtype=torch.long, device=device))  # any will do
                parts.append(self.model(normalised(part.unsqueeze(1).to(device)), number)[0])
        return torch.cat(parts)

    def logits(self, index, number):
        """digit_logits (B, 10) and sum_logits (B, 19) for the images index (B,) with number (B, 10)."""
        digit_logits = self.digit_logits[index]
        return digit_logits, add_exactly(digit_logits, number)


def load_teacher(path, data, device, sha256=None, own=()):
    """(Teacher, its checkpoint's SHA-256) of the file at path, for a run on data.

    sha256: of the teacher that the run began with; own: as checkpoint.load has it. Raises UserError where
    it is another, has not been trained, or was trained on other data, some of which may be test images.
    """
    content = checkpoint.read_file(path, own)
    model, stored = checkpoint.load_model(path, device, content, own)
    if sha256 not in (None, stored["sha256"]):
        raise UserError(f"{path} is not the teacher that the run began with; put that one back")
    theirs, ours = stored["data"], checkpoint.describe_data(data)
    if theirs != ours:
        sides = [f"{side['train_images']:,} images of {side['name']}" for side in (theirs, ours)]
        raise UserError(
            f"{path} was trained on {sides[0]}, this run has {sides[1]}, whose test images the teacher may "
            "have seen; train one with this run's --data, --split and --limit"
        )
    if stored["epoch"] == 0:
        raise UserError(f"{path} has not done an epoch yet, so it has nothing to teach; train it first")
    return Teacher(model, data.train.images, content), stored["sha256"]
