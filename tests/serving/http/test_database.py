"""The service over a catalogue in PostgreSQL: a database that goes and comes back, and one that is changed."""

from pathlib import Path
from typing import Any

import pytest
from factories import image_id, make_catalogue
from http_service import service_of
from postgres import PASSWORD, running
from starlette.testclient import TestClient

from ctl_lightning.serving.http.app import create_app
from ctl_lightning.serving.http.limits import Limits
from ctl_lightning.serving.recommender import Recommender


def test_a_database_that_was_away_is_used_again_and_a_change_is_seen_without_a_restart(
    served: tuple[Path, Path], tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with running() as server:
        words = ["catalogue.backend=pgvector", f"catalogue.url={server.new_database()}"]
        base = make_catalogue(served[0], tmp_path / "base", *words)
        service = service_of(Recommender.from_checkpoint(served[0], base), base, Limits())
        with TestClient(create_app(service)) as client:

            def look() -> tuple[int, Any]:
                answer = client.post("/v1/looks", files={"photo": photos[0].read_bytes()})
                return answer.status_code, answer.json()

            def others() -> set[int]:
                order = {"category": "Shoes", "products": [image_id("shoe1"), image_id("shoe2")]}
                photo = {"photo": photos[0].read_bytes()}
                return {
                    client.post("/v1/rerank", files=photo, data=order).status_code,
                    client.get(f"/v1/products/{image_id('shoe1')}").status_code,
                }

            status, expected = look()
            assert others() == {200}
            assert client.get("/v1/products/%00").status_code == 404
            assert status == client.get("/readyz").status_code == 200
            server.stop()
            away = (503, {"error": "the catalogue cannot be searched now; try again later"})
            ready = client.get("/readyz")
            assert look() == (ready.status_code, ready.json()) == away
            assert others() == {503}
            assert client.get("/healthz").status_code == client.get("/metrics").status_code == 200
            server.start()
            assert client.get("/readyz").status_code == 200
            assert look() == (200, expected)
            best = expected["categories"][0]["products"][0]["product"]
            (tmp_path / "gone.txt").write_text(best)
            make_catalogue(served[0], base, f"products={tmp_path / 'gone.txt'}", "change=remove")
            after = [one["product"] for one in look()[1]["categories"][0]["products"]]
            assert after[:2] == [one["product"] for one in expected["categories"][0]["products"][1:3]]
            assert client.get(f"/v1/products/{best}").status_code == 404
