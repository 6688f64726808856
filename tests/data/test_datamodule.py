import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import MakeData, data_module, image_id, write_look_files

from ctl_lightning.data.crop import crop_key
from ctl_lightning.data.splits import SPLITS, read_split
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.program import one_line

HATS, SHOES = "Apparel & Accessories|Hats", "Apparel & Accessories|Shoes"


def rows(count: int, box: list[float] | None = None) -> list[dict[str, object]]:
    return [
        {"product": image_id(f"p{n % 4}"), "scene": image_id(f"s{n}"), "bbox": box or [0.2, 0.8, 0.8, 0.95]}
        for n in range(count)
    ]


CATALOGUE = {image_id(f"p{n}"): SHOES for n in range(6)}


def test_no_scene_is_in_two_splits_and_every_pair_is_in_one(make_data: MakeData) -> None:
    data = make_data()
    scenes = [{pair.scene for pair in data.pairs[split]} for split in SPLITS]
    assert not scenes[0] & scenes[1] | scenes[0] & scenes[2] | scenes[1] & scenes[2]
    assert sum(len(data.pairs[split]) for split in SPLITS) == 120
    assert "120 pairs" in data.summary()


def test_pairs_with_a_small_crop_are_dropped_and_counted(tmp_path: Path) -> None:
    root = write_look_files(tmp_path / "d", rows(60) + rows(3, [0.05, 0.05, 0.95, 0.95]), CATALOGUE)
    data = data_module(root, tmp_path)
    data.setup()
    assert sum(len(data.pairs[split]) for split in SPLITS) == 60
    assert "3 crop smaller than min_area" in data.summary()


