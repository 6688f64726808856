"""Is a single (scene, product) compatible, and how probably? Answers from its distance, and how good they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_precision_recall_curve,
    binary_roc,
)

from ctl_lightning.data.evaluation_set import Integers
from ctl_lightning.metrics.intervals import Floats, Interval, interval, ratio_interval
from ctl_lightning.metrics.pair_metrics import PairScores

BINS = 10
"""Number of bins, of equal width, of the reliability curve and of the expected calibration error."""


@dataclass(frozen=True)
class Classifier:
    """A threshold on the distance, and a logistic curve that turns a distance into a probability (Platt 1999).

    Both are fitted to as many compatible as incompatible products: the probability is that of a world in which one
    product in two goes with the scene. Scale the odds p / (1 - p) for another world.

    Attributes:
        threshold: distance up to which a product is called compatible.
        slope: slope of the log-odds per unit of distance; negative if nearer products are likelier to be compatible.
        intercept: log-odds at distance 0.
    """

    threshold: float
    slope: float
    intercept: float

    def is_compatible(self, distances: Floats) -> NDArray[np.bool_]:
        """Distances (...) -> whether each is compatible, (...)."""
        return distances <= self.threshold

    def probability(self, distances: Floats | float) -> Floats:
        """Distances (...) -> probabilities of being compatible, (...)."""
        return 0.5 * (1 + np.tanh(0.5 * (self.intercept + self.slope * distances)))  # the logistic without overflow

    def plain(self) -> dict[str, float]:
        """The attributes as plain values, for a checkpoint."""
        return asdict(self)


@dataclass(frozen=True)
class Samples:
    """2 N samples from N pairs: first the pairs' own products, then their seeded negatives.

    Attributes:
        distance: distance of each sample, (2 N,).
        compatible: whether each sample is truly compatible, (2 N,).
        scene: number of each sample's scene, (2 N,).
    """

    distance: Floats
    compatible: NDArray[np.bool_]
    scene: Integers


def samples_of(scores: PairScores, scenes: Integers) -> Samples:
    """The samples of N scored pairs, where `scenes` holds the number of each pair's scene, (N,)."""
    count = len(scores.positive)
    return Samples(
        np.concatenate([scores.positive, scores.negative]),
        np.arange(2 * count) < count,
        np.concatenate([scenes, scenes]),
    )


