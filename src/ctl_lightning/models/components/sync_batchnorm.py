"""BatchNorm over the batches of all processes without a GPU, which torch's own SyncBatchNorm needs."""

from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SynchronisedBatchNorm(_BatchNorm):
    """Normalises with mean and variance over all processes; the reference is one process with the whole batch."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Values (B, C, ...) -> normalised values of the same shape."""
        if not self.training or not distributed.is_initialized():
            return super().forward(input)
        over = [0, *range(2, input.dim())]
        # In full precision even where the layers run in half: these are sums of many numbers.
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        count = _summed(values.new_tensor([values.numel() / values.shape[1]]))
        mean = _summed(values.sum(over)) / count
        shape = [1, -1] + [1] * (values.dim() - 2)
        centred = values - mean.view(shape)
        variance = _summed(centred.square().sum(over)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean.detach(), share)
                self.running_var.lerp_(variance.detach() * count / (count - 1), share)
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        return (normal * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)


class _Sum(torch.autograd.Function):
    """Sum over the processes; each process gets the gradient of the sum of all their losses."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(_, gradient)


def _summed(values: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(values))


def synchronise(module: nn.Module) -> None:
    """Replaces, in place, every BatchNorm below `module` by one over all processes with the same parameters and buffers."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            norm = SynchronisedBatchNorm(child.num_features, child.eps, child.momentum, affine=False).train(
                child.training
            )
            norm.affine, norm.weight, norm.bias = child.affine, child.weight, child.bias
            norm.running_mean, norm.running_var = child.running_mean, child.running_var
            norm.num_batches_tracked = child.num_batches_tracked
            module.register_module(name, norm)
        else:
            synchronise(child)
