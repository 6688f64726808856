"""What a download over HTTP is given and what it reports: files, limits, and the outcome."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Remote(NamedTuple):
    """A file to fetch: its id or name, its address, the path to write, and its hash (None: not known)."""

    name: str
    url: str
    path: Path
    sha256: str | None = None


class Limits(NamedTuple):
    """Limits of a download; see `Downloader`."""

    connections: int
    requests_per_second: float | None
    timeout: float
    retries: int


@dataclass
class Report:
    """What a download did.

    Attributes:
        there: number of files that were there before.
        fetched: number of files that arrived.
        retries: number of repeated requests.
        bytes: number of bytes that arrived.
        seconds: duration of the download.
        dead: name -> reason why the file cannot be had at all.
        failed: name -> reason why the file could not be fetched this time.
        given_up: host -> reason why it was left alone before all of its files were asked for.
    """

    there: int = 0
    fetched: int = 0
    retries: int = 0
    bytes: int = 0
    seconds: float = 0.0
    dead: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    given_up: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rate = ""
        if self.fetched:
            rate = f" in {self.seconds:.0f} s ({self.fetched / self.seconds:.0f}/s, {self.bytes / self.seconds / 1e6:.1f} MB/s)"
        return f"{self.fetched:,} fetched{rate}, {self.there:,} were there, {self.retries:,} retries, {len(self.dead):,} dead"
