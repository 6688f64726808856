import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from factories import composed, room_instance, save_image, train_on, write_rooms

from ctl_lightning.data.crop import scene_crop
from ctl_lightning.data.pairs import Pair
from ctl_lightning.data.sources.deepfurniture import DeepFurniture
from ctl_lightning.evaluate import evaluate
from ctl_lightning.prepare import prepare
from ctl_lightning.runtime.errors import InputError

PRODUCTS = {"7": 4, "8": 4, "9": 3}


def pixels(left: object, top: object, right: object, bottom: object) -> dict[str, Any]:
    return {"boundingBox": {"xMin": left, "yMin": top, "xMax": right, "yMax": bottom}}


def read(root: Path, *instances: object) -> Any:
    return DeepFurniture().read(write_rooms(root, {"L3D1": instances}, PRODUCTS))


def test_boxes_in_pixels_are_shares_of_their_own_room(tmp_path: Path) -> None:
    rooms = {"L3D1": [room_instance(7), room_instance(9, category="chair#stool")], "L3D2": [room_instance("8")]}
    source, root = DeepFurniture(), write_rooms(tmp_path, rooms, PRODUCTS)
    save_image(root / "scenes/L3D2/image.jpg", size=(400, 200))
    table = source.read(root)
    assert table.pairs == (
        Pair("L3D1", (0.15, 0.4, 0.35, 0.6), "7", "lamp"),
        Pair("L3D1", (0.15, 0.4, 0.35, 0.6), "9", "chair#stool"),
        Pair("L3D2", (0.075, 0.2, 0.175, 0.3), "8", "lamp"),
    )
    assert dict(table.catalogue) == {"7": "lamp", "8": "lamp", "9": "chair#stool"}
    assert table.left_out == {}
    assert source.image_path(root, "L3D2") == root / "scenes/L3D2/image.jpg"
    assert source.image_path(root, "7") == root / "furnitures/7.jpg"


def test_a_crop_shows_no_place_of_a_product_that_stands_in_the_room_several_times(tmp_path: Path) -> None:
    places = [(20, 60), (70, 70), (140, 65)]
    table = read(tmp_path, *(room_instance(7, *place) for place in places), room_instance(8))
    first, other = table.pairs
    assert first == Pair("L3D1", (0.1, 0.6, 0.9, 0.9), "7", "lamp")
    assert other.product == "8"
    left, top, right, bottom = scene_crop(first.box, margin=0.05)
    for x, y in places:
        apart = x + 40 <= 200 * left or 200 * right <= x or y + 20 <= 100 * top or 100 * bottom <= y
        assert apart, (x, y)
    assert table.left_out == {"further place of a product in its scene": 2}


