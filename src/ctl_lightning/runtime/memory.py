"""Whether the process keeps memory after it is freed, or gives it back to the system."""

import ctypes
import platform

from ctl_lightning.runtime.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>


def can_keep() -> bool:
    """Whether the C library is one that can be told to keep freed memory: glibc."""
    return platform.libc_ver()[0] == "glibc"


def keep_freed_memory() -> None:
    """Lets the C library keep freed memory in place of giving it back to the system, which would hand out fresh pages each time.

    Feature maps of real photos are hundreds of megabytes; on a CPU, most of a backbone's time can go into such pages.

    Raises:
        InputError: the C library is not glibc.
    """
    kept = can_keep()
    if kept:
        library = ctypes.CDLL(None)
        # No block of its own for a large request (that would go back at once), and nothing cut off at the end.
        kept = bool(library.mallopt(M_MMAP_MAX, 0)) and bool(library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
    if not kept:
        raise InputError("keep_memory=true: only for glibc, the C library of most Linux systems; leave it out")


def give_back_freed_memory() -> None:
    """Gives what is freed to the system all the same, once; it is for more than is needed as a rule. Without glibc it does nothing."""
    if can_keep():
        ctypes.CDLL(None).malloc_trim(0)
