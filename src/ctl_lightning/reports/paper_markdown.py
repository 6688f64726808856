"""The tables of the paper's page in markdown: how the products are ranked, differences, the rest, and fifths of the pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ctl_lightning.metrics.intervals import Interval, as_text
from ctl_lightning.reports.fifths import Fifths, fifths_by
from ctl_lightning.reports.paper_rows import MethodRow

PUBLISHED = {"hybrid": "about 0.70 (full size, third party)"}
"""Published binary accuracy on the whole of Shop-the-Look fashion; the paper's other cells are not at hand."""

DIFFERENCES = {"AUC": "auc", "matched unseen": "auc_matched", "lift": "lift", "lift_geometry": "lift_geometry"}
"""Column -> metric that is compared pair by pair; `matched unseen` of the pairs with an unseen product alone."""

Line = list[str]


def markdown_table(
    protocol: str, rows: Sequence[MethodRow], compared: Sequence[str] = (), clean_by: str | None = None
) -> str:
    """The tables of one protocol. docs/results.md says what the columns mean.

    Args:
        protocol: name of the protocol.
        rows: one row per method.
        compared: names of the rows from which the differences of the others are told.
        clean_by: name of the row by whose fifths all are told; None: no fifths.
    """
    shown = [row for row in rows if row.results]
    found = fifths_by(rows, clean_by)
    tables = [
        _ranking(rows),
        *(_differences(shown, other) for name in compared for other in shown if other.method == name),
        _filled("method", shown, [_rest(protocol, row) for row in shown]),
        *(
            []
            if found is None
            else [_by_fifths(shown, found, *column) for column in (("AUC", "auc"), ("lift", "lift"))]
        ),
    ]
    text = "\n".join(_markdown(table) for table in tables if len(table[0]) > 1)
    if found is not None:
        text += f"\n{_selected(found)}\n"
    elif clean_by is not None:
        text += f"\nNo fifths: `{clean_by}` did not run.\n"
    return text


def _ranking(rows: Sequence[MethodRow]) -> list[Line]:
    shown = [row for row in rows if row.results]
    columns = _without_empty([_ranked(row) for row in shown])
    lines = [["method", "seeds", *(columns[0] if columns else ["AUC"])]]
    rest = iter(columns)
    for row in rows:
        cells = [*next(rest).values()] if row.results else [f"did not run: {reasons(row)}"]
        lines.append([f"`{row.method}`", _seeds(row), *cells])
    return lines + [[name, "", best(found)] for name, found in oracle(shown).items()]


def _ranked(row: MethodRow) -> dict[str, str]:
    auc = row.by_seed["all", "auc"]
    return {
        "AUC [95 %]": as_text(row.interval("all", "auc")),
        "± seeds": number(float(np.std(auc, ddof=1)) if len(auc) > 1 else None),
        "seen": _mean_of(row, "seen", "auc"),
        "unseen": _mean_of(row, "unseen", "auc"),
        "matched seen": _mean_of(row, "seen", "auc_matched"),
        "matched unseen": _mean_of(row, "unseen", "auc_matched"),
        "lift [95 %]": as_text(row.interval("all", "lift")),
        "lift_geometry [95 %]": as_text(row.interval("all", "lift_geometry")) if "lift_geometry" in row.values else "",
    }


def _differences(rows: Sequence[MethodRow], other: MethodRow) -> list[Line]:
    """How much more the rows have than another one, pair by pair; what it has itself is in the table before."""
    rest = [row for row in rows if row.method != other.method]
    cells = [{name: _compared(row, other, metric) for name, metric in DIFFERENCES.items()} for row in rest]
    return _filled(f"minus `{other.method}`, pair by pair: [95 %], p", rest, cells)


def _compared(row: MethodRow, other: MethodRow, metric: str) -> str:
    if not {metric} <= row.values.keys() & other.values.keys():
        return ""
    found = row.minus(other, metric, "unseen" if metric == "auc_matched" else "all")
    if found is None:
        return "other pairs"
    if found["value"] is None:
        return ""
    return f"{found['value']:+.3f} [{found['low']:.3f}, {found['high']:.3f}], {found['p']:.3f}"


