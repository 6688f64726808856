"""How a backbone feature is mapped into the style space (the head g), and how a category is embedded."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["scene", "product"]


class Head(nn.Module):
    """g = Linear - BatchNorm - ReLU - Dropout - Linear - L2-normalise (Kang et al. 2019, section 3.2).

    Scenes and products share all parameters; BatchNorm statistics are kept separately for each kind of picture. The
    paper does not say how it treats them. Scenes and products differ far more than scenes among themselves: with joint
    statistics training was much slower (an earlier rendering of synthetic looks, global distance, AUC after two epochs:
    0.58 against 0.74), and separate statistics in training with joint ones in evaluation would evaluate another network
    than the trained one.

    Args:
        features: width F of the backbone feature.
        hidden: width of the hidden layer (the paper does not state it).
        dim: number of dimensions D of the style space.
        dropout: dropout rate (the paper does not state it).
        kinds: kinds of picture that go through this head: "scene", "product" or both.
    """

    def __init__(self, features: int, hidden: int, dim: int, dropout: float, kinds: Sequence[Kind]) -> None:
        super().__init__()
        self.inner = nn.Linear(features, hidden, bias=False)  # BatchNorm would remove a bias
        self.norm = nn.ModuleDict({kind: nn.BatchNorm1d(hidden) for kind in kinds})
        for norm in self.norm.values():  # one scale and shift for all kinds
            norm.weight, norm.bias = self.norm[kinds[0]].weight, self.norm[kinds[0]].bias
        self.dropout = nn.Dropout(dropout)
        self.outer = nn.Linear(hidden, dim)

    def forward(self, feature: Tensor, kind: Kind) -> Tensor:
        """Features (..., F) of pictures of one kind -> style embeddings, unit vectors (..., D)."""
        flat = feature.reshape(-1, feature.shape[-1])
        hidden = self.dropout(F.relu(self.norm[kind](self.inner(flat))))
        # In full precision even where the layers run in half: distances are differences of nearly equal numbers.
        vectors = in_full(self.outer(hidden))
        return F.normalize(vectors, dim=-1).reshape(*feature.shape[:-1], -1)


def in_full(values: Tensor) -> Tensor:
    """Converts half-precision values to float32; leaves other types as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class CategoryEmbedding(nn.Module):
    """e_c, one learned unit vector per category (the paper's ê_c): it gives each category its own attention map."""

    def __init__(self, categories: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(categories, dim) / dim**0.5)

    def forward(self, category: Tensor) -> Tensor:
        """Category indices (B,) -> unit vectors (B, D)."""
        return F.normalize(in_full(self.weight), dim=-1)[category]