@pytest.mark.parametrize("large", [0, 60])
def test_where_pairs_are_lost_to_large_boxes_the_reason_and_the_way_out_are_told(
    tmp_path: Path, large: int, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_look_files(tmp_path / "d", rows(large) + rows(60, [0, 0, 1, 1]), CATALOGUE, images=large > 0)
    (root / "images").mkdir(exist_ok=True)
    data = data_module(root, tmp_path)
    if large:
        data.setup()
        said = caplog.text
        assert "60 of 120 pairs are dropped" in said
    else:
        with pytest.raises(InputError, match="0 pairs in the train split, at least 4 needed") as error:
            data.setup()
        said = str(error.value)
        assert "of 60 pairs, 60 are dropped (60 crop smaller than min_area)" in said
        assert "(the median here: 0.00)" in said
        assert not hasattr(data, "store"), "nothing is packed first"
    assert "a smaller data.min_area or data.margin, or tighter boxes" in said


def test_a_dropped_pair_still_protects_its_product_from_being_a_negative(tmp_path: Path) -> None:
    large = rows(60)
    small = [{"product": image_id("p5"), "scene": row["scene"], "bbox": [0.05, 0.05, 0.95, 0.95]} for row in large]
    data = data_module(write_look_files(tmp_path / "d", large + small, CATALOGUE), tmp_path)
    data.setup()
    dataset = data.train_dataloader().dataset
    for epoch in range(20):
        for index in range(len(dataset)):  # type: ignore[arg-type]
            pair = dataset.pairs[index]  # type: ignore[attr-defined]
            assert dataset._negatives.draw(pair, epoch, index) != image_id("p5")  # type: ignore[attr-defined]
    assert all(triplet.negative != image_id("p5") for chosen in data.triplets.values() for triplet in chosen)


def test_a_few_bad_images_are_counted_and_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_look_files(tmp_path / "d", rows(150), CATALOGUE)
    broken = image_id("s7")
    (root / "images" / broken[:2] / f"{broken}.jpg").unlink()
    data = data_module(root, tmp_path)
    data.setup()
    assert sum(len(data.pairs[split]) for split in SPLITS) == 149
    assert "1 unreadable image" in data.summary()
    assert "1 of 156 images" in caplog.text
    assert broken in data.store.listing.read_text()


def test_a_bad_product_leaves_the_catalogue_and_its_pairs_go(tmp_path: Path) -> None:
    root = write_look_files(tmp_path / "d", rows(150), CATALOGUE)
    broken = image_id("p1")
    path = root / "images" / broken[:2] / f"{broken}.jpg"
    path.write_bytes(path.read_bytes()[:200])
    data = data_module(root, tmp_path)
    data.setup()
    task = data.evaluation("test")
    assert broken not in task.products
    assert all(pair.product != broken for pairs in data.pairs.values() for pair in pairs)


def test_many_bad_images_stop_the_run(tmp_path: Path) -> None:
    root = write_look_files(tmp_path / "d", rows(60), CATALOGUE)
    for n in range(5):
        broken = image_id(f"s{n}")
        (root / "images" / broken[:2] / f"{broken}.jpg").write_text("")
    with pytest.raises(InputError, match=r"5 of 66 images .7\.58%.*data\.max_bad_images"):
        data_module(root, tmp_path).setup()
    allowed = data_module(root, tmp_path, max_bad_images=0.1)
    allowed.setup()
    assert sum(len(allowed.pairs[split]) for split in SPLITS) == 55


def test_an_image_that_breaks_while_workers_read_it_is_one_line(looks: Path, tmp_path: Path) -> None:
    root = shutil.copytree(looks, tmp_path / "looks")
    data = data_module(root, tmp_path, store="none", num_workers=1)
    data.setup()
    for path in (root / "images").rglob("*.jpg"):
        path.write_text("<html>")
    with pytest.raises(InputError) as caught:
        next(iter(data.train_dataloader()))
    message = one_line(caught.value, "train")
    assert message.endswith("run the command again")
    assert "Traceback" not in message
    assert len(message) < 300


def test_a_category_with_a_single_product_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    root = write_look_files(tmp_path / "d", rows(60), CATALOGUE | {image_id("hat"): HATS})
    with pytest.raises(InputError, match=r"Hats' has a single product .*data\.exclude_categories"):
        data_module(root, tmp_path).setup()
    data = data_module(root, tmp_path, exclude_categories=[HATS])
    data.setup()
    assert data.categories == [SHOES]


def test_a_missing_folder_says_how_to_get_the_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.root=.*STL-Dataset"):
        data_module(tmp_path / "nowhere", tmp_path).setup()


def test_broken_category_json_is_named(tmp_path: Path) -> None:
    root = write_look_files(tmp_path / "d", rows(3), CATALOGUE)
    (root / "fashion-cat.json").write_text('{"a": ')
    with pytest.raises(InputError, match=r"fashion-cat\.json:1: not valid JSON"):
        data_module(root, tmp_path).setup()


def test_too_little_data_is_an_error(tmp_path: Path) -> None:
    root = write_look_files(tmp_path / "d", rows(3), CATALOGUE)
    with pytest.raises(InputError, match="at least"):
        data_module(root, tmp_path).setup()


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 99},
        {"margin": 1.0},
        {"min_area": 0.0},
        {"batch_size": 1},
        {"num_workers": -1},
        {"eval_batch_size": 0},
        {"max_bad_images": 5.0},
        {"chunks_dir": "s3://bucket/folder"},
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        data_module(tmp_path, tmp_path, **options)


def test_a_salt_may_be_written_as_a_number(make_data: MakeData) -> None:
    assert make_data(salt=3).pairs == make_data(salt="3").pairs


def test_published_files_reproduce_split_and_triplets(make_data: MakeData, tmp_path: Path) -> None:
    first = make_data(salt="a")
    first.write_protocol_files(tmp_path)
    files = {"split_file": str(tmp_path / "split.json"), "triplets_file": str(tmp_path / "triplets.jsonl")}
    again = make_data(salt="b", **files)
    assert again.pairs == first.pairs
    assert again.triplets == first.triplets
    assert make_data(salt="b").pairs != first.pairs
    assert len(read_split(tmp_path / "split.json")) == 60
    again.write_protocol_files(tmp_path / "again")
    salts = [json.loads((folder / "split.json").read_text())["salt"] for folder in (tmp_path, tmp_path / "again")]
    assert salts == ["a", None]  # the second split is no salt's


