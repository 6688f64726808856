"""Writes files whole or not at all, and hashes and reads files."""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ctl_lightning.runtime.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which takes its place if the block ends without an error.

    Raises:
        OSError: the disk is full, a quota is used up, ...; it names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own on every machine that shares the folder, and not longer than the file's.
    temporary = path.with_name(f".{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # a write names no file
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # what went wrong above is told
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
    """Writes UTF-8 text to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
