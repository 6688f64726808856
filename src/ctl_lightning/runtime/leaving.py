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
    done, in up to one of ten ends, with or without `destroy_process_group`, as DDP keeps the group (torch 2.15).
    """
    try:
        yield
    except SystemExit as end:
        if not _is_one_of_several():
            raise
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        _leave(end.code if isinstance(end.code, int) else int(end.code is not None))
    if _is_one_of_several():
        _leave(0)


def _is_one_of_several() -> bool:
    distributed = sys.modules.get("torch.distributed")  # who has not imported it is alone
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _leave(code: int) -> None:
    """What Python does at its end, but for taking its own objects apart."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
