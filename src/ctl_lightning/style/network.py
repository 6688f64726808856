"""The style network: pictures -> scene and product embeddings -> distances (Kang et al. 2019, section 3)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ctl_lightning.style.backbone import Backbone, Features
from ctl_lightning.style.distance import (
    Method,
    attention_weights,
    global_distance,
    hybrid_distance,
    local_distance,
    plain_distance,
    query,
    query_distance,
)
from ctl_lightning.style.heads import CategoryEmbedding, Head


class SceneStyle(NamedTuple):
    """A (scene, category): `scene` f_s (B, D), `regions` f_i (B, R, D), `attention` a_i (B, R).

    The global distance has no regions: then R = 0.
    """

    scene: Tensor
    regions: Tensor
    attention: Tensor


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

    def forward(self, scene: Tensor, positive: Tensor, negative: Tensor, category: Tensor) -> tuple[Tensor, Tensor]:
        """The two distances of B triplets; three backbone passes each.

        All pictures go through the backbone as one batch: the BatchNorm of a tuned backbone then sees scenes and products
        together in training, as its running statistics do.

        Args:
            scene: uint8 scene crops, (B, 3, S, S).
            positive: uint8 products, (B, 3, S, S).
            negative: uint8 products, (B, 3, S, S).
            category: index of each product's category, (B,).

        Returns:
            d(s, p⁺) and d(s, p⁻), (B,) each.
        """
        features = self.backbone(torch.cat([scene, positive, negative]))
        count = len(scene)
        style = self._scene_style(Features(features.pooled[:count], features.regions[:count]), category)
        positives, negatives = self.pooled_head(features.pooled[count:], "product").chunk(2)
        return self.distance(style, positives), self.distance(style, negatives)

    def embed_scene(self, images: Tensor, category: Tensor) -> SceneStyle:
        """uint8 scene crops (B, 3, S, S) and category indices (B,) -> SceneStyle. One backbone pass."""
        return self._scene_style(self.backbone(images), category)

    def _scene_style(self, features: Features, category: Tensor) -> SceneStyle:
        scene, regions = self.pooled_head(features.pooled, "scene"), features.regions
        if self.method == "global":
            return SceneStyle(scene, scene.new_zeros(len(scene), 0, scene.shape[1]), scene.new_zeros(len(scene), 0))
        if self.attends:
            weights = attention_weights(self.key_head(regions, "scene"), self.category_embedding(category))
        else:
            weights = regions.new_full(regions.shape[:2], 1 / regions.shape[1])
        return SceneStyle(scene, self.region_head(regions, "scene"), weights)

    def embed_product(self, images: Tensor) -> Tensor:
        """uint8 products (B, 3, S, S) -> f_p (B, D). One backbone pass."""
        return self.pooled_head(self.backbone(images).pooled, "product")

    def distance(self, style: SceneStyle, product: Tensor) -> Tensor:
        """Each scene to its own product, (B, D) -> (B,)."""
        if self.squared:
            return 2 - (query(self.method, *style) * product).sum(-1)
        return region_distance(self.method, style, product, squared=False)

    def distances(self, style: SceneStyle, products: Tensor) -> Tensor:
        """Every scene to every product, (M, D) -> (B, M); one matrix product if the distance is squared."""
        if self.squared:
            return query_distance(query(self.method, *style), products)
        return plain_distance(self.method, *style, products)


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
