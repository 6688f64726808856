"""The contract of a method: what training, evaluation and serving ask of a network, whatever it is."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctl_lightning.models.components.backbone import Backbone

Images = Tensor | tuple[Tensor, Tensor]
"""uint8 pictures (B, 3, S, S), or a frozen backbone's features of them: pooled (B, F) and, of scenes, regions (B, R, C)."""


class SceneStyle(NamedTuple):
    """A (scene, category): `scene` f_s (B, D), `regions` f_i (B, R, D), `attention` a_i (B, R).

    A method without regions has R = 0.
    """

    scene: Tensor
    regions: Tensor
    attention: Tensor


class Embedded(NamedTuple):
    """A training batch.

    Attributes:
        style: of the B scenes.
        products: f_p of each kind of product, such as positives and negatives, (B, D) each.
        penalty: what the network itself adds to the loss, a scalar; 0 for all but auto-encoders.
    """

    style: SceneStyle
    products: tuple[Tensor, ...]
    penalty: Tensor


def without_regions(scene: Tensor) -> SceneStyle:
    """The style of scenes of which a method has one vector, (B, D), and no regions."""
    count, width = scene.shape  # not `len`, which torch.export takes for a constant
    return SceneStyle(scene, scene.new_zeros(count, 0, width), scene.new_zeros(count, 0))


class Network(nn.Module):
    """A method: pictures -> embeddings -> distances, where smaller is more compatible.

    A method is made with `Method(backbone, categories, **options)`: its constructor's keywords are its options in conf/model, and
    there are no others. What a method does not say, it cannot.

    Args:
        backbone: the image network; None for a method that sees no pictures.

    Attributes:
        losses: names of the losses that can train it; none: it learns nothing.
        sees: whether it looks at pictures.
        attends: whether its attention differs from region to region.
    """

    losses: tuple[str, ...] = ()
    sees: ClassVar[bool] = True
    attends: bool = False
    backbone: Backbone

    def __init__(self, backbone: Backbone | None) -> None:
        super().__init__()
        if backbone is not None:
            self.backbone = backbone

    def forward(self, scene: Images, products: Sequence[Images], category: Tensor) -> Embedded:
        """Embeds a training batch; every picture goes through the backbone once.

        Args:
            scene: uint8 scene crops, (B, 3, S, S), or their features.
            products: of each scene, such as its positive and its negative: uint8 pictures, (B, 3, S, S), or their features.
            category: index of each product's category, (B,).
        """
        self._can_not("learns nothing")

    def embed_scene(self, images: Images, category: Tensor) -> SceneStyle:
        """uint8 scene crops (B, 3, S, S), or features, and category indices (B,) -> SceneStyle. One backbone pass at most."""
        self._can_not("sees no pictures")

    def embed_product(self, images: Images) -> Tensor:
        """uint8 products (B, 3, S, S), or features, -> f_p (B, D). One backbone pass at most."""
        self._can_not("sees no pictures")

    def distance(self, style: SceneStyle, product: Tensor) -> Tensor:
        """Each scene to its own product, (B, D) -> (B,)."""
        self._can_not("sees no pictures")

    def distances(self, style: SceneStyle, products: Tensor) -> Tensor:
        """Every scene to every product, (M, D) -> (B, M)."""
        self._can_not("sees no pictures")

    def query(self, style: SceneStyle) -> Tensor | None:
        """q (B, D) of B (scene, category) with d(s, p) = 2 - q·f_p for every product; None: the distance has no such form."""
        return None

    def queries(self, style: SceneStyle) -> Mapping[str, Tensor]:
        """The queries, (B, D), of the distances whose mean is the method's: name -> q. None, if it has no one-query form."""
        query = self.query(style)
        return {} if query is None else {"global": query}

    def has_query(self) -> bool:
        """Whether the distance is 2 - q·f_p of one vector q a scene and category, which a catalogue can be searched by."""
        return self.query(without_regions(torch.zeros(0, 1))) is not None

    def prior(self, train_count: NDArray[Any], category: NDArray[Any]) -> NDArray[Any]:
        """Distances that are equal for every scene, of a method that sees no pictures, (M,).

        Args:
            train_count: in how many training pairs each of M products is, (M,).
            category: index of each product's category, (M,).
        """
        self._can_not("looks at scenes")

    def _can_not(self, why: str) -> NoReturn:
        raise TypeError(f"{type(self).__name__} {why}")


def require_positive(**values: float) -> None:
    """Raises ValueError that names the first value that is not above 0."""
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} must be positive, not {value}")
