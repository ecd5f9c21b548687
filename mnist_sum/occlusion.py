"""Occlusion maps (Zeiler and Fergus 2014): how much less probable an answer is when a patch of the image is hidden.

They need nothing of a model but forward. A patch of 5x5 pixels hides a stroke, about 3 pixels wide in MNIST, from
side to side, but no whole part of a digit. Hidden is black, MNIST's background: a gap in the stroke.
"""

import torch
from torch import Tensor, nn

from mnist_sum.data import normalize, one_hot

PATCH = 5  # pixels, odd


@torch.no_grad()
def occlusion_maps(model: nn.Module, pixels: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """(digit_map, sum_map) of a model in evaluation mode, float32 (28, 28) on the CPU, in nats.

    Each pixel says by how much the log-probability of the model's answer falls when the patch around it is hidden.
    pixels: uint8 (28, 28).
    """
    device = next(model.parameters()).device
    pixels = pixels.view(1, 28, 28).to(device)
    # a mask for each pixel, the patch around it: (784, 28, 28)
    place = torch.arange(28, device=device)
    near = (place.unsqueeze(1) - place).abs() <= PATCH // 2
    patches = (near[:, None, :, None] & near[None, :, None, :]).view(-1, 28, 28)
    hidden = pixels.masked_fill(patches, 0)
    differs = (hidden != pixels).flatten(1).any(1)  # a patch of background alone changes nothing
    images = normalize(torch.cat((pixels, hidden[differs])).unsqueeze(1))
    numbers = one_hot(torch.tensor([number], device=device)).expand(len(images), -1)
    outputs = [model(*part) for part in zip(images.split(256), numbers.split(256), strict=True)]
    maps = []
    for logits in map(torch.cat, zip(*outputs, strict=True)):
        log_probabilities = logits.float().log_softmax(1)
        answer = log_probabilities[:, log_probabilities[0].argmax()]  # of the whole image first
        falls = torch.zeros(len(patches), device=device)
        falls[differs] = answer[0] - answer[1:]
        maps.append(falls.view(28, 28).cpu())
    return maps[0], maps[1]
