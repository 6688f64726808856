"""Writes and reads tables as CSV."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

MetricsRow = dict[str, float]


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV text, one line each; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_metrics(path: Path) -> list[MetricsRow]:
    """Rows of a metrics.csv without their empty cells; none if there is no file. A last line that was cut off is ignored."""
    if not path.is_file():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(whole.splitlines())]
