"""Threshold, probability and their measures against brute force, scikit-learn and simulation."""

import numpy as np
import pytest
from factories import table_distances, task
from sklearn.metrics import brier_score_loss, f1_score, precision_score, recall_score

from ctl_lightning.metrics.classification import (
    BINS,
    Classifier,
    Samples,
    calibration_error,
    classifier_results,
    fit_classifier,
    samples_of,
)
from ctl_lightning.metrics.pair_metrics import score_pairs
from ctl_lightning.reports.examples import classifier_curves


def judged(
    count: int = 400, seed: int = 0, slope: float = -2.0, intercept: float = 1.0, levels: int | None = None
) -> Samples:
    """Distances whose true log-odds are intercept + slope * distance; on so many levels, if given."""
    random = np.random.default_rng(seed)
    distance = random.normal(0.5, 1, count)
    if levels:
        distance = np.round(distance * levels / 4) * 4 / levels
    truth = random.random(count) < 1 / (1 + np.exp(-(intercept + slope * distance)))
    return Samples(distance, truth, np.arange(count) // 2)


@pytest.mark.parametrize("levels", [None, 6])
@pytest.mark.parametrize("seed", range(4))
def test_no_other_threshold_is_right_more_often(seed: int, levels: int | None) -> None:
    given = judged(60, seed, levels=levels)
    found = fit_classifier(given)
    right = (found.is_compatible(given.distance) == given.compatible).sum()
    tried = [*given.distance, given.distance.min() - 1, given.distance.max() + 1]
    assert right == max(((given.distance <= one) == given.compatible).sum() for one in tried)


def test_the_probability_is_the_one_that_the_samples_were_drawn_with() -> None:
    found = fit_classifier(judged(60_000))
    assert (found.slope, found.intercept) == pytest.approx((-2.0, 1.0), abs=0.05)
    assert found.threshold == pytest.approx(0.5, abs=0.15)  # where the log-odds are 0
    assert found.probability(np.array([0.5])) == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(found.probability(np.array([-1e4, 1e4])), [1, 0], atol=1e-12)


def test_a_probability_on_a_border_is_in_the_bin_above_and_certainty_in_the_last() -> None:
    assert calibration_error(np.array([0.3, 0.25]), np.array([True, False])) == pytest.approx((0.7 + 0.25) / 2)
    certain = np.array([1.0, 0.95, 0.95, 0.95])
    expected = abs(certain.sum() - 3) / 4  # one bin
    assert calibration_error(certain, np.array([False, True, True, True])) == pytest.approx(expected)


def test_samples_without_an_error_and_samples_that_are_all_alike() -> None:
    apart = Samples(np.array([0.1, 0.2, 0.8, 0.9]), np.array([True, True, False, False]), np.arange(4))
    found = fit_classifier(apart)
    assert 0.2 < found.threshold < 0.8
    assert np.isfinite([found.slope, found.intercept]).all()
    assert found.probability(apart.distance)[0] > 0.95
    alike = Samples(np.full(6, 2.0), np.arange(6) < 3, np.arange(6))
    same = fit_classifier(alike)
    np.testing.assert_allclose(same.probability(alike.distance), 0.5, atol=1e-6)
    assert classifier_results(same, alike, 3)["accuracy"]["value"] == 0.5


def test_the_samples_of_a_split_are_its_positives_and_then_its_seeded_negatives() -> None:
    given = task()
    table = np.random.default_rng(0).normal(size=(60, 40))
    found = samples_of(score_pairs(given, table_distances(table)), given.scene)
    for pair in range(60):
        assert found.distance[pair] == table[pair, given.positive[pair]]
        assert found.distance[60 + pair] == table[pair, given.negative[pair]]
        assert found.scene[pair] == found.scene[60 + pair] == given.scene[pair]
    assert found.compatible.tolist() == [True] * 60 + [False] * 60


def test_precision_recall_and_f1_are_scikit_learns() -> None:
    given, classifier = judged(300, 5), Classifier(0.2, -2.0, 1.0)
    found = classifier_results(classifier, given, 9)
    said = given.distance <= 0.2
    for name, reference in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert found[name]["value"] == pytest.approx(reference(given.compatible, said)), name
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    assert found["accuracy"]["value"] == pytest.approx((said == given.compatible).mean())
    probability = classifier.probability(given.distance)
    assert found["brier"]["value"] == pytest.approx(brier_score_loss(given.compatible, probability))


def test_the_calibration_error_is_a_slow_loops_and_small_for_the_truth() -> None:
    given = judged(500, 6)
    for classifier, low, high in ((Classifier(0.5, -2.0, 1.0), 0.0, 0.08), (Classifier(0.5, -9.0, 9.0), 0.1, 1.0)):
        probability, expected = classifier.probability(given.distance), 0.0
        for b in range(BINS):
            inside = [
                n for n, p in enumerate(probability) if b / BINS <= p < (b + 1) / BINS or (p == 1 and b == BINS - 1)
            ]
            if inside:
                gap = abs(np.mean(probability[inside]) - np.mean(given.compatible[inside]))
                expected += len(inside) / 500 * float(gap)
        assert calibration_error(probability, given.compatible) == pytest.approx(expected)
        assert low <= expected < high


def test_the_curves_go_through_the_threshold() -> None:
    given = judged(200, 7)
    classifier = fit_classifier(given)
    curves = classifier_curves(classifier, given)
    false_rate, true_rate, precision = curves.chosen
    assert np.abs(curves.roc.T - [false_rate, true_rate]).sum(1).min() < 0.03
    assert np.abs(curves.precision_recall.T - [true_rate, precision]).sum(1).min() < 0.03
    assert curves.reliability[2].sum() == 200
    nobody = classifier_curves(Classifier(-99.0, -2.0, 1.0), given)
    assert nobody.chosen == (0.0, 0.0, 1.0)
