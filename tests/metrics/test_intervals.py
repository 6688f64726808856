"""Intervals and p-values against closed forms, other implementations and simulation."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel

from ctl_lightning.metrics.intervals import NOTHING, as_text, interval, paired_difference, ratio_interval, sums_by_scene


def test_an_interval_as_text_and_what_has_no_value() -> None:
    assert as_text({"value": 0.6104, "low": 0.58, "high": 0.64}) == "0.610 [0.580, 0.640]"
    assert as_text(NOTHING) == "-"


def test_the_interval_is_the_closed_form_when_scenes_are_single() -> None:
    values = np.random.default_rng(4).random(400)
    found = interval(values, np.arange(400))
    half = 1.96 * values.std() / 20
    assert found["value"] == pytest.approx(values.mean())
    assert found["low"] == pytest.approx(values.mean() - half, abs=0.25 * half)
    assert found["high"] == pytest.approx(values.mean() + half, abs=0.25 * half)


def test_pairs_of_one_scene_do_not_count_as_independent() -> None:
    values = np.repeat(np.random.default_rng(5).random(40), 10)
    apart = interval(values, np.arange(400))
    together = interval(values, np.repeat(np.arange(40), 10))

    def width(found: Any) -> float:
        return float(found["high"] - found["low"])

    # Ten equal values a scene: the interval is sqrt(10) times as wide.
    assert width(together) / width(apart) == pytest.approx(10**0.5, rel=0.25)


def test_the_interval_of_a_median_holds_the_median() -> None:
    values = np.random.default_rng(6).integers(1, 50, size=300).astype(float)
    found = interval(values, np.arange(300) // 2, np.median)
    low, value, high = found["low"], found["value"], found["high"]
    assert [low, value, high] == sorted(x for x in (low, value, high) if x is not None)
    assert value == np.median(values)


def test_nothing_to_measure_is_none() -> None:
    assert interval(np.array([np.nan, np.nan]), np.arange(2)) == {"value": None, "low": None, "high": None}


def scenes_of(random: np.random.Generator, scenes: int) -> Any:
    """Pairs of scenes: one to three a scene, which share half of their variance; their true mean is 0.6."""
    numbers = np.repeat(np.arange(scenes), random.integers(1, 4, scenes))
    common = random.normal(size=scenes)[numbers]
    return numbers, 0.6 + 0.2 * (common + random.normal(size=len(numbers)))


@pytest.mark.parametrize("kind", ["mean", "ratio", "difference"])
def test_95_percent_intervals_hold_the_truth_92_to_98_percent_of_the_time(kind: str) -> None:
    random, held = np.random.default_rng(0), 0
    for seed in range(500):
        scenes, values = scenes_of(random, 60)
        if kind == "mean":
            found, truth = interval(values, scenes, seed=seed), 0.6
        elif kind == "ratio":
            said = random.random(len(values)) < 0.5
            found, truth = ratio_interval(values * said, said.astype(float), scenes, seed), 0.6
        else:
            found, truth = paired_difference(values, 0.5 * np.ones(len(values)), scenes, seed), 0.1
        low, high = found["low"], found["high"]
        assert low is not None
        assert high is not None
        held += low <= truth <= high
    assert 0.92 <= held / 500 <= 0.98


def test_p_values_of_nothing_are_uniform_and_of_something_small() -> None:
    random, found, real = np.random.default_rng(1), [], []
    for seed in range(200):
        scenes, values = scenes_of(random, 50)
        found.append(paired_difference(values, np.full(len(values), 0.6), scenes, seed)["p"])
        real.append(paired_difference(values, np.full(len(values), 0.4), scenes, seed)["p"])
    for level in (0.05, 0.2, 0.5):
        share = np.mean(np.array(found, float) <= level)
        assert share == pytest.approx(level, abs=3 * (level * (1 - level) / 200) ** 0.5 + 0.01)
    assert max(p for p in real if p is not None) < 0.01


def test_the_p_value_is_nearly_the_paired_t_tests() -> None:
    random = np.random.default_rng(2)
    first = random.normal(0.6, 0.2, 400)
    second = first + random.normal(-0.01, 0.1, 400)
    found = paired_difference(first, second, np.arange(400))
    assert found["value"] == pytest.approx((first - second).mean())
    assert found["p"] == pytest.approx(float(ttest_rel(first, second).pvalue), abs=0.03)


def test_equal_values_have_no_difference_and_p_one() -> None:
    values = np.random.default_rng(3).random(50)
    assert paired_difference(values, values, np.arange(50)) == {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    nothing = paired_difference(values * np.nan, values, np.arange(50))
    assert nothing == {"value": None, "low": None, "high": None, "p": None}


def test_a_ratio_of_ones_is_the_mean_and_sums_are_by_scene() -> None:
    random = np.random.default_rng(4)
    scenes, values = scenes_of(random, 60)
    mean = interval(values, scenes)
    ones = np.ones(len(values))
    assert ratio_interval(3 * values, 3 * ones, scenes) == pytest.approx(mean)
    sums = sums_by_scene(np.stack([values, ones], 1), scenes)
    for scene in range(60):
        assert sums[scene, 0] == pytest.approx(values[scenes == scene].sum())
