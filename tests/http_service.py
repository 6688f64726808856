"""A service in this process for tests: its app behind a port of its own, and photos to send."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from factories import free_port

from ctl_lightning.serving.http.limits import Limits
from ctl_lightning.serving.http.live import Live
from ctl_lightning.serving.http.server import Server, address_of, bound
from ctl_lightning.serving.http.service import Service
from ctl_lightning.serving.recommender import Recommender

DEADLINE = 180.0


def service_of(recommender: Recommender, folder: Path, limits: Limits | None = None) -> Service:
    """A service of a recommender, whose folder of the catalogue is `folder`; the recommender outlives it."""
    return Service(Live(lambda: recommender, lambda: recommender, folder), limits or Limits())


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The address of an app that is served by a thread, without a slash at its end."""
    listening = bound("127.0.0.1", free_port())
    server = Server(app, 5, lambda: None)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield address_of(listening).rstrip("/")
    finally:
        server.should_exit = True
        thread.join()


def wait_for(condition: Callable[[], Any]) -> None:
    """Waits until something is so, which it has to be within minutes, however busy the machine is."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
