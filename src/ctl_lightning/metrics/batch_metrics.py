"""Hit rate, matched AUC and lift as torchmetrics, batch by batch, for users who have distances and none of our data.

Shapes: B queries, M products. A smaller distance means that a product goes better with a query. Ties count half. All
sums are in double precision and are gathered from all processes. `pair_metrics.score_pairs` computes the same for a whole
split, pair by pair.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from ctl_lightning.metrics.intervals import Floats
from ctl_lightning.metrics.pair_metrics import matched_weights, nearer, weighted_auc


class _Mean(Metric):
    """Mean of one value per query; queries without a value (NaN) do not count."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def _apply(self, *args: Any, **options: Any) -> "_Mean":
        """Moves to another device, but stays in double precision when a module that it is in becomes coarser."""
        super()._apply(*args, **options)
        self.total, self.count = self.total.double(), self.count.double()
        return self

    def _add(self, values: Floats) -> None:
        known = values[~np.isnan(values)]
        self.total += float(known.sum())
        self.count += len(known)

    def compute(self) -> Tensor:
        """The mean, a scalar; NaN if no query has a value."""
        return self.total / self.count


class HitRate(_Mean):
    """hit@k: the share of queries whose own product is among the k nearest candidates.

    Examples:
        >>> metric = HitRate(k=1)
        >>> metric.update(torch.tensor([[0.1, 0.5, 0.9], [0.3, 0.2, 0.7]]), positive=torch.tensor([0, 0]))
        >>> float(metric.compute())
        0.5

    Args:
        k: number of nearest candidates among which the own product is a hit, such as 10.
        options: options of torchmetrics.Metric.
    """

    def __init__(self, k: int, **options: Any) -> None:
        super().__init__(**options)
        self._k = k

    def update(self, distance: Tensor, positive: Tensor, candidates: Tensor | None = None) -> None:
        """Adds B queries.

        Args:
            distance: distance of every query to every product, (B, M).
            positive: column of each query's own product, (B,).
            candidates: which products each query is ranked against, bool, (B, M), such as those of its category that
                its scene does not name; None: all.
        """
        table, own = _numpy(distance), positive.cpu().numpy()
        self._add((1 + nearer(table, own, _allowed(table, own, candidates)) <= self._k).astype(float))


class MatchedAUC(_Mean):
    """AUC against negatives of the positive's kind, at which popularity hardly wins.

    A product that was seen in training is compared with seen ones, weighted by how often they were seen; an unseen
    product with unseen ones.

    Examples:
        >>> metric = MatchedAUC()
        >>> distance = torch.tensor([[0.5, 0.1, 0.9, 0.2]])
        >>> metric.update(distance, positive=torch.tensor([0]), train_count=torch.tensor([4, 1, 3, 0]))
        >>> float(metric.compute())  # the product with three training pairs is farther, that with one is nearer
        0.75

    Args:
        options: options of torchmetrics.Metric.
    """

    def update(self, distance: Tensor, positive: Tensor, train_count: Tensor, candidates: Tensor | None = None) -> None:
        """Adds B queries; those without a negative of their kind do not count.

        Args:
            distance: distance of every query to every product, (B, M).
            positive: column of each query's own product, (B,).
            train_count: number of training pairs that each product is in, (M,); 0: unseen.
            candidates: see `HitRate.update`.
        """
        table, own = _numpy(distance), positive.cpu().numpy()
        allowed = _allowed(table, own, candidates)
        self._add(weighted_auc(table, own, matched_weights(allowed, own, train_count.cpu().numpy())))


class Lift(_Mean):
    """AUC minus the AUC with other scenes in the query's place: the gain from looking at the scene.

    Examples:
        >>> metric = Lift()
        >>> distance = torch.tensor([[0.1, 0.5, 0.9]])  # its product is the nearest of three
        >>> others = torch.tensor([[[0.6, 0.5, 0.9]], [[0.9, 0.5, 0.1]]])  # of two other scenes it is the second, and the last
        >>> metric.update(distance, others, positive=torch.tensor([0]))
        >>> float(metric.compute())  # 1 - (0.5 + 0) / 2
        0.75

    Args:
        options: options of torchmetrics.Metric.
    """

    def update(self, distance: Tensor, others: Tensor, positive: Tensor, candidates: Tensor | None = None) -> None:
        """Adds B queries.

        Args:
            distance: distance of every query to every product, (B, M).
            others: distances with P other scenes in each query's place, (P, B, M); NaN where there is no other scene.
            positive: column of each query's own product, (B,).
            candidates: see `HitRate.update`.
        """
        table, own = _numpy(distance), positive.cpu().numpy()
        allowed = _allowed(table, own, candidates)
        auc = weighted_auc(table, own, allowed)
        foreign = np.stack([weighted_auc(one, own, allowed) for one in _numpy(others)])
        foreign[np.isnan(_numpy(others)).any(2)] = np.nan
        self._add(_mean_over_first(auc - foreign))


def _numpy(distance: Tensor) -> Floats:
    return distance.detach().double().cpu().numpy()


def _allowed(distance: Floats, positive: Any, candidates: Tensor | None) -> Floats:
    """1 for the negatives of each query, else 0, (B, M)."""
    allowed = np.ones(distance.shape) if candidates is None else candidates.cpu().numpy().astype(float)
    allowed[np.arange(len(allowed)), positive] = 0
    return allowed


def _mean_over_first(values: Floats) -> Floats:
    """Mean over the first dimension of the values that are not NaN, (P, n) -> (n,); NaN where there are none."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(0) / known.sum(0)
