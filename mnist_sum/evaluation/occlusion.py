"""What a model looks at: how much less sure it is of its answer when a patch of the image is hidden.

Occlusion sensitivity, from Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks",
section 4.2. It needs nothing of a model but forward, so it shows for every model alike what its answer
rests on.

A patch of 5 x 5 pixels hides a stroke, about 3 pixels wide in MNIST, from side to side, but no whole part
of a digit. With 3 pixels a rim of the stroke is left, and half the maps of `tiny` peak below 0.7 nats, with
5 at 3.3 or more; those of 7 and 9 are blobs that no longer say which stroke it was. "Hidden" is the value
0, MNIST's background: a gap in the stroke, as if it had not been written. (Any grey would be a new stroke.)
There is a patch around every pixel (stride 1). One that covers background alone changes nothing and is not
run, so a digit takes 200 to 450 passes of one image, in one or two batches: with `tiny` 30 to 45 ms on one
thread.

Where the number joins can be seen. By exact addition (`tiny`, `large`) the sum rests on what the digit
rests on: the cosine similarity of the two maps is 1.00. Late fusion of ten logits (`compact`) gives 0.88.
Early fusion (`channel_fusion`) gives 0.70, and its sum's maps for two numbers are no more alike than that,
0.67: it looks at the same image in another way for another number. These figures are of 100 validation
images with three numbers each, of the shipped models and of `channel_fusion` after 6 epochs (--split
validation, seed 0), by tests/benchmarks/occlusion.py.
"""

import torch

from mnist_sum.dataset import normalised, one_hot
from mnist_sum.evaluation.exhaustive import require_numbers

PATCH = 5  # pixels, odd
BACKGROUND = 0  # of an image in uint8
AT_ONCE = 256  # images in a batch


@torch.no_grad()
def occlusion_maps(model, pixels, number):
    """(digit_map, sum_map) of a model in evaluation mode, float32 (28, 28) each, on the CPU, in nats.

    By how much the log-probability of the model's own answer, its most probable digit or sum, falls when
    the patch around that pixel is hidden; below 0 where it rises, and 0 where the patch hides nothing.
    pixels: uint8 (28, 28); number: 0 to 9. Raises UserError where an output is NaN.
    """
    device = next(model.parameters()).device
    pixels = pixels.view(1, 28, 28).to(device)
    patches = _patches().to(device)
    hidden = pixels.masked_fill(patches, BACKGROUND)
    differs = (hidden != pixels).flatten(1).any(1)
    images = torch.cat((pixels, hidden[differs])).unsqueeze(1)
    numbers = one_hot(torch.tensor([number], device=device))
    outputs = [model(normalised(part), numbers.expand(len(part), -1)) for part in images.split(AT_ONCE)]
    maps = []
    for logits in map(torch.cat, zip(*outputs, strict=True)):
        require_numbers(logits)
        log_probabilities = logits.float().log_softmax(1)
        whole, *_ = seen = log_probabilities[:, log_probabilities[0].argmax()]
        falls = torch.zeros(len(patches), device=device)
        falls[differs] = whole - seen[1:]
        maps.append(falls.view(28, 28).cpu())
    return tuple(maps)


def _patches():
    """A mask for each pixel, bool (784, 28, 28): the patch around it, cut off at the border."""
    place = torch.arange(28)
    near = (place.unsqueeze(1) - place).abs() <= PATCH // 2
    return (near[:, None, :, None] & near[None, :, None, :]).view(-1, 28, 28)
