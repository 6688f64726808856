"""Shows how far long work has come: a bar on a terminal, a line every half minute in a log."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

log = logging.getLogger(__name__)

SECONDS_A_LINE = 30.0


class Progress:
    """How far one piece of work has come; the work itself reports it.

    Attributes:
        done: number of steps done.
        note: a few words to show after the numbers.
    """

    def __init__(self, task: str, total: int, done: int, bar: Bar) -> None:
        self.done = done
        self.note = ""
        self._task, self._total, self._before = task, total, done
        self._bar = bar
        self._row = bar.add_task(task, total=total, completed=done, note="")
        self._started = self._told = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """Reports that `count` more steps are done."""
        self.done += count
        self._bar.update(self._row, completed=self.done, note=self.note)
        now = time.monotonic()
        if self._bar.disable and now - self._told >= SECONDS_A_LINE:
            self._told = now
            rate = (self.done - self._before) / (now - self._started)
            left = (self._total - self.done) / rate / 60 if rate else float("inf")
            log.info(
                "%s: %d of %d, %.0f/s, %.0f min left %s", self._task, self.done, self._total, rate, left, self.note
            )


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.0f}/s")


@contextmanager
def progress(task: str, total: int, done: int = 0) -> Iterator[Progress]:
    """Shows how far a task of `total` steps has come, of which `done` were done before."""
    console = get_console()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield Progress(task, total, done, bar)
