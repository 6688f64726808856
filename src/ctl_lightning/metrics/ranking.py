"""How far is each product of a split from each scene? Gathers the embeddings of all processes, gives distances.

What is computed from these distances is in `pair_metrics.py`.
"""

from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from ctl_lightning.data.evaluation_set import Integers
from ctl_lightning.metrics.intervals import Floats
from ctl_lightning.models.components.distance import query_distance
from ctl_lightning.models.components.network import SceneStyle, without_regions
from ctl_lightning.runtime.errors import InputError


class Ranked(Protocol):
    """What a ranking must give for the queries and products of a split."""

    def distances(self, queries: Integers, products: Integers) -> Floats:
        """Query indices (n,) and product indices (m,) -> distances (n, m)."""

    def attention(self) -> Floats:
        """Attention weights a_i of every query, (Q, R); R = 0 if the method has no regions."""


class Measure(Protocol):
    """What computes distances: a network of ours, or any object with these two methods."""

    def query(self, style: SceneStyle) -> Tensor | None:
        """Vectors q (B, D) with distances 2 - q·p; None if there is no such form."""

    def distances(self, style: SceneStyle, products: Tensor) -> Tensor:
        """Distance of every scene to every product, products (M, D) -> (B, M)."""


class QueryMeasure:
    """d = 2 - q·p with one vector q per scene, for users who have vectors and no network of ours."""

    def query(self, style: SceneStyle) -> Tensor:
        """The scenes' vectors themselves, (B, D)."""
        return style.scene

    def distances(self, style: SceneStyle, products: Tensor) -> Tensor:
        """Distance of every scene to every product, products (M, D) -> (B, M)."""
        return query_distance(style.scene, products)


class Ranking:
    """Embedded scene crops and products, and the distances between them.

    Where the distance is 2 - q·p, the inner products q·p are in double precision: no two distances are equal by
    rounding, so the ranks are those that a catalogue gives, whatever computes its inner products.

    Args:
        measure: what computes the distances, usually a network.
        styles: style embeddings of Q queries.
        products: style embeddings f_p of the products, (M, D).
    """

    def __init__(self, measure: Measure, styles: SceneStyle, products: Tensor) -> None:
        self._measure = measure
        self.styles = styles
        self.products = products
        with torch.no_grad():
            query = measure.query(styles)
        self._queries = None if query is None else query.double()

    @torch.no_grad()
    def distances(self, queries: Integers, products: Integers) -> Floats:
        """Query indices (n,) and product indices (m,) -> distances (n, m)."""
        device = self.products.device
        rows = torch.from_numpy(queries).to(device)
        if self._queries is not None:
            chosen = self.products[torch.from_numpy(products).to(device)].double()
            return query_distance(self._queries[rows], chosen).cpu().numpy()
        style = SceneStyle(*(part[rows] for part in self.styles))
        distance = self._measure.distances(style, self.products[torch.from_numpy(products).to(device)])
        return distance.double().cpu().numpy()

    def attention(self) -> Floats:
        """Attention weights a_i of every query, (Q, R); R = 0 if the method has no regions."""
        return self.styles.attention.double().cpu().numpy()


Kind = Literal["scenes", "products"]

STATES: dict[Kind, tuple[str, ...]] = {
    "scenes": ("scene_place", "scene", "regions", "attention"),
    "products": ("product_place", "product"),
}
"""Names of the states that are kept for each kind of picture; the places come first."""


class IncompleteError(InputError):
    """Scenes or products are missing, or more than expected."""


