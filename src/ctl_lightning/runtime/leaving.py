"""How a process that worked with others ends: at once, as Python's own end may abort it."""

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def leaving() -> Iterator[None]:
    """Ends this process where the block ends, if it is one of several; else does nothing.

    gloo's threads let go of tensors for which they need Python's lock. One that waits for it while Python ends is made to stop in C++
    that may not be stopped, and aborts the process: exit code 134 ("terminate called without an active exception") after all work was
    done, in some of a hundred ends, with or without `destroy_process_group`, as DDP keeps the group (torch 2.15). Processes that
    submitit starts for a sweep do not pass here, and end as Python does.
    """
    code = 0
    try:
        yield
    except BaseException as error:
        if not _is_one_of_several():
            raise
        if isinstance(error, SystemExit):
            code = int(error.code or 0)  # the programs end with numbers
        else:
            sys.excepthook(type(error), error, error.__traceback__)
            code = 1
    if _is_one_of_several():
        _leave(code)


def _is_one_of_several() -> bool:
    distributed = sys.modules.get("torch.distributed")  # who has not imported it is alone
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _leave(code: int) -> None:
    """What Python does at its end, but for taking its own objects apart."""
    threading._shutdown()  # type: ignore[attr-defined]  # ends idle pools, then waits for threads
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads it any more
        code = code or 120
    os._exit(code)
