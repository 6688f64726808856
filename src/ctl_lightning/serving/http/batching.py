"""Puts waiting requests together: a few threads prepare them, and one answers as many as are ready at once."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ctl_lightning.runtime.errors import InputError

Ready = TypeVar("Ready")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Job(Generic[Ready, Result]):
    """A request on its way; `ready` and `since` (`time.monotonic`) are set when it is prepared."""

    prepare: Callable[[], Ready]
    future: "Future[Result]" = field(default_factory=Future)
    ready: Ready | None = None
    since: float = 0.0


class Batcher(Generic[Ready, Result]):
    """Prepares requests in a few threads, and answers those that are ready in one other thread, several at once.

    A request waits for others only while others are being prepared, and for `patience` at most. One that is cancelled is
    dropped; one that fails fails alone, but for an InputError, which is that of all.

    Args:
        answer: function that answers several prepared requests at once, in their order; an InputError in place of an answer is raised.
        max_batch: most requests that are answered at once.
        patience: longest time that a prepared request waits for others, in seconds.
        preparers: number of threads that prepare.
        answered: function that is told the size of each batch.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Ready]], Sequence[Result | InputError]],
        max_batch: int,
        patience: float,
        preparers: int,
        answered: Callable[[int], None],
    ) -> None:
        self._answer = answer
        self._max_batch = max_batch
        self._patience = patience
        self._answered = answered
        self._changed = threading.Condition()
        self._to_prepare: deque[_Job[Ready, Result]] = deque()
        self._preparing: list[_Job[Ready, Result]] = []
        self._ready: deque[_Job[Ready, Result]] = deque()
        self._closed = False
        work = [self._prepare_all] * preparers + [self._answer_all]
        self._threads = [threading.Thread(target=one, name=f"batcher {one.__name__}", daemon=True) for one in work]
        for thread in self._threads:
            thread.start()

    def ask(self, prepare: Callable[[], Ready]) -> "Future[Result]":
        """Has a request prepared and answered; its future has the result, or the error of either, and may be cancelled."""
        job: _Job[Ready, Result] = _Job(prepare)
        with self._changed:
            if self._closed:
                job.future.cancel()
                return job.future
            self._to_prepare.append(job)
            self._changed.notify_all()
        job.future.add_done_callback(lambda future: self._drop(job) if future.cancelled() else None)
        return job.future

    def close(self) -> None:
        """Cancels what is not being answered, and ends the threads once they are done with what they have begun."""
        with self._changed:
            self._closed = True
            left = [*self._to_prepare, *self._preparing, *self._ready]
            self._changed.notify_all()
        for job in left:
            job.future.cancel()
        for thread in self._threads:
            thread.join()

    def _drop(self, job: "_Job[Ready, Result]") -> None:
        with self._changed, suppress(ValueError):
            (self._ready if job in self._ready else self._to_prepare).remove(job)

    def _prepare_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._to_prepare or self._closed)
                if self._closed:
                    return
                job = self._to_prepare.popleft()
                self._preparing.append(job)
            try:
                job.ready = job.prepare()
            except BaseException as error:
                with suppress(InvalidStateError):
                    job.future.set_exception(error)
            with self._changed:
                self._preparing.remove(job)
                if not job.future.done():
                    job.since = time.monotonic()
                    self._ready.append(job)
                self._changed.notify_all()
            del job  # its photo is not kept while this thread waits

    def _answer_all(self) -> None:
        while True:
            batch = self._next_batch()
            if batch is None:
                return
            running = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if running:
                self._answered(len(running))
                self._settle(running)
            del batch, running

    def _next_batch(self) -> "list[_Job[Ready, Result]] | None":
        """The jobs to answer next; None: there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._closed)
            while not self._closed and self._ready and len(self._ready) < self._max_batch:
                left = self._ready[0].since + self._patience - time.monotonic()
                if left <= 0 or not (self._preparing or self._to_prepare):
                    break
                self._changed.wait(left)
            if self._closed:
                return None
            return [self._ready.popleft() for _ in range(min(self._max_batch, len(self._ready)))]

    def _settle(self, jobs: "Sequence[_Job[Ready, Result]]") -> None:
        try:
            results = self._answer([job.ready for job in jobs if job.ready is not None])
        except BaseException as error:
            if len(jobs) > 1 and not isinstance(error, InputError):
                for job in jobs:  # one of them may be at fault, and the others are not
                    self._settle([job])
                return
            for job in jobs:
                job.future.set_exception(error)
            return
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, InputError):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
