"""What a service answers under load: its own process beside its visitors, with waiting photos in one batch and without."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ctl_lightning.benchmarks.load import Load, drive
from ctl_lightning.benchmarks.served import Served, engines, write_catalogue
from ctl_lightning.benchmarks.timing import Row, ratio
from ctl_lightning.runtime.errors import InputError

OPENING = 300
"""Seconds that a service has to open."""


def service_rows(given: Served, clients: int, seconds: float, rounds: int) -> list[Row]:
    """Looks a second, and milliseconds a look, of services that are opened once and visited in turn.

    Args:
        given: checkpoint, products and scenes.
        clients: number of visitors.
        seconds: length of each visit.
        rounds: how often each way is measured, in turn.

    Raises:
        InputError: a service that did not open, or answered with an error.
    """
    ways = {
        f"{engine}, {name}": [f"engine={engine}", *words]
        for engine in engines()
        for name, words in (("in batches", []), ("one by one", ["max_batch=1"]))
    }
    found: dict[str, list[Load]] = {way: [] for way in ways}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_catalogue(folder / "catalogue", given)
        for _ in range(rounds):
            for way, words in ways.items():
                # One service at a time: two would share the cores even while one of them waits.
                with serving(given.checkpoint, folder / "catalogue", folder, *words) as address:
                    drive(
                        address, given.scenes, clients, min(1.0, seconds)
                    )  # what only a first one does is not measured
                    load = drive(address, given.scenes, clients, seconds)
                if load.statuses.keys() != {200}:
                    raise InputError(
                        f"what=service: {way}: answers by status {dict(load.statuses)}; give fewer clients"
                    )
                found[way].append(load)
    rows = [Row("service", way, [load.rate for load in loads], "looks/s") for way, loads in found.items()]
    for share in (0.5, 0.95, 0.99):
        rows += [
            Row("service", f"{way}, p{100 * share:.0f}", [load.percentile(share) for load in loads], "ms")
            for way, loads in found.items()
        ]
    return rows


def service_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Looks a second in batches over those one by one, of each engine."""
    if not any(row.group == "service" for row in rows):
        return {}
    return {
        f"batches_over_single_{engine}": ratio(rows, f"{engine}, in batches", f"{engine}, one by one", "service")
        for engine in engines()
    }


@contextmanager
def serving(checkpoint: Path, catalogue: Path, folder: Path, *words: str) -> Iterator[str]:
    """A service in a process of its own, while the block runs. Yields its address.

    Args:
        checkpoint: file of the checkpoint.
        catalogue: folder of its catalogue.
        folder: folder for its log.
        words: more options of the program `serve`.

    Raises:
        InputError: it did not open.
    """
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "ctl_lightning.serve", f"ckpt_path={checkpoint}", f"catalogue={catalogue}", f"port={port}", *words]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen([sys.executable, *command], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(process, f"http://127.0.0.1:{port}", folder / "serve.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait_for(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    began = time.monotonic()
    while time.monotonic() - began < OPENING and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    said = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    raise InputError(f"what=service: the service did not open: {said[-1]}")
