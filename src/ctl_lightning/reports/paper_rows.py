"""Reads the rows of the paper's table from finished runs, pair by pair and seed by seed, and says which metrics tables show."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ctl_lightning.data.evaluation_set import Integers
from ctl_lightning.metrics.intervals import Floats, Interval, interval, paired_difference
from ctl_lightning.metrics.pair_metrics import mean
from ctl_lightning.reports.cells import EVALUATION, Cell, fold_folders
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.reading import lines_of, read_json

NEWER = ("auc_geometry", "lift_geometry")
"""Metrics that runs of before they were measured do not have."""

METRICS = (
    *("auc", "auc_matched", "auc_shuffled", "lift", *NEWER, "binary_accuracy", "hit@1", "hit@5", "hit@10", "hit@50"),
    "mrr",
)
GROUPS = ("all", "seen", "unseen")

Key = tuple[str, str, str]
"""Scene, box and product of a pair."""


@dataclass(frozen=True)
class RankedPairs:
    """How the N test pairs of one seed were ranked; of folds, the pairs of all of them, one fold after the other.

    Attributes:
        keys: (scene, bbox, product) of each pair.
        twins: name of the group of each pair's scene, which are one photo under several ids; of a run that did not look
            for twins, the scene.
        seen: whether the product of each pair is in a training pair, (N,).
        values: metric -> value of each pair, (N,).
    """

    keys: tuple[Key, ...]
    twins: tuple[str, ...]
    seen: Any
    values: Mapping[str, Floats]


@dataclass(frozen=True)
class MethodRow:
    """A method under one protocol.

    Attributes:
        method: name of the method.
        why_not: for each of its seeds that failed, why it failed.
        results: content of results.json of each finished run: of each fold of each seed.
        keys: (scene, bbox, product) of each of the N test pairs.
        twins: name of the group of each pair's scene, as in RankedPairs.
        seen: whether the product of each pair is in a training pair, (N,).
        values: metric -> mean over the seeds of each pair's value, (N,).
        by_seed: (group, metric) -> mean over the pairs, one for each seed.
        visible: results of the control *product visible*; None: it was not run.
        folds: number of folds, each of which was the test split once; None: there was one split.
    """

    method: str
    why_not: tuple[str, ...]
    results: tuple[dict[str, Any], ...] = ()
    keys: tuple[Key, ...] = ()
    twins: tuple[str, ...] = ()
    seen: Any = None
    values: Mapping[str, Floats] = field(default_factory=dict)
    by_seed: Mapping[tuple[str, str], list[float]] = field(default_factory=dict)
    visible: dict[str, Any] | None = None
    folds: int | None = None

    @property
    def seeds(self) -> int:
        """Number of finished seeds."""
        return len(self.results) // (self.folds or 1)

    def chosen(self, group: str) -> Any:
        """Which pairs are in the group "all", "seen" or "unseen", (N,)."""
        return np.ones(len(self.keys), bool) if group == "all" else self.seen == (group == "seen")

    def scenes(self) -> Integers:
        """Number of each pair's scene, (N,); equal numbers: one scene, or twins."""
        return np.unique(self.twins, return_inverse=True)[1]

    def interval(self, group: str, metric: str) -> Interval:
        """The mean over seeds and pairs, with the interval over scenes."""
        return self.interval_of(self.chosen(group), metric)

    def interval_of(self, chosen: Any, metric: str) -> Interval:
        """The mean over seeds and chosen pairs, (N,), with the interval over their scenes."""
        return interval(self.values[metric][chosen], self.scenes()[chosen])

    def minus(self, other: "MethodRow", metric: str, group: str = "all") -> Interval | None:
        """The difference from another method, pair by pair; None if the two have no pairs or not the same pairs."""
        if not self.keys or self.keys != other.keys:
            return None
        chosen = self.chosen(group)
        return paired_difference(self.values[metric][chosen], other.values[metric][chosen], self.scenes()[chosen])


def check_metrics(metrics: Sequence[str]) -> None:
    """Raises InputError: a metric that no table has."""
    unknown = {*metrics} - {*METRICS}
    if unknown:
        raise InputError(f"metrics: there is no {sorted(unknown)[0]!r}; there are: {', '.join(METRICS)}")


