"""Fetches many files over HTTP: concurrent, polite, and resumable at any kill."""

import asyncio
import errno
import hashlib
import json
import logging
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import aiohttp
from filelock import FileLock, Timeout

from ctl_lightning.data.files import write_text
from ctl_lightning.data.images import open_upright, reason
from ctl_lightning.data.progress import Progress, progress
from ctl_lightning.errors import InputError

log = logging.getLogger(__name__)

BACKOFF = 0.5
"""Seconds before the first repetition; twice as long before every further one, at most a minute."""

LONGEST_WAIT = 600.0
"""Seconds of a Retry-After that are obeyed; a server that asks for more is left alone until the next run."""

MAX_BYTES = 64_000_000
"""No image of a catalogue is larger."""

REFUSED_IN_A_ROW = 50
"""So many files refused one after the other mean that the server refuses us, not that they are gone."""

DEAD = "dead_images.jsonl"
FETCHED = "fetched.json"


class Remote(NamedTuple):
    """A file to fetch: its id or name, where from, where to, and its hash if it is known."""

    name: str
    url: str
    path: Path
    sha256: str | None = None


@runtime_checkable
class Published(Protocol):
    """A source of data whose files can be fetched."""

    def metadata(self, root: Path) -> list[Remote]:
        """The few files that say what there is."""

    def images(self, root: Path) -> list[Remote]:
        """Every image that the metadata in `root` names and that has an address."""


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
    """

    there: int = 0
    fetched: int = 0
    retries: int = 0
    bytes: int = 0
    seconds: float = 0.0
    dead: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rate = ""
        if self.fetched:
            rate = f" in {self.seconds:.0f} s ({self.fetched / self.seconds:.0f}/s, {self.bytes / self.seconds / 1e6:.1f} MB/s)"
        return f"{self.fetched:,} fetched{rate}, {self.there:,} were there, {self.retries:,} retries, {len(self.dead):,} dead"


class _AgainError(Exception):
    """The server may have it, but not this time. `wait`: seconds that it asked for; `answered`: it sent something else."""

    def __init__(self, why: str, wait: float | None = None, answered: bool = False) -> None:
        super().__init__(why)
        self.wait, self.answered = wait, answered


class _DeadError(Exception):
    """The server does not have it. `refused`: it did not say so clearly."""

    def __init__(self, why: str, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused


@dataclass(frozen=True)
class Downloader:
    """How politely and how stubbornly files are fetched.

    Attributes:
        connections: at most so many requests at a time.
        requests_per_second: at most so many; None: as many as the connections allow.
        timeout: seconds without a byte after which a request is given up; a file may take ten times as long.
        retries: how often a request is repeated after 429, 5xx, a timeout, a broken connection or a broken image.
        retry_dead: ask again for what was dead in an earlier run.
        offline: fetch nothing and use what is there.
    """

    connections: int
    requests_per_second: float | None
    timeout: float
    retries: int
    retry_dead: bool
    offline: bool

    def __post_init__(self) -> None:
        if self.connections < 1 or self.timeout <= 0 or self.retries < 0:
            raise ValueError("connections must be at least 1, timeout above 0 and retries at least 0")
        if self.requests_per_second is not None and self.requests_per_second <= 0:
            raise ValueError("requests_per_second must be above 0, or null")

    def metadata(self, files: Sequence[Remote], root: Path) -> list[str]:
        """Fetches the files of a data set that are not there, and notes the hash of what it fetched.

        Args:
            files: small in number, large in size, and all of them needed.
            root: folder of the data.

        Returns:
            The names of the files that came from `files`' addresses, now or earlier.

        Raises:
            InputError: a file is not there and cannot be fetched, or is not the one that it should be.
        """
        noted: dict[str, dict[str, str]] = _read_json(root / FETCHED) if (root / FETCHED).exists() else {}
        missing = [file for file in files if not file.path.exists()]
        if missing and not self.offline:
            report = self._fetch(missing, root, "metadata", _check_text)
            for name, why in (report.dead | report.failed).items():
                (url,) = (file.url for file in files if file.name == name)
                raise InputError(
                    f"{url}: {why}; put {name} into {root} yourself, or give a mirror with data.source.metadata_url=URL"
                )
            for file in missing:
                noted[file.name] = {"url": file.url, "sha256": _sha256(file.path)}
                log.info("%s: sha256 %s", file.path, noted[file.name]["sha256"])
            write_text(root / FETCHED, json.dumps(noted, indent=2, sort_keys=True) + "\n")
        for file in files:
            known = file.sha256 or noted.get(file.name, {}).get("sha256")
            if known and file.path.exists() and (found := _sha256(file.path)) != known:
                raise InputError(
                    f"{file.path}: checksum mismatch: sha256 {found}, expected {known}; it has changed or is another version: "
                    f"delete it and {root / FETCHED}, and run the command again"
                )
        return sorted(noted)

    def images(self, files: Sequence[Remote], root: Path) -> Report:
        """Fetches the images that are not there. Each is decoded before it gets its name; the dead ones are listed.

        Args:
            files: the images.
            root: folder of the data; the list of dead ids, `dead_images.jsonl`, is kept in it.

        Raises:
            InputError: the server does not answer or refuses, the disk is full, another process fetches into `root`.
        """
        listing = root / DEAD
        known = _read_dead(listing)
        asked = () if self.retry_dead else files
        dead = {file.name: known[file.name, file.url] for file in asked if (file.name, file.url) in known}
        wanted = [file for file in files if file.name not in dead]
        report = Report()
        missing = [file for file in wanted if not _is_there(file.path)]
        if missing and not self.offline:

            def note(report: Report) -> None:
                _write_dead(listing, files, dead | report.dead)

            report = self._fetch(missing, root, "images", _check_image, note)
            if self.retry_dead:
                note(report)  # those that are alive again are not in it
        report.there = len(wanted) - len(missing)
        report.dead = dead | report.dead
        if report.failed:
            name, why = next(iter(report.failed.items()))
            raise InputError(
                f"{len(report.failed):,} images could not be fetched, first {name} ({why}); {report}; what has arrived is kept: "
                "run the command again for the others, or go on without them with download.offline=true"
            )
        return report

    def _fetch(
        self,
        files: Sequence[Remote],
        root: Path,
        what: str,
        check: Callable[[bytes], None],
        note: Callable[[Report], None] | None = None,
    ) -> Report:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / ".fetching.lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{root}: another process is fetching into it; wait until it has ended") from None
        partial = root / ".fetching"
        with held, progress(f"fetching {what}", len(files)) as shown:
            shutil.rmtree(partial, ignore_errors=True)  # a killed process may have left it
            partial.mkdir()
            session = _Session(self, partial, check, note, shown)
            try:
                asyncio.run(session.fetch(files))
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise InputError(f"{root}: the disk is full; what has arrived is kept: make room and go on") from None
            finally:
                if note and session.report.dead:
                    note(session.report)
                shutil.rmtree(partial, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)
        return session.report


class _Session:
    """One download. The event loop fetches; threads decode and write."""

    def __init__(
        self,
        options: Downloader,
        partial: Path,
        check: Callable[[bytes], None],
        note: Callable[[Report], None] | None,
        shown: Progress,
    ) -> None:
        self.report = Report()
        self._options = options
        self._partial = partial
        self._check = check
        self._note = note
        self._shown = shown
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._next_slot = 0.0  # of the rate limit
        self._paused_until = 0.0  # as the server asked
        self._connections = asyncio.Semaphore(options.connections)
        self._failed_in_a_row = self._refused_in_a_row = 0

    async def fetch(self, files: Sequence[Remote]) -> None:
        """Fetches them all."""
        started = time.monotonic()
        options = self._options
        timeout = aiohttp.ClientTimeout(
            total=10 * options.timeout, sock_connect=options.timeout, sock_read=options.timeout
        )
        queue = iter(files)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=options.connections),
                    timeout=timeout,
                    headers={"User-Agent": "ctl_lightning"},
                    trust_env=True,
                ) as session,
                asyncio.TaskGroup() as workers,
            ):
                # More than connections: those that wait before a repetition hold none.
                for _ in range(min(4 * options.connections, len(files))):
                    workers.create_task(self._work(session, queue))
        except* (InputError, OSError) as errors:
            first: BaseException = errors
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise first from None
        finally:
            self._pool.shutdown(cancel_futures=True)
            self.report.seconds = time.monotonic() - started

    async def _work(self, session: aiohttp.ClientSession, queue: Iterator[Remote]) -> None:
        for file in queue:
            try:
                size = await self._stubbornly(session, file)
                self.report.bytes += size
                self.report.fetched += 1
                self._failed_in_a_row = self._refused_in_a_row = 0
            except _DeadError as dead:
                self.report.dead[file.name] = str(dead)
                self._refused_in_a_row += dead.refused
                if self._note and len(self.report.dead) % 100 == 0:
                    self._note(self.report)
            except _AgainError as failure:
                self.report.failed[file.name] = str(failure)
                self._failed_in_a_row += 1
            self._stop_if_hopeless(file)
            self._shown.note = (
                f"{self.report.bytes / 1e6:,.0f} MB, {self.report.retries:,} retries, {len(self.report.dead):,} dead"
            )
            self._shown.advance()

    def _stop_if_hopeless(self, file: Remote) -> None:
        if self._failed_in_a_row >= self._options.connections:
            raise InputError(
                f"{file.url}: {self.report.failed[file.name]}; so it was for the last {self._failed_in_a_row} files, each tried "
                f"{self._options.retries + 1} times; what has arrived is kept: run the command again when the server answers, "
                "or go on without the rest with download.offline=true"
            )
        if self._refused_in_a_row >= REFUSED_IN_A_ROW:
            for name in list(self.report.dead)[-REFUSED_IN_A_ROW:]:
                del self.report.dead[name]  # they may well live
            raise InputError(
                f"{file.url}: the server refused {REFUSED_IN_A_ROW} files in a row; what has arrived is kept: run the command again "
                "later, with fewer download.connections or a lower download.requests_per_second"
            )

    async def _stubbornly(self, session: aiohttp.ClientSession, file: Remote) -> int:
        """Fetches and keeps one file, with repetitions. Returns its size. Raises _DeadError or _AgainError."""
        for attempt in range(self._options.retries + 1):
            try:
                body = await self._request(session, file.url)
                await asyncio.get_running_loop().run_in_executor(self._pool, self._keep, file, body)
                return len(body)
            except _AgainError as failure:
                if attempt == self._options.retries:
                    if failure.answered:
                        raise _DeadError(str(failure)) from None
                    raise
                if failure.wait is not None:
                    self._paused_until = max(self._paused_until, time.monotonic() + failure.wait)
                self.report.retries += 1
                await asyncio.sleep(min(60.0, BACKOFF * 2**attempt) * random.uniform(0.5, 1.0))
        raise AssertionError

    async def _request(self, session: aiohttp.ClientSession, url: str) -> bytes:
        try:
            async with self._connections:
                await self._turn()
                return await self._answer(session, url)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise _DeadError("not an address") from None
        except aiohttp.ClientConnectorDNSError:
            # With a network that works, a host without an address is gone for good.
            raise (_DeadError("no such host") if self.report.fetched else _AgainError("no such host")) from None
        except TimeoutError:
            raise _AgainError(f"no answer within {self._options.timeout:g} s") from None
        except aiohttp.ClientError as error:
            raise _AgainError(str(error) or type(error).__name__) from None

    async def _answer(self, session: aiohttp.ClientSession, url: str) -> bytes:
        async with session.get(url) as response:
            status = f"{response.status} {response.reason or ''}".strip()
            if response.status in (404, 410):
                raise _DeadError(status)
            if response.status in (408, 425, 429) or response.status >= 500:
                raise _AgainError(status, _retry_after(response.headers.get("Retry-After")))
            if response.status != 200:
                raise _DeadError(status, refused=True)
            body = bytearray()
            async for chunk in response.content.iter_chunked(1 << 16):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise _DeadError(f"larger than {MAX_BYTES // 10**6} MB")
            return bytes(body)

    async def _turn(self) -> None:
        """Waits for the pause that the server asked for, and for the rate limit."""
        while (pause := self._paused_until - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        if self._options.requests_per_second:
            now = time.monotonic()
            slot = max(now, self._next_slot)
            self._next_slot = slot + 1 / self._options.requests_per_second
            await asyncio.sleep(slot - now)

    def _keep(self, file: Remote, body: bytes) -> None:
        try:
            self._check(body)
        except OSError as error:
            raise _AgainError(reason(error), answered=True) from None
        temporary = self._partial / file.path.name
        temporary.write_bytes(body)
        file.path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, file.path)


def _check_image(body: bytes) -> None:
    open_upright(BytesIO(body)).convert("RGB")


def _check_text(body: bytes) -> None:
    if body.lstrip()[:1] not in (b"{", b"["):
        raise OSError("not JSON")


def _retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    if seconds > LONGEST_WAIT:
        raise InputError(f"the server asks to be left alone for {seconds / 60:.0f} minutes; run the command again then")
    return max(0.0, seconds)


def _is_there(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, dict[str, str]]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); delete it") from None


def _read_dead(path: Path) -> dict[tuple[str, str], str]:
    """(id, address) -> why it is dead. An id is asked for again at another address."""
    known = {}
    if path.exists():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = json.loads(line)
                known[row["id"], row["url"]] = row["reason"]
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{path}:{number}: not a line of a list of dead ids; delete the file") from None
    return known


def _write_dead(path: Path, files: Sequence[Remote], dead: Mapping[str, str]) -> None:
    rows = [
        {"id": file.name, "url": file.url, "reason": dead[file.name]} for file in sorted(files) if file.name in dead
    ]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
