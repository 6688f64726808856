"""The routes: answers are those of the library, and what is wrong is one line in the client's words."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from factories import image_id
from starlette.testclient import TestClient

from ctl_lightning.runtime.environment import own_version
from ctl_lightning.serving.compatibility import Compatibility
from ctl_lightning.serving.http.app import create_app
from ctl_lightning.serving.http.service import Service
from ctl_lightning.serving.look import look_data
from ctl_lightning.serving.recommender import Recommender

SHOES = "Apparel & Accessories|Shoes"


def near(found: Any, wanted: Any) -> None:
    """Equal, numbers to 1e-5."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            near(found[key], value)
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            near(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-5)
    else:
        assert found == wanted


def sent(client: TestClient, photo: Path, **fields: Any) -> Any:
    with photo.open("rb") as file:
        answer = client.post("/v1/looks", files={"photo": (photo.name, file)}, data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {}),
        ({"k": "2", "categories": ["Shoes"]}, {"k": 2, "categories": ["Shoes"]}),
        ({"k": "100", "categories": [SHOES, "Hats"]}, {"k": 100, "categories": [SHOES, "Hats"]}),
        ({"box": "0.2,0.6,0.8,0.95"}, {"box": (0.2, 0.6, 0.8, 0.95)}),
        ({"box": "[0.2, 0.6, 0.8, 0.95]"}, {"box": (0.2, 0.6, 0.8, 0.95)}),
    ],
)
def test_a_look_is_the_json_that_recommend_writes(
    client: TestClient, recommender: Recommender, photos: list[Path], fields: Any, options: Any
) -> None:
    found = sent(client, photos[0], **fields)
    wanted = look_data(
        photos[0].name, recommender.look(photos[0], **options), lambda one: f"/v1/products/{one.product}/image"
    )
    near(found, json.loads(json.dumps(wanted)))


def test_products_are_ordered_as_rerank_orders_their_photos(
    client: TestClient, served: tuple[Path, Path], photos: list[Path], recommender: Recommender
) -> None:
    products = [image_id(f"{kind}{n}") for n in range(6) for kind in ("shoe", "hat")]
    found = recommender.catalogue.find(products)
    compatibility = Compatibility(served[0])
    for photo, box in ((photos[0], None), (photos[1], (0.2, 0.6, 0.8, 0.95))):
        wanted = compatibility.rerank(photo, "Shoes", [found[one].image for one in products], box)
        fields: dict[str, Any] = {"category": "Shoes", "products": products}
        fields |= {} if box is None else {"box": ",".join(map(str, box))}
        answer = client.post("/v1/rerank", files={"photo": photo.read_bytes()}, data=fields).json()
        assert (answer["scene"], answer["category"]) == ("upload", SHOES)
        assert [one["candidate"] for one in answer["order"]] == [products[one.candidate] for one in wanted]
        for one, other in zip(answer["order"], wanted, strict=True):
            assert one["was"] == other.candidate + 1
            assert one["distance"] == pytest.approx(other.distance, abs=1e-5)
            assert one["probability"] == pytest.approx(other.probability, abs=1e-5)
            assert one["compatible"] == other.compatible


