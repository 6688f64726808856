"""How files are fetched over HTTP, many at once: politely, with repetitions, and with a record of each host."""

import asyncio
import math
import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp

from ctl_lightning.data.fetching.remote import Limits, Remote, Report
from ctl_lightning.data.images import reason
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.progress import Progress

BACKOFF = 0.5
"""Seconds before the first repetition of a request; twice as long before every further one, at most a minute."""

LONGEST_WAIT = 600.0
"""Longest Retry-After that is obeyed, in seconds; a host that asks for more is left alone until the next run."""

MAX_BYTES = 64_000_000
"""Largest file that is fetched, in bytes."""

REFUSED_IN_A_ROW = 50
"""Number of files refused in a row that means that a host refuses us, not that the files are gone."""

SECONDS_A_NOTE = 20.0
"""Seconds between two notes of the dead ids while a download goes on."""


Check = Callable[[Remote, bytes], None]
"""Raises OSError for a body that is not what was asked for; the file is then asked for again."""


def fetch(
    files: Sequence[Remote], limits: Limits, check: Check, note: Callable[[Report], None], shown: Progress
) -> Report:
    """Fetches files. A file gets its name only when it is whole and checked.

    Args:
        files: files to fetch.
        limits: connections, rate, timeout and repetitions.
        check: function that checks every body, called in a thread.
        note: function that saves the report's dead ids; called from time to time and at the end, also after an error.
        shown: progress display, advanced by one for each file.
    """
    for folder in {file.path.parent for file in files}:
        for left in folder.glob(f".*{UNFINISHED}"):  # left by a process that was killed
            left.unlink()
    session = _Session(limits, check, note, shown)
    try:
        asyncio.run(session.fetch(files))
    finally:
        note(session.report)
    return session.report


UNFINISHED = ".fetching"


class _AgainError(Exception):
    """The file was not fetched this time, but the host may have it.

    Attributes:
        wait: seconds that the host asked us to wait; None: it did not say.
        answered: whether the host sent something, but not what was asked for.
        unknown_host: whether the host's name has no address.
    """

    def __init__(
        self, why: str, wait: float | None = None, *, answered: bool = False, unknown_host: bool = False
    ) -> None:
        super().__init__(why)
        self.wait, self.answered, self.unknown_host = wait, answered, unknown_host


