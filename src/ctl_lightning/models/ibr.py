"""The method `ibr` (McAuley et al. 2015, Image-based Recommendations on Styles and Substitutes, arXiv 1506.04757)."""

from torch import Tensor, nn

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.network import require_positive
from ctl_lightning.models.components.pooled_network import PooledNetwork


class LowRankMahalanobis(PooledNetwork):
    """d = (v_s - v_p) E Eᵀ (v_s - v_p)ᵀ = |v_s E - v_p E|² with E of rank D (section 3.2, "style space"), the same E for both.

    It is trained with their loss, `LogisticLoss`. Differences from the paper: they optimise the whole likelihood with
    L-BFGS, here Adam optimises batches; their D is 10 or 100, here it is that of all methods; their negatives are
    random products, here they are the protocol's.

    Args:
        backbone: image network, frozen or tuned.
        categories: number of categories; this method does not use it.
        dim: rank D of E.
    """

    def __init__(self, backbone: Backbone, categories: int, *, dim: int) -> None:
        require_positive(dim=dim)
        super().__init__(backbone)
        self.transform = nn.Linear(backbone.pooled_features, dim, bias=False)

    def scene_vector(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, F) -> vectors (B, D), of any length."""
        return self.transform(pooled)
