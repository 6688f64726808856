"""Writes and reads tables as CSV."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.reading import read_text

MetricsRow = dict[str, float]


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV text, one line each; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_metrics(path: Path) -> list[MetricsRow]:
    """Rows of a metrics.csv without their empty cells; none if there is no file. A last line that was cut off is ignored.

    Raises:
        InputError: not such a file.
    """
    if not path.is_file():
        return []
    whole = read_text(path).rpartition("\n")[0]
    try:
        rows = csv.DictReader(whole.split("\n"))
        return [{key: float(value) for key, value in row.items() if value} for row in rows]
    except (ValueError, TypeError, csv.Error):
        raise InputError(
            f"{path}: not the metrics that `train` writes; move it away and run the command again"
        ) from None
