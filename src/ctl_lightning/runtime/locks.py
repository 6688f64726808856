"""Locks that one process of several holds, also where the file system has none of its own."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, SoftFileLock, Timeout

from ctl_lightning.runtime.errors import InUseError

log = logging.getLogger(__name__)

WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Errors of a file system that cannot lock files, such as NFS without a lock daemon."""


@contextmanager
def alone(lock: Path, message: str) -> Iterator[None]:
    """Holds a lock that only one process can hold.

    Args:
        lock: file that is locked; its folder must exist.
        message: message of the error.

    Raises:
        InUseError: another process holds it.
        OSError: the file cannot be made or locked; it names the file.
    """
    try:
        held = _acquired(lock, 0)
    except Timeout:
        raise InUseError(message) from None
    with held:
        yield


@contextmanager
def in_turn(lock: Path, waiting: str) -> Iterator[None]:
    """Holds a lock; while another process holds it, waits, and logs `waiting`. Raises OSError as `alone` does."""
    try:
        held = _acquired(lock, 0)
    except Timeout:
        log.info(waiting)
        held = _acquired(lock, -1)
    with held:
        yield


def _acquired(lock: Path, timeout: float) -> AcquireReturnProxy[Any]:
    """The lock, held. Raises Timeout, or OSError with the file's name."""
    try:
        return FileLock(lock, fallback_to_soft=False).acquire(timeout=timeout)
    except Timeout:
        raise
    except NotImplementedError:
        pass  # filelock's own word for ENOSYS
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            error.filename = error.filename or str(lock)
            raise
    mark = lock.with_name(f"{lock.name}.held")
    log.warning(
        "%s cannot be locked: this file system has no locks; %s marks that this process works there. "
        "If a process is killed on another machine, delete that file",
        lock,
        mark,
    )
    return SoftFileLock(mark).acquire(timeout=timeout)
