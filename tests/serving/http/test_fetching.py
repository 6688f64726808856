"""Photos by their address: from listed hosts, at every hop, and from nobody else."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiohttp.resolver import ThreadedResolver
from starlette.testclient import TestClient

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.http import fetching
from ctl_lightning.serving.http.app import create_app
from ctl_lightning.serving.http.fetching import check_hosts, fetched
from ctl_lightning.serving.http.limits import Limits
from ctl_lightning.serving.http.refusals import RefusedError
from ctl_lightning.serving.http.service import Service

LIMITS = Limits(max_upload=10_000)


class Images(BaseHTTPRequestHandler):
    """Gives a photo, redirects, errors, too much, or nothing for a long time."""

    photo: ClassVar[bytes] = b""
    asked: ClassVar[list[str]] = []
    end: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:  # the name that http.server calls
        self.asked.append(self.path)
        path = self.path.lstrip("/")
        if path.startswith("to="):
            self.send_response(302)
            self.send_header("Location", path.removeprefix("to="))
            self.end_headers()
        elif path == "gone":
            self.send_error(404)
        elif path == "slow":
            self.end.wait()
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bytes(10_001) if path == "large" else self.photo)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def host(photos: list[Path]) -> Iterator[str]:
    Images.photo, Images.end = photos[0].read_bytes(), threading.Event()
    Images.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Images)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    yield f"127.0.0.1:{server.server_port}"
    Images.end.set()
    server.shutdown()
    server.server_close()


def refusal(url: str, *hosts: str) -> str:
    with pytest.raises(RefusedError) as caught:
        asyncio.run(fetched(url, hosts, LIMITS))
    assert caught.value.status in (413, 422)
    return str(caught.value)


def test_a_listed_host_is_asked_also_after_redirects(host: str) -> None:
    for path in ("a.jpg", "to=/a.jpg", f"to=http://{host}/to=/a.jpg"):
        assert asyncio.run(fetched(f"http://{host}/{path}", [host], LIMITS)).getvalue() == Images.photo


def test_a_look_of_an_address_is_the_look_of_its_photo(service: Service, host: str) -> None:
    url = f"http://{host}/a.jpg"
    with TestClient(create_app(service, image_hosts=[host])) as client:
        by_address = client.post("/v1/looks", files={"url": (None, url)}).json()
        sent = client.post("/v1/looks", files={"photo": Images.photo}).json()
        assert by_address["scene"] == url
        assert by_address["categories"] == sent["categories"]
        Images.photo = b"<html>"
        answer = client.post("/v1/looks", files={"url": (None, url)})
        assert answer.status_code == 415
        assert answer.json()["error"].startswith("url: not an image but a web page (HTML)")


def test_without_a_list_nobody_is_asked(client: TestClient, host: str) -> None:
    answer = client.post("/v1/looks", files={"url": (None, f"http://{host}/a.jpg")})
    assert (answer.status_code, answer.json()["error"]) == (
        422,
        "url: no host is allowed here; send the photo itself, in the field photo",
    )
    assert Images.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://listed.example@{host}/a.jpg",
        "http://{host}\\@listed.example/a.jpg",
        "http://{host}#@listed.example/a.jpg",
        "http://{host}?@listed.example/a.jpg",
        "http://listed.example.{host}/a.jpg",
        "http://xlisted.example/a.jpg",
        "http://listed.example.:80/a.jpg",
        "http://listed.example:81/a.jpg",
        "http://2130706433/a.jpg",
        "http://0x7f.1/a.jpg",
        "http://[::1]/a.jpg",
        "http://[::ffff:127.0.0.1]/a.jpg",
        "file:///etc/passwd",
        "ftp://listed.example/a.jpg",
        "gopher://{host}/a.jpg",
        "//{host}/a.jpg",
        "/etc/passwd",
        "",
        "http://",
        "http://listed.example:99999/",
        "http://\x00/",
    ],
)
def test_no_trick_leads_elsewhere(host: str, url: str) -> None:
    assert refusal(url.format(host=host), "listed.example").startswith("url: ")
    assert Images.asked == []


def test_a_redirect_leads_to_no_other_host(host: str) -> None:
    for target in ("http://localhost/a.jpg", f"http://localhost:{host.split(':')[1]}/a.jpg", "//127.0.0.1:1/a.jpg"):
        assert refusal(f"http://{host}/to={target}", host).endswith("is not among the hosts that are allowed here")
    assert refusal(f"http://{host}/to=file:///etc/passwd", host).startswith("url: give an address that begins with")
    assert refusal(f"http://{host}/to=/to=/to=/to=/a.jpg", host) == "url: more than 3 redirects"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.1.1", "::1", "fd00::1", "::ffff:10.0.0.1", "0.0.0.0"],
)
def test_a_name_does_not_lead_to_a_private_address(host: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(*_: Any) -> Any:
        port = int(host.split(":")[1])
        return [{"hostname": "listed.example", "host": address, "port": port, "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr(ThreadedResolver, "resolve", found)
    assert refusal("http://listed.example/a.jpg", "listed.example") == "url: listed.example leads to a private address"
    assert Images.asked == []


def test_what_a_host_does_not_give_is_told(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(f"http://{host}/gone", host) == "url: its host answered 404"
    assert refusal(f"http://{host}/large", host) == "url: larger than 0.00953674 MB, which is the most that is taken"
    assert refusal("http://127.0.0.1:1/a.jpg", "127.0.0.1:1") == "url: it cannot be fetched"
    monkeypatch.setattr(fetching, "SECONDS", 0.2)
    assert refusal(f"http://{host}/slow", host) == "url: its host did not give it within 0.2 seconds"


def test_a_slow_host_takes_no_longer_than_a_request_may(service: Service, host: str) -> None:
    with TestClient(create_app(service, image_hosts=[host])) as client:
        service.limits = replace(service.limits, timeout_s=1.0)
        assert client.post("/v1/looks", files={"url": (None, f"http://{host}/slow")}).status_code == 504


@pytest.mark.parametrize("host", ["", "http://a.example", "a.example/x", "*.example", "a b"])
def test_a_host_that_is_none_is_refused_at_the_start(host: str) -> None:
    with pytest.raises(InputError, match=r"image_hosts=.*: give HOST or HOST:PORT"):
        check_hosts([host])
