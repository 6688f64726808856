import json
from pathlib import Path
from typing import Any

import pytest
from factories import save_image
from PIL import Image

from ctl_lightning.data.pairs import Pair
from ctl_lightning.data.sources.street2shop import Street2Shop
from ctl_lightning.runtime.errors import InputError


def entry(photo: object, product: object = 5, **box: Any) -> dict[str, Any]:
    return {
        "photo": photo,
        "product": product,
        "bbox": {"left": 10, "top": 15, "width": 20, "height": 30} | box,
    }


def published(root: Path, train: list[Any], test: list[Any] | None = None) -> Path:
    meta = root / "meta" / "json"  # as meta.zip unpacks
    meta.mkdir(parents=True)
    (meta / "train_pairs_dresses.json").write_text(json.dumps(train))
    (meta / "test_pairs_dresses.json").write_text(json.dumps(test or []))
    (meta / "retrieval_dresses.json").write_text(
        json.dumps([{"photo": 31, "product": 5}, {"photo": 30, "product": 5}, {"photo": 32, "product": 6}])
    )
    (meta / "retrieval_bags.json").write_text(json.dumps([{"photo": 33, "product": 5}]))
    (root / "photos").mkdir()
    (root / "photos" / "photos.txt").write_text(
        "".join(f"{photo:09d},http://shop.example/{photo}.jpg?a,b\n" for photo in (1, 2, 30, 31, 32, 33, 99))
    )
    for photo in (1, 31, 32, 33):
        save_image(root / "images" / f"{photo:09d}.jpg", photo, size=(40, 60))
    save_image(root / "images" / "sub" / "2.png", 2, size=(100, 100))
    return root


def test_boxes_in_pixels_are_normalised_by_their_own_photo(tmp_path: Path) -> None:
    source, root = Street2Shop(), published(tmp_path, [entry(1)], [entry(2)])
    table = source.read(root)
    assert table.pairs == (
        Pair("1", (0.25, 0.25, 0.75, 0.75), "dresses/5", "dresses"),
        Pair("2", (0.10, 0.15, 0.30, 0.45), "dresses/5", "dresses"),
    )
    assert dict(table.catalogue) == {"dresses/5": "dresses", "dresses/6": "dresses", "bags/5": "bags"}
    assert source.image_path(root, "2") == root / "images" / "sub" / "2.png"
    assert source.image_path(root, "1").name == "000000001.jpg"


def test_a_product_is_shown_by_its_first_photo_that_is_there(tmp_path: Path) -> None:
    source, root = Street2Shop(), published(tmp_path, [entry(1)])
    source.read(root)
    assert source.image_path(root, "dresses/5").name == "000000031.jpg"  # photo 30 is not there
    assert source.image_path(root, "bags/5").name == "000000033.jpg"
    save_image(root / "images" / "30.jpg", 30)
    source.read(root)
    assert source.image_path(root, "dresses/5").name == "30.jpg"


def test_a_turned_photo_is_measured_upright(tmp_path: Path) -> None:
    root = published(tmp_path, [entry(1)])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(root / "images" / "000000001.jpg", exif=exif)
    assert Street2Shop().read(root).pairs[0].box == (0.25, 0.25, 0.75, 0.75)


def test_pairs_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    train = [
        entry(1),
        entry(1),  # repeated: once
        entry(98),
        entry(1, 77),
        entry(1, left=41),
        entry(1, left=-5, width=10, top=50, height=100),  # partly outside: clipped
    ]
    root = published(tmp_path, train)
    (root / "images" / "98.jpg").write_text("<html>")
    table = Street2Shop().read(root)
    assert [pair.box for pair in table.pairs] == [(0.25, 0.25, 0.75, 0.75), (0.0, 50 / 60, 0.125, 1.0)]
    assert table.left_out == {
        "scene missing or unreadable": 1,
        "product without a shop photo": 1,
        "box outside of its scene": 1,
    }
    assert table.without_categories(["bags"]).left_out == table.left_out


def test_what_can_be_fetched_is_what_is_needed_and_has_an_address(tmp_path: Path) -> None:
    root = published(tmp_path, [entry(1), entry(4)])
    files = Street2Shop().images(root)
    assert [file.name for file in files] == ["1", "30", "31", "32", "33"]  # 2 and 99: not needed; 4: no address
    assert files[1].url == "http://shop.example/30.jpg?a,b"
    assert files[1].path == root / "images" / "000000030.jpg"
    assert files[0].path == root / "images" / "000000001.jpg"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (entry("1"), "entry 2: photo must be a whole number, not '1'"),
        (entry(1, None), "entry 2: product must be a whole number"),
        (entry(1, width=-3), "entry 2: bbox .* is empty or reversed"),
        (entry(1, top=None), "entry 2: bbox must be an object of left, top, width and height"),
        ({"photo": 1, "product": 5}, "entry 2: bbox must be"),
        (7, "entry 2 is not an object"),
    ],
)
def test_a_malformed_entry_is_named(tmp_path: Path, bad: object, says: str) -> None:
    with pytest.raises(InputError, match=rf"train_pairs_dresses\.json: {says}"):
        Street2Shop().read(published(tmp_path, [entry(1), bad]))


def test_a_malformed_address_is_named_with_its_line(tmp_path: Path) -> None:
    root = published(tmp_path, [entry(1)])
    (root / "photos" / "more.txt").write_text("\n5,http://x\nhttp://y\n")
    with pytest.raises(InputError, match=r"more\.txt:3: expected `id,url`"):
        Street2Shop().images(root)


def test_broken_json_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"retrieval_CATEGORY\.json.*data\.root=DIR"):
        Street2Shop().read(tmp_path)
    root = published(tmp_path / "a", [entry(1)])
    (root / "meta" / "json" / "retrieval_bags.json").write_text("[")
    with pytest.raises(InputError, match=r"retrieval_bags\.json:1: not valid JSON"):
        Street2Shop().read(root)


def test_without_images_no_pair_is_left(tmp_path: Path) -> None:
    root = published(tmp_path, [entry(1)])
    (root / "images").rename(root / "elsewhere")
    with pytest.raises(InputError, match=r"no pair is left.*scene missing"):
        Street2Shop().read(root)
