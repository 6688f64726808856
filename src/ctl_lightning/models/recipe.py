"""The method `recipe`: heads on standardised features of a frozen backbone; what raises quality on real photos (docs/recipe.md)."""

from ctl_lightning.models.components.averaged_heads import AveragedHeads, Heads
from ctl_lightning.models.components.backbone import Backbone


class Recipe(AveragedHeads):
    """d = |f_s - f_p|², f = g_s or g_p of the pooled vector, whose parts `backbone.pooled` names.

    Not from the paper. The rest of the recipe is in conf/experiment/recipe.yaml: all strips of a scene (`data.scene`), InfoNCE
    in batches of one category, and the box loss (`data.boxes`).

    Args:
        backbone: frozen image network.
        categories: number of categories; this method does not use it.
        dim: number of dimensions D of each member's style space.
        hidden: width of the heads' hidden layer.
        dropout: dropout rate in the heads.
        heads: "separate": a head each for scenes and products; "shared": one for both, as in the paper.
        members: number of members whose distances are averaged, each with heads of its own.
    """

    scene_inputs = ("strips", "crop", "box")

    def __init__(
        self,
        backbone: Backbone,
        categories: int,
        *,
        dim: int,
        hidden: int,
        dropout: float,
        heads: Heads,
        members: int,
    ) -> None:
        super().__init__(backbone, backbone.pooled_features, dim, hidden, dropout, heads, members)
