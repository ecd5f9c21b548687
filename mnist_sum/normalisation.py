"""Batch normalisation for training, where PyTorch's own does not serve.

nn.BatchNorm takes a process's share of a batch for the batch, and N processes would train another
model than one does; SyncBatchNorm takes the whole batch but refuses CPU tensors. And with several
threads nn.BatchNorm's backward pass, in channels_last, is two to five times slower where the channels
are no multiple of 16: each thread adds to sums of its own after every place, and those of several
then share a cache line.
"""

import copy
import math

import torch
from torch import nn
from torch.nn.functional import batch_norm

from mnist_sum.distributed import add_up, rank, size

CACHE_LINE = 16  # float32 numbers
VECTOR = 32  # values in a vector register, at most


def batch_normalised(model):
    """A model to train in the place of this one, which normalises over all processes' images.

    It has the model's own parameters and buffers, which stay under their names in the model. Where
    nothing has to be replaced it is the model itself.
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        if size() > 1 or (on_cpu and isinstance(module, nn.BatchNorm2d) and module.num_features % CACHE_LINE)
    ]
    if not names:
        return model
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    if not on_cpu:
        return nn.SyncBatchNorm.convert_sync_batchnorm(twin)
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(twin.get_submodule(parent), child, BatchNorm(twin.get_submodule(name)))
    return twin


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """nn.BatchNorm1d or 2d, with its tensors, over the images (B, C, …) of all processes together."""

    def __init__(self, norm):
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(norm, name))

    def forward(self, x):
        if not self.training:
            return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        y, mean, unbiased_variance = Normalised.apply(x, self.weight, self.bias, self.eps)
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)
        return y


class Normalised(torch.autograd.Function):
    """(x normalised, the mean, the unbiased variance) of x (B, C, …).

    A few places of every map are laid side by side and count as channels of their own, lanes, which
    is what makes it fast. Their mean, and the variance about it, come from each lane's own mean and
    variance (Chan et al. 1979), so no variance is a small rest of large sums; and those of all processes
    in the same way, in one exchange.
    """

    @staticmethod
    def forward(context, x, weight, bias, eps):
        wide = side_by_side(x)
        unused = weight.new_zeros(wide.shape[1])  # running statistics, left as they are by momentum 0
        mean, variance = torch.batch_norm_update_stats(wide, unused, unused, 0.0)
        lanes = len(mean) // len(weight)
        counts = mean.new_full((lanes, 1), len(wide))
        mean, variance, count = together(mean.view(lanes, -1), variance.view(lanes, -1), counts)
        if size() > 1:
            mine = torch.stack((mean, variance, count.expand_as(mean)))
            found = mine.new_zeros(size(), *mine.shape)
            found[rank()] = mine
            mean, variance, count = together(*add_up(found).unbind(1))
        each = torch.stack((mean, variance, weight, bias)).repeat(1, lanes).unbind()
        context.save_for_backward(wide, *each[:3], (variance + eps).rsqrt() * weight / -count)
        context.eps = eps
        unbiased = variance * count / (count - 1)
        context.mark_non_differentiable(mean, unbiased)
        return back_in_place(batch_norm(wide, *each, eps=eps), x), mean, unbiased

    @staticmethod
    def backward(context, gradient, _mean, _variance):
        wide, mean, variance, weight, factor = context.saved_tensors
        lanes = len(mean) // len(factor)
        onward, *slopes = torch.ops.aten.native_batch_norm_backward(
            side_by_side(gradient), wide, weight, mean, variance, None, None, False, context.eps, [True] * 3
        )
        slopes = torch.stack(slopes).view(2, lanes, -1).sum(1)  # of this process's weight and bias
        # So far as if mean and variance were given; but each value moves them, and they all others.
        moved = (add_up(slopes.clone()) * factor).repeat(1, lanes)
        onward += batch_norm(wide, mean, variance, *moved, eps=context.eps)
        return back_in_place(onward, gradient), *slopes, None


def side_by_side(x):
    """(B, C, …) -> (rows, lanes * C, 1, 1), places beside each other; a view in channels_last.

    As many lanes as fill vector registers without a rest, or fewer if the places do not go into them.
    """
    channels, places = x.shape[1], x.numel() // x.shape[1]
    lanes = VECTOR // math.gcd(VECTOR, channels)
    while places % lanes:
        lanes //= 2
    return x.movedim(1, -1).reshape(-1, lanes * channels, 1, 1)


def back_in_place(wide, x):
    """The reverse of side_by_side, in the shape of x."""
    return wide.reshape(x.movedim(1, -1).shape).movedim(-1, 1)


def together(means, variances, counts):
    """(mean, variance, count) of all values, from those of the groups along the first axis."""
    count = counts.sum(0)
    mean = (means * counts).sum(0) / count
    return mean, ((variances + (means - mean).square()) * counts).sum(0) / count, count
