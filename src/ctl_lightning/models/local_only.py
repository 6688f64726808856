"""The method `local`: the local distance alone."""

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.style_network import Attention, StyleNetwork


class LocalOnly(StyleNetwork):
    """d_local = Σ_i a_i |f_i - f_p|²: the regions alone, weighted by category-guided attention.

    (Kang et al. 2019, equations 3 and 4)

    Args:
        backbone: image network, frozen or tuned.
        categories: number of categories.
        dim: number of dimensions D of the style space; 128 in the paper.
        hidden: width of the heads' hidden layer.
        dropout: dropout rate in the heads.
        attention: "category", guided by the category as in the paper, or "uniform" (the ablation).
        squared: whether distances are squared Euclidean, as in the paper's equations, or plain Euclidean.
        attention_temperature: temperature of the attention, or its initial value if it is learned; 1 is the paper's.
        learn_temperature: whether the temperature of the attention is learned.
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
        attention_temperature: float = 1.0,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__(
            backbone,
            categories,
            "local",
            dim,
            hidden,
            dropout,
            attention,
            squared,
            attention_temperature,
            learn_temperature,
        )
