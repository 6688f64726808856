"""Finished runs -> the table of the paper: mean over seeds, intervals over scenes, differences pair by pair; markdown, csv, picture."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ctl_lightning.data.files import write_text
from ctl_lightning.errors import InputError
from ctl_lightning.intervals import Floats, Interval, interval, paired_difference
from ctl_lightning.pictures import method_intervals

METRICS = ("auc", "auc_matched", "auc_shuffled", "lift", "binary_accuracy", "hit@1", "hit@5", "hit@10", "hit@50", "mrr")
GROUPS = ("all", "seen", "unseen")
COMPARED = ("hybrid", "imagenet")
"""Methods that the others are compared with, pair by pair."""

PUBLISHED = {"hybrid": "about 0.70 (full size, third party)"}
"""Binary accuracy on Shop-the-Look fashion, all of it; the paper's other cells are not at hand."""


@dataclass(frozen=True)
class Row:
    """A method under one protocol.

    Attributes:
        method: its name.
        why_not: why trainings of it failed.
        results: results.json of each finished seed.
        keys: (scene, bbox, product) of each test pair, N of them.
        seen: whether the product of each pair is in a training pair, (N,).
        values: metric -> mean over the seeds of each pair's value, (N,).
        by_seed: (group, metric) -> the mean over the pairs, for each seed.
        visible: results of the control, if it was run.
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
        """Which pairs are in a group, (N,)."""
        return np.ones(len(self.keys), bool) if group == "all" else self.seen == (group == "seen")

    def scenes(self) -> Any:
        """A number of each pair's scene, (N,)."""
        return np.unique([key[0] for key in self.keys], return_inverse=True)[1]

    def interval(self, group: str, metric: str) -> Interval:
        """The mean over seeds and pairs, with the interval over scenes."""
        chosen = self.chosen(group)
        return interval(self.values[metric][chosen], self.scenes()[chosen])

    def minus(self, other: "Row", metric: str, group: str = "all") -> Interval | None:
        """The difference to another method's, pair by pair; None if they have no pairs in common."""
        if not self.keys or self.keys != other.keys:
            return None
        chosen = self.chosen(group)
        return paired_difference(self.values[metric][chosen], other.values[metric][chosen], self.scenes()[chosen])


def read_row(method: str, folders: Sequence[Path], failures: Sequence[str]) -> Row:
    """A method's row from the run directories of its seeds.

    Raises:
        InputError: two seeds were measured on different pairs.
    """
    finished = [folder for folder in folders if (folder / "results.json").exists() and (folder / "pairs.csv").exists()]
    why_not = tuple(dict.fromkeys(failures))
    if not finished:
        return Row(method, why_not or ("no run of it is finished",))
    tables = [_read_pairs(folder / "pairs.csv") for folder in finished]
    keys, seen = tables[0][0], tables[0][1]
    for folder, table in zip(finished, tables, strict=True):
        if table[0] != keys:
            raise InputError(
                f"{folder / 'pairs.csv'}: other test pairs than in {finished[0]}; they can not be averaged"
            )
    values = {metric: np.mean([table[2][metric] for table in tables], axis=0) for metric in METRICS}
    group_of = {"all": np.ones(len(keys), bool), "seen": seen, "unseen": ~seen}
    by_seed = {
        (group, metric): [_mean(table[2][metric][group_of[group]]) for table in tables]
        for group in GROUPS
        for metric in METRICS
    }
    controls = [folder / "evaluation" / "results.json" for folder in finished]
    visible = next(
        (json.loads(path.read_text())["controls"]["product_visible"] for path in controls if path.exists()), None
    )
    results = tuple(json.loads((folder / "results.json").read_text()) for folder in finished)
    return Row(method, why_not, results, keys, seen, values, by_seed, visible)


