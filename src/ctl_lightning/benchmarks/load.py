"""Visitors of a service: each uploads a photo, waits for the answer, and uploads the next one at once."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp


@dataclass
class Load:
    """What visitors found.

    Attributes:
        seconds: how long they asked, in seconds.
        waited: how long each answer of status 200 took, in seconds, in the order in which they came.
        statuses: status -> number of answers; 0: none, as the connection broke.
        answers: (number of the photo, body) of each answer of status 200, if they are kept.
    """

    seconds: float = 0.0
    waited: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    answers: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers of status 200 a second."""
        return len(self.waited) / self.seconds

    def percentile(self, share: float) -> float:
        """The time in milliseconds within which this share of the answers came; infinite without any."""
        times = sorted(self.waited)
        return 1000 * times[math.ceil(share * len(times)) - 1] if times else math.inf


def drive(address: str, photos: Sequence[Path], clients: int, seconds: float, keep: bool = False) -> Load:
    """Visits a service.

    Args:
        address: of the service, such as "http://127.0.0.1:8000".
        photos: JPEG files, which the visitors upload in turn.
        clients: number of visitors.
        seconds: how long they ask; what is asked by then is waited for.
        keep: whether the answers are kept.
    """
    return asyncio.run(_drive(address, [photo.read_bytes() for photo in photos], clients, seconds, keep))


async def _drive(address: str, photos: Sequence[bytes], clients: int, seconds: float, keep: bool) -> Load:
    load = Load()
    began = time.perf_counter()

    async def visit(session: aiohttp.ClientSession, client: int) -> None:
        turn = client
        while time.perf_counter() - began < seconds:
            number, turn = turn % len(photos), turn + clients
            form = aiohttp.FormData()
            form.add_field("photo", photos[number], filename="photo.jpg", content_type="image/jpeg")
            asked, pause = time.perf_counter(), 0.0
            try:
                async with session.post(f"{address}/v1/looks", data=form) as answer:
                    body, status = await answer.read(), answer.status
                    pause = float(answer.headers.get("Retry-After", 0))
            except (TimeoutError, aiohttp.ClientError):
                body, status = b"", 0
            load.statuses[status] += 1
            if status == 200:
                load.waited.append(time.perf_counter() - asked)
                if keep:
                    load.answers.append((number, body))
            await asyncio.sleep(pause)

    limits = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(total=120)) as session:
        await asyncio.gather(*(visit(session, client) for client in range(clients)))
    load.seconds = time.perf_counter() - began
    return load