def _rest(protocol: str, row: MethodRow) -> dict[str, str]:
    return {
        "binary accuracy": _mean_of(row, "all", "binary_accuracy"),
        "published": PUBLISHED.get(row.method, "") if protocol.startswith("stl_fashion") else "",
        "classifier: accuracy": _of_results(row, "classifier", "accuracy"),
        "F1": _of_results(row, "classifier", "f1"),
        "calibration error": _of_results(row, "classifier", "expected_calibration_error"),
        "MRR": _mean_of(row, "all", "mrr"),
        "hit@10": _mean_of(row, "all", "hit@10"),
        "nDCG gain, shuffled": _of_results(row, "reranking", "shuffled", "gain"),
        "popularity order": _of_results(row, "reranking", "popularity", "gain"),
        "hubs: share": _of_results(row, "hubs", "share"),
        "skewness": _of_results(row, "hubs", "skewness"),
        "coverage": _of_results(row, "hubs", "coverage"),
        "AUC, product visible": number(row.visible["all"]["auc"]["value"]) if row.visible else "",
        "pointing": _of_results(row, "attention", "pointing"),
        "energy": _of_results(row, "attention", "energy"),
    }


def _by_fifths(rows: Sequence[MethodRow], fifths: Fifths, name: str, metric: str) -> list[Line]:
    lines = [[f"{name} by fifths of `{fifths.by.method}`", *fifths.heads()]]
    for row in rows:
        found = fifths.intervals(row, metric)
        own = " (by construction)" if row is fifths.by else ""
        lines.append([f"`{row.method}`{own}", *(["other pairs"] if found is None else map(as_text, found))])
    return lines


def _selected(fifths: Fifths) -> str:
    """What fifths are, and what they are not."""
    name = fifths.by.method
    return (
        f"Fifths of the pairs by the AUC with which `{name}` ranks each of them, worst first: a selection by a model, not by people. A pair in "
        f"the first fifth can have a wrong label, or one that this model does not see; the fifths of `{name}` itself are so by construction, and "
        "those of methods that are like it partly."
    )


def _without_empty(columns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The cells of each row, head -> text, without the columns that are empty in all of them."""
    filled = [head for head in (columns[0] if columns else {}) if any(cells[head] for cells in columns)]
    return [{head: cells[head] for head in filled} for cells in columns]


def _filled(head: str, rows: Sequence[MethodRow], columns: Sequence[Mapping[str, str]]) -> list[Line]:
    """A table without its empty columns; `head`, that of the methods' names, is alone if nothing is left."""
    found = _without_empty(columns)
    lines = [[f"`{row.method}`", *cells.values()] for row, cells in zip(rows, found, strict=True)]
    return [[head, *(found[0] if found else [])], *lines]


def _markdown(lines: Sequence[Line]) -> str:
    """A markdown table of its head and its rows, the head first; cells that a row lacks are empty."""
    width = len(lines[0])
    whole = [[*line, *[""] * (width - len(line))] for line in (lines[0], ["---"] * width, *lines[1:])]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n" for cells in whole)


def reasons(row: MethodRow) -> str:
    """Why trainings of a row failed, each reason once."""
    return "; ".join(dict.fromkeys(row.why_not))


def _seeds(row: MethodRow) -> str:
    folds = f" x {row.folds} folds" if row.results and row.folds else ""
    failed = f" ({len(row.why_not)} failed: {reasons(row)})" if row.results and row.why_not else ""
    return f"{row.seeds}{folds}{failed}"


def _mean_of(row: MethodRow, group: str, metric: str) -> str:
    return number(row.interval(group, metric)["value"])


def _of_results(row: MethodRow, *names: str) -> str:
    """The mean over the runs, seeds and folds, of a value in results.json; empty if no run has it."""
    values = []
    for result in row.results:
        found: Any = result
        for name in names:
            found = found.get(name, {})
        value = found.get("value") if isinstance(found, dict) else found
        if value is not None:
            values.append(value)
    return number(float(np.mean(values)) if values else None)


def oracle(rows: Sequence[MethodRow]) -> dict[str, Interval]:
    """Name -> best possible AUC, on data where it is known; of folds the mean, which has no interval."""
    row = next((row for row in rows if any("oracle" in result for result in row.results)), None)
    if row is None:
        return {}
    of_folds = []
    for result in row.results[: row.folds or 1]:
        ceilings = {f"best possible for {name} alone": found for name, found in result["ceilings"].items()}
        of_folds.append(ceilings | {"best possible (oracle)": result["oracle"]["auc"]})
    if len(of_folds) == 1:
        return of_folds[0]
    return {
        name: {"value": float(np.mean([found[name]["value"] for found in of_folds])), "low": None, "high": None}
        for name in of_folds[0]
    }


def best(found: Interval) -> str:
    """A best possible AUC as text, with its interval where it has one."""
    return number(found["value"]) if found["low"] is None else as_text(found)


def number(value: float | None) -> str:
    """A number with three digits; nothing for None."""
    return "" if value is None else f"{value:.3f}"
