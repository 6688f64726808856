"""Small data that the tests make for themselves."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from factories import Compose, MakeData, data_module, fitting, image_id, write_look_files
from hypothesis import settings
from omegaconf import DictConfig
from postgres import PASSWORD, Server, running

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.reports.run_report import RunReport
from ctl_lightning.runtime.config import config_dir

# Tiny networks: more threads only wait for each other. For the programs that the tests start, too.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

settings.register_profile("no clock", deadline=None)
settings.load_profile("no clock")


@pytest.fixture(scope="session")
def looks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 scenes of two pairs each, 12 products in two categories."""
    shoes, hats = "Apparel & Accessories|Shoes", "Apparel & Accessories|Hats"
    catalogue = {image_id(f"shoe{n}"): shoes for n in range(6)} | {image_id(f"hat{n}"): hats for n in range(6)}
    rows = []
    for n in range(60):
        scene = image_id(f"scene{n}")
        rows.append({"product": image_id(f"shoe{n % 5}"), "scene": scene, "bbox": [0.2, 0.8, 0.8, 0.95]})
        rows.append({"product": image_id(f"hat{n % 4}"), "scene": scene, "bbox": [0.3, 0.05, 0.7, 0.2]})
    return write_look_files(tmp_path_factory.mktemp("looks"), rows, catalogue)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests: what one has rendered or packed, the next one finds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make_data(looks: Path, cache: Path) -> MakeData:
    """Sets up a data module on `looks`, with options."""

    def make(**options: Any) -> TripletDataModule:
        data = data_module(looks, cache, **options)
        data.prepare_data()
        data.setup()
        return data

    return make


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, looks: Path, cache: Path) -> tuple[Path, Path]:
    """The run directory of a hybrid on `looks`, and a catalogue of its products."""
    from factories import make_catalogue, train_on

    folder = tmp_path_factory.mktemp("served")
    run = train_on(looks, cache, folder / "run")
    return run, make_catalogue(run, folder / "catalogue")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL server for all tests that leave it running."""
    with running() as server:
        yield server


@pytest.fixture
def database(postgres_server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of an empty database, whose password is where libpq looks for it."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    return postgres_server.new_database()


@pytest.fixture(autouse=True)
def full_errors_of_each_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that runs in this process leaves word for those that it starts."""
    for name in ("CTL_FULL_ERROR", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For runs of which only the numbers are looked at: the pictures take most of a tiny run."""
    monkeypatch.setattr(RunReport, "draw", lambda *_: {})


@pytest.fixture
def compose(tmp_path: Path, cache: Path) -> Compose:
    """Composes conf/train.yaml with overrides; run directory below tmp_path."""

    def composed(*overrides: str, run: str = "run") -> DictConfig:
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            words = [f"paths.run_dir={tmp_path / run}", f"paths.cache_dir={cache}", *overrides]
            return hydra.compose("train", fitting(words))

    return composed