def test_instances_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    instances = [
        room_instance(7),
        room_instance(7),  # repeated
        room_instance(None),
        {"boundingBox": room_instance(7)["boundingBox"]},
        room_instance(77),
        room_instance(9),  # said to be a lamp
        room_instance(8, category="lamp", **pixels(200, 0, 240, 20)),
        room_instance(8, **pixels(50, 50, 50, 90)),
        room_instance(8, **pixels(90, 50, 60, 90)),
        room_instance(8, **pixels(-20, 50, 50, 150.0)),  # partly outside: clipped
    ]
    root = write_rooms(tmp_path, {"L3D1": instances, "L3D2": [room_instance(7)], "L3D3": [room_instance(7)]}, PRODUCTS)
    (root / "scenes/L3D2/image.jpg").unlink()
    (root / "scenes/L3D3/image.jpg").write_text("<html>")
    table = DeepFurniture().read(root)
    assert [pair[:3] for pair in table.pairs] == [
        ("L3D1", (0.15, 0.4, 0.35, 0.6), "7"),
        ("L3D1", (0.0, 0.5, 0.25, 1.0), "8"),
    ]
    assert table.left_out == {
        "further place of a product in its scene": 1,
        "instance without an identity": 2,
        "product without a record": 1,
        "category is not its product's": 1,
        "box empty or outside of its scene": 3,
        "scene missing or unreadable": 2,
    }


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (7, "instance 2 is not an object"),
        (room_instance([7]), r"instance 2: identityID \[7\] cannot be an id"),
        (room_instance(7, boundingBox=None), "instance 2: boundingBox must be an object of xMin, yMin, xMax, yMax"),
        (room_instance(7, **pixels(1, 2, "3", 4)), "instance 2: boundingBox must be"),
        (room_instance(7, **pixels(1, 2, 1e300, 4)), "instance 2: boundingBox must be"),
        (room_instance(7, **pixels(True, 2, 3, 4)), "instance 2: boundingBox must be"),
    ],
)
def test_a_malformed_instance_is_named(tmp_path: Path, bad: object, says: str) -> None:
    with pytest.raises(InputError, match=rf"L3D1/annotation\.json: {says}"):
        read(tmp_path, room_instance(7), bad)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"furniture_id": "8"}', "expected an object with furniture_id and category_id"),
        ('{"furniture_id": "8", "category_id": 5}', "category_id 5 is not in .*categories.json"),
        ('{"furniture_id": ".8", "category_id": 4}', "product '.8' cannot be an id"),
        ('{"furniture_id": 7, "category_id": "3"}', "product 7 has several categories: 'chair#stool' here, 'lamp' at"),
        ("version https://git-lfs.github.com/spec/v1", "not valid JSON"),
    ],
)
def test_a_malformed_record_is_named_with_its_line(tmp_path: Path, line: str, says: str) -> None:
    root = write_rooms(tmp_path, {"L3D1": [room_instance(7)]}, PRODUCTS)
    with (root / "metadata/furnitures.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=rf"furnitures\.jsonl:4: {says}"):
        DeepFurniture().read(root)


def test_what_is_not_a_scene_is_told(tmp_path: Path) -> None:
    root = write_rooms(tmp_path, {"7": [room_instance(7)]}, PRODUCTS)
    with pytest.raises(InputError, match="'7' is both a scene and a product"):
        DeepFurniture().read(root)
    (root / "scenes/7").rename(root / "scenes/L3D7")
    (root / "scenes/L3D7/image.jpg").unlink()
    with pytest.raises(InputError, match=r"no pair is left.*scene missing or unreadable': 1"):
        DeepFurniture().read(root)
    (root / "scenes/L3D7/annotation.json").write_text("[]")
    with pytest.raises(InputError, match=r"annotation\.json: expected an object with a list of instances"):
        DeepFurniture().read(root)


def test_archives_that_were_unpacked_into_folders_of_their_own_are_read_alike(tmp_path: Path) -> None:
    rooms = {"L3D1": [room_instance(7)], "L3D2": [room_instance(8)]}
    source, root = DeepFurniture(), write_rooms(tmp_path, rooms, PRODUCTS)
    pairs = source.read(root).pairs
    shutil.copytree(root / "scenes/L3D2", root / "scenes/scenes_0001/L3D2")  # unpacked twice
    (root / "scenes/L3D1").rename(root / "scenes/scenes_0001/L3D1")
    (root / "furnitures/furnitures_0000").mkdir()
    (root / "furnitures/7.jpg").rename(root / "furnitures/furnitures_0000/7.jpg")
    assert source.read(root).pairs == pairs
    assert source.image_path(root, "L3D1") == root / "scenes/scenes_0001/L3D1/image.jpg"
    assert source.image_path(root, "7") == root / "furnitures/furnitures_0000/7.jpg"


def test_where_it_can_be_had_is_told(tmp_path: Path) -> None:
    root = write_rooms(tmp_path / "rooms", {"L3D1": [room_instance(7)]}, PRODUCTS)
    shutil.rmtree(root / "scenes/L3D1")
    (root / "scenes/scenes_0000.tar.gz").touch()  # as it is downloaded
    for where, lacks in ((tmp_path / "none", "metadata/furnitures.jsonl"), (root, "scenes/SCENE/annotation.json")):
        with pytest.raises(InputError, match=rf"{lacks} is not there; .*AFL-3\.0.*byliu/DeepFurniture") as error:
            DeepFurniture().read(where)
        assert "uncompress_dataset.sh -s data -t uncompressed_data" in str(error.value)


def test_rooms_are_found_through_links_and_not_in_hidden_folders(tmp_path: Path) -> None:
    rooms = {name: [room_instance(7)] for name in ("L3D1", "L3D2")}
    root = write_rooms(tmp_path / "rooms", rooms, PRODUCTS)
    shutil.move(root / "scenes/L3D2", tmp_path / "elsewhere/L3D2")
    (root / "scenes/more").symlink_to(tmp_path / "elsewhere")
    (root / "scenes/more/loop").symlink_to(root / "scenes")
    shutil.copytree(root / "scenes/L3D1", root / "scenes/L3D1/.ipynb_checkpoints")
    source = DeepFurniture()
    assert [pair.scene for pair in source.read(root).pairs] == ["L3D1", "L3D2"]
    assert source.image_path(root, "L3D2") == root / "scenes/more/L3D2/image.jpg"


def test_from_the_unpacked_folder_to_a_measured_checkpoint(tmp_path: Path, without_pictures: None) -> None:
    products = {str(n): 4 if n < 106 else 3 for n in range(100, 112)}
    rooms = {
        f"L3D{n}": [room_instance(100 + n % 6), room_instance(106 + n % 5, 100, category="chair#stool")]
        for n in range(40)
    }
    root, cache = write_rooms(tmp_path / "rooms", rooms, products), tmp_path / "cache"
    shutil.copy(root / "scenes/L3D0/image.jpg", root / "scenes/L3D1/image.jpg")  # one render under two names
    shutil.copy(root / "furnitures/110.jpg", root / "furnitures/111.jpg")
    (root / "furnitures/105.jpg").unlink()
    words = ("data=deepfurniture", f"data.root={root}", "data.max_bad_images=0.05")
    sizes = ("data.stored_size=36", "data.image_size=32", "data.batch_size=4", f"paths.cache_dir={cache}")
    prepare(composed("prepare", tmp_path / "prepared", *words, *sizes))
    summary = json.loads((tmp_path / "prepared/summary.json").read_text())
    assert summary["here"]["scenes"] == 40
    assert summary["here"]["categories"] == 2
    split = json.loads((tmp_path / "prepared/split.json").read_text())["split_of_scene"]
    assert split["L3D0"] == split["L3D1"]
    assert summary["dropped"]["unreadable image"] == 6
    run = train_on(root, cache, tmp_path / "run", *words, "model.dim=8")
    evaluate(composed("evaluate", tmp_path / "evaluated", f"ckpt_path={run}", f"paths.cache_dir={cache}"))
    measured = json.loads((tmp_path / "evaluated/results.json").read_text())
    assert measured["test"] == json.loads((run / "results.json").read_text())["test"]
    assert set(measured["test"]["by_category"]) == {"lamp", "chair#stool"}
