"""A row of the benchmark's table, and how a rate is measured."""

import time
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import NamedTuple


class Row(NamedTuple):
    """One measurement.

    Attributes:
        group: what kind of thing was measured.
        name: what exactly.
        value: the median of the rounds.
        unit: of the value, such as "images/s".
        low: the smallest of the rounds.
        high: the largest of the rounds.
    """

    group: str
    name: str
    value: float
    unit: str
    low: float
    high: float


def rates(
    work: Mapping[str, Callable[[], Iterable[int]]], seconds: float, rounds: int
) -> dict[str, tuple[float, float, float]]:
    """How much each kind of work does in a second.

    The kinds take turns, so that a machine that slows down slows all of them down.

    Args:
        work: name -> makes an iterable that yields how much was done since its last step. The first step is not timed.
        seconds: of every measurement.
        rounds: how often each kind is measured.

    Returns:
        Name -> (median, smallest, largest) of the rounds.
    """
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, start in work.items():
            steps = iter(start())
            next(steps)
            done, began = 0, time.perf_counter()
            for amount in steps:
                done += amount
                if time.perf_counter() - began >= seconds:
                    break
            found[name].append(done / (time.perf_counter() - began))
    return {name: (median(values), min(values), max(values)) for name, values in found.items()}
