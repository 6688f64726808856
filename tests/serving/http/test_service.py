"""Many requests at once: one pass for those that wait, 503 beyond, 504 in the end, nothing for who has gone, and equal answers."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from factories import free_port, image_id, until
from http_service import service_of
from PIL import Image
from starlette.testclient import TestClient

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.http import app, lookups
from ctl_lightning.serving.http import service as service_module
from ctl_lightning.serving.http.app import create_app
from ctl_lightning.serving.http.limits import Limits
from ctl_lightning.serving.http.refusals import RefusedError
from ctl_lightning.serving.http.server import Server, address_of, bound
from ctl_lightning.serving.http.service import Service, _answer_all, _Asked
from ctl_lightning.serving.http.uploads import read_form
from ctl_lightning.serving.recommender import Look, Prepared, Recommender, Scene


class Held:
    """A recommender's passes, which wait until they are let go."""

    def __init__(self, recommender: Recommender, patch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.may_go = threading.Event()
        embed = recommender.embed

        def held(prepared: Sequence[Prepared]) -> list[Scene]:
            self.sizes.append(len(prepared))
            self.may_go.wait()
            return embed(prepared)

        patch.setattr(recommender, "embed", held)


@contextmanager
def started(served: tuple[Path, Path], limits: Limits, **options: Any) -> Iterator[tuple[Service, TestClient]]:
    service = service_of(Recommender.from_checkpoint(*served), served[1], limits)
    with TestClient(create_app(service, **options)) as client:
        yield service, client


def asks(client: TestClient, photo: Path) -> Any:
    return client.post("/v1/looks", files={"photo": photo.read_bytes()})


def ranked(look: Any) -> list[tuple[str, float]]:
    return [(one["product"], one["distance"]) for answer in look["categories"] for one in answer["products"]]


@pytest.mark.parametrize("max_batch", [1, 16])
def test_many_at_once_get_the_answers_of_the_library(
    served: tuple[Path, Path], recommender: Recommender, photos: list[Path], max_batch: int
) -> None:
    with started(served, Limits(max_batch=max_batch)) as (_, client), ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda photo: asks(client, photo).json(), photos[:48]))
    for photo, look in zip(photos, found, strict=False):
        wanted = [(one.product, one.distance) for answer in recommender.look(photo).answers for one in answer.products]
        assert [product for product, _ in ranked(look)] == [product for product, _ in wanted]
        assert [distance for _, distance in ranked(look)] == pytest.approx([one for _, one in wanted], abs=1e-5)


