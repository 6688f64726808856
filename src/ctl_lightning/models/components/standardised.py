"""How features of unlike scales are brought to one: by the mean and deviation of what is trained on, learned once."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

LIMIT = 6.0
"""Standardised values beyond it are cut off: a feature that hardly varied in training must not decide alone."""


class Standardised(nn.Module):
    """(x - mean) / deviation of each feature, cut off at ± LIMIT. Its numbers are saved with the weights.

    Args:
        features: number of features F.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    @torch.no_grad()
    def fit(self, blocks: Iterable[Tensor]) -> None:
        """Takes mean and deviation from all rows of the blocks, (B, F) each; a feature that never varies is left as it is."""
        count, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for block in blocks:
            rows = block.double().cpu()
            count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(0).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * mean.abs().clamp_min(1e-6), std, 1.0))

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, F) -> standardised features (B, F)."""
        return ((features - self.mean) / self.std).clamp(-LIMIT, LIMIT)
