"""How the rows of JSON Lines, CSV and Parquet are read: one object each, with its place; what they mean is not known here."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ctl_lightning.runtime.errors import InputError, suggestion
from ctl_lightning.runtime.reading import SHOWN, check_file, json_value, lines_of, shown

FORMATS = (".jsonl", ".csv", ".parquet")
"""Endings of the files that are read."""

DELIMITERS = ",;\t"

Row = tuple[str, Mapping[str, Any]]
"""Place of a row for messages, FILE:LINE or FILE: row N, and column -> value."""


class Table(NamedTuple):
    """Rows of a file, and the names of its columns; None: every row has its own, as in JSON Lines."""

    path: Path
    columns: Sequence[str] | None
    rows: Iterator[Row]

    def require(self, columns: Sequence[str], option: str) -> None:
        """Raises InputError if it lacks one of these columns; `option` names the option that gives columns other names."""
        there = self.columns or columns  # those of JSON Lines are seen row by row
        for column in columns:
            if column not in there:
                raise InputError(
                    f"{self.path}: there is no column {column!r}{suggestion(column, there)}; there are: "
                    f"{', '.join(map(_printable, there[:20]))}; a column of another name: {option}"
                )


def _printable(column: str) -> str:
    return column if column.isprintable() and len(column) <= SHOWN else shown(column)


def is_empty(value: object) -> bool:
    """Whether a cell has no value: an empty text, null, or NaN, which pandas writes for it."""
    return (
        value != value if isinstance(value, float) else value is None or (isinstance(value, str) and not value.strip())
    )


def read_table(path: Path, problems: list[str]) -> Table:
    """Opens a file by its ending; rows are read as they are asked for.

    Args:
        path: file, .jsonl, .csv or .parquet.
        problems: list to which the message of every malformed row is added, and the row skipped.

    Raises:
        InputError: not such a file at all. The rows raise it too: not text, cut off.
    """
    if path.suffix == ".parquet":
        return _parquet(path)
    return _csv(path, problems) if path.suffix == ".csv" else Table(path, None, json_rows(path, problems))


def json_rows(path: Path, problems: list[str]) -> Iterator[Row]:
    """The rows of a JSON Lines file; see `read_table`."""
    opening = True
    for number, line in enumerate(lines_of(path), start=1):
        if line.isspace():
            continue
        where = f"{path}:{number}"
        if opening and (line.lstrip().startswith("[") or line.strip() == "{"):
            raise InputError(
                f"{where}: this looks like one JSON array, or an object over several lines; write one object on each line"
            )
        opening = False
        try:
            row = json_value(line, where)
        except InputError as error:
            problems.append(f"{error}; mend or remove the line")
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            problems.append(f"{where}: a line must be an object, not {shown(row)}; mend or remove the line")


def _csv(path: Path, problems: list[str]) -> Table:
    lines = lines_of(path)
    header = next((line for line in lines if line.strip()), "")
    rows = [next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), []) for delimiter in DELIMITERS]
    columns = [column.strip() for column in max(rows, key=len)]
    if not any(columns):
        raise InputError(f"{path}: there is nothing in it; its first line names the columns")
    for column, count in Counter(columns).items():
        if count > 1 and column:
            raise InputError(f"{path}:1: column {column!r} is there {count} times; leave one")
    return Table(path, columns, _csv_rows(path, columns, DELIMITERS[rows.index(max(rows, key=len))], problems))


def _csv_rows(path: Path, columns: Sequence[str], delimiter: str, problems: list[str]) -> Iterator[Row]:
    reader = csv.reader(lines_of(path), delimiter=delimiter, skipinitialspace=True, strict=True)
    line, header = 1, True
    try:
        for row in reader:
            where, line = f"{path}:{line}", reader.line_num + 1
            if not any(field.strip() for field in row):
                continue
            if header:
                header = False
            elif len(row) != len(columns):
                problems.append(
                    f"{where}: {len(row)} fields, the first line has {len(columns)}; mend or remove the line"
                )
            else:
                yield where, dict(zip(columns, map(str.strip, row), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{line}: not valid CSV ({error}); is a quote not closed?") from None


def _parquet(path: Path) -> Table:
    try:
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            f"{path}: Parquet needs pyarrow; install it with: pip install 'ctl_lightning[parquet]'"
        ) from None
    from pyarrow.lib import ArrowException

    def rows() -> Iterator[Row]:
        number = 0
        try:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
        except (ArrowException, OSError, ValueError) as error:
            raise InputError(f"{path}: row {number + 1}: not readable ({' '.join(str(error).split())})") from None

    check_file(path)
    try:
        file = parquet.ParquetFile(path)
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a Parquet file ({' '.join(str(error).split())})") from None
    return Table(path, file.schema_arrow.names, rows())
