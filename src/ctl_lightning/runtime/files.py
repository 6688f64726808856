"""Writes files whole or not at all, hashes them, and maps arrays."""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import Any


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
        if str(error.filename) in ("None", str(temporary)):  # a write names no file; nobody asked for the temporary one
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):  # what went wrong above is told
            temporary.unlink(missing_ok=True)


def mapped_array(path: Path) -> Any:
    """The array of a .npy file, read-only and mapped into memory. Raises ValueError: not such a file; OSError."""
    import numpy as np

    try:
        return np.load(path, mmap_mode="r")
    except (
        EOFError,
        SyntaxError,
        TokenError,
        TypeError,
        OverflowError,
    ) as error:  # of the header, which is Python's text
        raise ValueError(f"not a .npy file ({type(error).__name__})") from None


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hex digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, content: str) -> None:
    """Writes UTF-8 text to `path`, whole or not at all; bytes of a file's name that are no text become \\udcNN, as in JSON."""
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8", errors="backslashreplace")
