"""The style network: pictures -> scene and product embeddings -> distances (Kang et al. 2019, section 3)."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ctl_lightning.models.components.backbone import Backbone, Features
from ctl_lightning.models.components.distance import (
    Method,
    attention_weights,
    global_distance,
    hybrid_distance,
    local_distance,
    plain_distance,
    query,
    query_distance,
)
from ctl_lightning.models.components.heads import CategoryEmbedding, Head

Images = Tensor | tuple[Tensor, Tensor]
"""uint8 pictures (B, 3, S, S), or a frozen backbone's features of them: pooled (B, F) and, of scenes, regions (B, R, C)."""


class SceneStyle(NamedTuple):
    """A (scene, category): `scene` f_s (B, D), `regions` f_i (B, R, D), `attention` a_i (B, R).

    The global distance has no regions: then R = 0.
    """

    scene: Tensor
    regions: Tensor
    attention: Tensor


class Embedded(NamedTuple):
    """A training batch.

    Attributes:
        style: of the B scenes.
        products: f_p of each kind of product, such as positives and negatives, (B, D) each.
        penalty: what the network itself adds to the loss, a scalar; 0 for all but auto-encoders.
    """

    style: SceneStyle
    products: tuple[Tensor, ...]
    penalty: Tensor


def without_regions(scene: Tensor) -> SceneStyle:
    """The style of scenes of which a method has one vector, (B, D), and no regions."""
    count, width = scene.shape  # not `len`, which torch.export takes for a constant
    return SceneStyle(scene, scene.new_zeros(count, 0, width), scene.new_zeros(count, 0))


class StyleNetwork(nn.Module):
    """Backbone, the heads Θ_g, Θ_l and Θ_k, and the category embedding.

    Args:
        backbone: frozen or not.
        categories: how many.
        method: which distance.
        dim: D, of the style space; 128 in the paper.
        hidden: width of the heads' hidden layer.
        dropout: of the heads.
        attention: by category as in the paper, or uniform (the ablation).
        squared: squared Euclidean distances as in the paper's equations, or plain ones.
    """

    def __init__(
        self,
        backbone: Backbone,
        categories: int,
        method: Method,
        dim: int,
        hidden: int,
        dropout: float,
        attention: Literal["category", "uniform"],
        squared: bool,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.method = method
        self.squared = squared
        self.pooled_head = Head(backbone.pooled_features, hidden, dim, dropout, ("scene", "product"))
        if method != "global":
            self.region_head = Head(backbone.region_features, hidden, dim, dropout, ("scene",))
        self.attends = method != "global" and attention == "category"
        if self.attends:
            self.key_head = Head(backbone.region_features, hidden, dim, dropout, ("scene",))
            self.category_embedding = CategoryEmbedding(categories, dim)

    def forward(self, scene: Images, products: Sequence[Images], category: Tensor) -> Embedded:
        """Embeds a training batch; every picture goes through the backbone once.

        All pictures go as one batch: the BatchNorm of a tuned backbone then sees scenes and products together in training, as its
        running statistics do.

        Args:
            scene: uint8 scene crops, (B, 3, S, S), or their features.
            products: of each scene, such as its positive and its negative: uint8 pictures, (B, 3, S, S), or their features.
            category: index of each product's category, (B,).

        Returns:
            The styles of the scenes, and f_p of each of `products`.
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
        """uint8 scene crops (B, 3, S, S), or features, and category indices (B,) -> SceneStyle. One backbone pass at most."""
        return self._scene_style(self.backbone(images) if isinstance(images, Tensor) else images, category)

    def _scene_style(self, features: tuple[Tensor, Tensor], category: Tensor) -> SceneStyle:
        pooled, regions = map(self._as_heads, features)
        scene = self.pooled_head(pooled, "scene")
        if self.method == "global":
            return without_regions(scene)
        if self.attends:
            keys = self.key_head(regions, "scene")
            with _full_precision(keys):
                weights = attention_weights(keys, self.category_embedding(category))
        else:
            weights = regions.new_full(regions.shape[:2], 1 / regions.shape[1])
        return SceneStyle(scene, self.region_head(regions, "scene"), weights)

    def embed_product(self, images: Images) -> Tensor:
        """uint8 products (B, 3, S, S), or features, -> f_p (B, D). One backbone pass at most."""
        pooled = self.backbone(images).pooled if isinstance(images, Tensor) else images[0]
        return self.pooled_head(self._as_heads(pooled), "product")

    def _as_heads(self, features: Tensor) -> Tensor:
        """Features, which may be stored in half precision, in that of the heads."""
        return features.to(self.pooled_head.outer.weight.dtype)

    def distance(self, style: SceneStyle, product: Tensor) -> Tensor:
        """Each scene to its own product, (B, D) -> (B,)."""
        with _full_precision(product):
            if self.squared:
                return 2 - (query(self.method, *style) * product).sum(-1)
            return region_distance(self.method, style, product, squared=False)

    def query(self, style: SceneStyle) -> Tensor:
        """q (B, D) of B (scene, category) with d(s, p) = 2 - q·f_p; only if the distance is squared."""
        with _full_precision(style.scene):
            return query(self.method, *style)

    def distances(self, style: SceneStyle, products: Tensor) -> Tensor:
        """Every scene to every product, (M, D) -> (B, M); one matrix product if the distance is squared."""
        with _full_precision(products):
            if self.squared:
                return query_distance(self.query(style), products)
            return plain_distance(self.method, *style, products)


def _full_precision(tensor: Tensor) -> AbstractContextManager[None]:
    """Switches off the automatic half precision: with eight bits of a number, near distances are equal."""
    return torch.autocast(tensor.device.type, enabled=False)


def region_distance(method: Method, style: SceneStyle, product: Tensor, squared: bool = True) -> Tensor:
    """The distance region by region: of pairs in training if it is not squared, and the reference for the other forms.

    Args:
        method: which distance.
        style: of B scenes, or of 1 scene for all products.
        product: f_p, (B, D).
        squared: or plain Euclidean.

    Returns:
        (B,)
    """
    if method == "global":
        return global_distance(style.scene, product, squared)
    if method == "local":
        return local_distance(style.regions, style.attention, product, squared)
    return hybrid_distance(style.scene, style.regions, style.attention, product, squared)
