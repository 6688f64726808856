"""The catalogue that a service answers from, which is exchanged while it serves when another one lies in its folder."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ctl_lightning.runtime.config import Config
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue.files import MANIFEST
from ctl_lightning.serving.catalogue.opening import open_catalogue
from ctl_lightning.serving.recommender import Recommender

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two looks at the folder."""

TRY_AGAIN = 30
"""Looks after which a catalogue that could not be opened is tried again, though its folder has not changed."""

Stamp = tuple[int, int, int]
"""What changes when catalogue.json is replaced: its time, inode and size."""


@dataclass(eq=False)
class _Held:
    """A recommender, and the number of requests that are being answered from it."""

    recommender: Recommender
    users: int = 0


class Live:
    """Holds the recommender of the moment. A request has one to its end; an old one is closed after its last request.

    Args:
        first: function that gives the recommender to begin with.
        reopen: function that opens the catalogue of the same folder anew, or raises InputError.
        folder: folder of the catalogue.
        exchanged: function that is told of each exchange: whether it was done, or the old catalogue goes on.
    """

    def __init__(
        self,
        first: Callable[[], Recommender],
        reopen: Callable[[], Recommender],
        folder: Path,
        exchanged: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._manifest = folder / MANIFEST
        self._stamp = self._stamped()  # before it is opened: what is put there meanwhile is another one
        self._current = _Held(first())
        self._reopen = reopen
        self.exchanged = exchanged
        self._lock = threading.Lock()
        self._failed_for = 0
        self._end = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def recommender(self) -> Recommender:
        """The recommender of the moment, for what needs no request: its categories, counts and encoder."""
        return self._current.recommender

    @contextmanager
    def leased(self) -> Iterator[Recommender]:
        """A recommender that stays open, and whose catalogue stays the same, to the end of the block."""
        with self._lock:
            held = self._current
            held.users += 1
        try:
            yield held.recommender
        finally:
            with self._lock:
                held.users -= 1
                left = held is not self._current and held.users == 0
            if left:
                held.recommender.catalogue.close()

    def watch(self) -> None:
        """Begins to look at the folder from time to time."""
        self._watcher = threading.Thread(target=self._watch, name="watcher of the catalogue", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Ends the watching, and closes the catalogue."""
        self._end.set()
        if self._watcher is not None:
            self._watcher.join()
        self._current.recommender.catalogue.close()

    def _watch(self) -> None:
        while not self._end.wait(LOOK_EVERY):
            self.exchange_if_changed()

    def exchange_if_changed(self) -> None:
        """Opens the folder's catalogue if it is another one; one that cannot be opened is told once, and the old one goes on."""
        stamp = self._stamped()
        again = self._failed_for >= TRY_AGAIN
        if stamp is None or (stamp == self._stamp and not again):
            self._failed_for += self._failed_for > 0
            return
        try:
            recommender = self._reopen()
        except Exception as error:
            if stamp != self._stamp:
                said = " ".join(str(error).split()) if isinstance(error, InputError) else repr(error)[:300]
                log.warning("the catalogue has changed and cannot be opened; the old one goes on: %s", said)
                self.exchanged(False)
            self._stamp, self._failed_for = stamp, 1
            return
        self._stamp, self._failed_for = stamp, 0
        with self._lock:
            old, self._current = self._current, _Held(recommender)
            left = old.users == 0
        if left:
            old.recommender.catalogue.close()
        log.info("the catalogue was exchanged: %s products", f"{sum(recommender.catalogue.counts.values()):,}")
        self.exchanged(True)

    def _stamped(self) -> Stamp | None:
        try:
            found = self._manifest.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


def open_live(options: Config) -> Live:
    """Opens what the options of a program name, as `Recommender.of` does; one encoder serves all catalogues. Raises InputError."""
    folder, url = Path(str(options["catalogue"]["dir"])).expanduser(), options["catalogue"]["url"]
    opened: list[Recommender] = []

    def first() -> Recommender:
        opened.append(Recommender.of(options))
        return opened[0]

    def reopen() -> Recommender:
        encoder = opened[0].encoder
        return Recommender(encoder, open_catalogue(folder, encoder, url), opened[0].popularity)

    return Live(first, reopen, folder)
