"""What the baselines share that see one vector a picture: no regions, no category."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.heads import in_full
from ctl_lightning.models.components.style_network import Embedded, Images, SceneStyle, without_regions


class PooledNetwork(nn.Module):
    """Pooled backbone features -> a vector of scenes and of products -> squared Euclidean distance.

    Where the protocol tunes the backbone, it is tuned here too, so that all methods have the same network at their disposal; the
    papers of these baselines use fixed features, but for Veit et al.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def scene_vector(self, pooled: Tensor) -> Tensor:
        """Pooled features of scene crops (B, F) -> (B, D)."""
        raise NotImplementedError

    def product_vector(self, pooled: Tensor) -> Tensor:
        """Pooled features of products (B, F) -> (B, D). The same map as of scenes, unless a method says otherwise."""
        return self.scene_vector(pooled)

    def penalty(self, scene: Tensor, products: Tensor) -> Tensor:
        """What the network adds to the loss, from the features of a batch's scenes (B, F) and products (N, F): a scalar."""
        return scene.new_zeros(())

    def forward(self, scene: Images, products: Sequence[Images], category: Tensor) -> Embedded:
        """Embeds a training batch; every picture goes through the backbone once. As `StyleNetwork.forward`."""
        count = len(category)
        if isinstance(scene, Tensor):
            pooled = self._pooled(torch.cat([scene, *products]))  # type: ignore[list-item]
            scenes, shown = pooled[:count], pooled[count:]
        else:
            scenes, shown = self._pooled(scene), torch.cat([self._pooled(product) for product in products])
        style = without_regions(self.scene_vector(scenes))
        return Embedded(style, torch.split(self.product_vector(shown), count), self.penalty(scenes, shown))

    def embed_scene(self, images: Images, category: Tensor) -> SceneStyle:
        """uint8 scene crops (B, 3, S, S), or features, -> SceneStyle without regions; the category does not matter."""
        return without_regions(self.scene_vector(self._pooled(images)))

    def embed_product(self, images: Images) -> Tensor:
        """uint8 products (B, 3, S, S), or features, -> (B, D)."""
        return self.product_vector(self._pooled(images))

    def distance(self, style: SceneStyle, product: Tensor) -> Tensor:
        """Each scene to its own product, (B, D) -> (B,)."""
        return (style.scene - product).square().sum(-1)

    def distances(self, style: SceneStyle, products: Tensor) -> Tensor:
        """Every scene to every product, (M, D) -> (B, M)."""
        return torch.cdist(style.scene, products, compute_mode="donot_use_mm_for_euclid_dist").square()

    def _pooled(self, images: Images) -> Tensor:
        return in_full(self.backbone(images).pooled if isinstance(images, Tensor) else images[0])