def fit_classifier(judged: Samples) -> Classifier:
    """Fits the threshold with the most right answers, and the logistic curve, to samples; for use on other samples.

    Of equally good thresholds the middle one is taken. scikit-learn fits the curve, with a ridge so weak that it only
    keeps the slope finite where the samples can be told apart without an error.
    """
    order = np.argsort(judged.distance, kind="stable")
    distance, compatible = judged.distance[order], judged.compatible[order]
    last = np.append(np.flatnonzero(np.diff(distance)), len(distance) - 1)  # last index of each run of equal distances
    right = np.append(0, np.cumsum(np.where(compatible, 1, -1))[last])
    best = np.flatnonzero(right == right.max())
    place = int(best[len(best) // 2])  # number of distinct distances that are called compatible
    levels = distance[last]
    borders = np.concatenate([[np.nextafter(levels[0], -np.inf)], (levels[:-1] + levels[1:]) / 2, levels[-1:]])
    scale = float(distance.std()) or 1.0
    centre = float(distance.mean())
    logistic = LogisticRegression(C=1e4).fit(((distance - centre) / scale)[:, None], compatible)
    slope = float(logistic.coef_[0, 0]) / scale
    return Classifier(float(borders[place]), slope, float(logistic.intercept_[0]) - slope * centre)


def classifier_results(classifier: Classifier, judged: Samples, chosen_on: int | None) -> dict[str, Any]:
    """How good the classifier is on samples that it was not fitted to.

    Args:
        classifier: threshold and logistic curve.
        judged: samples to measure it on.
        chosen_on: number of validation pairs that it was fitted to, returned as "pairs"; None: not known, and not returned.

    Returns:
        The classifier's attributes, "pairs", and with 95 % intervals "accuracy", "precision", "recall", "f1" and
        "brier"; without intervals "expected_calibration_error", and "roc_auc" and "average_precision" over all samples.
    """
    said, truth = classifier.is_compatible(judged.distance), judged.compatible
    hit, probability = (said & truth).astype(float), classifier.probability(judged.distance)

    def ratio(numerators: Floats, denominators: Floats) -> Interval:
        return ratio_interval(numerators, denominators, judged.scene)

    return {
        **classifier.plain(),
        **({} if chosen_on is None else {"pairs": chosen_on}),
        "accuracy": interval((said == truth).astype(float), judged.scene),
        "precision": ratio(hit, said.astype(float)),
        "recall": ratio(hit, truth.astype(float)),
        "f1": ratio(2 * hit, said.astype(float) + truth),
        "expected_calibration_error": calibration_error(probability, truth),
        "brier": interval((probability - truth) ** 2, judged.scene),
        "roc_auc": roc_auc(judged.distance, truth),
        "average_precision": average_precision(judged.distance, truth),
    }


def calibration_error(probability: Floats, truth: NDArray[np.bool_]) -> float:
    """Σ over bins of (share of samples) · |mean probability - share of true ones| (Naeini et al. 2015, bins of equal width).

    It has no interval: it is biased upwards, resampling biases it once more, and a bootstrap interval would miss the
    truth.

    >>> calibration_error(np.array([0.75, 0.75, 0.25, 0.25]), np.array([True, True, False, False]))
    0.25

    Args:
        probability: probability of each sample to be compatible, (N,).
        truth: whether each sample is compatible, (N,).
    """
    # Not torchmetrics': it rounds the borders of its bins, and gives probability 1 a bin of its own.
    gaps = np.bincount(bins(probability), probability - truth, BINS)
    return float(np.abs(gaps).sum() / len(truth))


def roc_auc(distance: Floats, truth: NDArray[np.bool_]) -> float:
    """Area under the ROC curve; distances and truth of the samples, (N,) each. True samples should be the near ones.

    >>> roc_auc(np.array([0.1, 0.2, 0.3, 0.4]), np.array([True, False, True, False]))
    0.75
    """
    with _double():
        return float(binary_auroc(*_as_scores(distance, truth)))


def average_precision(distance: Floats, truth: NDArray[np.bool_]) -> float:
    """Σ over thresholds of (gain of recall) · precision; distances and truth of the samples, (N,) each.

    True samples should be the near ones.

    >>> average_precision(np.array([0.1, 0.2, 0.3]), np.array([True, False, True])).__round__(4)
    0.8333
    """
    with _double():
        return float(binary_average_precision(*_as_scores(distance, truth)))


def roc_curve(distance: Floats, truth: NDArray[np.bool_]) -> Floats:
    """False and true positive rates over all n thresholds, (2, n); distances and truth of the samples, (N,) each."""
    with _double():
        false_rate, true_rate, _ = binary_roc(*_as_scores(distance, truth))
    return torch.stack([false_rate, true_rate]).numpy()


def precision_recall_curve(distance: Floats, truth: NDArray[np.bool_]) -> Floats:
    """Recall and precision over all n thresholds, (2, n); distances and truth of the samples, (N,) each."""
    with _double():
        precision, recall, _ = binary_precision_recall_curve(*_as_scores(distance, truth))
    return torch.stack([recall, precision]).numpy()


def _as_scores(distance: Floats, truth: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """Scores in [0, 1], in reverse order of the distances, and the truth; torchmetrics takes others for logits."""
    levels, place = np.unique(distance, return_inverse=True)
    scores = 1 - place / max(1, len(levels) - 1)
    return torch.from_numpy(scores), torch.from_numpy(truth.astype(np.int64))


@contextmanager
def _double() -> Iterator[None]:
    """Makes torchmetrics divide counts in double precision within this block; it has no option for that."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def bins(probability: Floats) -> Integers:
    """Index of the bin that each probability is in, (N,)."""
    return np.minimum((probability * BINS).astype(np.int64), BINS - 1)
