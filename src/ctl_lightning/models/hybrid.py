"""The method `hybrid`: the paper's hybrid distance."""

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.style_network import Attention, StyleNetwork


class Hybrid(StyleNetwork):
    """d_hybrid = ½ (d_global + d_local): the whole scene, and the regions that matter for the category.

    (Kang et al. 2019, equation 5)

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
            "hybrid",
            dim,
            hidden,
            dropout,
            attention,
            squared,
            attention_temperature,
            learn_temperature,
        )
