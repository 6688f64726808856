"""The head g, which maps a backbone feature into the style space, and the category embedding."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["scene", "product"]


class Head(nn.Module):
    """g = Linear - BatchNorm - ReLU - Dropout - Linear - L2-normalise (Kang et al. 2019, section 3.2).

    All parameters are shared by scenes and products; the BatchNorm's statistics are kept for each kind of picture. The paper
    does not say how it treats them. Scenes and products differ far more than scenes among themselves: with joint
    statistics training was much slower (an earlier rendering of synthetic looks, global distance, AUC after two epochs: 0.58 against 0.74), and
    statistics of a kind in training with joint ones in evaluation evaluate another network than the trained one.

    Args:
        features: width F of the backbone feature.
        hidden: width of the hidden layer (the paper does not state it).
        dim: D, of the style space.
        dropout: rate (the paper does not state it).
        kinds: of picture that go through it.
    """

    def __init__(self, features: int, hidden: int, dim: int, dropout: float, kinds: Sequence[Kind]) -> None:
        super().__init__()
        self.inner = nn.Linear(features, hidden, bias=False)  # the normalisation takes a bias away
        self.norm = nn.ModuleDict({kind: nn.BatchNorm1d(hidden) for kind in kinds})
        for norm in self.norm.values():  # one scale and shift for all kinds
            norm.weight, norm.bias = self.norm[kinds[0]].weight, self.norm[kinds[0]].bias
        self.dropout = nn.Dropout(dropout)
        self.outer = nn.Linear(hidden, dim)

    def forward(self, feature: Tensor, kind: Kind) -> Tensor:
        """Features (..., F) of pictures of one kind -> unit vectors (..., D)."""
        flat = feature.reshape(-1, feature.shape[-1])
        hidden = self.dropout(F.relu(self.norm[kind](self.inner(flat))))
        # In full precision also where the layers run in half: distances are differences of nearly equal numbers.
        vectors = in_full(self.outer(hidden))
        return F.normalize(vectors, dim=-1).reshape(*feature.shape[:-1], -1)


def in_full(values: Tensor) -> Tensor:
    """Half precision as float32; others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class CategoryEmbedding(nn.Module):
    """e_c, a learned unit vector a category (the paper's ê_c): it asks the attention for one map a category."""

    def __init__(self, categories: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(categories, dim) / dim**0.5)

    def forward(self, category: Tensor) -> Tensor:
        """Indices (B,) -> unit vectors (B, D)."""
        return F.normalize(in_full(self.weight), dim=-1)[category]
