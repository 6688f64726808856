"""The metrics as torchmetrics: gathered from processes, against slow loops and against what a whole split says; and their examples."""

import doctest
import importlib
import math
import pkgutil
from typing import Any

import numpy as np
import pytest
import torch
from factories import MakeData, table_distances, task
from ranks import in_processes
from torch import Tensor

import ctl_lightning.metrics
from ctl_lightning.metrics.batch_metrics import HitRate, Lift, MatchedAUC
from ctl_lightning.metrics.pair_metrics import score_pairs
from ctl_lightning.metrics.ranking import CatalogueRanking, IncompleteError, Ranking
from ctl_lightning.models.components.network import SceneStyle
from ctl_lightning.runtime.errors import InputError

SCENES, PRODUCTS = 5, 7


def vectors(count: int, seed: int) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def taken_up(places: list[int], products: list[int]) -> CatalogueRanking:
    """A metric that has been given these scenes and products, in batches of two."""
    metric = CatalogueRanking().expecting(SCENES, PRODUCTS)
    for start in range(0, len(places), 2):
        some = torch.tensor(places[start : start + 2])
        metric.update(some, vectors(SCENES, 0)[some], "scenes")
    for start in range(0, len(products), 2):
        some = torch.tensor(products[start : start + 2])
        metric.update(some, vectors(PRODUCTS, 1)[some], "products")
    return metric


def table_of(ranking: Ranking) -> np.ndarray[Any, Any]:
    return ranking.distances(np.arange(SCENES), np.arange(PRODUCTS))


def expected() -> np.ndarray[Any, Any]:
    """A slow loop in Python's own numbers."""
    queries, products = vectors(SCENES, 0).tolist(), vectors(PRODUCTS, 1).tolist()
    return np.array([[2 - math.fsum(a * b for a, b in zip(q, p, strict=True)) for p in products] for q in queries])


def test_batches_in_any_order_some_of_them_twice_are_ranked_exactly() -> None:
    metric = taken_up([3, 1, 0, 4, 2, 3, 3], [6, 0, 2, 5, 4, 1, 3, 0])
    np.testing.assert_allclose(table_of(metric.compute()), expected(), rtol=1e-12)
    again = taken_up([0, 1, 2, 3, 4], list(range(7)))
    assert (table_of(again.compute()) == table_of(metric.compute())).all()


@pytest.mark.parametrize(("scenes", "products"), [([0, 1, 2, 3], list(range(7))), (list(range(5)), [0, 1, 2, 3, 4, 6])])
def test_a_hole_is_refused(scenes: list[int], products: list[int]) -> None:
    with pytest.raises(IncompleteError, match=f"{len(set(scenes))} of 5 scenes|{len(set(products))} of 7 products"):
        taken_up(scenes, products).compute()


def test_nothing_at_all_is_refused() -> None:
    with pytest.raises(IncompleteError, match="0 of 5 scenes are there to be ranked; call `expecting` first"):
        CatalogueRanking().expecting(SCENES, PRODUCTS).compute()


def test_what_is_not_finite_is_refused() -> None:
    metric = taken_up(list(range(4)), list(range(7)))
    metric.update(torch.tensor([4]), torch.tensor([[math.nan, 0, 0, 0]]), "scenes")
    with pytest.raises(InputError, match="not finite"):
        metric.compute()


def test_the_measured_network_is_no_part_of_the_metric(make_data: MakeData) -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def query(self, style: SceneStyle) -> Tensor:
            return style.scene

        def distances(self, style: SceneStyle, products: Tensor) -> Tensor:
            return style.scene @ products.T

    metric = CatalogueRanking(Network())
    assert list(metric.parameters()) == []
    assert metric.state_dict() == {}


def _gathered(rank: int) -> tuple[Any, int]:
    torch.distributed.init_process_group("gloo")
    # Unequal shares, one of them dealt twice.
    scenes, products = ([[0, 2, 4], [1, 3], [0]][rank], [[6, 5, 4, 3], [2, 1], [0]][rank])
    metric = taken_up(scenes, products)
    return table_of(metric.compute()), sum(map(len, metric.product))


