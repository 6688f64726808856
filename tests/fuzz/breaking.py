"""How valid input is broken: bytes, encodings, the structure of plain values, tables, pictures, tensors, places and words.

Every function takes `draw`, by which Hypothesis chooses, and gives something broken; equal choices, equal faults.
"""

import csv
import io
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from fuzz.odd import ODD_NUMBERS, ODD_TEXTS, ODD_VALUES, Draw, one_of, place_in
from hypothesis import strategies as st
from PIL import Image


def broken_value(draw: Draw, value: Any, faults: int = 1) -> Any:
    """Plain values of which something is another type, another value, missing, repeated, or under another name."""
    for _ in range(faults):
        value = _broken_somewhere(draw, value)
    return value


def _broken_somewhere(draw: Draw, value: Any) -> Any:
    inner = isinstance(value, (dict, list, tuple)) and len(value) > 0
    if not inner or draw(st.integers(0, 4)) == 0:
        return _another(draw, value)
    if isinstance(value, dict):
        key = one_of(draw, list(value))
        action = draw(st.sampled_from(("inside", "inside", "inside", "drop", "rename", "add")))
        if action == "drop":
            return {name: child for name, child in value.items() if name != key}
        if action == "rename":
            new = one_of(draw, ODD_TEXTS)
            return {(new if name == key else name): child for name, child in value.items()}
        if action == "add":
            return value | {one_of(draw, ODD_TEXTS): one_of(draw, ODD_VALUES)}
        return value | {key: _broken_somewhere(draw, value[key])}
    items = list(value)
    place = place_in(draw, len(items))
    action = draw(st.sampled_from(("inside", "inside", "drop", "repeat", "add")))
    if action == "drop":
        del items[place]
    elif action == "repeat":
        items.insert(place, items[place])
    elif action == "add":
        items.insert(place, one_of(draw, ODD_VALUES))
    else:
        items[place] = _broken_somewhere(draw, items[place])
    return items


