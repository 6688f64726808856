"""Writes the table of the paper from finished runs: mean over seeds, intervals over scenes, differences pair by pair.

It is written as markdown, as CSV and as a picture.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ctl_lightning.metrics.intervals import Interval, as_text
from ctl_lightning.reports.figures.intervals import method_intervals
from ctl_lightning.reports.paper_rows import GROUPS, MethodRow
from ctl_lightning.runtime.csv_files import csv_text
from ctl_lightning.runtime.errors import InputError, only_warned
from ctl_lightning.runtime.files import write_text

COMPARED = ("hybrid", "imagenet")
"""Methods with which the others are compared, pair by pair."""

PUBLISHED = {"hybrid": "about 0.70 (full size, third party)"}
"""Published binary accuracy on the whole of Shop-the-Look fashion; the paper's other cells are not at hand."""


def write_paper_table(
    folder: Path, rows: Mapping[str, Sequence[MethodRow]], docs: Path | None, console: Console
) -> list[Path]:
    """Writes table.md, table.csv and a picture per protocol, and prints the tables.

    Args:
        folder: folder to write into.
        rows: protocol -> one row per method.
        docs: folder with results.md, which has marks to put the tables between, and results.csv (see `check_docs`);
            None: the tables are put into no docs.
        console: console to print on.

    Returns:
        The files written.
    """
    written = [folder / "table.md", folder / "table.csv"]
    markdown = {protocol: markdown_table(protocol, found) for protocol, found in rows.items()}
    write_text(folder / "table.md", "\n".join(f"## {protocol}\n\n{text}" for protocol, text in markdown.items()))
    lines = [line for protocol, found in rows.items() for line in csv_lines(protocol, found)]
    write_text(folder / "table.csv", csv_text([CSV_HEAD, *lines]))
    for protocol, found in rows.items():
        shown = [row for row in found if row.results]
        if shown:
            path = folder / f"{protocol}.png"
            with only_warned(f"{path}: not drawn"):
                method_intervals(
                    path,
                    {row.method: {group: row.interval(group, "auc") for group in GROUPS} for row in shown},
                    {row.method: row.interval("all", "lift") for row in shown},
                    _oracle(shown),
                )
                written.append(path)
    if docs is not None:
        written += _into_docs(docs, markdown, lines)
    for protocol, found in rows.items():
        _print(protocol, found, console)
    return written


def markdown_table(protocol: str, rows: Sequence[MethodRow]) -> str:
    """Two tables of one protocol: how the products are ranked, and the rest. docs/results.md says what the columns mean."""
    shown = [row for row in rows if row.results]
    others = {row.method: row for row in shown}
    seeds, ranking, rest = [_seeds(row) for row in rows], [], []
    for row in shown:
        auc = row.by_seed["all", "auc"]
        ranking.append(
            {
                "AUC [95 %]": as_text(row.interval("all", "auc")),
                "± seeds": _number(float(np.std(auc, ddof=1)) if len(auc) > 1 else None),
                "seen": _mean_of(row, "seen", "auc"),
                "unseen": _mean_of(row, "unseen", "auc"),
                "matched seen": _mean_of(row, "seen", "auc_matched"),
                "matched unseen": _mean_of(row, "unseen", "auc_matched"),
                "lift [95 %]": as_text(row.interval("all", "lift")),
                **{f"AUC minus that of `{other}` [95 %], p": _compared(row, others.get(other)) for other in COMPARED},
            }
        )
        rest.append(
            {
                "binary accuracy": _mean_of(row, "all", "binary_accuracy"),
                "published": PUBLISHED.get(row.method, "") if protocol.startswith("stl_fashion") else "",
                "classifier: accuracy": _of_results(row, "classifier", "accuracy"),
                "F1": _of_results(row, "classifier", "f1"),
                "calibration error": _of_results(row, "classifier", "expected_calibration_error"),
                "MRR": _mean_of(row, "all", "mrr"),
                "hit@10": _mean_of(row, "all", "hit@10"),
                "nDCG gain, shuffled": _of_results(row, "reranking", "shuffled", "gain"),
                "popularity order": _of_results(row, "reranking", "popularity", "gain"),
                "AUC, product visible": _number(row.visible["all"]["auc"]["value"]) if row.visible else "",
                "pointing": _of_results(row, "attention", "pointing"),
                "energy": _of_results(row, "attention", "energy"),
            }
        )
    names = [f"`{row.method}`" for row in shown]
    lines = [["method", "seeds", *(ranking[0] if ranking else ["AUC"])]]
    found = iter(ranking)
    for row, count in zip(rows, seeds, strict=True):
        cells = list(next(found).values()) if row.results else [f"did not run: {_reasons(row)}"]
        lines.append([f"`{row.method}`", count, *cells])
    lines += [[name, "", as_text(best)] for name, best in _oracle(shown).items()]
    filled = [head for head in (rest[0] if rest else []) if any(cells[head] for cells in rest)]
    second = [
        ["method", *filled],
        *([name, *(cells[head] for head in filled)] for name, cells in zip(names, rest, strict=True)),
    ]
    return _markdown(lines) + ("\n" + _markdown(second) if filled else "")


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    """A markdown table of its head and its rows, the head first; cells that a row lacks are empty."""
    width = len(lines[0])
    whole = [[*line, *[""] * (width - len(line))] for line in (lines[0], ["---"] * width, *lines[1:])]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n" for cells in whole)


def _reasons(row: MethodRow) -> str:
    return "; ".join(dict.fromkeys(row.why_not))


