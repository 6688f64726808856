"""Reads the rows of the paper's table from finished runs, pair by pair and seed by seed, and says which metrics tables show."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ctl_lightning.metrics.intervals import Floats, Interval, interval, paired_difference
from ctl_lightning.metrics.pair_metrics import mean
from ctl_lightning.reports.cells import EVALUATION, Cell
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.reading import lines_of, read_json

METRICS = ("auc", "auc_matched", "auc_shuffled", "lift", "binary_accuracy", "hit@1", "hit@5", "hit@10", "hit@50", "mrr")
GROUPS = ("all", "seen", "unseen")


@dataclass(frozen=True)
class MethodRow:
    """A method under one protocol.

    Attributes:
        method: name of the method.
        why_not: for each of its trainings that failed, why it failed.
        results: content of results.json of each finished seed.
        keys: (scene, bbox, product) of each of the N test pairs.
        seen: whether the product of each pair is in a training pair, (N,).
        values: metric -> mean over the seeds of each pair's value, (N,).
        by_seed: (group, metric) -> mean over the pairs, one for each seed.
        visible: results of the control *product visible*; None: it was not run.
    """

    method: str
    why_not: tuple[str, ...]
    results: tuple[dict[str, Any], ...] = ()
    keys: tuple[tuple[str, str, str], ...] = ()
    seen: Any = None
    values: Mapping[str, Floats] = field(default_factory=dict)
    by_seed: Mapping[tuple[str, str], list[float]] = field(default_factory=dict)
    visible: dict[str, Any] | None = None

    def chosen(self, group: str) -> Any:
        """Which pairs are in the group "all", "seen" or "unseen", (N,)."""
        return np.ones(len(self.keys), bool) if group == "all" else self.seen == (group == "seen")

    def scenes(self) -> Any:
        """Number of each pair's scene, (N,); equal numbers, equal scenes."""
        return np.unique([key[0] for key in self.keys], return_inverse=True)[1]

    def interval(self, group: str, metric: str) -> Interval:
        """The mean over seeds and pairs, with the interval over scenes."""
        chosen = self.chosen(group)
        return interval(self.values[metric][chosen], self.scenes()[chosen])

    def minus(self, other: "MethodRow", metric: str, group: str = "all") -> Interval | None:
        """The difference from another method, pair by pair; None if the two have no pairs or not the same pairs."""
        if not self.keys or self.keys != other.keys:
            return None
        chosen = self.chosen(group)
        return paired_difference(self.values[metric][chosen], other.values[metric][chosen], self.scenes()[chosen])


def read_row(method: str, finished: Sequence[Path], controls: Sequence[Path], failures: Sequence[str]) -> MethodRow:
    """Reads the row of a method.

    Args:
        method: name of the method.
        finished: run directories of its finished seeds.
        controls: run directories of `evaluate` with the control *product visible*.
        failures: for each seed that failed, why it failed.
    """
    if not finished:
        return MethodRow(method, tuple(failures) or ("no run of it is finished",))
    try:
        tables = [_read_pairs(folder / "pairs.csv") for folder in finished]
    except (InputError, OSError) as error:
        return MethodRow(method, (str(error),))
    keys, seen = tables[0][0], tables[0][1]
    for folder, table in zip(finished, tables, strict=True):
        if table[0] != keys:
            return MethodRow(method, (f"{folder / 'pairs.csv'} has other test pairs than {finished[0]}",))
    values = {metric: np.mean([table[2][metric] for table in tables], axis=0) for metric in METRICS}
    group_of = {"all": np.ones(len(keys), bool), "seen": seen, "unseen": ~seen}
    by_seed = {
        (group, metric): [mean(table[2][metric][group_of[group]]) for table in tables]
        for group in GROUPS
        for metric in METRICS
    }
    visible = [read_json(folder / "results.json")["controls"]["product_visible"] for folder in controls]
    results = tuple(read_json(folder / "results.json") for folder in finished)
    return MethodRow(method, tuple(failures), results, keys, seen, values, by_seed, visible[0] if visible else None)


def read_rows(
    protocols: Sequence[str], methods: Sequence[str], cells: Sequence[Cell], failures: Mapping[Cell, str]
) -> dict[str, list[MethodRow]]:
    """Reads protocol -> one row per method, from all cells of a table.

    Args:
        protocols: names of the protocols; each has a table.
        methods: names of the methods of every table.
        cells: cells of all tables, finished or not.
        failures: failed cell -> why it failed.
    """
    rows: dict[str, list[MethodRow]] = {}
    for protocol in protocols:
        rows[protocol] = []
        for method in methods:
            own = [cell for cell in cells if (cell.protocol, cell.method) == (protocol, method)]
            finished = [cell.folder for cell in own if cell.is_finished()]
            controls = [cell.folder / EVALUATION for cell in own if cell.is_finished() and len(cell.commands) > 1]
            why_not = [failures[cell] for cell in own if cell in failures]
            rows[protocol].append(read_row(method, finished, controls, why_not))
    return rows


def _read_pairs(path: Path) -> tuple[tuple[tuple[str, str, str], ...], Any, dict[str, Floats]]:
    try:
        rows = list(csv.DictReader(lines_of(path)))
        if not rows:
            raise ValueError("no pair is in it")
        keys = tuple((row["scene"], row["bbox"], row["product"]) for row in rows)
        values = {metric: np.array([float(row[metric]) for row in rows]) for metric in METRICS}
    except (KeyError, ValueError, TypeError, csv.Error):
        raise InputError(
            f"{path}: not the pairs that `train` writes; delete its folder, and run the command again"
        ) from None
    return keys, np.array([row["seen"] == "1" for row in rows]), values
