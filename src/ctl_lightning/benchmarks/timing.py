"""A row of the benchmark's table, and how a rate is measured."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from statistics import median
from typing import TypeVar

import torch

Result = TypeVar("Result")


@dataclass(frozen=True)
class Row:
    """One measurement, repeated.

    Attributes:
        group: what kind of thing was measured.
        name: what exactly.
        rounds: what each round found.
        unit: of that, such as "images/s".
    """

    group: str
    name: str
    rounds: list[float]
    unit: str

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return median(self.rounds)

    def as_dict(self) -> dict[str, object]:
        """For a file: with median, smallest and largest of the rounds."""
        return {
            "group": self.group,
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "low": min(self.rounds),
            "high": max(self.rounds),
            "rounds": self.rounds,
        }


def ratio(rows: Sequence[Row], over: str, under: str, group: str) -> float:
    """The median over the rounds of one row of a group over another: what changes the machine from round to round falls out."""
    one, other = (next(row for row in rows if (row.group, row.name) == (group, name)) for name in (over, under))
    return median(a / b for a, b in zip(one.rounds, other.rounds, strict=True))


def rates(work: Mapping[str, Callable[[], Iterable[int]]], seconds: float, rounds: int) -> dict[str, list[float]]:
    """How much each kind of work does in a second.

    Args:
        work: name -> makes an iterable that yields how much was done since its last step. The first step is not timed.
        seconds: length of each measurement, in seconds.
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


def alone(work: Callable[..., Result], *arguments: object) -> Result:
    """What a function of a module returns in a process of its own, which ends by itself: killed, it would leave semaphores."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def clock() -> float:
    """The time in seconds when all that was asked of the current device so far is done."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
