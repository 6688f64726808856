"""Raw backbone features: the distance of the pooled vectors, L2-normalised. Nothing is learned (Kang et al. 2019, section 5.2)."""

from torch import Tensor
from torch.nn import functional as F

from ctl_lightning.models.components.distance import query, query_distance
from ctl_lightning.models.components.pooled_network import PooledNetwork
from ctl_lightning.models.components.style_network import SceneStyle


class RawFeatures(PooledNetwork):
    """d = |v_s - v_p|² of the L2-normalised pooled features."""

    def scene_vector(self, pooled: Tensor) -> Tensor:
        """(B, F) -> unit vectors (B, F)."""
        return F.normalize(pooled, dim=-1)

    def query(self, style: SceneStyle) -> Tensor:
        """q (B, F) of B scenes with d(s, p) = 2 - q·v_p: the vectors have unit length."""
        return query("global", *style)

    def distances(self, style: SceneStyle, products: Tensor) -> Tensor:
        """Every scene to every product, (M, F) -> (B, M); of unit vectors, so one matrix product."""
        return query_distance(self.query(style), products)
