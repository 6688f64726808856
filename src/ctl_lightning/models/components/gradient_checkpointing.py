"""Gradient checkpointing: activations are computed again in the backward pass, not kept (Chen et al. 2016)."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.passes.split_module import split_module
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class Recomputed:
    """Runs a traced network segment by segment, and keeps only the activations that pass from one segment to the next.

    Not a module: it has no weights of its own, so the network's state dict is the same with and without it.

    Args:
        network: network that torch.fx has traced.
    """

    def __init__(self, network: GraphModule) -> None:
        self._network = network
        self._split: nn.Module | None = None

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Same outputs as `network(pixels)`."""
        if self._split is None:
            self._split = _in_segments(self._network)
        outputs: dict[str, Tensor] = self._split(pixels)
        return outputs


def _in_segments(network: GraphModule) -> nn.Module:
    """Splits into as many segments as each has operations, which keeps the least (Chen et al. 2016, section 4.1)."""
    for module in network.modules():  # an in-place operation would overwrite the input of a segment
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    for node in network.graph.nodes:
        if node.kwargs.get("inplace"):
            node.update_kwarg("inplace", False)
    operations = [node for node in network.graph.nodes if node.op in ("call_module", "call_function", "call_method")]
    size = math.ceil(math.sqrt(len(operations)))
    segment = {node: number // size for number, node in enumerate(operations)}

    def of(node: Node) -> int:
        return segment[node]

    split = split_module(network, network, of)
    for name, child in list(split.named_children()):
        setattr(split, name, _Segment(child))
    return split


class _Segment(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *inputs: Tensor) -> Any:
        if not torch.is_grad_enabled():
            return self.part(*inputs)
        return checkpoint(self.part, *inputs, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_stay(self.part)


@contextmanager
def _statistics_stay(part: nn.Module) -> Iterator[None]:
    """Holds the running statistics fixed, so that a batch that goes through a second time does not count twice."""
    norms = [module for module in part.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = norm.num_batches_tracked.clone() if norm.num_batches_tracked is not None else None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