def _read_pairs(path: Path) -> tuple[tuple[tuple[str, str, str], ...], Any, dict[str, Floats]]:
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    keys = tuple((row["scene"], row["bbox"], row["product"]) for row in rows)
    values = {metric: np.array([float(row[metric]) for row in rows]) for metric in METRICS}
    return keys, np.array([row["seen"] == "1" for row in rows]), values


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def write_tables(folder: Path, rows: Mapping[str, Sequence[Row]], docs: Path | None, console: Console) -> list[Path]:
    """Writes table.md, table.csv and a picture a protocol, and prints the tables.

    Args:
        folder: for them.
        rows: protocol -> a row a method.
        docs: where results.md has marks to put them between, and results.csv; None: nowhere.
        console: to print on.

    Returns:
        The files.

    Raises:
        InputError: results.md has no marks for a protocol.
    """
    written = [folder / "table.md", folder / "table.csv"]
    markdown = {protocol: markdown_table(protocol, found) for protocol, found in rows.items()}
    write_text(folder / "table.md", "\n".join(f"## {protocol}\n\n{text}" for protocol, text in markdown.items()))
    lines = [line for protocol, found in rows.items() for line in csv_lines(protocol, found)]
    write_text(folder / "table.csv", _csv(lines))
    for protocol, found in rows.items():
        shown = [row for row in found if row.results]
        if shown:
            written.append(folder / f"{protocol}.png")
            method_intervals(
                written[-1],
                {row.method: {group: row.interval(group, "auc") for group in GROUPS} for row in shown},
                {row.method: row.interval("all", "lift") for row in shown},
                _oracle(shown),
            )
        _print(protocol, found, console)
    if docs is not None:
        written += _into_docs(docs, markdown, lines)
    return written


