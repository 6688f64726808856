"""The method `siamese` (Veit et al. 2015, Learning Visual Clothing Style with Heterogeneous Dyadic Co-occurrences)."""

from torch import Tensor, nn

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.network import require_positive
from ctl_lightning.models.components.pooled_network import PooledNetwork


class Siamese(PooledNetwork):
    """One network for both pictures: d = |W v_s - W v_p|², one linear layer on the backbone as in theirs (section 4).

    It is trained with their loss, `ContrastiveLoss`, or with the hinge loss of Kang et al. (`loss=triplet`).
    Differences from the paper: their backbone is GoogLeNet, D = 256 and all of it is tuned (here the protocol decides,
    and D is that of all methods); their negatives are of another category than the other picture's, here they are the
    protocol's; their pairs are of two products, here one picture is a scene crop.

    Args:
        backbone: image network, frozen or tuned.
        categories: number of categories; this method does not use it.
        dim: width D of the embedding.
    """

    def __init__(self, backbone: Backbone, categories: int, *, dim: int) -> None:
        require_positive(dim=dim)
        super().__init__(backbone)
        self.embedding = nn.Linear(backbone.pooled_features, dim)

    def scene_vector(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, F) -> vectors (B, D), of any length."""
        return self.embedding(pooled)