class CatalogueRanking(Metric):
    """Exact ranking of a catalogue for scenes that are embedded batch by batch, in one process or several.

    Batches come in any order, from any process; torchmetrics gathers them. What came twice, because a sampler padded
    its share, counts once. Nothing may be missing: ranking a part of the catalogue is another task.

    Examples:
        >>> ranking = CatalogueRanking().expecting(scenes=1, products=3)
        >>> ranking.update(torch.tensor([0]), torch.tensor([[2.0, 0.0]]), "scenes")  # q of one scene
        >>> ranking.update(torch.tensor([2, 0]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), "products")
        >>> ranking.update(torch.tensor([1]), torch.tensor([[0.6, 0.8]]), "products")
        >>> ranking.compute().distances(np.array([0]), np.arange(3)).round(1)
        array([[0. , 0.8, 2. ]])

    Args:
        measure: what computes the distances: a network, or any object with `query` and `distances`; None: d = 2 - q·p.
        options: options of torchmetrics.Metric.
    """

    is_differentiable = False
    full_state_update = False
    scene_place: list[Tensor]
    scene: list[Tensor]
    regions: list[Tensor]
    attention: list[Tensor]
    product_place: list[Tensor]
    product: list[Tensor]

    def __init__(self, measure: Measure | None = None, **options: Any) -> None:
        super().__init__(**options)
        # In a tuple, so that neither the network becomes a part of the metric nor its weights of the metric's state.
        self._measure: tuple[Measure] = (measure or QueryMeasure(),)
        self._expected: dict[Kind, int] = {"scenes": 0, "products": 0}
        for name in (*STATES["scenes"], *STATES["products"]):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def expecting(self, scenes: int, products: int) -> "CatalogueRanking":
        """Sets how many scenes and products there are in all. Returns this metric, emptied."""
        self.reset()
        self._expected = {"scenes": scenes, "products": products}
        return self

    def update(self, place: Tensor, embedded: Tensor | SceneStyle, kind: Kind) -> None:
        """Adds a batch.

        Args:
            place: index of each scene or product in the list of all of them, whole numbers, (B,).
            embedded: for products f_p, (B, D); for scenes their SceneStyle, or vectors q, (B, D).
            kind: "scenes" or "products".
        """
        parts: tuple[Tensor, ...]
        if kind == "scenes":
            parts = embedded if isinstance(embedded, SceneStyle) else without_regions(embedded)
        else:
            assert isinstance(embedded, Tensor)
            parts = (embedded,)
        for name, part in zip(STATES[kind], (place, *parts), strict=True):
            getattr(self, name).append(part)

    def compute(self) -> Ranking:
        """The ranking of everything that the processes embedded.

        Raises:
            IncompleteError: a scene or a product is missing.
            InputError: an embedding is not finite.
        """
        styles, (products,) = SceneStyle(*self._ordered("scenes")), self._ordered("products")
        # A comparison with NaN is false: every rank would be the first.
        if not all(bool(torch.isfinite(part).all()) for part in (*styles, products)):
            raise InputError("the embeddings of scenes or products are not finite: the network's weights are broken")
        return Ranking(self._measure[0], styles, products)

    def _ordered(self, kind: Kind) -> list[Tensor]:
        """The parts of all scenes or products, in the order of their places; what came twice appears once."""
        found = [getattr(self, name) for name in STATES[kind]]
        # Lists in one process, tensors after torchmetrics has gathered them from several.
        place, *parts = (torch.cat(list(part)) if isinstance(part, list) and part else part for part in found)
        count = self._expected[kind]
        if not isinstance(place, Tensor) or not torch.equal(torch.unique(place).cpu(), torch.arange(count)):
            there = len(torch.unique(place)) if isinstance(place, Tensor) else 0
            raise IncompleteError(
                f"{there} of {count} {kind} are there to be ranked; call `expecting` first, then add all of them"
            )
        ordered = []
        for part in parts:
            assert isinstance(part, Tensor)
            ordered.append(part.new_empty((count, *part.shape[1:])))
            ordered[-1][place.to(part.device)] = part
        return ordered


class FixedRanking:
    """Distances that are the same for every scene.

    Args:
        distances: distance of each of M products, (M,).
        queries: number of queries Q.
    """

    def __init__(self, distances: Floats, queries: int) -> None:
        self._distance = distances
        self._queries = queries

    def distances(self, queries: Integers, products: Integers) -> Floats:
        """Query indices (n,) and product indices (m,) -> distances (n, m)."""
        return np.tile(self._distance[products], (len(queries), 1))

    def attention(self) -> Floats:
        """No attention weights, (Q, 0)."""
        return np.zeros((self._queries, 0))
