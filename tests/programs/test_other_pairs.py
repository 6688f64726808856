"""`evaluate data=NAME`: all pairs of other data as the test split of a checkpoint that was trained on something else."""

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from factories import composed, image_id, save_image, train_on, write_look_files

from ctl_lightning.data.category_names import matched_categories, read_category_map
from ctl_lightning.data.sources.stl import ShopTheLook
from ctl_lightning.evaluate import evaluate
from ctl_lightning.models.checkpoint import checkpoint_of, read_checkpoint
from ctl_lightning.reports.results import Results
from ctl_lightning.reports.run_report import RunReport
from ctl_lightning.runtime.config import check_names, check_values, config_dir
from ctl_lightning.runtime.errors import InputError

HATS, SHOES = "Apparel & Accessories|Hats", "Apparel & Accessories|Shoes"
OURS = {HATS: HATS, SHOES: SHOES}


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 scenes of two pairs each, 48 products, each in two or three pairs: some products of each half are in that half alone."""
    catalogue = {image_id(f"{kind}{n}"): name for kind, name in (("shoe", SHOES), ("hat", HATS)) for n in range(24)}
    boxes = {"shoe": [0.2, 0.8, 0.8, 0.95], "hat": [0.3, 0.05, 0.7, 0.2]}
    rows = [
        {"product": image_id(f"{kind}{n * step % 24}"), "scene": image_id(f"look{n}"), "bbox": boxes[kind]}
        for n in range(60)
        for kind, step in (("shoe", 7), ("hat", 5))
    ]
    return write_look_files(tmp_path_factory.mktemp("looks48"), rows, catalogue)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, looks: Path, cache: Path) -> Path:
    """A hybrid that was trained on about half of the scenes; the other half, by a hash of their ids, is its test split."""
    return train_on(looks, cache, tmp_path_factory.mktemp("other") / "run", "data.folds=2")


@pytest.fixture(autouse=True)
def numbers_alone(without_pictures: None) -> None:
    pass


def test_scenes(run: Path) -> set[str]:
    split: dict[str, str] = json.loads((run / "split.json").read_text())["split_of_scene"]
    return {scene for scene, own in split.items() if own == "test"}


test_scenes.__test__ = False  # type: ignore[attr-defined]


def write_folder(
    root: Path, looks: Path, scenes: set[str], names: Mapping[str, str] = OURS, prefix: str = ""
) -> Path:
    """A folder of the pairs of these scenes, with the whole catalogue; categories and ids may have other names."""
    source = ShopTheLook("fashion.json", "fashion-cat.json")
    table = source.read(looks)
    (root / "images").mkdir(parents=True)
    rows = [
        {"scene": prefix + pair.scene, "bbox": pair.box, "product": prefix + pair.product}
        for pair in table.pairs
        if pair.scene in scenes
    ]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    catalogue = {prefix + product: names[category] for product, category in table.catalogue.items()}
    (root / "categories.json").write_text(json.dumps(catalogue))
    for image in {*scenes, *table.catalogue}:
        (root / "images" / f"{prefix}{image}.jpg").symlink_to(source.image_path(looks, image))
    return root


def measured(folder: Path, *words: str) -> Results:
    """The content of results.json, and what was printed is left to pytest."""
    evaluate(composed("evaluate", folder, "accelerator=cpu", "product_visible=false", *words))
    content: Results = json.loads((folder / "results.json").read_text())
    return content


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "pairs.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_other_half_in_a_folder_is_measured_as_the_test_split_is(
    run: Path, looks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = measured(tmp_path / "own", f"ckpt_path={run}", "product_visible=true")
    folder = write_folder(tmp_path / "folder", looks, test_scenes(run))
    capsys.readouterr()
    found = measured(tmp_path / "found", f"ckpt_path={run}", "data=folder", f"data.root={folder}", "product_visible=true")
    said = capsys.readouterr().out
    assert (tmp_path / "found" / "pairs.csv").read_bytes() == (tmp_path / "own" / "pairs.csv").read_bytes()
    assert len(rows_of(tmp_path / "found")) == found["pairs"]["all"] > 40
    assert 0 < found["pairs"]["seen"] < found["pairs"]["all"]
    for part in ("test", "pairs", "hubs", "reranking", "controls", "twins"):
        assert found[part] == own[part], part
    assert found["classifier"] == {name: value for name, value in own["classifier"].items() if name != "pairs"}
    assert found["left_out"] == {}
    assert found["trained_on"]["scenes"] == {"of": len(test_scenes(run)), "same_id": 0, "same_photo": 0}
    assert found["trained_on"]["pairs"] == 0
    assert found["data"]["source"] == "folder"
    assert found["data"]["pairs"] == found["pairs"]["all"]
    assert f"of 48 products {len(read_checkpoint(checkpoint_of(run))['train_counts'])} by their id" in said.replace("\n", " ")