def _another(draw: Draw, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return one_of(
            draw,
            (value.double(), value.reshape(-1)[:0], value.reshape(-1), value * float("nan"), None, "x", value.bool()),
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool) and draw(st.booleans()):
        return one_of(draw, (-value, value + 1, str(value), [value], *ODD_NUMBERS))
    if isinstance(value, str) and draw(st.booleans()):
        return one_of(draw, (value + "x", value[:-1], value.upper(), f" {value}", f"{value}\n", [value], value * 200))
    return one_of(draw, ODD_VALUES)


def broken_bytes(draw: Draw, content: bytes) -> bytes:
    """Bytes that are cut off, changed, repeated, or of another encoding."""
    place = place_in(draw, len(content))
    length = draw(st.integers(1, 64))
    kind = draw(st.sampled_from(("cut", "change", "insert", "remove", "repeat", "empty", "zeros", "encode", "other")))
    if kind == "cut":
        return content[:place]
    if kind == "change":
        return content[:place] + draw(st.binary(min_size=1, max_size=8)) + content[place + length :]
    if kind == "insert":
        return content[:place] + draw(st.binary(min_size=1, max_size=8)) + content[place:]
    if kind == "remove":
        return content[:place] + content[place + length :]
    if kind == "repeat":
        return content + content[place:]
    if kind == "empty":
        return one_of(draw, (b"", b"\n", b" ", b"\xef\xbb\xbf", b"\xff\xfe"))
    if kind == "zeros":
        return bytes(len(content))
    if kind == "encode":
        encoding = draw(st.sampled_from(("utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1", "cp1252", "cp037")))
        return content.decode("utf-8", "replace").encode(encoding, "replace")
    return one_of(
        draw,
        (
            b"null",
            b"{}",
            b"[]",
            b"<html></html>",
            b"version https://git-lfs",
            b"PK\x03\x04",
            b"\x93NUMPY\x01\0",
            b"a,b\n1,2",
        ),
    )


def _json(draw: Draw, content: bytes) -> bytes:
    value = broken_value(draw, json.loads(content), draw(st.integers(1, 2)))
    return _json_text(value).encode("utf-8", "surrogatepass")


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _json_lines(draw: Draw, content: bytes) -> bytes:
    rows = [json.loads(line) for line in content.splitlines()]
    return "\n".join(map(_json_text, _rows(draw, rows))).encode("utf-8", "surrogatepass")


def _rows(draw: Draw, rows: list[Any]) -> list[Any]:
    """Rows of which one is broken, or, half the time, all have the same column changed."""
    if not rows or draw(st.booleans()) or not isinstance(rows[0], dict):
        return [broken_value(draw, row) if number == 0 else row for number, row in enumerate(rows)][
            :: draw(st.sampled_from((1, -1)))
        ]
    column, value = one_of(draw, list(rows[0])), one_of(draw, ODD_VALUES)
    if draw(st.booleans()):
        return [row | {column: value} for row in rows]
    return [{(str(value)[:50] if name == column else name): cell for name, cell in row.items()} for row in rows]


def _yaml(draw: Draw, content: bytes) -> bytes:
    value = broken_value(draw, yaml.safe_load(content), draw(st.integers(1, 2)))
    return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")


def _csv(draw: Draw, content: bytes) -> bytes:
    rows = list(csv.reader(io.StringIO(content.decode())))
    place = place_in(draw, len(rows))
    if draw(st.booleans()):
        rows[place] = [str(cell) for cell in _as_list(broken_value(draw, rows[place]))]
    else:
        column, text = place_in(draw, len(rows[0])), one_of(draw, ODD_VALUES)
        rows = [[*row[:column], str(text), *row[column + 1 :]] if number else row for number, row in enumerate(rows)]
    text_file = io.StringIO()
    writer = csv.writer(
        text_file, delimiter=draw(st.sampled_from(",;\t|")), quoting=draw(st.sampled_from((0, 1))), escapechar="\\"
    )
    writer.writerows(rows)
    return text_file.getvalue().encode("utf-8", "surrogatepass")


def _parquet(draw: Draw, content: bytes) -> bytes:
    import pyarrow
    from pyarrow import parquet

    rows = parquet.read_table(io.BytesIO(content)).to_pylist()
    rows = [row for row in _rows(draw, rows) if isinstance(row, dict)]
    written = io.BytesIO()
    try:
        parquet.write_table(pyarrow.Table.from_pylist(rows), written)
    except (pyarrow.ArrowException, OverflowError, UnicodeError, ValueError, TypeError):
        parquet.write_table(pyarrow.table({"a": [1]}), written)
    return written.getvalue()


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _lines(draw: Draw, content: bytes) -> bytes:
    lines = content.decode().splitlines()
    return "\n".join(map(str, _as_list(broken_value(draw, lines)))).encode("utf-8", "surrogatepass")


def _checkpoint(draw: Draw, content: bytes) -> bytes:
    value = broken_value(draw, torch.load(io.BytesIO(content), weights_only=True), draw(st.integers(1, 2)))
    written = io.BytesIO()
    torch.save(value, written)
    return written.getvalue()


def _array(draw: Draw, content: bytes) -> bytes:
    array = np.load(io.BytesIO(content))
    written = io.BytesIO()
    odd = (
        array[:-1],
        array.astype(np.float64),
        array.reshape(-1),
        array * np.nan,
        array.T,
        np.array(["a"]),
        array[..., :0],
        np.float32(1),
    )
    np.save(written, one_of(draw, odd))
    return written.getvalue()


def _picture(draw: Draw, content: bytes) -> bytes:
    mode = draw(st.sampled_from(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F")))
    size = draw(st.sampled_from(((1, 1), (1, 40), (2, 3000), (40, 60))))
    written = io.BytesIO()
    picture = Image.new("F" if mode == "F" else mode, size)
    for ending in (draw(st.sampled_from(("PNG", "TIFF", "GIF", "JPEG", "WEBP", "BMP"))), "TIFF"):
        try:
            picture.save(written, ending)
            return written.getvalue()
        except (OSError, ValueError):
            continue
    return b""


def _database(draw: Draw, path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            one_of(
                draw,
                (
                    "DROP TABLE products",
                    "DELETE FROM products WHERE row = 0",
                    "DELETE FROM products",
                    "UPDATE products SET product = NULL",
                    "UPDATE products SET product = 7, image = 8",
                    "UPDATE products SET image = x'00ff'",
                    "UPDATE products SET image = NULL",
                    "UPDATE products SET image = '/nowhere/x.jpg'",
                    "UPDATE products SET category = 'x'",
                    "UPDATE products SET category = NULL",
                    "UPDATE products SET version = 'x'",
                    "ALTER TABLE products RENAME COLUMN image TO picture",
                    "UPDATE products SET row = row + 1000",
                ),
            )
        )


STRUCTURES: dict[str, Callable[[Draw, bytes], bytes]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".yaml": _yaml,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _lines,
    ".ckpt": _checkpoint,
    ".pth": _checkpoint,
    ".npy": _array,
    ".jpg": _picture,
    ".png": _picture,
}
"""Ending of a file -> how its structure is broken."""


def break_file(draw: Draw, path: Path, given: bool) -> str:
    """Breaks a file in place; links to it stay whole. `given`: a user wrote it, no program. Returns what was done."""
    kind = draw(st.sampled_from(("structure", "structure", "structure", "structure", "bytes", "bytes", "place")))
    if kind == "place":
        return break_place(draw, path, given)
    content = path.read_bytes()
    path.unlink()
    if kind == "structure" and path.suffix == ".sqlite":
        path.write_bytes(content)
        _database(draw, path)
    elif kind == "structure" and path.suffix in STRUCTURES:
        path.write_bytes(STRUCTURES[path.suffix](draw, content))
    else:
        path.write_bytes(broken_bytes(draw, content))
    return f"{kind} of {path.name}"


def break_place(draw: Draw, path: Path, given: bool) -> str:
    """Puts something that is no file where a file was."""
    kind = draw(st.sampled_from(("missing", "folder", "loop", "nowhere", "pipe", "parent")))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind in ("loop", "nowhere"):
        path.symlink_to(path.name if kind == "loop" else "nowhere")
    elif kind == "pipe" and given:
        os.mkfifo(path)
    elif kind == "parent":
        shutil.rmtree(path.parent)
        path.parent.write_text("")
    return f"{kind} in place of {path.name}"
