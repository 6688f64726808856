"""What the methods recipe and geometry share: standardised features -> heads of their own for scenes and products, several averaged."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.distance import query
from ctl_lightning.models.components.heads import Head, Kind
from ctl_lightning.models.components.network import SceneStyle, require_positive, without_regions
from ctl_lightning.models.components.pooled_network import PooledNetwork
from ctl_lightning.models.components.standardised import Standardised

Heads = Literal["separate", "shared"]
"""A head each for scenes and for products, or one for both as in the paper."""


class ScaledHeads(nn.Module):
    """Standardised features -> the unit vectors of all members side by side, divided by the root of their number.

    The scale is learned before the heads, and means nothing without them: a run that starts from another takes both, or
    neither.

    Args:
        features: number of features F.
        heads: head of each member.
    """

    def __init__(self, features: int, heads: nn.ModuleList) -> None:
        super().__init__()
        self.scale = Standardised(features)
        self.heads = heads

    def forward(self, features: Tensor, kind: Kind) -> Tensor:
        """Features (B, F) -> unit vectors (B, members · D)."""
        inputs = self.scale(features)
        return torch.cat([head(inputs, kind) for head in self.heads], 1) / len(self.heads) ** 0.5


class AveragedHeads(PooledNetwork):
    """d = mean over the members of |f_s - f_p|², each member with heads of its own.

    The members' unit vectors side by side, divided by the root of their number, are one unit vector, whose squared distance
    is that mean: a product stays one vector, a scene one query. Each member has a loss of its own in training.

    Args:
        backbone: frozen image network: it is trained on cached features.
        scene_features: number of features of a scene.
        dim: number of dimensions of each member's style space.
        hidden: width of the heads' hidden layer.
        dropout: dropout rate in the heads.
        heads: "separate" or "shared"; shared ones need scenes with as many features as products.
        members: number of members.

    Raises:
        ValueError: an option out of its range.
    """

    losses = ("info_nce", "in_batch_triplet", "triplet")
    on_features = True

    def __init__(
        self,
        backbone: Backbone,
        scene_features: int,
        dim: int,
        hidden: int,
        dropout: float,
        heads: Heads,
        members: int,
    ) -> None:
        require_positive(dim=dim, hidden=hidden, members=members)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {dropout}")
        super().__init__(backbone)
        features = backbone.pooled_features

        def of(width: int, *kinds: Kind) -> nn.ModuleList:
            return nn.ModuleList(Head(width, hidden, dim, dropout, kinds) for _ in range(members))

        of_scenes = of(scene_features, "scene") if heads == "separate" else of(features, "scene", "product")
        of_products = of(features, "product") if heads == "separate" else of_scenes
        self.scenes = ScaledHeads(scene_features, of_scenes)
        self.products = ScaledHeads(features, of_products)

    def fit_inputs(self, inputs: Mapping[str, Iterable[Tensor]]) -> None:
        """See `Network.fit_inputs`."""
        for name, blocks in inputs.items():
            scaled: ScaledHeads = getattr(self, name)
            scaled.scale.fit(blocks)

    def scene_vector(self, pooled: Tensor) -> Tensor:
        """Features of scenes (B, F) -> unit vectors (B, members · D)."""
        return self.scenes(pooled, "scene")

    def product_vector(self, pooled: Tensor) -> Tensor:
        """Features of products (B, F) -> unit vectors (B, members · D)."""
        return self.products(pooled, "product")

    def query(self, style: SceneStyle) -> Tensor:
        """Vectors q (B, members · D) with d(s, p) = 2 - q·f_p, which holds because the vectors have unit length."""
        return query("global", *style)

    def separately(self, style: SceneStyle, products: Sequence[Tensor]) -> list[tuple[SceneStyle, tuple[Tensor, ...]]]:
        """See `Network.separately`: the unit vectors of each member."""
        count = len(self.scenes.heads)
        scenes = (style.scene * count**0.5).chunk(count, 1)
        parts = zip(*((one * count**0.5).chunk(count, 1) for one in products), strict=True)
        return [(without_regions(scene), own) for scene, own in zip(scenes, parts, strict=True)]
