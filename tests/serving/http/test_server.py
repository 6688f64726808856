"""The service as a process: its address, its end under load, a second signal, and one line for what keeps it from serving."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from factories import free_port, until
from http_service import answers, process_of, serving

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.http import server
from ctl_lightning.serving.http.app import create_app
from ctl_lightning.serving.http.limits import check_installed, checked_root_path
from ctl_lightning.serving.http.server import bound, turn_away
from ctl_lightning.serving.http.service import Service


def asked(connection: HTTPConnection, path: str) -> tuple[int, bytes]:
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


FORM = {"Content-Type": "multipart/form-data; boundary=x"}


@contextmanager
def posting(address: str, *headers: str) -> Iterator[socket.socket]:
    """A connection on which the head of a request with a form was sent."""
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as stream:
        lines = ["POST /v1/looks HTTP/1.1", "Host: x", f"Content-Type: {FORM['Content-Type']}", *headers, "", ""]
        stream.sendall("\r\n".join(lines).encode())
        yield stream


def form(photo: Path) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n'
    return head + photo.read_bytes() + b"\r\n--x--\r\n"


@pytest.mark.long
def test_at_the_end_nothing_that_was_accepted_is_lost(
    served: tuple[Path, Path], photos: list[Path], tmp_path: Path
) -> None:
    port, body = free_port(), form(photos[0])
    counts = {"sent": 0, "answered": 0, "closed": 0}
    lock = threading.Lock()
    lost: list[BaseException] = []

    def visit() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            try:
                connection.connect()
            except OSError:
                return  # nobody accepts any more
            try:
                while True:
                    with lock:
                        counts["sent"] += 1
                    connection.request("POST", "/v1/looks", body, FORM)
                    answer = connection.getresponse()
                    assert answer.status == 200
                    answer.read()
                    with lock:
                        counts["answered"] += 1
                    if answer.will_close:
                        break
            except BaseException as error:
                lost.append(error)
                return
            connection.close()

    with process_of(served, tmp_path, port) as process:
        visitors = [threading.Thread(target=visit) for _ in range(12)]
        for visitor in visitors:
            visitor.start()
        until(lambda: counts["answered"] > 50)
        process.send_signal(signal.SIGTERM)
        for visitor in visitors:
            visitor.join()
        printed, said = process.communicate(timeout=60)
    assert lost == []
    assert counts["sent"] == counts["answered"]
    assert process.returncode == 0
    assert printed.splitlines() == [
        "loading ...",
        f"http://127.0.0.1:{port}/  (Ctrl-C ends it)",
        f"  send photos to http://127.0.0.1:{port}/v1/looks; http://127.0.0.1:{port}/openapi.json lists all that it answers",
    ]
    assert said == ""


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
def test_who_asks_after_the_end_has_begun_is_not_let_in_and_who_asked_before_is() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, socket.create_connection(listening.getsockname()) as before:
        turn_away(listening)
        with pytest.raises(TimeoutError):
            socket.create_connection(listening.getsockname(), timeout=0.2)
        before.sendall(b"still here")
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.recv(100) == b"still here"
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()


@pytest.mark.long
def test_a_second_signal_ends_it_at_once(served: tuple[Path, Path], photos: list[Path], tmp_path: Path) -> None:
    port = free_port()
    with process_of(served, tmp_path, port, "grace_s=3600", "timeout_s=3600") as process:
        connection = HTTPConnection("127.0.0.1", port)
        connection.putrequest("POST", "/v1/looks")
        connection.putheader("Content-Type", FORM["Content-Type"])
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"--x")  # an upload that never ends
        until(lambda: b"ctl_waiting 1.0" in asked(HTTPConnection("127.0.0.1", port), "/metrics")[1])
        process.send_signal(signal.SIGINT)
        until(lambda: not answers(port))
        assert process.poll() is None
        process.terminate()
        assert process.wait(60) == 1


HANGING = """
import threading, ctl_lightning.serve
from ctl_lightning.serving.catalogue.exact import ExactCatalogue
ExactCatalogue.find = lambda *_: threading.Event().wait()
ctl_lightning.serve.main()
"""


@pytest.mark.long
def test_a_thread_that_hangs_does_not_keep_it_from_ending(served: tuple[Path, Path], tmp_path: Path) -> None:
    port = free_port()
    with process_of(served, tmp_path, port, "grace_s=0.5", start=["-c", HANGING]) as process:
        connection = HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/v1/products/x")
        until(lambda: answers(port))  # it was accepted before this
        process.terminate()
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)) == (503, {"error": "the service ends"})
        printed, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "1 requests could not be answered within 0.5 seconds" in printed + said
    assert "something hangs" in printed + said


@pytest.mark.long
def test_a_port_that_is_taken_is_one_line(served: tuple[Path, Path], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with process_of(served, tmp_path, free_port(), f"port={port}") as process:
            _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said == f"serve: port={port}: it is taken on 127.0.0.1; give another port=N\n"


@pytest.mark.long
def test_a_key_is_written_nowhere(tmp_path: Path) -> None:
    words = ["ckpt_path=none", "catalogue=none", "port=many", "api_key=open-sesame"]
    run = subprocess.run(
        [sys.executable, "-m", "ctl_lightning.serve", *words], cwd=tmp_path, capture_output=True, text=True
    )
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert run.returncode == 1
    assert any("api_key" in text for text in written)
    assert not any("open-sesame" in text for text in [*written, run.stdout, run.stderr])


def test_a_stream_that_is_too_long_is_not_read_to_its_end(service: Service) -> None:
    with serving(create_app(service)) as address, posting(address, "Transfer-Encoding: chunked") as stream:
        head = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n'
        stream.sendall(b"%x\r\n%s\r\n" % (len(head), head))
        stream.setblocking(False)
        answer, sent, chunk = b"", 0, b"%x\r\n%s\r\n" % (2**16, bytes(2**16))
        left = b""
        while b"}" not in answer:  # it never says that it has ended
            left = left or chunk
            try:
                count = stream.send(left)
                sent, left = sent + count, left[count:]
            except BlockingIOError:
                pass
            with suppress(BlockingIOError):
                answer += stream.recv(2**16)
        assert b"413" in answer.splitlines()[0]
        assert sent < 2**25


def test_a_refusal_reaches_a_client_that_sends_all_before_it_reads(service: Service, photos: list[Path]) -> None:
    large = {"data": b"--x\r\n" + bytes(2**25), "headers": FORM}
    with serving(create_app(service, api_key="k")) as address:
        for words, status in (
            ({"headers": FORM | {"X-API-Key": "k"}}, 413),
            ({"headers": {"X-API-Key": "k"}}, 415),
            ({}, 401),
        ):
            # urllib asks that the connection be closed.
            with pytest.raises(HTTPError) as caught:
                urlopen(Request(f"{address}/v1/looks", **large | words))  # type: ignore[arg-type]
            assert caught.value.code == status
            assert json.load(caught.value).keys() == {"error"}


def test_after_an_answer_to_what_was_not_read_the_connection_is_closed(service: Service, photos: list[Path]) -> None:
    def answer(*headers: str, body: bytes = b"") -> bytes:
        with posting(address, *headers) as stream:
            stream.sendall(body)
            return stream.recv(2**16)

    with serving(create_app(service, api_key="k")) as address:
        whole = form(photos[0])
        for status, headers in (
            (401, ["Content-Length: 100000"]),
            (401, ["Transfer-Encoding: chunked"]),
            (413, ["X-API-Key: k", "Content-Length: 100000000"]),
        ):
            head = answer(*headers).lower()
            assert head.splitlines()[0].split()[1] == str(status).encode()
            assert b"connection: close" in head
        read = answer("X-API-Key: k", f"Content-Length: {len(whole)}", body=whole).lower()
        assert b"200" in read.splitlines()[0]
        assert b"connection: close" not in read


def test_an_upload_that_stops_is_408(service: Service) -> None:
    service.limits = replace(service.limits, timeout_s=0.2)
    with serving(create_app(service)) as address:
        with posting(address, "Content-Length: 1000") as stream:
            stream.sendall(b"--x")
            assert stream.recv(2**16).splitlines()[0].split()[1] == b"408"
        assert service._waiting == 0


def test_a_body_is_not_asked_for_when_it_would_be_refused(service: Service) -> None:
    with (
        serving(create_app(service)) as address,
        posting(address, "Content-Length: 100000000", "Expect: 100-continue") as stream,
    ):
        assert stream.recv(2**16).splitlines()[0].split()[1] == b"413"


@pytest.mark.parametrize(
    ("host", "port", "line"),
    [
        ("127.0.0.1", 0, "port=0: give a number from 1 to 65535"),
        ("127.0.0.1", 70_000, "port=70000: give a number from 1 to 65535"),
        (
            "203.0.113.7",
            None,
            "host=203.0.113.7: it is no address of this machine; give 127.0.0.1, 0.0.0.0 or another of it",
        ),
        (
            "no such host",
            None,
            "host=no such host: there is no such address; give 127.0.0.1, 0.0.0.0 or another of this machine",
        ),
    ],
)
def test_an_address_that_cannot_be_used_is_one_line(host: str, port: int | None, line: str) -> None:
    with pytest.raises(InputError, match=re.escape(line)):
        bound(host, free_port() if port is None else port)


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(InputError, match=r"serving needs prometheus_client; pip install 'ctl_lightning\[serve\]'"):
        check_installed("serve")


def test_the_service_needs_no_gradio() -> None:
    folder = Path(server.__file__).parent
    for path in (*folder.glob("*.py"), folder.parents[1] / "serve.py"):
        assert not re.search(r"import gradio|serving\.page", path.read_text()), path


@pytest.mark.parametrize("text", ["/v1", "/v1/x", "/metrics/", "/openapi.json"])
def test_a_root_path_that_is_a_route_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match=f"^root_path={text}: the service has a /"):
        checked_root_path(text)


@pytest.mark.parametrize("text", ["looks", "http://x/looks", "/a b", "//", "/../x\n"])
def test_a_root_path_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match="give a path such as /looks"):
        checked_root_path(text)


def test_a_root_path() -> None:
    assert [checked_root_path(text) for text in ("", "/looks", "/a/v1/", "/v1x")] == ["", "/looks", "/a/v1", "/v1x"]
