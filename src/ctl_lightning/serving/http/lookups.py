"""Looks things up in the catalogue, beside searches: in threads of its own, so that a catalogue that hangs keeps nothing else waiting."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ctl_lightning.serving.http.refusals import RefusedError, too_slow

READERS = 8
"""Most lookups at a time."""

CHECK = 5.0
"""Longest time that a catalogue may take to say that it can be searched, in seconds."""

Result = TypeVar("Result")


class Lookups:
    """Calls functions that ask the catalogue."""

    def __init__(self) -> None:
        self._readers = ThreadPoolExecutor(READERS, "reader of the catalogue")
        self._running: dict[Callable[[], Any], asyncio.Future[Any]] = {}

    async def in_time(self, work: Callable[[], Result], seconds: float) -> Result:
        """What a function finds. Raises RefusedError: it takes longer than that."""
        try:
            return await asyncio.wait_for(self._begun(work), seconds)
        except TimeoutError:
            raise too_slow(seconds) from None

    async def together(self, work: Callable[[], Result]) -> Result:
        """What a function finds, for all who ask meanwhile: one that hangs is not called again. Raises RefusedError: it does not answer."""
        running: asyncio.Future[Result] | None = self._running.get(work)
        if running is None or running.done():
            running = self._running[work] = self._begun(work)
        done, _ = await asyncio.wait([running], timeout=CHECK)
        if not done:
            raise RefusedError(503, "the catalogue does not answer")
        return running.result()

    def close(self) -> None:
        """Begins nothing any more."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _begun(self, work: Callable[[], Result]) -> "asyncio.Future[Result]":
        return asyncio.get_running_loop().run_in_executor(self._readers, work)
