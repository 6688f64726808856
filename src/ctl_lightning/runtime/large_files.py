"""How a large file is made: by one process of several, piece by piece, and with an error if the disk is too small."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.locks import in_turn


def make_once(path: Path, make: Callable[[], object]) -> None:
    """Calls `make` if `path` does not exist. Of several processes one calls it, and the others wait."""
    if _is_made(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_turn(path.with_suffix(".lock"), f"another process is making {path}; waiting for it"):
        if not _is_made(path):
            make()


def _is_made(path: Path) -> bool:
    return path.exists() and path.with_suffix(".json").exists()  # an index alone is a .json itself


def array_file(path: Path, shape: tuple[int, ...], dtype: DTypeLike, keep: bool) -> int:
    """Makes a .npy file of that shape, full of zeros that take no room yet; or, with `keep`, keeps the existing one.

    Returns:
        Byte offset in the file where the numbers begin. Writing there with `write_at` reports a full disk as an error;
        writing to a mapped file would meet it as a signal that ends the process.
    """
    if not keep:
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    return path.stat().st_size - int(np.prod(shape)) * np.dtype(dtype).itemsize


def write_at(file: int, content: bytes, offset: int) -> None:
    """Writes all of `content` into an open file (its descriptor), from byte `offset` on. Raises OSError."""
    rest = memoryview(content)
    while rest:  # a disk that is nearly full takes only a part
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written


def check_room(path: Path, what: str, needed: int, other_ways: str) -> None:
    """Checks before the work that the disk has room for it.

    Args:
        path: file that is to be made.
        what: subject and verb of the message, such as "the features need".
        needed: number of bytes needed.
        other_ways: sentence that says what else can be done.

    Raises:
        InputError: fewer bytes are free on the disk of `path`.
    """
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise InputError(
            f"{path.parent}: {what} {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free there. {other_ways}"
        )


@contextmanager
def told_if_full(folder: Path, kept: str, other_ways: Callable[[], str] = str) -> Iterator[None]:
    """Turns the error of a disk that fills up during the work into one line.

    Args:
        folder: folder that is written into.
        kept: says what is not lost, such as "is packed" (what is packed is kept).
        other_ways: function that returns a sentence on what else can be done.

    Raises:
        InputError: in place of the OSError of a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = (
            f"{folder}: the disk is full; what {kept} is kept: make room and run the command again. {other_ways()}"
        )
        raise InputError(message.rstrip()) from None
