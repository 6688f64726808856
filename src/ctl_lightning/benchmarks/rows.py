"""A row of the benchmark's table, and how a rate is measured."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from statistics import median
from typing import NamedTuple

import torch


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


def rates(work: Mapping[str, Callable[[], Iterable[int]]], seconds: float, rounds: int) -> dict[str, list[float]]:
    """How much each kind of work does in a second.

    Args:
        work: name -> makes an iterable that yields how much was done since its last step. The first step is not timed.
        seconds: of every measurement.
        rounds: how often each kind is measured.

    Returns:
        Name -> the rate of each round.
    """
    return in_turn({name: partial(rate_of, start, seconds) for name, start in work.items()}, rounds)


def in_turn(measure: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each measurement `rounds` times. They take turns, so that a machine that slows down slows all of them down."""
    found: dict[str, list[float]] = {name: [] for name in measure}
    for _ in range(rounds):
        for name, once in measure.items():
            found[name].append(once())
    return found


def row_of(group: str, name: str, rounds: list[float], unit: str) -> Row:
    """Of the measurements of all rounds."""
    return Row(group, name, median(rounds), unit, min(rounds), max(rounds))


def rate_of(start: Callable[[], Iterable[int]], seconds: float) -> float:
    """How much is done in a second; see `rates`."""
    steps = iter(start())
    next(steps)
    done, began = 0, clock()
    for amount in steps:
        done += amount
        if time.perf_counter() - began >= seconds:
            break
    return done / (clock() - began)


def clock() -> float:
    """The time in seconds when all that was asked of the current device so far is done."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
