"""The method `global`: the global distance alone."""

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.style_network import StyleNetwork


class GlobalOnly(StyleNetwork):
    """d_global = |f_s - f_p|²: the whole scene alone (Kang et al. 2019, equation 2); no regions, no attention.

    Args:
        backbone: image network, frozen or tuned.
        categories: number of categories.
        dim: number of dimensions D of the style space; 128 in the paper.
        hidden: width of the heads' hidden layer.
        dropout: dropout rate in the heads.
        squared: whether distances are squared Euclidean, as in the paper's equations, or plain Euclidean.
    """

    scene_inputs = ("crop", "strips", "box")

    def __init__(
        self,
        backbone: Backbone,
        categories: int,
        *,
        dim: int,
        hidden: int,
        dropout: float,
        squared: bool,
    ) -> None:
        super().__init__(backbone, categories, "global", dim, hidden, dropout, "uniform", squared)
