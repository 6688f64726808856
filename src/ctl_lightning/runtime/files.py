"""Writes files whole or not at all, and locks, hashes and reads files."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ctl_lightning.runtime.errors import InputError, InUseError


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


def read_names(path: Path, option: str, what: str) -> list[str]:
    """The lines of a text file that are not empty.

    Args:
        path: text file to read.
        option: name of the option that gave the path, for the message.
        what: what a line names, such as "product".

    Raises:
        InputError: the file cannot be read, or names nothing.
    """
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InputError(f"{option}={path}: cannot be read ({why}); give a text file with a {what} a line") from None
    if not names:
        raise InputError(f"{option}={path}: there is no {what} in it; write one a line")
    return names


def write_text(path: Path, content: str) -> None:
    """Writes UTF-8 text to `path`, whole or not at all; bytes of a file's name that are no text become \\udcNN, as in JSON."""
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8", errors="backslashreplace")
