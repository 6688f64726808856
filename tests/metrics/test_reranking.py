"""What re-ranking gains, against scikit-learn's nDCG and by hand."""

from typing import Any

import numpy as np
import pytest
from factories import table_distances, task
from sklearn.metrics import ndcg_score

from ctl_lightning.data.evaluation_set import Integers
from ctl_lightning.metrics.intervals import Floats
from ctl_lightning.metrics.reranking import ndcg, order, reranking_results


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
def test_ndcg_is_scikit_learns_with_ties(seed: int, ties: bool) -> None:
    distance = np.random.default_rng(seed).normal(size=12)
    if ties:
        distance = np.round(distance)
    for relevant in range(12):
        labels = np.arange(12) == relevant
        assert ndcg(distance, relevant) == pytest.approx(ndcg_score([labels.astype(float)], [-distance]))


def test_ndcg_by_hand() -> None:
    assert ndcg(np.array([1.0, 2.0, 3.0]), 0) == 1
    assert ndcg(np.array([1.0, 2.0, 3.0]), 2) == pytest.approx(0.5)  # 1 / log2(4)
    assert ndcg(np.array([0.0, 0.0]), 1) == pytest.approx((1 + 1 / np.log2(3)) / 2)


def test_a_perfect_distance_gains_all_that_there_is_and_popularity_nothing_on_itself() -> None:
    given = task()
    perfect = np.ones((60, 40))
    perfect[np.arange(60), given.positive] = 0
    found: Any = reranking_results(given, table_distances(perfect))
    for system in ("shuffled", "popularity"):
        assert found[system]["reranked"]["value"] == 1
        assert found[system]["gain"]["value"] == pytest.approx(1 - found[system]["given"]["value"])
        assert found[system]["gain"]["p"] < 0.01
    popular: Any = reranking_results(given, table_distances(np.tile(-given.train_count.astype(float), (60, 1))))
    assert popular["popularity"]["gain"] == {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}


def test_lists_hold_the_product_and_none_that_the_scene_names() -> None:
    given = task()
    asked = []

    def distances(queries: Integers, products: Integers) -> Floats:
        asked.append((int(queries[0]), products.tolist()))
        return np.ones((len(queries), len(products)))

    reranking_results(given, distances)
    assert len(asked) == 60
    for pair, (query, products) in enumerate(asked):
        assert query == given.query[pair]
        assert given.positive[pair] in products
        assert not set(products) & set(given.masked[pair].tolist())
        assert len(set(products)) == len(products) <= 20
        assert {int(given.product_category[product]) for product in products} == {int(given.category[pair])}


def test_equal_candidates_stay_in_the_order_that_they_came_in() -> None:
    assert order(np.array([0.5, 0.1, 0.5, 0.1])).tolist() == [1, 3, 0, 2]
