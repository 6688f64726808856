"""The service over a catalogue in PostgreSQL: a database that goes and comes back, and one that is changed."""

from pathlib import Path
from typing import Any

import pytest
from factories import make_catalogue
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

            status, expected = look()
            assert status == client.get("/readyz").status_code == 200
            server.stop()
            away = (503, {"error": "the catalogue cannot be searched now; try again later"})
            ready = client.get("/readyz")
            assert look() == (ready.status_code, ready.json()) == away
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