def test_a_published_file_of_other_data_is_refused(make_data: MakeData, tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text('{"split_of_scene": {"a": "train"}}')
    with pytest.raises(InputError, match="does not have scene"):
        make_data(split_file=str(tmp_path / "split.json"))
    (tmp_path / "triplets.jsonl").write_text("")
    with pytest.raises(InputError, match="no triplet for product"):
        make_data(triplets_file=str(tmp_path / "triplets.jsonl"))


@pytest.mark.parametrize("negative", ["positive", "unknown", "other category"])
def test_a_published_negative_that_is_none_is_refused(make_data: MakeData, tmp_path: Path, negative: str) -> None:
    data = make_data()
    data.write_protocol_files(tmp_path)
    path = tmp_path / "triplets.jsonl"
    first, *rest = path.read_text().splitlines()
    row = json.loads(first)
    category = data.table.catalogue[row["positive"]]
    other = next(name for name, line in data.table.catalogue.items() if line != category)
    row["negative"] = {"positive": row["positive"], "unknown": image_id("?"), "other category": other}[negative]
    path.write_text("\n".join([json.dumps(row), *rest]))
    with pytest.raises(InputError, match=f"{row['negative']} cannot be the negative of product {row['positive']}"):
        make_data(triplets_file=str(path))


def test_a_run_is_not_continued_on_other_pairs(make_data: MakeData) -> None:
    state = make_data(salt="a").state_dict()
    make_data(salt="a").load_state_dict(state)
    with pytest.raises(InputError, match="trained on other pairs"):
        make_data(salt="b").load_state_dict(state)


def test_the_evaluation_set_is_what_a_slow_loop_says(make_data: MakeData) -> None:
    data = make_data()
    task = data.evaluation("test")
    train = [pair.product for pair in data.pairs["train"]]
    for n, pair in enumerate(task.pairs):
        assert task.products[task.positive[n]] == pair.product
        assert task.queries[task.query[n]] == (crop_key(pair.scene, pair.box), task.categories.index(pair.category))
        assert task.products[task.negative[n]] == data.triplets["test"][n].negative
        same_scene = {other.product for other in data.table.pairs if other.scene == pair.scene} - {pair.product}
        assert {task.products[product] for product in task.masked[n]} == same_scene
        assert task.seen[n] == (pair.product in train)
    assert [train.count(product) for product in task.products] == task.train_count.tolist()
    assert [task.categories[c] for c in task.product_category] == [data.table.catalogue[p] for p in task.products]


def test_evaluation_pictures_are_the_centres(make_data: MakeData) -> None:
    data = make_data()
    task = data.evaluation("validation")
    (queries, products) = data.val_dataloader()
    batch = next(iter(products))
    expected = data.store[task.products[3]][2:34, 2:34]
    np.testing.assert_array_equal(batch.image[3].numpy().transpose(1, 2, 0), expected)
    for loader, count in ((queries, len(task.queries)), (products, len(task.products))):
        assert torch.cat([batch.place for batch in loader]).tolist() == list(range(count))


def test_photos_that_most_are_enlarged_are_told_once(make_data: MakeData, caplog: pytest.LogCaptureFixture) -> None:
    make_data(stored_size=36)  # of photos of 40 x 60 pixels, and of crops of 36 to 42 of their 60 rows
    assert "fewer pixels" not in caplog.text
    make_data(stored_size=52)
    (said,) = [record.getMessage() for record in caplog.records if "fewer pixels" in record.getMessage()]
    assert said.startswith("66 of 66 photos (a sample) have fewer pixels than data.stored_size=52 makes of them")
