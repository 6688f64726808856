"""The paper's hybrid distance."""

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.style_network import Attention, StyleNetwork


class Hybrid(StyleNetwork):
    """d_hybrid = ½ (d_global + d_local): the whole scene, and the regions that the category asks for (Kang et al. 2019, equation 5).

    Args:
        backbone: frozen or not.
        categories: how many.
        dim: D, of the style space; 128 in the paper.
        hidden: width of the heads' hidden layer.
        dropout: rate in the heads.
        attention: by category as in the paper, or uniform (the ablation).
        squared: squared Euclidean distances as in the paper's equations, or plain ones.
    """

    def __init__(
        self,
        backbone: Backbone,
        categories: int,
        *,
        dim: int,
        hidden: int,
        dropout: float,
        attention: Attention,
        squared: bool,
    ) -> None:
        super().__init__(backbone, categories, "hybrid", dim, hidden, dropout, attention, squared)
