"""The contract of a method: what training, evaluation and serving may ask of any network (docs/add_a_method.md)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctl_lightning.models.components.backbone import Backbone

Images = Tensor | tuple[Tensor, Tensor]
"""uint8 pictures (B, 3, S, S), or a frozen backbone's features: pooled (B, F) and, of scenes, regions (B, R, C)."""


class SceneStyle(NamedTuple):
    """Embedded (scene, category) queries: `scene` f_s (B, D), `regions` f_i (B, R, D), `attention` a_i (B, R).

    A method without regions has R = 0.
    """

    scene: Tensor
    regions: Tensor
    attention: Tensor


class Embedded(NamedTuple):
    """An embedded training batch.

    Attributes:
        style: style embeddings of the B scenes, with their attention.
        products: style embeddings f_p of each kind of product, such as positives and negatives, (B, D) each.
        penalty: term that the network itself adds to the loss, a scalar; 0 for all but auto-encoders.
    """

    style: SceneStyle
    products: tuple[Tensor, ...]
    penalty: Tensor


def without_regions(scene: Tensor) -> SceneStyle:
    """SceneStyle for a method that has one vector per scene, (B, D), and no regions."""
    count, width = scene.shape  # not `len`, which torch.export takes for a constant
    return SceneStyle(scene, scene.new_zeros(count, 0, width), scene.new_zeros(count, 0))


class Network(nn.Module):
    """Base class of the methods: pictures -> embeddings -> distances, where a smaller distance is more compatible.

    A method is made with `Method(backbone, categories, **options)`: the keywords of its constructor are its options in
    conf/model, and there are no others. What a method does not override, it cannot do: the call raises TypeError, and
    `query` returns None.

    Args:
        backbone: image network; None for a method that sees no pictures.

    Attributes:
        losses: names of the losses that can train it; empty if it learns nothing.
        sees: whether it looks at pictures.
        attends: whether its attention differs from region to region.
        scene_inputs: what it can be shown of a scene (`data.scene`), see `data.scene_inputs.SceneInput`.
        on_features: whether it is trained on a frozen backbone's cached features alone, see `fit_inputs`.
    """

    losses: tuple[str, ...] = ()
    sees: ClassVar[bool] = True
    attends: bool = False
    scene_inputs: ClassVar[tuple[str, ...]] = ("crop",)
    on_features: ClassVar[bool] = False
    backbone: Backbone

    def __init__(self, backbone: Backbone | None) -> None:
        super().__init__()
        if backbone is not None:
            self.backbone = backbone

    def forward(self, scene: Images, products: Sequence[Images], category: Tensor) -> Embedded:
        """Embeds a training batch; every picture passes through the backbone once.

        Args:
            scene: uint8 scene crops, (B, 3, S, S), or their features.
            products: for each kind of product, such as positives and negatives, uint8 pictures, (B, 3, S, S), or their
                features.
            category: index of each product's category, (B,).
        """
        self._cannot("learns nothing")

    def fit_inputs(self, inputs: Mapping[str, Iterable[Tensor]]) -> None:
        """Learns, before a training, what its inputs look like. Called if `on_features`.

        Args:
            inputs: part of the network, "scenes" or "products" -> pooled features of all scenes to train on, or of all
                products, in blocks, (B, F) each; a part that another run has learned is left out.
        """
        self._cannot("does not look at its inputs before it is trained")

    def separately(self, style: SceneStyle, products: Sequence[Tensor]) -> list[tuple[SceneStyle, tuple[Tensor, ...]]]:
        """The embeddings that have a loss of their own: of each member if several are averaged, else all at once.

        Args:
            style: style embeddings of B scenes.
            products: style embeddings f_p of each kind of product, (M, D) each.
        """
        return [(style, tuple(products))]

    def embed_scene(self, images: Images, category: Tensor) -> SceneStyle:
        """The queries of B scenes, each for its own category; or of one scene for B categories. One backbone pass at most.

        Args:
            images: uint8 scene crops, (B, 3, S, S), or their features; or one scene's, (1, 3, S, S), for all categories. What does not
                depend on the category is then computed once, and its rows in the SceneStyle are views of one.
            category: category indices, (B,).
        """
        self._cannot("sees no pictures")

    def embed_product(self, images: Images) -> Tensor:
        """uint8 products (B, 3, S, S), or features, -> style embeddings f_p (B, D). One backbone pass at most."""
        self._cannot("sees no pictures")

    def distance(self, style: SceneStyle, product: Tensor) -> Tensor:
        """Distance of each scene to its own product, products (B, D) -> (B,)."""
        self._cannot("sees no pictures")

    def distances(self, style: SceneStyle, products: Tensor) -> Tensor:
        """Distance of every scene to every product, products (M, D) -> (B, M)."""
        self._cannot("sees no pictures")

    def query(self, style: SceneStyle) -> Tensor | None:
        """Vectors q (B, D) with d(s, p) = 2 - q·f_p for every product; None if the distance has no such form."""
        return None

    def queries(self, style: SceneStyle) -> Mapping[str, Tensor]:
        """Queries (B, D) of the distances whose mean is the method's: name -> q. Empty if it has no one-query form."""
        query = self.query(style)
        return {} if query is None else {"global": query}

    def has_query(self) -> bool:
        """Whether the distance is 2 - q·f_p with one q per scene and category, so that a catalogue can be searched."""
        return self.query(without_regions(torch.zeros(0, 1))) is not None

    def logged(self) -> dict[str, Tensor]:
        """Learned values that are worth watching: name -> scalar."""
        return {}

    def prior(self, train_count: NDArray[Any], category: NDArray[Any]) -> NDArray[Any]:
        """Distances of a method that sees no pictures, the same for every scene, (M,).

        Args:
            train_count: number of training pairs that each of M products is in, (M,).
            category: index of each product's category, (M,).
        """
        self._cannot("looks at scenes")

    def _cannot(self, why: str) -> NoReturn:
        raise TypeError(f"{type(self).__name__} {why}")


def require_positive(**values: float) -> None:
    """Raises ValueError, naming the first value that is not above 0."""
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} must be positive, not {value}")
