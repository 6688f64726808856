"""Hub figures against a slow loop, by hand, and at their ends."""

import math
from dataclasses import replace

import numpy as np
import pytest
from factories import table_distances, task

from ctl_lightning.data.evaluation_set import EvaluationSet
from ctl_lightning.metrics import hubs
from ctl_lightning.metrics.hubs import hub_results
from ctl_lightning.metrics.intervals import Floats


def slow(given: EvaluationSet, table: Floats) -> dict[str, float]:
    shares, skewness, covered = [], [], set()
    for category in range(len(given.categories)):
        products = [n for n in range(len(given.products)) if given.product_category[n] == category]
        scenes_with: dict[int, set[int]] = {product: set() for product in products}
        frequency = dict.fromkeys(products, 0)
        scene_of = {
            int(given.query[n]): int(given.scene[n]) for n in range(len(given.pairs)) if given.category[n] == category
        }
        for query, scene in scene_of.items():
            ranked = sorted(products, key=lambda product: (table[query, product], product))
            for product in ranked[:4]:
                scenes_with[product].add(scene)
            for product in ranked[:10]:
                frequency[product] += 1
        covered |= {product for product, scenes in scenes_with.items() if scenes}
        shares.append(max(map(len, scenes_with.values())) / len(set(scene_of.values())))
        values = list(frequency.values())
        average = sum(values) / len(values)
        second, third = (sum((value - average) ** power for value in values) / len(values) for power in (2, 3))
        skewness.append(third / math.sqrt(second) ** 3)
    return {"share": sum(shares) / 2, "skewness": sum(skewness) / 2, "coverage": len(covered) / len(given.products)}


@pytest.mark.parametrize("block", [256, 7])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_they_are_a_slow_loops(monkeypatch: pytest.MonkeyPatch, block: int, ties: bool, shared: bool) -> None:
    monkeypatch.setattr(hubs, "CHUNK", block)
    given = task(products=100)
    if shared:  # pairs of one scene and category have one query
        keys = (given.scene * 2 + given.category).tolist()
        given = replace(given, query=np.array([keys.index(key) for key in keys]))
    random = np.random.default_rng(1)
    table = random.normal(size=(60, 100)) + random.normal(size=100)
    table = np.round(table) if ties else table
    assert hub_results(given, table_distances(table)) == pytest.approx(slow(given, table))


def test_one_product_that_is_everywhere_is_a_share_of_one_and_much_skewness() -> None:
    given = task(products=100)
    table = np.random.default_rng(2).normal(size=(60, 100))
    before = hub_results(given, table_distances(table))
    table[:, :2] = -99  # one of each category
    found = hub_results(given, table_distances(table))
    assert found["share"] == 1
    assert (found["skewness"] or 0) > (before["skewness"] or 0) + 2
    assert (found["coverage"] or 1) < (before["coverage"] or 0)


def test_a_method_that_sees_no_scene_shows_four_products_of_each_category() -> None:
    given = task(products=100)
    found = hub_results(given, table_distances(np.tile(np.zeros(100), (60, 1))))
    assert found["share"] == 1
    assert found["coverage"] == 8 / 100
    assert found["skewness"] == pytest.approx((1 - 2 * 0.2) / math.sqrt(0.2 * 0.8))  # ten of fifty: a coin's


def test_three_queries_by_hand_and_twins_count_once() -> None:
    given = replace(
        task(pairs=3, products=12), product_category=np.zeros(12, int), category=np.zeros(3, int), scene=np.arange(3)
    )
    table = np.array([np.arange(12.0), np.roll(np.arange(12.0), 3), np.roll(np.arange(12.0), 6)])
    found = hub_results(given, table_distances(table))  # 0 1 2 3, 3 4 5 6 and 6 7 8 9
    assert found["share"] == pytest.approx(2 / 3)
    assert found["coverage"] == pytest.approx(10 / 12)
    twins = replace(given, scene=np.array([0, 0, 1]))
    assert hub_results(twins, table_distances(table))["share"] == 1  # product 6


def test_where_every_product_is_near_there_is_nothing_to_measure() -> None:
    given = task(products=20)
    found = hub_results(given, table_distances(np.random.default_rng(3).normal(size=(60, 20))))
    assert found["share"] is found["skewness"] is None
    assert found["coverage"] == 1
