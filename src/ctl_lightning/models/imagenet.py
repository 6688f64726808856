"""The method `imagenet`, the network before any training: distance of raw backbone features, nothing is learned (Kang et al. 2019, section 5.2)."""

from torch import Tensor
from torch.nn import functional as F

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.distance import query
from ctl_lightning.models.components.network import SceneStyle
from ctl_lightning.models.components.pooled_network import PooledNetwork


class RawFeatures(PooledNetwork):
    """d = |v_s - v_p|² of the L2-normalised pooled features.

    Args:
        backbone: image network, used as it is.
        categories: number of categories; this method does not use it.
    """

    losses = ()

    def __init__(self, backbone: Backbone, categories: int) -> None:
        super().__init__(backbone)

    def scene_vector(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, F) -> unit vectors (B, F)."""
        return F.normalize(pooled, dim=-1)

    def query(self, style: SceneStyle) -> Tensor:
        """Vectors q (B, F) with d(s, p) = 2 - q·v_p, which holds because the v have unit length."""
        return query("global", *style)
