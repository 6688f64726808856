"""How a large file is made: by one process of several, bit by bit, and with a word if the disk is too small."""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import DTypeLike

from ctl_lightning.runtime.errors import InputError

log = logging.getLogger(__name__)


def make_once(path: Path, make: Callable[[], object]) -> None:
    """Calls `make` if `path` is not there. Of several processes one does; the others wait."""
    if _is_made(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is making %s; waiting for it", path)
        held = lock.acquire()
    with held:
        if not _is_made(path):
            make()


def _is_made(path: Path) -> bool:
    return path.exists() and path.with_suffix(".json").exists()  # of an index alone, both are one


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


def check_room(path: Path, what: str, needed: int, other_ways: str) -> None:
    """Tells before the work that there is no room for it.

    Args:
        path: of the file.
        what: subject and verb, such as "the features need".
        needed: bytes.
        other_ways: what else can be done.

    Raises:
        InputError: fewer bytes are free there.
    """
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise InputError(
            f"{path.parent}: {what} {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free there. {other_ways}"
        )


@contextmanager
def told_if_full(folder: Path, kept: str, other_ways: Callable[[], str] = str) -> Iterator[None]:
    """Makes one line of a disk that fills up during the work.

    Args:
        folder: that is written into.
        kept: what is not lost, such as "is packed".
        other_ways: what else can be done.

    Raises:
        InputError: in place of that OSError.
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
