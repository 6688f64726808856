"""The method `geometry`: what a method can score without a picture of the scene, from the numbers of the box alone."""

from ctl_lightning.models.components.averaged_heads import AveragedHeads
from ctl_lightning.models.components.backbone import Backbone

NUMBERS = 9
"""Number of values that are known of a box: `data.crop.geometry`."""


class Geometry(AveragedHeads):
    """d = |f_s - f_p|², where f_s knows of the scene where the box is, its size and shape, and f_p sees the product.

    A baseline, not from the paper: which part of a scene is cut away tells what was worn there.

    Args:
        backbone: frozen image network, for the products.
        categories: number of categories; this method does not use it.
        dim: number of dimensions D of the style space.
        hidden: width of the heads' hidden layer.
        dropout: dropout rate in the heads.
    """

    scene_inputs = ("geometry",)

    def __init__(self, backbone: Backbone, categories: int, *, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(backbone, NUMBERS, dim, hidden, dropout, "separate", 1)