def test_categories_products_and_their_pictures(client: TestClient, recommender: Recommender) -> None:
    assert client.get("/v1/categories").json() == {
        "categories": [{"category": name, "products": 6} for name in recommender.categories]
    }
    product = image_id("shoe3")
    card = client.get(f"/v1/products/{product}").json()
    assert card == {"product": product, "category": SHOES, "image": f"/v1/products/{product}/image"}
    picture = client.get(card["image"])
    assert picture.content == recommender.catalogue.find([product])[product].image.read_bytes()
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.headers["cache-control"] == "public, max-age=3600"
    for header, value in (("etag", "If-None-Match"), ("last-modified", "If-Modified-Since")):
        again = client.get(card["image"], headers={value: picture.headers[header]})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get(card["image"], headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.get("/v1/products/%00").status_code == 404
    assert client.get("/v1/products/none").json() == {"error": "the catalogue has no product 'none'"}


def test_whatever_an_id_looks_like_its_addresses_lead_to_it(
    client: TestClient, recommender: Recommender, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ("a/image", "a/image/image", ".", "..", "a b?c#d", "é", "\x01")
    known = recommender.catalogue.find([image_id("shoe3")])[image_id("shoe3")]
    find = lambda products: {one: known for one in products if one in ids}  # noqa: E731
    monkeypatch.setattr(service.live.recommender.catalogue, "find", find)
    for product in ids:
        escaped = "%2E" * len(product) if product in (".", "..") else quote(product, safe="")
        card = client.get(f"/v1/products/{escaped}")
        assert card.json() == {"product": product, "category": SHOES, "image": f"/v1/products/{escaped}/image"}
        assert client.get(card.json()["image"]).headers["content-type"] == "image/jpeg"


def test_head_is_get_without_a_body(client: TestClient) -> None:
    product = f"/v1/products/{image_id('shoe3')}"
    for path in ("/healthz", "/readyz", "/metrics", "/v1/categories", product, f"{product}/image"):
        found, head = client.get(path), client.head(path)
        assert (head.status_code, head.headers["content-type"]) == (200, found.headers["content-type"])
    assert client.head(f"{product}x").status_code == 404
    assert client.head("/v1/looks").status_code == 405
    assert all("head" not in path for path in client.get("/openapi.json").json()["paths"].values())


def test_a_slash_too_many_leads_nowhere(client: TestClient) -> None:
    answer = client.get("/v1/categories/", follow_redirects=False)
    assert (answer.status_code, answer.json()["error"][:27]) == (404, "there is no /v1/categories/")


def test_health_metrics_and_the_description(client: TestClient, photos: list[Path]) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    sent(client, photos[0])
    assert client.get("/v1/products/none").status_code == 404
    told = client.get("/metrics").text
    for line in (
        'ctl_requests_total{route="/v1/looks",status="200"} 1.0',
        'ctl_requests_total{route="/v1/products/{product:path}",status="404"} 1.0',
        'ctl_request_seconds_count{route="/v1/looks"} 1.0',
        "ctl_batch_size_sum 1.0",
        "ctl_waiting 0.0",
        f'ctl_catalogue_products{{category="{SHOES}"}} 6.0',
        'ctl_catalogue_exchanges_total{result="failed"} 0.0',
        f'ctl_build_info{{method="hybrid",version="{own_version()}"}} 1.0',
    ):
        assert line in told
    described = client.get("/openapi.json").json()
    assert described["info"]["version"] == own_version()
    assert described["paths"].keys() == {
        *("/v1/looks", "/v1/rerank", "/v1/categories", "/v1/products/{product}", "/v1/products/{product}/image"),
        *("/healthz", "/readyz", "/metrics"),
    }
    assert client.get("/docs").status_code == 404


def test_with_a_key_v1_needs_it_and_health_does_not(service: Service, photos: list[Path]) -> None:
    with TestClient(create_app(service, api_key="secret")) as client:
        for headers in (
            {},
            {"X-API-Key": "wrong"},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic secret"},
        ):
            refused = client.post("/v1/looks", files={"photo": photos[0].read_bytes()}, headers=headers)
            assert refused.status_code == 401
            assert refused.json() == {"error": "send the API key, as X-API-Key or Authorization: Bearer"}
            assert client.get("/v1/categories", headers=headers).status_code == 401
        for headers in ({"X-API-Key": "secret"}, {"Authorization": "Bearer secret"}):
            assert client.get("/v1/categories", headers=headers).status_code == 200
        for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
            assert client.get(path).status_code == 200


@pytest.mark.parametrize("stripped", [True, False])
def test_below_a_sub_path_addresses_begin_with_it(service: Service, photos: list[Path], stripped: bool) -> None:
    with TestClient(create_app(service, root_path="/looks")) as client:
        prefix = "" if stripped else "/looks"
        answer = client.post(f"{prefix}/v1/looks", files={"photo": photos[0].read_bytes()}).json()
        image = answer["categories"][0]["products"][0]["image"]
        assert image.startswith("/looks/v1/products/")
        assert client.get(image.removeprefix("/looks") if stripped else image).status_code == 200
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/looks"}]
