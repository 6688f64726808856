"""The real photos in ../shared: readers, crops and splits at size, and a short training."""

import json
import statistics
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch

from ctl_lightning.conf import config_dir
from ctl_lightning.data.crop import area, scene_crop
from ctl_lightning.data.pairs import parse_pair
from ctl_lightning.data.stl import ShopTheLook
from ctl_lightning.style.backbone import Backbone
from ctl_lightning.train import train

SHARED = Path(__file__).parents[2] / "shared" / "data"
SUBSET, ROWS = SHARED / "stl_fashion_subset", SHARED / "stl_fashion_rows.json"
WEIGHTS = SHARED / "weights" / "mobilenet_v2_imagenet.pth"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not SUBSET.is_dir(), reason="the real photos (../shared/data) are not on this machine"),
]


def test_the_subset_is_read_whole() -> None:
    table = ShopTheLook("fashion.json", "fashion-cat.json").read(SUBSET)
    assert len(table.pairs) == 5486
    assert len(table.products_of_scene) == 4200
    assert len(table.catalogue) == 5646
    assert len(table.products_of_category) == 10
    assert len({pair.product for pair in table.pairs}) == 3496


def test_crops_of_42208_real_rows_are_as_published() -> None:
    lines = ROWS.read_text().splitlines()
    catalogue = dict.fromkeys((json.loads(line)["product"] for line in lines), "any")
    areas = [area(scene_crop(parse_pair(line, "rows", catalogue).box, 0.05)) for line in lines]
    assert len(areas) == 42208
    assert statistics.median(areas) == pytest.approx(0.55, abs=0.005)
    assert np.mean(np.array(areas) < 0.2) == pytest.approx(0.02, abs=0.005)


def test_the_weights_see_what_is_in_a_photo() -> None:
    backbone = Backbone("mobilenet_v2", "features.18", "features.14", 7, frozen=True)
    backbone.load_weights(str(WEIGHTS), "mobilenet_v2")
    source = ShopTheLook("fashion.json", "fashion-cat.json")
    catalogue = source.read(SUBSET).catalogue
    from ctl_lightning.data.images import ImageItem, decode

    def pooled(category: str) -> torch.Tensor:
        names = sorted(name for name, path in catalogue.items() if path.endswith(category))[:12]
        pixels = [decode(ImageItem(name, source.image_path(SUBSET, name), None), 224, "stretch") for name in names]
        features = backbone(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)).pooled
        return torch.nn.functional.normalize(features, dim=1)

    shoes, sunglasses = pooled("Shoes"), pooled("Sunglasses")
    within = (shoes @ shoes.T).sum().sub(12) / 132
    between = (shoes @ sunglasses.T).mean()
    assert float(within) > float(between) + 0.05


def test_a_short_training_on_real_photos(tmp_path: Path) -> None:
    overrides = [
        "+experiment=hybrid",
        "protocol=stl_fashion",
        f"data.root={SUBSET}",
        "backbone=mobilenet_v2",
        f"backbone.weights={WEIGHTS}",
        "backbone.grid=2",
        "data.stored_size=72",
        "data.image_size=64",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
        "callbacks=quiet",
        f"paths.run_dir={tmp_path / 'run'}",
        f"paths.cache_dir={tmp_path / 'cache'}",
    ]
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        train(hydra.compose("train", overrides))
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert sum(found["pairs"][group] for group in ("seen", "unseen")) == found["pairs"]["all"] > 400
    assert len(found["test"]["by_category"]) == 10
    # Small pictures, one epoch: better than chance is all that is asked.
    assert found["test"]["all"]["auc"]["low"] > 0.5
