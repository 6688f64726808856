"""Small data that the tests make for themselves."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.sources.stl import ShopTheLook
from ctl_lightning.reports.run_report import RunReport
from ctl_lightning.runtime.config import config_dir

# Tiny networks: more threads only wait for each other. For the programs that the tests start, too.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

Compose = Callable[..., DictConfig]
MakeData = Callable[..., TripletDataModule]


def image_id(name: str) -> str:
    """32 hex digits for a readable name."""
    return hashlib.md5(name.encode()).hexdigest()


def save_image(path: Path, seed: int = 0, size: tuple[int, int] = (40, 60)) -> None:
    """A small JPEG of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_look_files(root: Path, rows: list[dict[str, Any]], catalogue: dict[str, str], *, images: bool = True) -> Path:
    """A folder in Shop-the-Look's format."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "fashion.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "fashion-cat.json").write_text(json.dumps(catalogue))
    (root / "images").mkdir(exist_ok=True)
    if images:
        for seed, name in enumerate(sorted({row["scene"] for row in rows} | set(catalogue))):
            save_image(root / "images" / name[:2] / f"{name}.jpg", seed)
    return root


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


def data_module(root: Path, cache: Path, **options: Any) -> TripletDataModule:
    """A data module on a folder in Shop-the-Look's format."""
    defaults: dict[str, Any] = {
        "stored_size": 36,
        "image_size": 32,
        "augment": "crop",
        "aspect": "stretch",
        "store": "packed",
        "chunks_dir": None,
        "margin": 0.05,
        "min_area": 0.2,
        "exclude_categories": [],
        "max_bad_images": 0.01,
        "negatives": "uniform",
        "same_category": 4,
        "batch_size": 4,
        "eval_batch_size": 8,
        "num_workers": 0,
        "seed": 0,
        "salt": "0",
        "split_file": None,
        "triplets_file": None,
    }
    source = ShopTheLook("fashion.json", "fashion-cat.json")
    return TripletDataModule(root=str(root), source=source, cache_dir=str(cache), **defaults | options)


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
    from serving import make_catalogue, train_on

    folder = tmp_path_factory.mktemp("served")
    run = train_on(looks, cache, folder / "run")
    return run, make_catalogue(run, folder / "catalogue")


@pytest.fixture(autouse=True)
def full_errors_of_each_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that runs in this process leaves word for those that it starts."""
    for name in ("CTL_FULL_ERROR", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For runs of which only the numbers are looked at: the pictures take most of a tiny run."""
    monkeypatch.setattr(RunReport, "draw", lambda *_: {})


TINY = (
    "data.source.scenes=150",
    "data.source.variants=1",
    "data.batch_size=16",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=5",
    "trainer.enable_progress_bar=false",
    "callbacks=quiet",
    "model.dim=16",
    "model.hidden=16",
)
"""Overrides that make a training of two seconds."""


def fitting(words: Sequence[str]) -> list[str]:
    """Overrides without the options of TINY that the method of their `+experiment=` does not have."""
    experiment = next((word.partition("=")[2] for word in words if word.startswith("+experiment=")), "hybrid")
    lacks = {*(["model.hidden=16"] if experiment in ("siamese", "ibr", "bpr_dae", "imagenet", "popularity") else [])}
    lacks |= {*(["model.dim=16"] if experiment in ("imagenet", "popularity") else [])}
    return [word for word in words if word not in lacks]


@pytest.fixture
def compose(tmp_path: Path, cache: Path) -> Compose:
    """Composes conf/train.yaml with overrides; run directory below tmp_path."""

    def composed(*overrides: str, run: str = "run") -> DictConfig:
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            words = [f"paths.run_dir={tmp_path / run}", f"paths.cache_dir={cache}", *overrides]
            return hydra.compose("train", fitting(words))

    return composed
