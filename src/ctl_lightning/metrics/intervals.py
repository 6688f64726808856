"""How certain is a number or a difference? Intervals and p-values that resample scenes, as pairs of one scene depend on each other."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ctl_lightning.data.evaluation_set import Integers

Floats = NDArray[np.float64]

Interval = dict[str, float | None]
"""{"value", "low", "high"}: a number and its 95 % interval; None where there is nothing to measure. A difference also has "p"."""

RESAMPLES = 1000

NOTHING: Interval = {"value": None, "low": None, "high": None}


def interval(values: Floats, scenes: Integers, statistic: Callable[..., Floats] = np.mean, seed: int = 0) -> Interval:
    """A statistic of pairs with its 95 % percentile bootstrap interval (Efron & Tibshirani 1993, section 13.3).

    Args:
        values: one value per pair, (N,); NaN for a pair without a value.
        scenes: number of each pair's scene, (N,).
        statistic: np.mean or np.median.
        seed: random seed of the resampling.
    """
    if statistic is np.mean:
        return ratio_interval(values, np.ones(len(values)), scenes, seed)
    known = ~np.isnan(values)
    values, scenes = values[known], scenes[known]
    if not len(values):
        return dict(NOTHING)
    _, scenes = np.unique(scenes, return_inverse=True)
    times = _draws(int(scenes.max()) + 1, seed)
    resampled = np.array([statistic(np.repeat(values, row[scenes])) for row in times])
    return _percentiles(float(statistic(values)), resampled)


def ratio_interval(numerators: Floats, denominators: Floats, scenes: Integers, seed: int = 0) -> Interval:
    """Σ numerators / Σ denominators with its 95 % interval: a mean, or a precision, a recall or an F1 of counts.

    Args:
        numerators: one numerator per pair, (N,); NaN for a pair that does not count.
        denominators: one denominator per pair, (N,).
        scenes: number of each pair's scene, (N,).
        seed: random seed of the resampling.
    """
    known = ~np.isnan(numerators)
    numerators, denominators, scenes = numerators[known], denominators[known], scenes[known]
    if not denominators.sum():
        return dict(NOTHING)
    above, below = sums_by_scene(numerators[:, None], scenes)[:, 0], sums_by_scene(denominators[:, None], scenes)[:, 0]
    draws = _draws(len(above), seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = (draws @ above) / (draws @ below)
    return _percentiles(float(numerators.sum() / denominators.sum()), resampled[np.isfinite(resampled)])


def sums_by_scene(values: Floats, scenes: Integers) -> Floats:
    """Values of pairs (N, K) and the numbers of their scenes (N,) -> sums over the pairs of each scene, (scenes, K)."""
    _, scenes = np.unique(scenes, return_inverse=True)
    sums = np.zeros((int(scenes.max()) + 1, values.shape[1]))
    np.add.at(sums, scenes, values)
    return sums


def paired_difference(first: Floats, second: Floats, scenes: Integers, seed: int = 0) -> Interval:
    """The mean of first - second over the same pairs, its 95 % interval, and the p-value of "there is no difference".

    The p-value is that of the same bootstrap (Efron & Tibshirani 1993, section 15.4): twice the smaller share of
    resampled differences that lie on one side of 0, where those at 0 count on both sides, and never below 2 /
    (resamples + 1).

    Args:
        first: first value of each pair, (N,); NaN for a pair without a value.
        second: second value of each pair, (N,); NaN likewise.
        scenes: number of each pair's scene, (N,).
        seed: random seed of the resampling.

    Returns:
        {"value", "low", "high", "p"}
    """
    difference = first - second
    known = ~np.isnan(difference)
    difference, scenes = difference[known], scenes[known]
    if not len(difference):
        return NOTHING | {"p": None}
    sums = sums_by_scene(np.stack([difference, np.ones(len(difference))], 1), scenes)
    resampled = _draws(len(sums), seed) @ sums
    means = resampled[:, 0] / resampled[:, 1]
    side = min((means <= 0).sum(), (means >= 0).sum())
    found = _percentiles(float(difference.mean()), means)
    return found | {"p": float(min(1.0, 2 * (side + 1) / (len(means) + 1)))}


def as_text(found: Interval) -> str:
    """Text such as "0.610 [0.580, 0.640]"; "-" if there is no value."""
    if found["value"] is None:
        return "-"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


@lru_cache(maxsize=8)  # a table asks hundreds of times for those of the same scenes, and they take longer than the rest
def _draws(count: int, seed: int) -> Integers:
    """How often each of `count` scenes is drawn in each resample, (RESAMPLES, count)."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)


def _percentiles(value: float, resampled: Floats) -> Interval:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high)}
