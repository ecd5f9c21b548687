"""Batch normalisation where PyTorch's own is slow on a CPU, or sees the images of one process alone.

In channels_last, with several threads, nn.BatchNorm2d's backward pass is slow where the channels are no
multiple of 16: after every pixel each thread adds to its own sums, and those of several share a cache line.
An epoch with ours against PyTorch's own (see tests/benchmarks/README.md): deep_adder and compact 1.29
times faster; tiny 0.85, and large 1.07, which is within its spread, so these use PyTorch's. And with
several processes nn.BatchNorm would train another model, as it normalises each shard by itself;
nn.SyncBatchNorm refuses CPU tensors.
"""

import copy
import math

import torch
from torch import nn
from torch.nn.functional import batch_norm

from mnist_sum.system.processes import all_reduce, rank, size

VECTOR = 32  # values in a vector register, at most


class _OnCpu:
    """For an nn.BatchNorm1d or 2d of the default options: another training step on a CPU."""

    def forward(self, x):
        if not self.training or x.device.type != "cpu":
            return super().forward(x)
        y, mean, unbiased_variance = Normalised.apply(x, self.weight, self.bias, self.eps)
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)
        return y


class BatchNorm1d(_OnCpu, nn.BatchNorm1d):
    """nn.BatchNorm1d over the images (B, C) of all processes."""


class BatchNorm2d(_OnCpu, nn.BatchNorm2d):
    """nn.BatchNorm2d over the images (B, C, H, W) of all processes, faster where 16 does not divide C."""


def synchronised(model):
    """The model to train with: itself, or, for several processes, a twin that normalises over all of them.

    The twin has the model's own parameters and buffers, under the same names.
    """
    if size() == 1:
        return model
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    if next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(twin)
    for module in twin.modules():
        for parent, ours in ((nn.BatchNorm1d, BatchNorm1d), (nn.BatchNorm2d, BatchNorm2d)):
            if isinstance(module, parent):
                module.__class__ = ours
    return twin


class Normalised(torch.autograd.Function):
    """(x normalised, mean (C,), unbiased variance (C,)) of x (B, C, ...), over all processes.

    Several pixels are laid side by side, as channels of their own (lanes): this makes it fast. A channel's
    moments are combined from its lanes', then from all processes': no variance is a difference of large sums.
    """

    @staticmethod
    def forward(context, x, weight, bias, eps):
        folded = fold_lanes(x)
        unused = weight.new_zeros(folded.shape[1])  # running statistics, which momentum 0 leaves as they are
        mean, variance = torch.batch_norm_update_stats(folded, unused, unused, 0.0)
        lanes = len(mean) // len(weight)
        counts = mean.new_full((lanes, 1), len(folded))
        mean, variance, count = combine_moments(mean.view(lanes, -1), variance.view(lanes, -1), counts)
        if size() > 1:
            own = torch.stack((mean, variance, count.expand_as(mean)))
            every = own.new_zeros(size(), *own.shape)
            every[rank()] = own
            mean, variance, count = combine_moments(*all_reduce(every).unbind(1))
        each = torch.stack((mean, variance, weight, bias)).repeat(1, lanes).unbind()
        context.save_for_backward(folded, *each[:3], (variance + eps).rsqrt() * weight / -count)
        context.eps = eps
        unbiased = variance * count / (count - 1)
        context.mark_non_differentiable(mean, unbiased)
        return unfold_lanes(batch_norm(folded, *each, eps=eps), x), mean, unbiased

    @staticmethod
    def backward(context, gradient, _mean, _variance):
        folded, mean, variance, weight, factor = context.saved_tensors
        lanes = len(mean) // len(factor)
        of_x, *of_weights = torch.ops.aten.native_batch_norm_backward(
            fold_lanes(gradient), folded, weight, mean, variance, None, None, False, context.eps, [True] * 3
        )
        of_weights = torch.stack(of_weights).view(2, lanes, -1).sum(1)  # this process's, of weight and bias
        # So far mean and variance were constants; but each value moves them, and they move all the others.
        moved = (all_reduce(of_weights.clone()) * factor).repeat(1, lanes)
        of_x += batch_norm(folded, mean, variance, *moved, eps=context.eps)
        return unfold_lanes(of_x, gradient), *of_weights, None


def fold_lanes(x):
    """(B, C, ...) -> (rows, lanes * C, 1, 1), a view in channels_last; as many lanes as fill vector registers
    without a remainder, or fewer where they do not divide the pixels."""
    channels, pixels = x.shape[1], x.numel() // x.shape[1]
    lanes = VECTOR // math.gcd(VECTOR, channels)
    while pixels % lanes:
        lanes //= 2
    return x.movedim(1, -1).reshape(-1, lanes * channels, 1, 1)


def unfold_lanes(folded, x):
    """The reverse of fold_lanes, in the shape of x."""
    return folded.reshape(x.movedim(1, -1).shape).movedim(-1, 1)


def combine_moments(means, variances, counts):
    """(mean, variance, count) of all values, from those of groups along the first axis (Chan et al. 1979)."""
    count = counts.sum(0)
    mean = (means * counts).sum(0) / count
    return mean, ((variances + (means - mean).square()) * counts).sum(0) / count, count
