"""What the methods share that use one vector per picture, without regions or category."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ctl_lightning.models.components.distance import query_distance
from ctl_lightning.models.components.heads import in_full
from ctl_lightning.models.components.network import Embedded, Images, Network, SceneStyle, without_regions


class PooledNetwork(Network, ABC):
    """Pooled backbone features -> one vector per scene or product -> squared Euclidean distance.

    Where the protocol tunes the backbone, it is tuned here too, so that all methods have the same network at their
    disposal; the papers of these baselines use fixed features, except Veit et al.
    """

    losses: tuple[str, ...] = ("triplet", "contrastive", "logistic", "bpr")
    scene_inputs: ClassVar[tuple[str, ...]] = ("crop", "strips", "box")

    @abstractmethod
    def scene_vector(self, pooled: Tensor) -> Tensor:
        """Pooled features of scene crops (B, F) -> (B, D)."""

    def product_vector(self, pooled: Tensor) -> Tensor:
        """Pooled features of products (B, F) -> (B, D). The same map as for scenes, unless a method overrides it."""
        return self.scene_vector(pooled)

    def penalty(self, scene: Tensor, products: Tensor) -> Tensor:
        """Term that the network adds to the loss, from the features of scenes (B, F) and products (N, F): a scalar."""
        return scene.new_zeros(())

    def forward(self, scene: Images, products: Sequence[Images], category: Tensor) -> Embedded:
        """See `Network.forward`."""
        count = len(category)
        if isinstance(scene, Tensor):
            pooled = self._pooled(torch.cat([scene, *products]))  # type: ignore[list-item]
            scenes, shown = pooled[:count], pooled[count:]
        else:
            scenes, shown = self._pooled(scene), torch.cat([self._pooled(product) for product in products])
        style = without_regions(self.scene_vector(scenes))
        return Embedded(style, torch.split(self.product_vector(shown), count), self.penalty(scenes, shown))

    def embed_scene(self, images: Images, category: Tensor) -> SceneStyle:
        """See `Network.embed_scene`; without regions, and the category is ignored."""
        return without_regions(self.scene_vector(self._pooled(images)).expand(category.shape[0], -1))

    def embed_product(self, images: Images) -> Tensor:
        """uint8 products (B, 3, S, S), or features, -> vectors (B, D)."""
        return self.product_vector(self._pooled(images))

    def distance(self, style: SceneStyle, product: Tensor) -> Tensor:
        """Distance of each scene to its own product, products (B, D) -> (B,)."""
        return (style.scene - product).square().sum(-1)

    def distances(self, style: SceneStyle, products: Tensor) -> Tensor:
        """Distance of every scene to every product, (M, D) -> (B, M); a matrix product if there is a one-query form."""
        one = self.query(style)
        if one is not None:
            return query_distance(one, products)
        return torch.cdist(style.scene, products, compute_mode="donot_use_mm_for_euclid_dist").square()

    def _pooled(self, images: Images) -> Tensor:
        return in_full(self.backbone(images).pooled if isinstance(images, Tensor) else images[0])
