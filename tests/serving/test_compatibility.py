"""A checkpoint as a function of photos says what its evaluation said, and re-ranks lists from elsewhere."""

import json
from pathlib import Path

import hydra
import numpy as np
import pytest
from lightning import Trainer
from PIL import Image

from ctl_lightning.rerank import rerank
from ctl_lightning.runtime.config import config_dir
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.compatibility import Compatibility
from ctl_lightning.serving.trained import Trained
from ctl_lightning.training.module import restored
from ctl_lightning.training.predict import ranked_split


@pytest.fixture
def trained(served: tuple[Path, Path]) -> Path:
    """The run directory of a hybrid on `looks`."""
    return served[0]


def test_distances_from_photos_are_those_of_the_evaluation(trained: Path) -> None:
    compatibility, checkpoint = Compatibility(trained), Trained(trained)
    data = checkpoint.data({})
    data.setup()
    task = data.evaluation("test")
    module = restored(checkpoint.checkpoint, checkpoint.path)
    ranking = ranked_split(Trainer(accelerator="cpu", logger=False, enable_progress_bar=False), module, data, "test")
    for pair in range(6):
        products = np.flatnonzero(task.product_category == task.category[pair])
        photos = [data.source.image_path(data.root, task.products[product]) for product in products]
        scene = data.source.image_path(data.root, task.pairs[pair].scene)
        found = compatibility.distances(scene, task.pairs[pair].category, photos, task.pairs[pair].box)
        np.testing.assert_allclose(found, ranking.distances(task.query[[pair]], products)[0], atol=1e-5)


def test_what_is_judged_is_ordered_and_agrees_with_the_classifier(trained: Path, looks: Path) -> None:
    compatibility = Compatibility(str(trained))
    photos = sorted((looks / "images").rglob("*.jpg"))[:9]
    with Image.open(photos[0]) as scene:
        judged = compatibility.classify(scene, "Shoes", photos)
        ordered = compatibility.rerank(scene.convert("L"), "Apparel & Accessories|Shoes", photos)
    assert [one.candidate for one in judged] == list(range(9))
    distances = [one.distance for one in ordered]
    assert distances == sorted(distances)
    assert sorted(one.candidate for one in ordered) == list(range(9))
    classifier = compatibility.classifier
    assert classifier is not None
    for one in judged:
        assert one.compatible == (one.distance <= classifier.threshold)
        assert one.probability == pytest.approx(float(classifier.probability(np.array(one.distance))))
    assert compatibility.rerank(photos[0], "Shoes", []) == []


def test_a_wrong_category_box_photo_device_or_method_is_one_line(trained: Path, looks: Path, tmp_path: Path) -> None:
    compatibility = Compatibility(trained)
    photo = next((looks / "images").rglob("*.jpg"))
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(
        InputError, match=r"category=Shoos: unknown to this checkpoint.*it knows 'Apparel & Accessories"
    ):
        compatibility.distances(photo, "Shoos", [photo])
    with pytest.raises(InputError, match=r"text\.jpg: not an image; give an image file"):
        compatibility.distances(photo, "Shoes", [tmp_path / "text.jpg"])
    with pytest.raises(InputError, match=r"box=\[0\.5, 0\.1, 0\.4, 0\.9\]: give \[left, top, right, bottom\]"):
        compatibility.distances(photo, "Shoes", [photo], (0.5, 0.1, 0.4, 0.9))
    with pytest.raises(InputError, match="beside it 0% of the scene are left, and it was trained with 20% at least"):
        compatibility.distances(photo, "Shoes", [photo], (0.0, 0.0, 1.0, 1.0))
    with pytest.raises(InputError, match="device=nonsense"):
        Compatibility(trained, "nonsense")
    last = Compatibility(trained / "checkpoints" / "last.ckpt")
    assert last.classifier is None
    assert last.classify(photo, "Shoes", [photo])[0].probability is None


def run_rerank(folder: Path, *overrides: str) -> None:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        rerank(hydra.compose("rerank", [f"paths.run_dir={folder}", *overrides]))


def test_a_list_of_files_and_ids_is_ordered(trained: Path, looks: Path, tmp_path: Path) -> None:
    ids = [product for product in json.loads((looks / "fashion-cat.json").read_text()) if product[0] in "0123456789"]
    scene = json.loads((looks / "fashion.json").read_text().splitlines()[0])["scene"]
    path = looks / "images" / ids[0][:2] / f"{ids[0]}.jpg"
    (tmp_path / "list.txt").write_text("\n".join([*ids[1:4], "", str(path)]))
    words = [f"ckpt_path={trained}", f"scene={scene}", "category=Shoes", f"candidates={tmp_path / 'list.txt'}"]
    run_rerank(tmp_path / "out", *words, "box=[0.2,0.8,0.8,0.95]")
    found = json.loads((tmp_path / "out" / "rerank.json").read_text())["order"]
    assert {row["candidate"] for row in found} == {*ids[1:4], str(path)}
    distances = [row["distance"] for row in found]
    assert distances == sorted(distances)
    for wrong, says in (
        (["scene=nowhere"], "scene: nowhere is no image file, nor an id of"),
        (["box=[1,2]"], r"box=\[1, 2\]: give \[left"),
        ([f"candidates={tmp_path}"], "cannot be read"),
    ):
        with pytest.raises(InputError, match=says):
            run_rerank(tmp_path / "out", *words, *wrong)
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(InputError, match="no candidate in it"):
        run_rerank(tmp_path / "out", *words)