class _DeadError(Exception):
    """The host does not have the file. `refused`: whether it refused without clearly saying so."""

    def __init__(self, why: str, *, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused


@dataclass
class _Host:
    """What a download knows of a host.

    Attributes:
        paused_until: time (`time.monotonic`) before which the host asked for no requests.
        arrived: number of files that came from it.
        failed_in_a_row: number of files in a row that failed.
        refused: name -> reason, for the files refused in a row; dead if a clear answer follows or the download ends,
            perhaps alive if the host is given up for them.
    """

    paused_until: float = 0.0
    arrived: int = 0
    failed_in_a_row: int = 0
    refused: dict[str, str] = field(default_factory=dict)


class _Session:
    """One download: the event loop fetches, threads check and write."""

    def __init__(self, limits: Limits, check: Check, note: Callable[[Report], None], shown: Progress) -> None:
        self.report = Report()
        self._limits = limits
        self._check = check
        self._note = note
        self._shown = shown
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._connections = asyncio.Semaphore(limits.connections)
        self._hosts: dict[str, _Host] = {}
        self._next_slot = 0.0  # when the rate limit allows another request
        self._noted = time.monotonic()

    async def fetch(self, files: Sequence[Remote]) -> None:
        """Fetches all files; the result is in `report`."""
        began = time.monotonic()
        seconds = self._limits.timeout
        timeout = aiohttp.ClientTimeout(total=10 * seconds, sock_connect=seconds, sock_read=seconds)
        connector = aiohttp.TCPConnector(limit=self._limits.connections)
        headers = {"User-Agent": "ctl_lightning"}
        queue = iter(files)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers, trust_env=True) as session,
                asyncio.TaskGroup() as workers,
            ):
                # More workers than connections: one that waits before a repetition holds no connection.
                for _ in range(min(4 * self._limits.connections, len(files))):
                    workers.create_task(self._work(session, queue))
            for host in self._hosts.values():
                self.report.dead |= host.refused
        except* (InputError, OSError) as errors:
            first: BaseException = errors
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise first from None
        finally:
            self._pool.shutdown(cancel_futures=True)
            self.report.seconds = time.monotonic() - began

    async def _work(self, session: aiohttp.ClientSession, queue: Iterator[Remote]) -> None:
        for file in queue:
            name = _host_name(file.url)
            host = self._hosts.setdefault(name, _Host())
            if name in self.report.given_up:
                self.report.failed[file.name] = self.report.given_up[name]
            else:
                await self._one(session, file, name, host)
            self._shown.note = (
                f"{self.report.bytes / 1e6:,.0f} MB, {self.report.retries:,} retries, {len(self.report.dead):,} dead"
            )
            self._shown.advance()
            if time.monotonic() - self._noted > SECONDS_A_NOTE:
                self._noted = time.monotonic()
                self._note(self.report)

    async def _one(self, session: aiohttp.ClientSession, file: Remote, name: str, host: _Host) -> None:
        """Fetches one file and updates what is known of its host."""
        try:
            size = await self._stubbornly(session, file, host)
        except _AgainError as failure:
            self.report.failed[file.name] = str(failure)
            host.failed_in_a_row += 1
            if host.failed_in_a_row >= self._limits.connections:
                self._give_up(
                    name,
                    f"{failure}; so it was for {host.failed_in_a_row} files in a row, each tried {self._limits.retries + 1} times",
                )
            return
        except _DeadError as dead:
            if dead.refused:
                if name in self.report.given_up:  # this file was asked for before the host was given up
                    self.report.failed[file.name] = str(dead)
                    return
                host.refused[file.name] = str(dead)
                if len(host.refused) >= REFUSED_IN_A_ROW:
                    self._give_up(
                        name,
                        f"it refused {len(host.refused)} files in a row ({dead}); it may do so for a while: try again later, with "
                        "fewer download.connections or a lower download.requests_per_second",
                    )
                    self.report.failed |= host.refused
                    host.refused.clear()
                return
            self.report.dead[file.name] = str(dead)
        else:
            self.report.bytes += size
            self.report.fetched += 1
            host.arrived += 1
        # The host answers clearly, so the files that it refused before are gone.
        host.failed_in_a_row = 0
        self.report.dead |= host.refused
        host.refused.clear()

    def _give_up(self, name: str, why: str) -> None:
        self.report.given_up.setdefault(name, why)

    async def _stubbornly(self, session: aiohttp.ClientSession, file: Remote, host: _Host) -> int:
        """Fetches and keeps one file, with repetitions. Returns its size in bytes. Raises _DeadError or _AgainError."""
        for attempt in range(self._limits.retries + 1):
            try:
                body = await self._request(session, file.url, host)
                await asyncio.get_running_loop().run_in_executor(self._pool, self._keep, file, body)
                return len(body)
            except _AgainError as failure:
                if failure.wait is not None:
                    if failure.wait > LONGEST_WAIT:
                        self._give_up(
                            _host_name(file.url), f"it asks to be left alone for {failure.wait / 60:.0f} minutes"
                        )
                        raise
                    host.paused_until = max(host.paused_until, time.monotonic() + failure.wait)
                if attempt == self._limits.retries:
                    elsewhere = any(other.arrived for other in self._hosts.values() if other is not host)
                    if failure.answered or (failure.unknown_host and elsewhere and not host.arrived):
                        raise _DeadError(str(failure), refused=True) from None
                    raise
                self.report.retries += 1
                await asyncio.sleep(min(60.0, BACKOFF * 2**attempt) * random.uniform(0.5, 1.0))
        raise AssertionError

    async def _request(self, session: aiohttp.ClientSession, url: str, host: _Host) -> bytes:
        seconds = self._limits.timeout
        while (pause := host.paused_until - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        try:
            async with self._connections:
                await self._turn()
                return await _answer(session, url)
        except (aiohttp.NonHttpUrlClientError, ValueError):  # UnicodeError too, of an impossible host name
            raise _DeadError("not an address") from None
        except aiohttp.TooManyRedirects:
            raise _AgainError("too many redirects") from None
        except aiohttp.ClientConnectorDNSError as error:
            raise _AgainError("no such host", unknown_host=error.os_error.errno == socket.EAI_NONAME) from None
        except aiohttp.ServerTimeoutError:
            raise _AgainError(f"no answer within {seconds:g} s") from None
        except TimeoutError:
            raise _AgainError(f"not whole within {10 * seconds:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise _AgainError(f"cannot connect ({error.os_error.strerror or error.os_error})") from None
        except aiohttp.ClientError as error:
            raise _AgainError(str(error) or type(error).__name__) from None

    async def _turn(self) -> None:
        """Waits for the next slot of the rate limit."""
        if self._limits.requests_per_second:
            now = time.monotonic()
            slot = max(now, self._next_slot)
            self._next_slot = slot + 1 / self._limits.requests_per_second
            await asyncio.sleep(slot - now)

    def _keep(self, file: Remote, body: bytes) -> None:
        try:
            self._check(file, body)
        except OSError as error:
            raise _AgainError(reason(error), answered=True) from None
        file.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.path.with_name(f".{file.path.name}{UNFINISHED}")
        temporary.write_bytes(body)
        os.replace(temporary, file.path)


async def _answer(session: aiohttp.ClientSession, url: str) -> bytes:
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


def _retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None: no header, or not readable."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _host_name(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""
