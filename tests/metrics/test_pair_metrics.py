from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from factories import table_distances, task
from sklearn.metrics import roc_auc_score

from ctl_lightning.data.evaluation_set import EvaluationSet
from ctl_lightning.metrics.intervals import Floats
from ctl_lightning.metrics.pair_metrics import PairScores, metric_values, score_pairs, summarise


@pytest.fixture(params=["continuous", "with ties"])
def table(request: pytest.FixtureRequest) -> Floats:
    values = np.random.default_rng(1).normal(size=(60, 40))
    return values if request.param == "continuous" else np.round(values)


def negatives(given: EvaluationSet, pair: int) -> list[int]:
    return [
        product
        for product in range(len(given.products))
        if given.product_category[product] == given.category[pair]
        and product != given.positive[pair]
        and product not in given.masked[pair]
    ]


def test_auc_is_scikit_learns(table: Floats) -> None:
    given = task()
    scores = score_pairs(given, table_distances(table))
    for pair in range(len(given.pairs)):
        ranked = [int(given.positive[pair]), *negatives(given, pair)]
        labels = [1] + [0] * (len(ranked) - 1)
        assert scores.auc[pair] == pytest.approx(roc_auc_score(labels, -table[pair, ranked]))


def test_rank_and_binary_accuracy_are_a_slow_loops(table: Floats) -> None:
    given = task()
    scores = score_pairs(given, table_distances(table))
    for pair in range(len(given.pairs)):
        own = table[pair, given.positive[pair]]
        rank = 1.0
        for product in negatives(given, pair):
            rank += 1.0 if table[pair, product] < own else 0.5 if table[pair, product] == own else 0.0
        assert scores.rank[pair] == rank
        other = table[pair, given.negative[pair]]
        assert scores.correct[pair] == (1.0 if own < other else 0.5 if own == other else 0.0)


def test_matched_auc_is_scikit_learns_with_weights(table: Floats) -> None:
    given = task()
    scores = score_pairs(given, table_distances(table))
    for pair in range(len(given.pairs)):
        seen = given.train_count[given.positive[pair]] > 0
        alike = [product for product in negatives(given, pair) if (given.train_count[product] > 0) == seen]
        weights = [1.0, *(float(given.train_count[product]) if seen else 1.0 for product in alike)]
        expected = roc_auc_score(
            [1] + [0] * len(alike), -table[pair, [int(given.positive[pair]), *alike]], sample_weight=weights
        )
        assert scores.auc_matched[pair] == pytest.approx(expected)


def test_popularity_wins_the_seen_pairs_but_has_no_lift() -> None:
    given = task()
    popularity = np.tile(-given.train_count.astype(float), (60, 1))
    scores = score_pairs(given, table_distances(popularity))
    seen, unseen = scores.auc[given.seen].mean(), scores.auc[~given.seen].mean()
    assert seen > 0.7 > 0.5 > unseen
    for other in (scores.auc_shuffled, scores.auc_geometry):
        known = ~np.isnan(other)
        assert known.sum() > 50
        assert (scores.auc[known] == other[known]).all()  # exactly
    np.testing.assert_allclose(scores.auc_matched[~given.seen], 0.5)


def test_a_perfect_ranking_scores_one_everywhere() -> None:
    given = task()
    table = np.ones((60, 40))
    table[np.arange(60), given.positive] = -1  # torchmetrics' retrieval metrics would see 0.00 here
    values = metric_values(score_pairs(given, table_distances(table)))
    for name in ("auc", "auc_matched", "binary_accuracy", "hit@1", "hit@50", "mrr", "median_rank"):
        np.testing.assert_allclose(values[name], 1, err_msg=name)


def test_hits_and_reciprocal_ranks_by_hand() -> None:
    given = task(pairs=2, products=40, scenes=25)
    table = np.tile(np.arange(40.0), (2, 1))
    ranks = score_pairs(given, table_distances(table)).rank
    values = metric_values(score_pairs(given, table_distances(table)))
    for pair in range(2):
        nearer = sum(product < given.positive[pair] for product in negatives(given, pair))
        assert ranks[pair] == 1 + nearer
        assert values["mrr"][pair] == 1 / (1 + nearer)
        assert [values[f"hit@{k}"][pair] for k in (1, 5, 10, 50)] == [float(nearer < k) for k in (1, 5, 10, 50)]


def test_the_other_products_of_the_scene_are_neither_hit_nor_error() -> None:
    given = task()
    (pair, *_) = [n for n in range(60) if any(given.product_category[q] == given.category[n] for q in given.masked[n])]
    table = np.random.default_rng(2).normal(size=(60, 40))
    before = score_pairs(given, table_distances(table)).rank[pair]
    table[pair, given.masked[pair]] = -100
    assert score_pairs(given, table_distances(table)).rank[pair] == before


def test_seen_and_unseen_average_to_all() -> None:
    given = task()
    result: Any = summarise(given, score_pairs(given, table_distances(np.random.default_rng(3).normal(size=(60, 40)))))
    share = given.seen.mean()
    mixed = share * result["seen"]["auc"]["value"] + (1 - share) * result["unseen"]["auc"]["value"]
    assert result["all"]["auc"]["value"] == pytest.approx(mixed)
    assert list(result["by_category"]) == ["c0", "c1"]


def test_lift_and_categories_by_hand() -> None:
    given = task(pairs=3)
    given = replace(given, category=np.array([0, 1, 0]), scene=np.arange(3))
    scores = PairScores(
        auc=np.array([0.9, 0.5, 0.7]),
        auc_matched=np.full(3, 0.5),
        auc_shuffled=np.array([0.4, 0.5, 0.6]),
        auc_geometry=np.array([0.6, np.nan, 0.8]),
        rank=np.array([1.0, 2.0, 6.0]),
        correct=np.array([1.0, 0.0, 1.0]),
        positive=np.zeros(3),
        negative=np.ones(3),
    )
    result: Any = summarise(given, scores)
    assert result["all"]["lift"]["value"] == pytest.approx((0.5 + 0.0 + 0.1) / 3)
    assert result["all"]["lift_geometry"]["value"] == pytest.approx((0.3 - 0.1) / 2)
    assert result["by_category"]["c1"]["lift_geometry"] == {"value": None, "low": None, "high": None}
    assert result["by_category"]["c0"]["auc"]["value"] == pytest.approx(0.8)
    assert result["by_category"]["c1"]["auc"]["value"] == pytest.approx(0.5)
    assert result["by_category"]["c0"]["hit@5"]["value"] == pytest.approx(0.5)