def read_row(
    method: str, finished: Sequence[Path], controls: Sequence[Path], failures: Sequence[str], folds: int | None = None
) -> MethodRow:
    """Reads the row of a method.

    Args:
        method: name of the method.
        finished: folders of its finished seeds: run directories, or with folds the folders that hold those of the folds.
        controls: run directories of `evaluate` with the control *product visible*.
        failures: for each seed that failed, why it failed.
        folds: number of folds; None: one split.
    """
    if not finished:
        return MethodRow(method, tuple(failures) or ("no run of it is finished",))
    try:
        tables = [read_pairs(fold_folders(folder, folds)) for folder in finished]
    except (InputError, OSError) as error:
        return MethodRow(method, (str(error),))
    keys, seen = tables[0].keys, tables[0].seen
    for folder, table in zip(finished, tables, strict=True):
        if table.keys != keys:
            return MethodRow(method, (f"{folder} has other test pairs than {finished[0]}",))
    metrics = [metric for metric in METRICS if all(metric in table.values for table in tables)]
    values = {metric: np.mean([table.values[metric] for table in tables], axis=0) for metric in metrics}
    group_of = {"all": np.ones(len(keys), bool), "seen": seen, "unseen": ~seen}
    by_seed = {
        (group, metric): [mean(table.values[metric][group_of[group]]) for table in tables]
        for group in GROUPS
        for metric in metrics
    }
    measured = (read_json(folder / "results.json").get("controls", {}) for folder in controls)
    visible = [found["product_visible"] for found in measured if found]
    results = tuple(read_json(run / "results.json") for folder in finished for run in fold_folders(folder, folds))
    return MethodRow(
        *(method, tuple(failures), results, keys, tables[0].twins, seen, values, by_seed),
        visible[0] if visible else None,
        folds,
    )


def read_rows(
    plain: Mapping[str, Any], cells: Sequence[Cell], failures: Mapping[Cell, str]
) -> dict[str, list[MethodRow]]:
    """Reads protocol -> one row per method, from all cells of a table.

    Args:
        plain: options of the program `paper`.
        cells: cells of all tables, finished or not.
        failures: failed cell -> why it failed.
    """
    folds = plain["folds"]
    rows: dict[str, list[MethodRow]] = {}
    for protocol in plain["protocols"]:
        rows[protocol] = []
        for method in plain["methods"]:
            seeds: dict[int, list[Cell]] = {}
            for cell in cells:
                if (cell.protocol, cell.method) == (protocol, method):
                    seeds.setdefault(cell.seed, []).append(cell)
            whole = [own for own in seeds.values() if all(cell.is_finished() for cell in own)]
            finished = [own[0].folder if folds is None else own[0].folder.parent for own in whole]
            controls = [own[0].folder / EVALUATION for own in whole if len(own[0].commands) > 1]
            why_not = [_why_not(failed) for own in seeds.values() if (failed := _failed(own, failures))]
            rows[protocol].append(read_row(method, finished, controls, why_not, folds))
    return rows


def _failed(cells: Sequence[Cell], failures: Mapping[Cell, str]) -> dict[Cell, str]:
    return {cell: failures[cell] for cell in cells if cell in failures}


def _why_not(failed: Mapping[Cell, str]) -> str:
    """Why a seed failed: with folds, which of them, and the reason of the first."""
    (first, why), *_ = failed.items()
    if first.fold is None:
        return why
    return f"seed {first.seed} fold {', '.join(str(cell.fold) for cell in failed)}: {why}"


def read_pairs(folders: Sequence[Path]) -> RankedPairs:
    """Reads the pairs of one seed.

    Args:
        folders: run directories of its folds in their order; one: there is one split.

    Raises:
        InputError: not the pairs that `train` writes; a pair that two folds have tested.
        OSError: no such file.
    """
    tables = [_read_pairs(folder / "pairs.csv") for folder in folders]
    tested: dict[Key, int] = {}
    for number, table in enumerate(tables):
        for key in table.keys:
            if tested.setdefault(key, number) != number:
                raise InputError(
                    f"scene {key[0]} with product {key[2]} is tested in {folders[tested[key]]} and in {folders[number]}, as folds of "
                    "different splits are; delete both folders, and run the command again"
                )
    return RankedPairs(
        tuple(key for table in tables for key in table.keys),
        tuple(name for table in tables for name in table.twins),
        np.concatenate([table.seen for table in tables]),
        {
            metric: np.concatenate([table.values[metric] for table in tables])
            for metric in METRICS
            if all(metric in table.values for table in tables)
        },
    )


def _read_pairs(path: Path) -> RankedPairs:
    try:
        rows = list(csv.DictReader(lines_of(path)))
        if not rows:
            raise ValueError("no pair is in it")
        keys = tuple((row["scene"], row["bbox"], row["product"]) for row in rows)
        metrics = [metric for metric in METRICS if metric in rows[0] or metric not in NEWER]
        values = {metric: np.array([float(row[metric]) for row in rows]) for metric in metrics}
        seen = np.array([row["seen"] == "1" for row in rows])
        twins = tuple(row.get("group") or row["scene"] for row in rows)
    except (KeyError, ValueError, TypeError, csv.Error):
        raise InputError(
            f"{path}: not the pairs that `train` writes; delete its folder, and run the command again"
        ) from None
    return RankedPairs(keys, twins, seen, values)
