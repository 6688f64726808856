"""The local distance alone."""

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.style_network import Attention, StyleNetwork


class LocalOnly(StyleNetwork):
    """d_local = Σ_i a_i |f_i - f_p|²: the regions alone, by category-guided attention (Kang et al. 2019, equations 3 and 4).

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
        super().__init__(backbone, categories, "local", dim, hidden, dropout, attention, squared)
