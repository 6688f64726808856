"""Writes the table of the paper from finished runs: mean over seeds, intervals over scenes, differences pair by pair.

It is written as markdown, as CSV and as a picture.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ctl_lightning.metrics.intervals import as_text
from ctl_lightning.reports.fifths import fifths_by
from ctl_lightning.reports.figures.intervals import method_intervals
from ctl_lightning.reports.paper_markdown import best, markdown_table, number, oracle, reasons
from ctl_lightning.reports.paper_rows import GROUPS, MethodRow
from ctl_lightning.runtime.csv_files import csv_text
from ctl_lightning.runtime.errors import InputError, only_warned
from ctl_lightning.runtime.files import write_text


def write_paper_table(
    folder: Path,
    rows: Mapping[str, Sequence[MethodRow]],
    docs: Path | None,
    console: Console,
    compared: Sequence[str] = (),
    clean_by: str | None = None,
) -> list[Path]:
    """Writes table.md, table.csv and a picture per protocol, and prints the tables.

    Args:
        folder: folder to write into.
        rows: protocol -> one row per method.
        docs: folder with results.md, which has marks to put the tables between, and results.csv (see `check_docs`);
            None: the tables are put into no docs.
        console: console to print on.
        compared: names of the rows from which the differences of the others are told.
        clean_by: name of the row by whose fifths all are told; None: no fifths.

    Returns:
        The files written.
    """
    written = [folder / "table.md", folder / "table.csv"]
    markdown = {protocol: markdown_table(protocol, found, compared, clean_by) for protocol, found in rows.items()}
    write_text(folder / "table.md", "\n".join(f"## {protocol}\n\n{text}" for protocol, text in markdown.items()))
    lines = [line for protocol, found in rows.items() for line in csv_lines(protocol, found, clean_by)]
    write_text(folder / "table.csv", csv_text([CSV_HEAD, *lines]))
    for protocol, found in rows.items():
        shown = [row for row in found if row.results]
        if shown:
            path = folder / f"{protocol}.png"
            with only_warned(f"{path}: not drawn"):
                _draw(path, shown)
                written.append(path)
    if docs is not None:
        written += _into_docs(docs, markdown, lines)
    for protocol, found in rows.items():
        _print(protocol, found, console)
    return written


def _draw(path: Path, rows: Sequence[MethodRow]) -> None:
    lifts = {
        name: {row.method: row.interval("all", name) for row in rows if name in row.values}
        for name in ("lift", "lift_geometry")
    }
    auc = {row.method: {group: row.interval(group, "auc") for group in GROUPS} for row in rows}
    method_intervals(path, auc, {name: found for name, found in lifts.items() if found}, oracle(rows))


CSV_HEAD = ["protocol", "method", "pairs", "metric", "mean", "sd_of_seeds", "low", "high", "seeds", "failed", "folds"]


def csv_lines(protocol: str, rows: Sequence[MethodRow], clean_by: str | None = None) -> list[list[object]]:
    """One line per protocol, method, group and metric: mean over seeds, their spread, and the interval over scenes.

    Groups are "all", "seen" and "unseen", and with `clean_by` fifths, such as "fifth 1 of NAME", of AUC and lift.
    """
    lines: list[list[object]] = []
    fifths = fifths_by(rows, clean_by)
    for row in rows:
        if not row.results:
            lines.append([protocol, row.method, "", "", "", "", "", "", 0, reasons(row), row.folds])
        found = [
            (group, metric, float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None, row.interval(group, metric))
            for (group, metric), seeds in row.by_seed.items()
        ]
        for metric in ("auc", "lift"):
            own_fifths = fifths.intervals(row, metric) if fifths else None
            for place, own in enumerate(own_fifths or (), start=1):
                found.append((f"fifth {place} of {clean_by}", metric, None, own))
        for group, metric, spread, own in found:
            numbers = map(_number6, (own["value"], spread, own["low"], own["high"]))
            lines.append([protocol, row.method, group, metric, *numbers, row.seeds, reasons(row), row.folds])
    return lines


def check_docs(
    docs: Path, protocols: Iterable[str], methods: Iterable[str], seeds: int, folds: int | None = None
) -> None:
    """Checks that the tables can be put into the docs, before hours are spent on them.

    Args:
        docs: folder with results.md and results.csv.
        protocols: names of the protocols; each has a table.
        methods: names of the methods of every table.
        seeds: number of seeds of each method.
        folds: number of folds of each seed; None: one split.

    Raises:
        InputError: there is no results.md, it has no marks for a protocol, or its table has more methods, folds or seeds.
    """
    page = docs / "results.md"
    if not page.is_file():
        raise InputError(f"docs={docs}: there is no {page}; give the folder of one")
    content = page.read_text(encoding="utf-8")
    for line in _csv_of(docs):
        # Folds count before seeds: they test every pair, where more seeds only test the same ones more exactly.
        there = int(line.get("folds") or 1), int(line["seeds"])
        if line["protocol"] in protocols and (line["method"] not in methods or there > (folds or 1, seeds)):
            of_folds = f" of {there[0]} folds" if there[0] > 1 else ""
            raise InputError(
                f"docs={docs}: its table of {line['protocol']} has {line['method']} with {there[1]} seeds{of_folds}, which this one would "
                "lose; give all of its methods, seeds and folds, or another folder"
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
    kept = [[line.get(name, "") for name in CSV_HEAD] for line in _csv_of(docs) if line["protocol"] not in markdown]
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
            seen = [number(found["value"]) for found in cells[1:]]
            table.add_row(row.method, str(row.seeds), as_text(cells[0]), *seen, as_text(row.interval("all", "lift")))
        else:
            table.add_row(row.method, "0", f"did not run: {reasons(row)}")
    console.print(table)
    for name, found in oracle([row for row in rows if row.results]).items():
        console.print(f"{name}: {best(found)}")


def _number6(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
