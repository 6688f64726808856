"""How fast a catalogue is scored: by one query vector a (scene, category), and region by region."""

from collections.abc import Callable, Iterator
from itertools import count

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ctl_lightning.benchmarks.timing import Row, rates, ratio
from ctl_lightning.models.components.distance import query, query_distance
from ctl_lightning.models.components.network import SceneStyle
from ctl_lightning.models.components.style_network import region_distance

PRODUCTS, QUERIES, REGIONS, DIM = 100_000, 100, 49, 128

CHUNK = 32
"""So many products are compared with the regions at a time: all would take gigabytes, and 1,000 were seven times slower here."""

COMPARED = 1_000
"""So many products are scored in both ways."""

ONE_QUERY, REGION_LOOP = "one query vector, one matrix product", "region by region"


def scoring_rows(seconds: float, rounds: int, products: int = PRODUCTS, queries: int = QUERIES) -> list[Row]:
    """Hybrid distances a second of random unit embeddings, on one core, in both ways.

    Args:
        seconds: length of each measurement, in seconds.
        rounds: number of times that each is measured.
        products: how many are in the catalogue.
        queries: how many (scene, category) are scored.

    Returns:
        Rows ONE_QUERY and REGION_LOOP, and the largest difference between the two.
    """
    torch.set_num_threads(1)
    style, catalogue = random_embeddings(queries, products)
    work: dict[str, Callable[[], Iterator[int]]] = {
        ONE_QUERY: lambda: _by_query(style, catalogue),
        REGION_LOOP: lambda: _by_region(style, catalogue),
    }
    found = rates(work, seconds, rounds)
    rows = [Row("scoring", name, values, "distances/s") for name, values in found.items()]
    return [*rows, Row("scoring", "largest difference", [largest_difference(style, catalogue)], "")]


def scoring_ratios(rows: list[Row]) -> dict[str, float]:
    """How many times faster the one-query form is."""
    return {"region_loop_over_query": ratio(rows, ONE_QUERY, REGION_LOOP, "scoring")}


def random_embeddings(queries: int, products: int) -> tuple[SceneStyle, Tensor]:
    """Unit vectors, and weights that sum to 1, of `queries` scenes; unit vectors of `products`, (products, DIM)."""
    random = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> Tensor:
        return normalize(torch.randn(*shape, DIM, generator=random), dim=-1)

    weights = torch.randn(queries, REGIONS, generator=random).softmax(1)
    return SceneStyle(unit(queries), unit(queries, REGIONS), weights), unit(products)


def largest_difference(style: SceneStyle, catalogue: Tensor) -> float:
    """Between both ways, over the first products and all queries."""
    some = catalogue[:COMPARED]
    fast = query_distance(query("hybrid", *style), some)
    slow = torch.stack([region_distance("hybrid", _row(style, row), some) for row in range(len(style.scene))])
    return float((fast - slow).abs().max())


def _by_query(style: SceneStyle, catalogue: Tensor) -> Iterator[int]:
    while True:
        yield query_distance(query("hybrid", *style), catalogue).numel()


def _by_region(style: SceneStyle, catalogue: Tensor) -> Iterator[int]:
    for step in count():
        row = _row(style, step % len(style.scene))
        for start in range(0, len(catalogue), CHUNK):
            yield region_distance("hybrid", row, catalogue[start : start + CHUNK]).numel()


def _row(style: SceneStyle, row: int) -> SceneStyle:
    return SceneStyle(*(part[row : row + 1] for part in style))