def test_torchmetrics_gathers_unequal_parts_of_three_processes() -> None:
    found = in_processes(3, _gathered, each=[(0,), (1,), (2,)])
    for table, own in found:
        assert (table == table_of(taken_up([0, 1, 2, 3, 4], list(range(7))).compute())).all()
        assert own in (4, 2, 1)  # each keeps what is its own


def test_metrics_over_batches_are_those_of_the_whole_split() -> None:
    given = task()
    table = np.round(np.random.default_rng(2).normal(size=(60, 40)), 1)
    scores = score_pairs(given, table_distances(table))
    for category in range(2):
        products = np.flatnonzero(given.product_category == category)
        pairs = np.flatnonzero(given.category == category)
        hits, matched = HitRate(k=5), MatchedAUC()
        for start in range(0, len(pairs), 7):
            some = pairs[start : start + 7]
            distance = torch.from_numpy(table[np.ix_(some, products)])
            positive = torch.from_numpy(np.searchsorted(products, given.positive[some]))
            candidates = torch.from_numpy(np.stack([~np.isin(products, given.masked[pair]) for pair in some]))
            hits.update(distance, positive, candidates)
            matched.update(distance, positive, torch.from_numpy(given.train_count[products]), candidates)
        assert float(hits.compute()) == pytest.approx((scores.rank[pairs] <= 5).mean())
        assert float(matched.compute()) == pytest.approx(np.nanmean(scores.auc_matched[pairs]))


def test_the_lift_is_that_of_a_slow_loop() -> None:
    random = np.random.default_rng(3)
    distance, others = random.normal(size=(4, 6)), random.normal(size=(10, 4, 6))
    others[2, 1] = np.nan  # no other scene in that turn
    positive = [0, 3, 5, 2]

    def auc(row: Any, own: int) -> float:
        return float(np.mean([row[n] > row[own] for n in range(6) if n != own]))

    lifts = []
    for query, own in enumerate(positive):
        foreign = [auc(one[query], own) for one in others if not np.isnan(one[query]).any()]
        lifts.append(np.mean([auc(distance[query], own) - value for value in foreign]))
    metric = Lift()
    for some in (slice(0, 1), slice(1, 4)):
        metric.update(torch.from_numpy(distance[some]), torch.from_numpy(others[:, some]), torch.tensor(positive[some]))
    assert float(metric.compute()) == pytest.approx(np.mean(lifts), abs=1e-12)


def test_sums_stay_in_double_precision_in_a_module_of_half() -> None:
    parent = torch.nn.Module()
    parent.metric = HitRate(k=1)
    parent.to(torch.bfloat16)
    for _ in range(600):
        parent.metric.update(torch.tensor([[0.1, 0.2]]), torch.tensor([0]))
    assert parent.metric.count == 600
    assert parent.metric.total.dtype == parent.metric.compute().dtype == torch.float64


def _hits(rank: int) -> float:
    torch.distributed.init_process_group("gloo")
    metric = HitRate(k=1)
    for _ in range(1 + 2 * rank):  # 1 hit, and 3 misses
        metric.update(torch.tensor([[0.1, 0.5]]), torch.tensor([rank]))
    return float(metric.compute())


def test_a_mean_over_processes_weighs_queries_not_processes() -> None:
    assert in_processes(2, _hits, each=[(0,), (1,)]) == [0.25, 0.25]


MODULES = [module.name for module in pkgutil.iter_modules(ctl_lightning.metrics.__path__)]


def test_the_examples_of_the_docstrings_run() -> None:
    ran = {}
    for name in MODULES:
        module = importlib.import_module(f"ctl_lightning.metrics.{name}")
        found = doctest.testmod(module, extraglobs={"np": np, "torch": torch})
        assert not found.failed, name
        ran[name] = found.attempted
    assert ran["ranking"] >= 4
    assert ran["batch_metrics"] >= 9
    assert ran["classification"] >= 3
