"""Siamese networks for style (Veit et al. 2015, Learning Visual Clothing Style with Heterogeneous Dyadic Co-occurrences)."""

from torch import Tensor, nn

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.network import require_positive
from ctl_lightning.models.components.pooled_network import PooledNetwork


class Siamese(PooledNetwork):
    """One network for both pictures: d = |W v_s - W v_p|², one linear layer on the backbone, as theirs (section 4).

    It is trained with `contrastive_loss`, theirs, or with the paper's hinge (`loss=triplet`). Where it departs: their backbone is
    GoogLeNet, D = 256 and all of it is tuned (here: as the protocol says, D as of all methods); their negatives are of another category
    than the other picture's, here they are the protocol's; theirs are pairs of products, here one picture is a scene crop.

    Args:
        backbone: frozen or not.
        categories: how many; it does not look at them.
        dim: D.
    """

    def __init__(self, backbone: Backbone, categories: int, *, dim: int) -> None:
        require_positive(dim=dim)
        super().__init__(backbone)
        self.embedding = nn.Linear(backbone.pooled_features, dim)

    def scene_vector(self, pooled: Tensor) -> Tensor:
        """(B, F) -> (B, D), of any length."""
        return self.embedding(pooled)
