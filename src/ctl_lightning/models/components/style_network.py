"""What the methods hybrid, global and local share (Kang et al. 2019, section 3): heads, attention, one-query form."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

from ctl_lightning.models.components.backbone import Backbone, Features
from ctl_lightning.models.components.distance import (
    DistanceName,
    attention_weights,
    global_distance,
    hybrid_distance,
    local_distance,
    plain_distance,
    query,
    query_distance,
)
from ctl_lightning.models.components.heads import CategoryEmbedding, Head
from ctl_lightning.models.components.network import (
    Embedded,
    Images,
    Network,
    SceneStyle,
    require_positive,
    without_regions,
)
from ctl_lightning.models.components.temperature import Temperature

Attention = Literal["category", "uniform"]
"""Attention guided by the category as in the paper, or uniform (the ablation)."""


class StyleNetwork(Network):
    """Backbone, the heads Θ_g, Θ_l and Θ_k, and the category embedding.

    Args:
        backbone: image network, frozen or tuned.
        categories: number of categories.
        method: name of the distance: "global", "local" or "hybrid".
        dim: number of dimensions D of the style space; 128 in the paper.
        hidden: width of the heads' hidden layer.
        dropout: dropout rate in the heads.
        attention: "category", guided by the category as in the paper, or "uniform" (the ablation).
        squared: whether distances are squared Euclidean, as in the paper's equations, or plain Euclidean.
        attention_temperature: temperature of the attention, or its initial value if it is learned; 1 is the paper's.
        learn_temperature: whether the temperature of the attention is learned.

    Raises:
        ValueError: an option out of its range.
    """

    losses: tuple[str, ...] = ("triplet", "in_batch_triplet", "info_nce", "contrastive", "logistic", "bpr")

    def __init__(
        self,
        backbone: Backbone,
        categories: int,
        method: DistanceName,
        dim: int,
        hidden: int,
        dropout: float,
        attention: Attention,
        squared: bool,
        attention_temperature: float = 1.0,
        learn_temperature: bool = False,
    ) -> None:
        require_positive(dim=dim, hidden=hidden, attention_temperature=attention_temperature)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {dropout}")
        super().__init__(backbone)
        self.method: DistanceName = method
        self.squared = squared
        if not squared:  # the contrastive loss takes squared distances
            self.losses = tuple(name for name in self.losses if name != "contrastive")
        self.pooled_head = Head(backbone.pooled_features, hidden, dim, dropout, ("scene", "product"))
        if method != "global":
            self.region_head = Head(backbone.region_features, hidden, dim, dropout, ("scene",))
        self.attends = method != "global" and attention == "category"
        if self.attends:
            self.key_head = Head(backbone.region_features, hidden, dim, dropout, ("scene",))
            self.category_embedding = CategoryEmbedding(categories, dim)
        elif learn_temperature or attention_temperature != 1:
            raise ValueError(
                "attention_temperature and learn_temperature are of an attention that differs from region to region; give "
                "model.attention=category, or leave them out"
            )
        # A fixed one is no weight: checkpoints and catalogues of the paper's attention stay what they are.
        self.attention_temperature: Temperature | float = (
            Temperature(attention_temperature, learned=True) if learn_temperature else attention_temperature
        )

    def forward(self, scene: Images, products: Sequence[Images], category: Tensor) -> Embedded:
        """See `Network.forward`.

        All pictures go through the backbone as one batch: the BatchNorm of a tuned backbone then sees scenes and
        products together in training, as its running statistics do.
        """
        count = len(category)
        if isinstance(scene, Tensor):
            features = self.backbone(torch.cat([scene, *products]))  # type: ignore[list-item]
            scene = Features(features.pooled[:count], features.regions[:count])
            pooled = self._as_heads(features.pooled[count:])
        else:
            pooled = torch.cat([self._as_heads(product[0]) for product in products])
        embedded = self.pooled_head(pooled, "product")
        return Embedded(self._scene_style(scene, category), embedded.split(count), embedded.new_zeros(()))

    def embed_scene(self, images: Images, category: Tensor) -> SceneStyle:
        """See `Network.embed_scene`."""
        return self._scene_style(self.backbone(images) if isinstance(images, Tensor) else images, category)

    def _scene_style(self, features: tuple[Tensor, Tensor], category: Tensor) -> SceneStyle:
        pooled, regions = map(self._as_heads, features)
        count = category.shape[0]  # not `len`, which torch.export takes for a constant
        scene = self.pooled_head(pooled, "scene").expand(count, -1)
        if self.method == "global":
            return without_regions(scene)
        if self.attends:
            keys = self.key_head(regions, "scene")
            with _full_precision(keys):
                weights = attention_weights(keys, self.category_embedding(category), self._temperature())
        else:
            weights = regions.new_full((count, regions.shape[1]), 1 / regions.shape[1])
        return SceneStyle(scene, self.region_head(regions, "scene").expand(count, -1, -1), weights)

    def _temperature(self) -> Tensor | float:
        found = self.attention_temperature
        return found() if isinstance(found, Temperature) else found

    def logged(self) -> dict[str, Tensor]:
        """The temperature of the attention, if it is learned."""
        found = self._temperature()
        return {"attention_temperature": found.detach()} if isinstance(found, Tensor) else {}

    def embed_product(self, images: Images) -> Tensor:
        """uint8 products (B, 3, S, S), or features, -> style embeddings f_p (B, D). One backbone pass at most."""
        pooled = self.backbone(images).pooled if isinstance(images, Tensor) else images[0]
        return self.pooled_head(self._as_heads(pooled), "product")

    def _as_heads(self, features: Tensor) -> Tensor:
        """Converts features, which may be stored in half precision, to the precision of the heads."""
        return features.to(self.pooled_head.outer.weight.dtype)

    def distance(self, style: SceneStyle, product: Tensor) -> Tensor:
        """Distance of each scene to its own product, products (B, D) -> (B,)."""
        with _full_precision(product):
            if self.squared:
                return 2 - (query(self.method, *style) * product).sum(-1)
            return region_distance(self.method, style, product, squared=False)

    def query(self, style: SceneStyle) -> Tensor | None:
        """Vectors q (B, D) with d(s, p) = 2 - q·f_p; None if the distance is not squared."""
        if not self.squared:
            return None
        with _full_precision(style.scene):
            return query(self.method, *style)

    def queries(self, style: SceneStyle) -> Mapping[str, Tensor]:
        """Queries (B, D) of the global and local distance, if the method has them: name -> q. Empty if not squared."""
        if not self.squared:
            return {}
        parts: tuple[DistanceName, ...] = ("global", "local") if self.method == "hybrid" else (self.method,)
        with _full_precision(style.scene):
            return {part: query(part, *style) for part in parts}

    def distances(self, style: SceneStyle, products: Tensor) -> Tensor:
        """Distance of every scene to every product, (M, D) -> (B, M); one matrix product if the distance is squared."""
        with _full_precision(products):
            one = self.query(style)
            if one is not None:
                return query_distance(one, products)
            return plain_distance(self.method, *style, products)


def _full_precision(tensor: Tensor) -> AbstractContextManager[None]:
    """Switches off automatic half precision: with eight bits per number, near distances become equal."""
    return torch.autocast(tensor.device.type, enabled=False)


def region_distance(method: DistanceName, style: SceneStyle, product: Tensor, squared: bool = True) -> Tensor:
    """The distance region by region: for pairs in training if it is not squared, and the reference for the other forms.

    Args:
        method: name of the distance: "global", "local" or "hybrid".
        style: style embeddings of B scenes, or of 1 scene for all products.
        product: style embeddings f_p of the products, (B, D).
        squared: whether distances are squared Euclidean or plain Euclidean.

    Returns:
        Distances, (B,).
    """
    if method == "global":
        return global_distance(style.scene, product, squared)
    if method == "local":
        return local_distance(style.regions, style.attention, product, squared)
    return hybrid_distance(style.scene, style.regions, style.attention, product, squared)
