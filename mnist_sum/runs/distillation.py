"""Knowledge distillation (Hinton et al. 2015): a trained model's logits in place of the labels.

The teacher predicts every image as the student sees it in that step, augmentation included (Beyer et al.
2022, "Knowledge distillation: a good teacher is patient and consistent"). A label names one digit, here
and there a wrong one; the logits also say how much the image resembles the other nine. Only the digit is
distilled: the sum's target is computed from the teacher's digit logits and the number, exactly; the
teacher's own sum output is not used.
"""

import torch

from mnist_sum.console import UserError
from mnist_sum.models.exact_addition import add_exactly
from mnist_sum.runs import checkpoint


class Teacher:
    """A trained model that teaches.

    model: in evaluation mode; content: the bytes of its checkpoint's file.
    """

    def __init__(self, model, content=b""):
        self.model, self.content = model, content

    @torch.no_grad()
    def logits(self, image, number):
        """digit_logits (B, 10) and sum_logits (B, 19) for image (B, 1, 28, 28) and number (B, 10)."""
        digit_logits, _ = self.model(image, number)
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
    return Teacher(model, content), stored["sha256"]