def test_those_that_wait_go_through_the_network_together(
    served: tuple[Path, Path], photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(served, Limits(max_batch=8)) as (service, client), ThreadPoolExecutor(9) as pool:
        held = Held(service.live.recommender, monkeypatch)
        first = pool.submit(asks, client, photos[0])
        until(lambda: held.sizes == [1])
        others = [pool.submit(asks, client, photo) for photo in photos[1:8]]
        others.append(
            pool.submit(
                client.post,
                "/v1/rerank",
                files={"photo": photos[8].read_bytes()},
                data={"category": "Shoes", "products": [image_id("shoe1")]},
            )
        )
        until(lambda: len(service._batcher._ready) == 8)
        held.may_go.set()
        assert {one.result().status_code for one in [first, *others]} == {200}
    assert held.sizes == [1, 8]


def test_more_than_may_wait_are_told_to_come_again(
    served: tuple[Path, Path], photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(served, Limits(max_waiting=3)) as (service, client), ThreadPoolExecutor(3) as pool:
        held = Held(service.live.recommender, monkeypatch)
        accepted = [pool.submit(asks, client, photo) for photo in photos[:3]]
        until(lambda: service._waiting == 3)

        refused = asks(client, photos[3])
        assert refused.status_code == client.post("/v1/looks", content=b"no form").status_code == 503  # not looked at
        assert refused.headers["retry-after"] == "1"
        assert refused.json() == {"error": "3 requests are waiting, which is all that may; try again"}
        with pytest.raises(RefusedError, match="3 requests are waiting"):
            service.look(photos[0], None, 3, None)
        held.may_go.set()
        assert {one.result().status_code for one in accepted} == {200}
        assert asks(client, photos[3]).status_code == 200


@pytest.fixture
def patient_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has uploads take as long as they like, whatever the limit of their request is."""
    monkeypatch.setattr(app, "read_form", lambda request, names, _: read_form(request, names, Limits()))


@pytest.mark.usefixtures("patient_uploads")
def test_what_takes_too_long_is_504_and_dropped(
    served: tuple[Path, Path], photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(served, Limits()) as (service, client), ThreadPoolExecutor(1) as pool:
        held = Held(service.live.recommender, monkeypatch)
        first = pool.submit(asks, client, photos[0])
        until(lambda: held.sizes == [1])
        service.limits = replace(service.limits, timeout_s=0.2)
        late = asks(client, photos[1])
        assert (late.status_code, late.json()) == (504, {"error": "no answer within 0.2 seconds; try again later"})
        with pytest.raises(RefusedError, match=r"no answer within 0\.2 seconds"):
            service.look(photos[1], None, 3, None)
        assert len(service._batcher._ready) == 0
        held.may_go.set()
        assert first.result().status_code == 200
    assert held.sizes == [1]


@pytest.mark.usefixtures("patient_uploads")
def test_a_catalogue_stays_open_until_nobody_works_with_it_though_the_client_is_told_504(
    service: Service, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(create_app(service)) as client:
        held = Held(service.live.recommender, monkeypatch)
        service.limits = replace(service.limits, timeout_s=0.5)
        late = client.post("/v1/looks", files={"photo": photos[0].read_bytes()})
        assert late.status_code == 504
        assert service.live._current.users == len(held.sizes)
        held.may_go.set()
        until(lambda: service.live._current.users == 0)


def test_the_fault_of_one_catalogue_is_not_told_to_who_asked_another(
    served: tuple[Path, Path], photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise InputError("catalogue.url=postgresql://db/shop: no answer")

    old, new = Recommender.from_checkpoint(*served), Recommender.from_checkpoint(*served)
    monkeypatch.setattr(old, "search", away)
    asked = [_Asked(one, one.prepare(photos[0], None, 3, None), None) for one in (old, new)]
    found = _answer_all(asked)
    assert isinstance(found[0], RefusedError)
    assert isinstance(found[1], Look)


def test_large_photos_but_of_a_camera_are_decoded_one_at_a_time(
    service: Service, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = []
    prepare = service.live.recommender.prepare

    def seen(*words: Any) -> Any:
        alone.append(service._large.locked())
        return prepare(*words)

    monkeypatch.setattr(service.live.recommender, "prepare", seen)
    with Image.open(photos[0]) as photo:
        photo.save(tmp_path / "photo.png")
        photo.save(tmp_path / "progressive.jpg", progressive=True)
    files = [photos[0], tmp_path / "photo.png", tmp_path / "progressive.jpg"]
    for most in (10**6, 1):
        monkeypatch.setattr(service_module, "LARGE", most)
        for file in files:
            service.look(file, None, 3, None)
    assert alone == [False, False, False, False, True, True]
    service.close()


def test_who_is_not_answered_at_the_end_is_told_so(
    service: Service, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(service.live.recommender, monkeypatch)
    server = Server(create_app(service), 0, service.end)
    with bound("127.0.0.1", free_port()) as listening, ThreadPoolExecutor(2) as pool:
        address = f"{address_of(listening)}v1/looks"
        running = pool.submit(server.run, [listening])
        until(lambda: server.started)
        late = pool.submit(httpx.post, address, files={"photo": photos[0].read_bytes()}, timeout=None)
        until(lambda: held.sizes == [1])
        service.end()
        server.should_exit = True
        answer = late.result()
        held.may_go.set()
        running.result()
    assert (answer.status_code, answer.json()) == (503, {"error": "the service ends"})
    assert server.cut == 1
    assert b'ctl_requests_total{route="/v1/looks",status="503"} 1.0' in service.metrics.text()


def test_a_catalogue_that_is_away_is_503_and_says_nothing_of_this_machine(
    service: Service, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise InputError("catalogue.url=postgresql://me:secret@db/shop: no answer")

    with TestClient(create_app(service)) as client:
        catalogue = service.live.recommender.catalogue
        for name in ("search", "find", "check"):
            monkeypatch.setattr(catalogue, name, away)
        for answer in (
            asks(client, photos[0]),
            client.get("/v1/products/x"),
            client.get("/readyz"),
            client.post("/v1/rerank", files={"photo": b""}, data={"category": "Shoes", "products": ["x"]}),
        ):
            assert (answer.status_code, answer.json()) == (
                503,
                {"error": "the catalogue cannot be searched now; try again later"},
            )
            assert answer.headers["retry-after"] == "5"
        assert client.get("/healthz").status_code == 200
        monkeypatch.setattr(type(catalogue), "counts", property(away))
        assert client.get("/v1/categories").status_code == asks(client, photos[0]).status_code == 503
        assert "ctl_waiting" in client.get("/metrics").text
        monkeypatch.undo()
        assert asks(client, photos[0]).status_code == client.get("/readyz").status_code == 200


def test_a_catalogue_that_hangs_is_504_and_not_ready(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go = threading.Event()
    with TestClient(create_app(service)) as client:
        catalogue = service.live.recommender.catalogue
        monkeypatch.setattr(catalogue, "find", lambda _: may_go.wait() and {})
        monkeypatch.setattr(catalogue, "check", may_go.wait)
        monkeypatch.setattr(lookups, "CHECK", 0.1)
        service.limits = replace(service.limits, timeout_s=0.1)
        monkeypatch.setattr(type(catalogue), "counts", property(lambda _: may_go.wait() and {}))
        for path in ("products/x", "products/x/image", "categories") * 4:
            assert client.get(f"/v1/{path}").status_code == 504
        assert client.get("/metrics").status_code == 200
        for _ in range(3):
            assert client.get("/readyz").json() == {"error": "the catalogue does not answer"}
        may_go.set()
        until(lambda: client.get("/readyz").status_code == 200)


def test_at_the_end_it_is_not_ready_and_closes_connections(service: Service, photos: list[Path]) -> None:
    with TestClient(create_app(service)) as client:
        service.end()
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"error": "the service ends"})
        assert asks(client, photos[0]).headers["connection"] == "close"


def test_an_error_of_ours_is_one_line_with_an_id_that_the_log_has(
    service: Service, photos: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("/home/me/secret")

    with TestClient(create_app(service)) as client:
        monkeypatch.setattr(service.live.recommender, "embed", broken)
        answer = asks(client, photos[0])
        assert answer.status_code == 500
        assert answer.json()["error"] == "an error of the service; its log has the id"
        assert answer.json()["id"] in caplog.text
        assert "ZeroDivisionError" in caplog.text


async def _call(app: Any, messages: list[Any]) -> list[Any]:
    """What an app sends for a form, after whose last message the client is gone."""
    sent: list[Any] = []
    left = iter(messages)

    async def receive() -> Any:
        return next(left, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "POST", "path": "/v1/looks", "headers": headers, "query_string": b""}
    await app({**scope, "root_path": "", "http_version": "1.1", "scheme": "http", "server": ("x", 80)}, receive, send)
    return sent


def test_a_client_that_goes_away_costs_nothing_more(
    service: Service, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n'
    body = head + photos[0].read_bytes() + b"\r\n--x--\r\n"
    held = Held(service.live.recommender, monkeypatch)
    before = service.ask_look(photos[1], None, 3, None)
    until(lambda: held.sizes == [1])
    app = create_app(service)
    whole = {"type": "http.request", "body": body, "more_body": False}
    assert asyncio.run(_call(app, [whole])) == []
    assert asyncio.run(_call(app, [{"type": "http.request", "body": body[:300], "more_body": True}])) == []
    assert (service._waiting, len(service._batcher._ready)) == (0, 0)
    held.may_go.set()
    before.result()
    assert held.sizes == [1]
    assert b'ctl_requests_total{route="/v1/looks",status="499"} 2.0' in service.metrics.text()
    service.close()
