"""Raw backbone features: the distance of the pooled vectors as they are. Nothing is learned (Kang et al. 2019, section 5.2)."""

from torch import Tensor, nn
from torch.nn import functional as F

from ctl_lightning.style.backbone import Backbone
from ctl_lightning.style.distance import query, query_distance
from ctl_lightning.style.heads import in_full
from ctl_lightning.style.network import Images, SceneStyle


class RawFeatures(nn.Module):
    """d = |v_s - v_p|² of the L2-normalised pooled features."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def embed_scene(self, images: Images, category: Tensor) -> SceneStyle:
        """uint8 scene crops (B, 3, S, S), or features, -> SceneStyle without regions; the category does not matter."""
        scene = self.embed_product(images)
        return SceneStyle(scene, scene.new_zeros(len(scene), 0, scene.shape[1]), scene.new_zeros(len(scene), 0))

    def embed_product(self, images: Images) -> Tensor:
        """uint8 products (B, 3, S, S), or features, -> unit vectors (B, F)."""
        pooled = self.backbone(images).pooled if isinstance(images, Tensor) else images[0]
        return F.normalize(in_full(pooled), dim=-1)

    def distance(self, style: SceneStyle, product: Tensor) -> Tensor:
        """Each scene to its own product, (B, F) -> (B,)."""
        return 2 - (query("global", *style) * product).sum(-1)

    def distances(self, style: SceneStyle, products: Tensor) -> Tensor:
        """Every scene to every product, (M, F) -> (B, M)."""
        return query_distance(query("global", *style), products)
