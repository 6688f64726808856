"""What is shown of a scene: never a pixel of the box in a test scene; boxes of training scenes alone in batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import MakeData, data_module, image_id, write_look_files
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ctl_lightning.data.crop import crop_key, geometry, strips
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.images import STEP, at_own_proportions
from ctl_lightning.data.pairs import Box
from ctl_lightning.data.triplets import PairBatch

BOX: Box = (0.3, 0.35, 0.7, 0.65)
SHOES, HATS = "Apparel & Accessories|Shoes", "Apparel & Accessories|Hats"


def looks_with(folder: Path, marker: int | None) -> Path:
    """Sixty scenes of noise with a pair each; `marker`: the colour that the box is filled with."""
    products = [image_id(f"product{n}") for n in range(8)]
    catalogue = {product: SHOES if n % 2 else HATS for n, product in enumerate(products)}
    rows = [{"product": products[n % 8], "scene": image_id(f"s{n}"), "bbox": list(BOX)} for n in range(60)]
    write_look_files(folder, rows, catalogue)
    if marker is None:
        return folder
    for n in range(60):
        path = folder / "images" / image_id(f"s{n}")[:2] / f"{image_id(f's{n}')}.jpg"
        with Image.open(path) as image:
            pixels: NDArray[np.uint8] = np.array(image)
        height, width = pixels.shape[:2]
        rows_, columns = (
            slice(int(BOX[1] * height), int(BOX[3] * height)),
            slice(int(BOX[0] * width), int(BOX[2] * width)),
        )
        pixels[rows_, columns] = marker
        Image.fromarray(pixels).save(path.with_suffix(".png"))
        path.with_suffix(".png").replace(path)  # without loss, so that nothing beside the box changes
    return folder


def means(pictures: Tensor) -> Tensor:
    """Mean and largest value of each colour, (B, 6)."""
    flat = pictures.flatten(2).float() / 255
    return torch.cat([flat.mean(2), flat.amax(2)], 1)


def of_strips(scenes: Any) -> Tensor:
    rows = []
    for shown in scenes:
        vectors = torch.stack([means(picture)[0] * area for picture, area in shown])
        rows.append(vectors.sum(0) / sum(area for _, area in shown))
    return torch.stack(rows)


def featured(data: TripletDataModule, folder: Path) -> TripletDataModule:
    data.cache_dir = folder
    data.prepare_data()
    data.setup()
    plan = data.feature_plan({"name": "means"}, 0, "bfloat16")
    data.use_features(plan, lambda images: (means(images), means(images)[:, None]), of_strips)
    return data


def test_strips_keep_their_proportions_in_steps() -> None:
    image = Image.fromarray(np.zeros((600, 400, 3), np.uint8))
    assert at_own_proportions(image, None, 256, "bilinear").shape == (384, 256, 3)
    assert at_own_proportions(image, (0, 0, 1, 0.5), 256, "bilinear").shape == (192, 256, 3)
    assert at_own_proportions(image, (0, 0, 0.09, 1), 256, "bilinear").shape == (384, STEP, 3)


@pytest.mark.parametrize("scene", ["crop", "strips"])
def test_no_pixel_of_a_box_is_in_any_embedding_of_a_scene(tmp_path: Path, scene: str) -> None:
    """The box is filled with black in one data set and with white in the other: every feature of a scene stays the same."""
    found = []
    for marker in (0, 255):
        root = looks_with(tmp_path / f"looks{marker}", marker)
        data = featured(
            data_module(root, tmp_path, scene=scene, augment="none", margin=0.05, twins="keep"),
            tmp_path / f"cache{marker}",
        )
        keys = [crop_key(pair.scene, pair.box) for pairs in data.pairs.values() for pair in pairs]
        found.append(data.scene_views.evaluation(keys)[0])
    assert torch.equal(*found)
    assert found[0].float().std(0).min() > 0


def test_the_marker_is_seen_where_it_should_be(tmp_path: Path) -> None:
    """The test above can fail: what shows the box, or the whole scene, is changed by the marker."""
    for scene in ("box", "strips"):
        found = []
        for marker in (0, 255):
            root = looks_with(tmp_path / f"{scene}{marker}", marker)
            data = featured(
                data_module(root, tmp_path, scene=scene, augment="none", twins="keep"),
                tmp_path / f"{scene}cache{marker}",
            )
            task = data.evaluation("test")
            if scene == "box":
                found.append(data.query_images(task)[0].image[0])
            else:
                with data.whole_scenes():
                    found.append(data.query_images(task)[0].image[0])
        assert not torch.equal(*found)


def test_a_scene_is_the_mean_of_its_strips_by_area(tmp_path: Path) -> None:
    root = looks_with(tmp_path / "looks", None)
    data = featured(data_module(root, tmp_path, scene="strips", augment="none"), tmp_path / "cache")
    pair = data.pairs["test"][0]
    with Image.open(data.source.image_path(data.root, pair.scene)) as image:
        total, weights = torch.zeros(6), 0.0
        for strip in strips(pair.box, 0.05):
            pixels = at_own_proportions(image, strip, data.stored_size, "bilinear")
            area = (strip[2] - strip[0]) * (strip[3] - strip[1])
            total += area * means(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0]
            weights += area
    assert len(strips(pair.box, 0.05)) > 1
    found = data.scene_views.evaluation([crop_key(pair.scene, pair.box)])
    torch.testing.assert_close(found[0][0].float(), total / weights, atol=0.01, rtol=0)
    assert found[1].shape[:2] == (1, 0)


def test_boxes_in_batches_are_those_of_the_training_pairs(tmp_path: Path) -> None:
    root = looks_with(tmp_path / "looks", None)
    options: dict[str, Any] = {"augment": "none", "negatives": "in_batch", "boxes": True}
    data = featured(data_module(root, tmp_path, **options), tmp_path / "cache")
    batches: list[PairBatch] = list(data.train_dataloader())
    assert len(batches) == len(data.pairs["train"]) // data.batch_size
    own = {}
    for pair in data.pairs["train"]:
        keys = [crop_key(pair.scene, pair.box)]
        scene = tuple(data.scene_views.evaluation(keys)[0][0].tolist())
        own[scene] = data.box_views.evaluation(keys)[0][0].tolist()  # type: ignore[union-attr]
    assert len(own) == len(data.pairs["train"])
    for batch in batches:
        assert batch.box is not None
        for row, box in zip(batch.scene[0], batch.box[0], strict=True):
            assert own[tuple(row.tolist())] == box.tolist()


def test_geometry_is_the_numbers_of_the_box(make_data: MakeData) -> None:
    data = make_data(scene="geometry")
    pair = data.pairs["test"][0]
    found = data.query_images(data.evaluation("test"))[0].image
    assert found[0][0].tolist() == pytest.approx(geometry(pair.box, data.margin))


def test_features_of_products_are_shared_by_all_that_is_shown_of_scenes(tmp_path: Path) -> None:
    root, count = looks_with(tmp_path / "looks", None), 0
    for scene in ("strips", "box", "geometry"):
        featured(data_module(root, tmp_path, scene=scene, augment="none", twins="keep"), tmp_path / "cache")
        files = len(list((tmp_path / "cache" / "features").glob("*.npy")))
        assert files == (count := count + (scene != "geometry")) + 1
