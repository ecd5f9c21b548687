"""Batch normalisation over a batch that several processes share.

nn.BatchNorm would take each process's share for the batch, and N processes would train another
model than one does. torch's SyncBatchNorm takes the whole batch but refuses CPU tensors.
"""

import copy

import torch
from torch import nn
from torch.nn.functional import batch_norm

from mnist_sum.distributed import add_up, rank, size


def globally_normalised(model):
    """A model to train in the place of this one: statistics are those of all processes' images.

    It has the model's own parameters and buffers, which stay under their names in the model. With
    one process it is the model itself.
    """
    if size() == 1:
        return model
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, GlobalBatchNorm(child))
    return twin


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """nn.BatchNorm1d or 2d, with its tensors, over the images (B, C, …) of all processes together.

    Computes in float32 whatever it is given, as nn.BatchNorm does. The mean of the processes'
    means and the variance about it come from each one's own mean and variance (Chan et al. 1979),
    so nothing large is ever taken from something large, and one exchange does. (PyTorch's own sums
    on a CPU, in channels_last, are coarser: what differs from one process is mostly their rounding.)
    """

    def __init__(self, norm):
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(norm, name))

    def forward(self, x):
        if not self.training:
            return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        values = x.float()
        variance, mean = torch.var_mean(values, [0, *range(2, x.dim())], correction=0)  # (C,) each
        count = torch.full_like(mean, x.numel() / len(mean))
        variances, means, counts = Gathered.apply(torch.stack((variance, mean, count))).unbind(1)  # (N, C)
        count = counts.sum(0)
        part = counts / count
        mean = (part * means).sum(0)
        variance = (part * (variances + (means - mean).square())).sum(0)
        self.remember(mean.detach(), (variance * count / (count - 1)).detach())
        each = (-1, *[1] * (x.dim() - 2))  # a channel's number for each of its values
        scale = self.weight * (variance + self.eps).rsqrt()
        centred = values - mean.view(each)
        return (centred * scale.view(each) + self.bias.view(each)).to(x.dtype)

    def remember(self, mean, unbiased_variance):
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)


class Gathered(torch.autograd.Function):
    """A tensor of each process, stacked along a new first axis, in all of them; differentiable."""

    @staticmethod
    def forward(_context, mine):
        rows = mine.new_zeros(size(), *mine.shape)
        rows[rank()] = mine
        return add_up(rows)

    @staticmethod
    def backward(_context, gradient):
        return add_up(gradient.clone(memory_format=torch.contiguous_format))[rank()]