def markdown_table(protocol: str, rows: Sequence[Row]) -> str:
    """The table of one protocol, and what its columns mean."""
    heads = [
        "method",
        "seeds",
        "AUC [95 %]",
        "± seeds",
        "seen",
        "unseen",
        "matched seen",
        "matched unseen",
        "lift [95 %]",
    ]
    heads += ["binary accuracy", "classifier accuracy", "MRR", "hit@10", "AUC, product visible"]
    heads += [f"AUC minus that of {other} [95 %], p" for other in COMPARED]
    synthetic = any("oracle" in result for row in rows for result in row.results)
    heads += ["pointing", "energy"] if synthetic else ["published (binary accuracy)"]
    lines = [heads, ["---"] * len(heads)]
    others = {row.method: row for row in rows if row.results}
    for row in rows:
        if not row.results:
            lines.append([f"`{row.method}`", "0", f"did not run: {'; '.join(row.why_not)}", *[""] * (len(heads) - 3)])
            continue

        def mean(group: str, metric: str, row: Row = row) -> str:
            return _number(row.interval(group, metric)["value"])

        auc = row.by_seed["all", "auc"]
        accuracy = np.mean([result["classifier"]["accuracy"]["value"] for result in row.results])
        seeds = f"{len(row.results)}" + (
            f" ({len(row.why_not)} failed: {'; '.join(row.why_not)})" if row.why_not else ""
        )
        cells = [f"`{row.method}`", seeds, _cell(row.interval("all", "auc"))]
        cells += [_number(float(np.std(auc, ddof=1)) if len(auc) > 1 else None)]
        cells += [
            mean("seen", "auc"),
            mean("unseen", "auc"),
            mean("seen", "auc_matched"),
            mean("unseen", "auc_matched"),
        ]
        cells += [_cell(row.interval("all", "lift")), mean("all", "binary_accuracy"), _number(float(accuracy))]
        cells += [mean("all", "mrr"), mean("all", "hit@10")]
        cells += [_number(row.visible["all"]["auc"]["value"]) if row.visible else ""]
        cells += [_compared(row, others.get(other)) for other in COMPARED]
        if synthetic:
            attention = [result["attention"] for result in row.results if "attention" in result]
            for name in ("pointing", "energy"):
                cells.append(
                    _number(float(np.mean([found[name]["value"] for found in attention]))) if attention else ""
                )
        else:
            cells.append(PUBLISHED.get(row.method, "") if protocol.startswith("stl_fashion") else "")
        lines.append(cells)
    for name, found in _oracle([row for row in rows if row.results]).items():
        lines.append([name, "", _cell(found), *[""] * (len(heads) - 3)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _compared(row: Row, other: Row | None) -> str:
    if other is None or other.method == row.method:
        return ""
    found = row.minus(other, "auc")
    if found is None:
        return "other pairs"
    return f"{found['value']:+.3f} [{found['low']:.3f}, {found['high']:.3f}], {found['p']:.3f}"


def _oracle(rows: Sequence[Row]) -> dict[str, Interval]:
    """What is the best possible, on data where that is known."""
    result = next((result for row in rows for result in row.results if "oracle" in result), None)
    if result is None:
        return {}
    ceilings = {f"best possible for {name} alone": found for name, found in result["ceilings"].items()}
    return ceilings | {"best possible (oracle)": result["oracle"]["auc"]}


def csv_lines(protocol: str, rows: Sequence[Row]) -> list[list[object]]:
    """A line a protocol, method, group and metric, with the mean over seeds, their spread, and the interval over scenes."""
    lines: list[list[object]] = []
    for row in rows:
        if not row.results:
            lines.append([protocol, row.method, "", "", "", "", "", "", 0, "; ".join(row.why_not)])
        for (group, metric), seeds in row.by_seed.items():
            found = row.interval(group, metric)
            spread = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
            numbers = [found["value"], spread, found["low"], found["high"]]
            lines.append(
                [protocol, row.method, group, metric, *map(_number6, numbers), len(seeds), "; ".join(row.why_not)]
            )
    return lines


CSV_HEAD = ["protocol", "method", "pairs", "metric", "mean", "sd_of_seeds", "low", "high", "seeds", "failed"]


def _csv(lines: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([CSV_HEAD, *lines])
    return text.getvalue()


def _into_docs(docs: Path, markdown: Mapping[str, str], lines: Sequence[Sequence[object]]) -> list[Path]:
    page, table = docs / "results.md", docs / "results.csv"
    content = page.read_text(encoding="utf-8") if page.exists() else ""
    for protocol, text in markdown.items():
        marks = re.compile(
            rf"(<!-- paper {re.escape(protocol)} -->\n).*?(<!-- end of paper {re.escape(protocol)} -->)", re.DOTALL
        )
        if not marks.search(content):
            raise InputError(
                f"docs={docs}: {page} has no lines '<!-- paper {protocol} -->' and '<!-- end of paper {protocol} -->' to put the table "
                "between; write them where it shall stand"
            )
        content = marks.sub(lambda found, text=text: f"{found[1]}{text}{found[2]}", content)  # type: ignore[misc]
    kept: list[list[str]] = []
    if table.exists():
        with table.open(newline="", encoding="utf-8") as old:
            kept = [line for line in csv.reader(old) if line and line[0] not in {*markdown, CSV_HEAD[0]}]
    write_text(page, content)
    write_text(table, _csv([*kept, *lines]))
    return [page, table]


def _print(protocol: str, rows: Sequence[Row], console: Console) -> None:
    table = Table(title=f"{protocol}, test AUC: mean over seeds, 95 % interval over scenes")
    for head in ("method", "seeds", "auc", "seen", "unseen", "lift"):
        table.add_column(head, justify="left" if head == "method" else "right")
    for row in rows:
        if row.results:
            cells = [row.interval("all", "auc"), row.interval("seen", "auc"), row.interval("unseen", "auc")]
            seen = [_number(found["value"]) for found in cells[1:]]
            table.add_row(row.method, str(len(row.results)), _cell(cells[0]), *seen, _cell(row.interval("all", "lift")))
        else:
            table.add_row(row.method, "0", f"did not run: {'; '.join(row.why_not)}")
    console.print(table)
    for name, found in _oracle([row for row in rows if row.results]).items():
        console.print(f"{name}: {_cell(found)}")


def _cell(found: Interval) -> str:
    if found["value"] is None:
        return ""
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _number6(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
