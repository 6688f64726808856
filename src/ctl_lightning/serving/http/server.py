"""Runs an app on a port until it is told to end, and ends so that nobody who was let in goes away without an answer."""

import asyncio
import ctypes
import errno
import logging
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from ctl_lightning.runtime.errors import InputError

log = logging.getLogger(__name__)

CLOSING = 2.0
"""Seconds to close everything after the time of the end is over; then the process ends, whatever hangs."""

LINGER = 0.3
"""Seconds in which a client that was connected when the end came may still send a request, which is answered."""

DRAIN = 1.0
"""Longest time to let in those who are at the door when the end comes, in seconds."""

ATTACH_FILTER = 26
"""Linux's SO_ATTACH_FILTER, which Python has no name for."""

DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of flags, the 13th of TCP's header
    (0x45, 0, 1, 0x02),  # is SYN among them? otherwise pass over one
    (0x06, 0, 0, 0),  # drop all of it
    (0x06, 0, 0, 0xFFFFFFFF),  # take all of it
)
"""Instructions of a classic BPF filter (linux/filter.h): code, what to pass over if it is so, and if not, a number."""


def bound(host: str, port: int) -> socket.socket:
    """A socket that is bound to a port, and does not listen yet.

    Raises:
        InputError: no port, the port is taken, or there is no such address here.
    """
    if not 0 < port < 2**16:
        raise InputError(f"port={port}: give a number from 1 to {2**16 - 1}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise InputError(
            f"host={host}: there is no such address; give 127.0.0.1, 0.0.0.0 or another of this machine"
        ) from None
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise _unusable(error, host, port) from None
    return found


def _unusable(error: OSError, host: str, port: int) -> InputError:
    if error.errno == errno.EADDRINUSE:
        return InputError(f"port={port}: it is taken on {host}; give another port=N")
    if error.errno == errno.EACCES:
        return InputError(f"port={port}: this user may not serve there; give one from 1024 on")
    return InputError(f"host={host}: it is no address of this machine; give 127.0.0.1, 0.0.0.0 or another of it")


def address_of(listening: socket.socket) -> str:
    """The address of a page that is served on a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def turn_away(listening: socket.socket) -> None:
    """Has Linux drop what asks a listening socket for a new connection, as if it were lost; who asks again later is refused.

    Without it, connections that are made while the socket is being closed are reset, with what was sent on them. What is on
    its way in still comes in, so it is the one who asks whom the kernel's filter looks for: the flag SYN in TCP's header.
    Elsewhere it does nothing.
    """
    if sys.platform != "linux":
        return
    filters = b"".join(struct.pack("HBBI", *one) for one in DROP_SYN)
    program = ctypes.create_string_buffer(filters)
    with suppress(OSError):  # a kernel of a sandbox may have no filters
        listening.setsockopt(
            socket.SOL_SOCKET, ATTACH_FILTER, struct.pack("HP", len(DROP_SYN), ctypes.addressof(program))
        )


def run(app: ASGIApp, listening: socket.socket, grace: float, ending: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT; then answers what was accepted, and returns. A second signal ends the process at once.

    Args:
        app: app to serve.
        listening: socket that `bound` gave.
        grace: longest time to answer what was accepted, in seconds; the process ends some seconds later, even if a thread hangs.
        ending: function that is called when the end begins.

    Raises:
        InputError: somebody else listens there since it was bound.
        SystemExit: of code 1: not all that was accepted was answered in time.
    """
    try:
        listening.listen()
    except OSError as error:
        raise _unusable(error, *listening.getsockname()[:2]) from None
    server = Server(app, grace, ending)
    server.run([listening])
    if server.cut:
        raise SystemExit(1)


class Server(uvicorn.Server):
    """uvicorn's server with the end that `run` describes.

    Attributes:
        cut: number of requests that were not answered in time at the end.
    """

    def __init__(self, app: ASGIApp, grace: float, ending: Callable[[], None]) -> None:
        # What uvicorn has to say, the guard has said, or it is about requests that are none.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        super().__init__(uvicorn.Config(app, log_config=None, access_log=False, server_header=False, ws="none"))
        self._grace = grace
        self._ending = ending
        self.cut = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins the end, or ends at once."""
        if self.should_exit:
            os._exit(1)
        self.should_exit = True
        self._ending()
        last = threading.Timer(DRAIN + 2 * LINGER + self._grace + CLOSING, self._give_up)
        last.daemon = True
        last.start()

    def _give_up(self) -> None:
        log.warning("something hangs; the process ends without it")
        os._exit(1 if self.cut else 0)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, but that the signals are not sent again after an orderly end: the exit code is 0."""
        if threading.current_thread() is not threading.main_thread():  # others get no signals
            yield
            return
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    async def shutdown(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Lets in who is at the door, closes it, and gives those inside time to be answered."""
        listening = list(sockets or [])
        loop = asyncio.get_running_loop()
        for one in listening:
            turn_away(one)
        await asyncio.sleep(LINGER)  # those whose connection is being made come in meanwhile
        end = loop.time() + DRAIN
        while select.select(listening, [], [], 0)[0] and loop.time() < end:
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        await asyncio.sleep(LINGER)
        rest = asyncio.ensure_future(super().shutdown(listening))
        _, late = await asyncio.wait([rest], timeout=self._grace)
        if late and self.server_state.tasks:
            self.cut = len(self.server_state.tasks)
            log.warning("the end: %d requests could not be answered within %g seconds", self.cut, self._grace)
            for task in self.server_state.tasks:
                task.cancel()
        await rest
