"""What is fetched over HTTP: files, limits, and what became of them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Remote(NamedTuple):
    """A file to fetch: its id or name, where from, where to, and its hash if it is known."""

    name: str
    url: str
    path: Path
    sha256: str | None = None


class Limits(NamedTuple):
    """How politely and how stubbornly files are fetched; see `Downloader`."""

    connections: int
    requests_per_second: float | None
    timeout: float
    retries: int


@dataclass
class Report:
    """What a download did.

    Attributes:
        there: how many files were there before.
        fetched: how many arrived.
        retries: how many requests were repeated.
        bytes: how many bytes arrived.
        seconds: how long it took.
        dead: name -> why it is not to be had.
        failed: name -> why it could not be fetched this time.
        given_up: host -> why it was left alone before all of its files were asked for.
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
