"""Look-alikes against a slow loop, and where every answer or none is one."""

import math

import numpy as np
import pytest
import torch
from factories import task

from ctl_lightning.metrics.look_alikes import ALIKE, look_alike_pairs, look_alikes
from ctl_lightning.metrics.ranking import QueryMeasure, Ranking
from ctl_lightning.models.components.network import without_regions


def ranking(queries: torch.Tensor, products: torch.Tensor) -> Ranking:
    return Ranking(QueryMeasure(), without_regions(queries), products)


def test_look_alikes_are_those_of_a_slow_loop() -> None:
    pairs = task(pairs=40, products=50)
    generator = torch.Generator().manual_seed(0)
    queries, products = torch.randn(40, 3, generator=generator), torch.randn(50, 3, generator=generator)
    found = look_alike_pairs(pairs, ranking(queries, products))
    for number, (query, own, category) in enumerate(zip(pairs.query, pairs.positive, pairs.category, strict=True)):
        others = [p for p in range(50) if pairs.product_category[p] == category]

        def dot(a: torch.Tensor, b: torch.Tensor) -> float:
            return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))

        def cosine(p: int, own: int = own) -> float:
            a, b = products[p], products[own]
            return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))

        nearest = max(others, key=lambda p: dot(queries[query], products[p]))
        alike = sorted((p for p in others if p != own), key=cosine, reverse=True)[:ALIKE]
        assert found[number] == float(nearest == own or nearest in alike)
    assert 0 < found.mean() < 1


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, 0.0)])
def test_a_query_that_is_the_product_itself_finds_look_alikes_and_its_opposite_none(sign: int, expected: float) -> None:
    pairs = task(pairs=30, products=50)
    products = torch.nn.functional.normalize(torch.randn(50, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    queries = sign * products[torch.from_numpy(pairs.positive)]
    assert look_alikes(pairs, ranking(queries, products))["value"] == expected


def test_a_small_category_has_no_value() -> None:
    pairs = task(pairs=12, products=2 * ALIKE)
    assert np.isnan(look_alike_pairs(pairs, ranking(torch.randn(12, 3), torch.randn(2 * ALIKE, 3)))).all()