def _seeds(row: MethodRow) -> str:
    failed = f" ({len(row.why_not)} failed: {_reasons(row)})" if row.results and row.why_not else ""
    return f"{len(row.results)}{failed}"


def _mean_of(row: MethodRow, group: str, metric: str) -> str:
    return _number(row.interval(group, metric)["value"])


def _of_results(row: MethodRow, *names: str) -> str:
    """The mean over the seeds of a value in results.json; empty if no seed has it."""
    values = []
    for result in row.results:
        found: Any = result
        for name in names:
            found = found.get(name, {})
        value = found.get("value") if isinstance(found, dict) else found
        if value is not None:
            values.append(value)
    return _number(float(np.mean(values)) if values else None)


def _compared(row: MethodRow, other: MethodRow | None) -> str:
    if other is None or other.method == row.method:
        return ""
    found = row.minus(other, "auc")
    if found is None:
        return "other pairs"
    return f"{found['value']:+.3f} [{found['low']:.3f}, {found['high']:.3f}], {found['p']:.3f}"


def _oracle(rows: Sequence[MethodRow]) -> dict[str, Interval]:
    """Name -> best possible AUC, on data where it is known."""
    result = next((result for row in rows for result in row.results if "oracle" in result), None)
    if result is None:
        return {}
    ceilings = {f"best possible for {name} alone": found for name, found in result["ceilings"].items()}
    return ceilings | {"best possible (oracle)": result["oracle"]["auc"]}


def csv_lines(protocol: str, rows: Sequence[MethodRow]) -> list[list[object]]:
    """One line per protocol, method, group and metric: mean over seeds, their spread, and the interval over scenes."""
    lines: list[list[object]] = []
    for row in rows:
        if not row.results:
            lines.append([protocol, row.method, "", "", "", "", "", "", 0, _reasons(row)])
        for (group, metric), seeds in row.by_seed.items():
            found = row.interval(group, metric)
            spread = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
            numbers = [found["value"], spread, found["low"], found["high"]]
            lines.append([protocol, row.method, group, metric, *map(_number6, numbers), len(seeds), _reasons(row)])
    return lines


CSV_HEAD = ["protocol", "method", "pairs", "metric", "mean", "sd_of_seeds", "low", "high", "seeds", "failed"]


def check_docs(docs: Path, protocols: Iterable[str], methods: Iterable[str], seeds: int) -> None:
    """Checks that the tables can be put into the docs, before hours are spent on them.

    Args:
        docs: folder with results.md and results.csv.
        protocols: names of the protocols; each has a table.
        methods: names of the methods of every table.
        seeds: number of seeds of each method.

    Raises:
        InputError: there is no results.md, it has no marks for a protocol, or its table has more methods or seeds.
    """
    page = docs / "results.md"
    if not page.is_file():
        raise InputError(f"docs={docs}: there is no {page}; give the folder of one")
    content = page.read_text(encoding="utf-8")
    for line in _csv_of(docs):
        if line["protocol"] in protocols and (line["method"] not in methods or int(line["seeds"]) > seeds):
            raise InputError(
                f"docs={docs}: its table of {line['protocol']} has {line['method']} with {line['seeds']} seeds, which this one would lose; "
                "give all of its methods and seeds, or another folder"
            )
    for protocol in protocols:
        if not _marks(protocol).search(content):
            raise InputError(
                f"docs={docs}: {page} has no lines '<!-- paper {protocol} -->' and '<!-- end of paper {protocol} -->' to put the table "
                "between; write them where it shall stand"
            )


def _csv_of(docs: Path) -> list[dict[str, str]]:
    table = docs / "results.csv"
    if not table.is_file():
        return []
    with table.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def _marks(protocol: str) -> re.Pattern[str]:
    name = re.escape(protocol)
    return re.compile(rf"(<!-- paper {name} -->\n).*?(<!-- end of paper {name} -->)", re.DOTALL)


def _into_docs(docs: Path, markdown: Mapping[str, str], lines: Sequence[Sequence[object]]) -> list[Path]:
    page, table = docs / "results.md", docs / "results.csv"
    content = page.read_text(encoding="utf-8")
    for protocol, text in markdown.items():
        before, after = _marks(protocol).search(content).groups()  # type: ignore[union-attr]
        content = _marks(protocol).sub(lambda _, new=before + text + after: new, content)  # type: ignore[misc]
    kept = [list(line.values()) for line in _csv_of(docs) if line["protocol"] not in markdown]
    write_text(page, content)
    write_text(table, csv_text([CSV_HEAD, *kept, *lines]))
    return [page, table]


def _print(protocol: str, rows: Sequence[MethodRow], console: Console) -> None:
    table = Table(title=f"{protocol}, test AUC: mean over seeds, 95 % interval over scenes")
    for head in ("method", "seeds", "auc", "seen", "unseen", "lift"):
        table.add_column(head, justify="left" if head == "method" else "right")
    for row in rows:
        if row.results:
            cells = [row.interval("all", "auc"), row.interval("seen", "auc"), row.interval("unseen", "auc")]
            seen = [_number(found["value"]) for found in cells[1:]]
            table.add_row(
                row.method, str(len(row.results)), as_text(cells[0]), *seen, as_text(row.interval("all", "lift"))
            )
        else:
            table.add_row(row.method, "0", f"did not run: {_reasons(row)}")
    console.print(table)
    for name, found in _oracle([row for row in rows if row.results]).items():
        console.print(f"{name}: {as_text(found)}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _number6(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
