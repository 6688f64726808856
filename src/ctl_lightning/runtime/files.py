"""Writes files whole or not at all, and locks and hashes files."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ctl_lightning.runtime.errors import InUseError


@contextmanager
def alone(lock: Path, message: str) -> Iterator[None]:
    """Holds a lock that only one process can hold.

    Args:
        lock: file that is locked; its folder must exist.
        message: message of the error.

    Raises:
        InUseError: another process holds it.
    """
    try:
        held = FileLock(lock).acquire(timeout=0)
    except Timeout:
        raise InUseError(message) from None
    with held:
        yield


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
