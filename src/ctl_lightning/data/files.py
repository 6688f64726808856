"""Files that are either whole or not there, and what is in them."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which takes its place if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hex digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, content: str) -> None:
    """Writes UTF-8 text to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def array_file(path: Path, shape: tuple[int, ...], dtype: DTypeLike, keep: bool) -> int:
    """Makes a .npy file of that shape, full of zeros that take no room yet; or keeps the one that is there.

    Returns:
        Where in the file the numbers begin: what is written there with `write_at` meets a full disk as an error, not as a
        signal that ends the process, as writing to a mapped file does.
    """
    if not keep:
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    return path.stat().st_size - int(np.prod(shape)) * np.dtype(dtype).itemsize


def write_at(file: int, content: bytes, offset: int) -> None:
    """Writes all of `content` into an open file. Raises OSError."""
    rest = memoryview(content)
    while rest:  # a disk that is nearly full takes a part
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written
