"""A service of a small checkpoint, and a client of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from http_service import service_of
from starlette.testclient import TestClient

from ctl_lightning.serving.http.app import create_app
from ctl_lightning.serving.http.limits import Limits
from ctl_lightning.serving.http.service import Service
from ctl_lightning.serving.recommender import Recommender


@pytest.fixture(scope="session")
def recommender(served: tuple[Path, Path]) -> Recommender:
    return Recommender.from_checkpoint(*served)


@pytest.fixture(scope="session")
def photos(looks: Path) -> list[Path]:
    return sorted((looks / "images").rglob("*.jpg"))


@pytest.fixture
def service(served: tuple[Path, Path]) -> Service:
    """A service with a limit of 1 MB and 1 million pixels."""
    return service_of(Recommender.from_checkpoint(*served), served[1], Limits(max_upload=2**20, max_pixels=10**6))


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(create_app(service)) as found:
        yield found
