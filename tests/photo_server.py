"""A photo host on 127.0.0.1 with Pinterest's paths, as unreliable as one likes."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def share(*key: object) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:6], "big") / 2**48


@dataclass
class Faults:
    """Which share of the requests goes wrong, and how; `gone`: which share of the ids is dead."""

    unavailable: float = 0.0
    hanging: float = 0.0
    truncated: float = 0.0
    page: float = 0.0
    slow: float = 0.0
    gone: float = 0.0
    seconds: float = 3.0
    retry_after: str | None = None


@dataclass
class PhotoServer:
    """Serves `/400x/ab/cd/ef/<id>.jpg` from `images/ab/<id>.jpg`, and `/metadata/NAME` from `images/../NAME`.

    Attributes:
        images: the folder.
        faults: what goes wrong.
        always: id -> status that it always has.
        asked: id -> how often it was asked for.
        answers: kind of answer -> how often it was given.
        most_at_once: the largest number of requests that were answered at the same time.
    """

    images: Path
    faults: Faults = field(default_factory=Faults)
    always: dict[str, int] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    url: str = ""
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def is_gone(self, image: str) -> bool:
        return share("gone", image) < self.faults.gone

    @contextmanager
    def running(self) -> Iterator["PhotoServer"]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with server._lock:
                    server._now += 1
                    server.most_at_once = max(server.most_at_once, server._now)
                try:
                    kind = server.answer(self)
                except OSError:  # the client was killed
                    kind = "client gone"
                with server._lock:
                    server._now -= 1
                    server.answers[kind] += 1

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:  # a client that was killed
                pass

        with Server(("127.0.0.1", 0), Handler) as listening:
            self.url = f"http://127.0.0.1:{listening.server_port}"
            thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield self
            finally:
                listening.shutdown()
                thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> str:
        """Answers one request; says how."""
        name = Path(request.path).stem
        if request.path.startswith("/metadata/"):
            _send(request, 200, (self.images.parent / Path(request.path).name).read_bytes(), "application/json")
            return "metadata"
        assert request.path == f"/400x/{name[:2]}/{name[2:4]}/{name[4:6]}/{name}.jpg", request.path
        with self._lock:
            self.asked[name] += 1
            turn = self.asked[name]
        if name in self.always:
            _send(request, self.always[name], b"no", "text/plain")
            return str(self.always[name])
        if self.is_gone(name):
            _send(request, 404, b"gone", "text/plain")
            return "404"
        body = (self.images / name[:2] / f"{name}.jpg").read_bytes()
        faults, chance = self.faults, share("fault", name, turn)
        if (chance := chance - faults.unavailable) < 0:
            _send(request, 503, b"busy", "text/plain", faults.retry_after)
            return "503"
        if (chance := chance - faults.hanging) < 0:
            time.sleep(faults.seconds)
            request.close_connection = True
            return "hanging"
        if (chance := chance - faults.page) < 0:
            _send(request, 200, b"<html>Please enable JavaScript</html>", "text/html")
            return "page"
        if (chance := chance - faults.truncated) < 0:
            _head(request, 200, len(body), "image/jpeg")
            request.wfile.write(body[: len(body) // 2])
            request.close_connection = True
            return "truncated"
        if chance - faults.slow < 0:
            _head(request, 200, len(body), "image/jpeg")
            for start in range(0, len(body), len(body) // 4 + 1):
                request.wfile.write(body[start : start + len(body) // 4 + 1])
                request.wfile.flush()
                time.sleep(0.1)
            return "slow"
        _send(request, 200, body, "image/jpeg")
        return "200"


def _head(request: BaseHTTPRequestHandler, status: int, length: int, kind: str, retry_after: str | None = None) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(length))
    request.send_header("Content-Type", kind)
    if retry_after is not None:
        request.send_header("Retry-After", retry_after)
    request.end_headers()


def _send(request: BaseHTTPRequestHandler, status: int, body: bytes, kind: str, retry_after: str | None = None) -> None:
    _head(request, status, len(body), kind, retry_after)
    request.wfile.write(body)
