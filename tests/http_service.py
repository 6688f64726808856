"""A service in this process for tests: its app behind a port of its own, and photos to send."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from factories import free_port, until

from ctl_lightning.serving.http.limits import Limits
from ctl_lightning.serving.http.live import Live
from ctl_lightning.serving.http.server import Server, address_of, bound
from ctl_lightning.serving.http.service import Service
from ctl_lightning.serving.recommender import Recommender


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
        until(lambda: server.started, seconds=180)
        yield address_of(listening).rstrip("/")
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def process_of(
    served: tuple[Path, Path],
    folder: Path,
    port: int,
    *words: str,
    start: Sequence[str] = ("-m", "ctl_lightning.serve"),
) -> Iterator[subprocess.Popen[str]]:
    """A program that serves a checkpoint and its catalogue, once it can answer or has ended."""
    given = [f"ckpt_path={served[0]}", f"catalogue={served[1]}", f"port={port}", *words]
    process = subprocess.Popen(
        [sys.executable, *start, *given],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background it would be ignored
    )
    try:
        until(lambda: process.poll() is not None or answers(port), seconds=180)
        yield process
    finally:
        process.kill()
        process.communicate()


def answers(port: int) -> bool:
    """Whether a service is ready."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except OSError:  # HTTPError is one
        return False
