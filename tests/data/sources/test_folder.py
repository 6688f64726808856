import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import REPOSITORY, data_module, save_image
from PIL import ExifTags, Image

from ctl_lightning.data.crop import crop_key
from ctl_lightning.data.pairs import NO_BOX, Pair
from ctl_lightning.data.sources.folder import LooksFolder
from ctl_lightning.runtime.errors import InputError

PAGE = (REPOSITORY / "docs" / "data.md").read_text()

BOX = [0.1, 0.2, 0.4, 0.9]
CATALOGUE = {"lamp 7": "Lamps", "lamp8": "Lamps", "Sofa-1": "Sofas", "sofa2": "Sofas"}


def line(**changes: Any) -> str:
    return json.dumps({"scene": "room1", "product": "lamp 7", "bbox": BOX} | changes)


def folder(root: Path, lines: list[str], catalogue: object = CATALOGUE) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "pairs.jsonl").write_text("".join(one + "\n" for one in lines))
    (root / "categories.json").write_text(json.dumps(catalogue))
    for seed, name in enumerate(
        ("room1.jpg", "lamps/lamp 7.png", "lamps/lamp8.JPEG", "sofas/Sofa-1.webp", "sofa2.png")
    ):
        save_image(root / "images" / name, seed)
    return root


def test_the_example_of_the_docs_is_in_order(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```text\n(pairs\.jsonl(?:.*\n)+?)```$", PAGE, re.MULTILINE)
    pairs = re.findall(r'\{"scene".*\}', example)
    (catalogue,) = re.findall(r"categories\.json +(\{.*\})", example)
    (names,) = re.findall(r"images/ +(.*)", example)
    assert len(pairs) == 2
    (tmp_path / "images").mkdir()
    (tmp_path / "pairs.jsonl").write_text("\n".join(pairs))
    (tmp_path / "categories.json").write_text(catalogue)
    for seed, name in enumerate(names.split(", ")):
        save_image(tmp_path / "images" / name, seed)
    assert LooksFolder().check(tmp_path) == []
    assert len(LooksFolder().read(tmp_path).pairs) == 2


def test_ids_find_their_images_wherever_they_lie(tmp_path: Path) -> None:
    source, root = LooksFolder(), folder(tmp_path, [line(), line(product="Sofa-1")])
    table = source.read(root)
    assert table.pairs[0] == Pair("room1", (0.1, 0.2, 0.4, 0.9), "lamp 7", "Lamps")
    assert dict(table.catalogue) == CATALOGUE
    assert source.image_path(root, "lamp8") == root / "images" / "lamps" / "lamp8.JPEG"
    assert source.image_path(root, "room1") == root / "images" / "room1.jpg"
    assert source.check(root) == []


def test_every_problem_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    lines = [
        line(),
        "{",
        "",
        line(product="../../x"),
        line(bbox=[0.4, 0.2, 0.1, 0.9]),
        line(product="chair"),
        json.dumps({"scene": "room1", "item": "lamp8", "bbox": BOX}),
        line(scene="lamp8"),
        line(scene="room2"),
    ]
    root = folder(tmp_path, lines, CATALOGUE | {"vase": "", "/etc/passwd": "Lamps", "rug": "Rugs"})
    (root / "categories.json").write_text((root / "categories.json").read_text()[:-1] + ',\n"lamp8": "Rugs"}')
    save_image(root / "images" / "rug.jpg")
    save_image(root / "images" / "sofas" / "lamp8.jpg")
    (root / "images" / "sofas" / "Sofa-1.webp").write_bytes(b"RIFF")
    (root / "images" / "lamps" / "lamp 7.png").write_bytes(b"")
    found = LooksFolder().check(root)
    said = "\n".join(found)
    pairs, images = root / "pairs.jsonl", root / "images"
    for expected in (
        f"{root / 'categories.json'}:1: product vase: '' cannot be a category: it is empty",
        f"{root / 'categories.json'}:1: product '/etc/passwd' cannot be an id: it has a slash",
        f"{root / 'categories.json'}:2: product lamp8 has several categories: 'Rugs' here, 'Lamps' at {root / 'categories.json'}:1",
        f"{root / 'categories.json'}: category 'Rugs' has a single product",
        f"{pairs}:2: not valid JSON",
        f"{pairs}:4: product '../../x' cannot be an id: it has a slash",
        f"{pairs}:5: box [0.4, 0.2, 0.1, 0.9] is empty or outside",
        f"{pairs}:6: product chair has no category",
        f"{pairs}:7: there is no product; a pair has a scene, a product and a box",
        f"{root}: lamp8 is both a scene and a product",
        f"{images}: lamp8 has several images: images/lamps/lamp8.JPEG, images/sofas/lamp8.jpg",
        f"{images / 'room2.jpg'}: missing",
        f"{images / 'sofas' / 'Sofa-1.webp'}: not an image",
        f"{images / 'lamps' / 'lamp 7.png'}: not an image",
    ):
        assert said.count(expected) == 1, expected
    assert not any("\n" in problem for problem in found)
    assert not (root.parent / "x").exists()


def test_training_names_the_first_problem_and_where_all_are_told(tmp_path: Path) -> None:
    root = folder(tmp_path, [line(), "{", line(product="chair")])
    with pytest.raises(InputError, match=r"pairs\.jsonl:2.*1 more problems.*prepare data=folder"):
        LooksFolder().read(root)


@pytest.mark.parametrize("content", ["[]", "{}", "3", "{"])
def test_categories_that_are_none(tmp_path: Path, content: str) -> None:
    root = folder(tmp_path, [line()])
    (root / "categories.json").write_text(content)
    with pytest.raises(
        InputError, match=r"categories\.json:(1:)? (expected a JSON object|there is no product|not valid JSON)"
    ):
        LooksFolder().read(root)


@pytest.mark.parametrize("needed", ["pairs.jsonl", "categories.json", "images"])
def test_a_missing_part_is_named(tmp_path: Path, needed: str) -> None:
    root = folder(tmp_path, [line()])
    (root / needed).rename(root / "elsewhere")
    with pytest.raises(InputError, match=rf"{needed} is not there.*data\.root=DIR"):
        LooksFolder().read(root)


def as_csv(root: Path, pairs: str, products: str | None = None) -> Path:
    """The folder with other files in place of the JSON ones."""
    folder(root, [line()])
    (root / "pairs.jsonl").unlink()
    (root / "pairs.csv").write_text(pairs)
    if products is not None:
        (root / "categories.json").unlink()
        (root / "products.csv").write_text(products)
    return root


PRODUCTS_CSV = "product,category\n" + "".join(f"{product},{name}\n" for product, name in CATALOGUE.items())


def test_the_same_pairs_are_read_from_every_form(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    own = LooksFolder().read(folder(tmp_path / "a", [line()]))
    csv = "scene,product,left,top,right,bottom\nroom1,lamp 7,0.1,0.2,0.4,0.9\n"
    root = as_csv(tmp_path / "b", csv, PRODUCTS_CSV)
    assert LooksFolder().read(root) == own
    assert LooksFolder().check(root) == []
    (root / "pairs.csv").unlink()
    parquet.write_table(
        pyarrow.table({"scene": ["room1"], "product": ["lamp 7"], "bbox": [BOX]}), root / "pairs.parquet"
    )
    (root / "products.csv").unlink()
    columns = {"product": [*CATALOGUE], "category": [*CATALOGUE.values()]}
    parquet.write_table(pyarrow.table(columns), root / "products.parquet")
    assert LooksFolder().read(root) == own


def test_columns_of_other_names_and_boxes_in_pixels_of_the_upright_picture(tmp_path: Path) -> None:
    csv = (
        "image_id;sku;kind;bbox_x;y;width;height;note\nroom1;lamp 7;Lamps;6;10;31;40;x\nroom1;lamp8;Lamps;0;0;64;81;y\n"
    )
    root = as_csv(tmp_path, csv)
    (root / "categories.json").unlink()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (80, 64)).save(root / "images" / "room1.jpg", exif=exif)
    columns = {"scene": "image_id", "product": "sku", "category": "kind", "x": "bbox_x"}
    table = LooksFolder(columns=columns).read(root)
    assert table.catalogue == {"lamp 7": "Lamps", "lamp8": "Lamps"}
    assert [pair.box for pair in table.pairs] == [(6 / 64, 10 / 80, 37 / 64, 50 / 80), (0, 0, 1, 1)]
    with pytest.raises(
        InputError, match=r"no column 'scene'; there are: image_id, sku.*data\.source\.columns\.FIELD=NAME"
    ):
        LooksFolder(columns={"category": "kind", "product": "sku"}).read(root)


def test_a_box_in_pixels_of_a_missing_scene_is_left_out_and_the_checker_names_the_image(tmp_path: Path) -> None:
    csv = "scene,product,x,y,width,height\nroom1,lamp 7,1,1,9,9\nroom2,lamp8,1,1,9,9\nroom2,Sofa-1,1,1,9,9\n"
    root = as_csv(tmp_path, csv)
    table = LooksFolder().read(root)
    assert (len(table.pairs), dict(table.left_out)) == (1, {"scene missing or unreadable": 2})
    (said,) = LooksFolder().check(root)
    assert said.startswith(f"{root / 'images' / 'room2.jpg'}: missing")


def test_a_pair_without_a_box_is_one_that_says_so(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", [line(bbox=None), line(product="lamp8"), '{"scene": "room1", "product": "sofa2"}'])
    (problem,) = LooksFolder().check(root)
    assert (
        problem
        == f'{root / "pairs.jsonl"}:3: there is no bbox, [left, top, right, bottom]; write "bbox": null if it is not known'
    )
    root = as_csv(tmp_path / "b", "scene,product\nroom1,lamp8\n")
    assert LooksFolder().read(root).pairs == (Pair("room1", NO_BOX, "lamp8", "Lamps"),)


def test_every_problem_of_tables_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    pairs = (
        "scene,product,category,left,top,right,bottom\n"
        "room1,lamp 7,Lamps,0.1,0.2,0.4,0.9\n"
        "room1,lamp8,Sofas,0.1,0.2,0.4,0.9\n"
        ",lamp8,Lamps,0.1,0.2,0.4,0.9\n"
        "room1,lamp8,,10,20,40,90\n"
        "room1,lamp8,,0.1,,0.4,0.9\n"
        'room1,"lamp8'
    )
    root = as_csv(tmp_path, pairs, PRODUCTS_CSV + "lamp8,Sofas\nlamp8,Lamps\n../x,Lamps\nchair, \n")
    found = LooksFolder().check(root)
    for expected in (
        f"{root}/products.csv:6: product lamp8 has several categories: 'Sofas' here, 'Lamps' at {root}/products.csv:3",
        f"{root}/products.csv:8: product '../x' cannot be an id: it has a slash",
        f"{root}/products.csv:9: product chair: '' cannot be a category: it is empty",
        f"{root}/pairs.csv:3: product lamp8 has several categories: 'Sofas' here, 'Lamps' in {root}/products.csv",
        f"{root}/pairs.csv:4: there is no scene",
        f"{root}/pairs.csv:5: box [10.0, 20.0, 40.0, 90.0] is empty or outside [0, 1]",
        f"{root}/pairs.csv:6: the box has no top",
        f"{root}/pairs.csv:7: not valid CSV",
    ):
        assert sum(one.startswith(expected) for one in found) == 1, (expected, found)
    assert len(found) == 8


def test_contradictions_among_pairs_that_name_the_categories_are_told(tmp_path: Path) -> None:
    root = folder(tmp_path, [line(category="A"), line(category="A", product="lamp8"), line(category="B")])
    (root / "categories.json").unlink()
    pairs = root / "pairs.jsonl"
    with pytest.raises(
        InputError, match=rf"^{pairs}:3: product lamp 7 has several categories: 'B' here, 'A' at {pairs}:1;"
    ):
        LooksFolder().read(root)


@pytest.mark.parametrize("other", ["pairs.csv", "products.parquet"])
def test_two_forms_of_one_file_are_refused(tmp_path: Path, other: str) -> None:
    root = folder(tmp_path, [line()])
    (root / other).write_text("")
    with pytest.raises(InputError, match=rf"data\.root=.* and {other} are both there; leave one"):
        LooksFolder().read(root)


def test_a_product_named_as_a_crop_is_refused(tmp_path: Path) -> None:
    name = crop_key("room1", (0.1, 0.2, 0.4, 0.9))
    root = folder(tmp_path, [line()], CATALOGUE | {name: "Lamps"})
    with pytest.raises(InputError, match=rf"product '{name}' has the name of a scene crop"):
        LooksFolder().read(root)


def test_an_unknown_field_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ValueError, match=r"source\.columns has no 'widht'; did you mean 'width'"):
        LooksFolder(columns={"widht": "w"})


def test_pairs_without_a_box_are_trained_on_with_their_whole_scene_which_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"scene": f"s{n}", "product": f"p{n % 4}", "bbox": None if n % 2 else BOX} for n in range(80)]
    root = folder(tmp_path / "d", [json.dumps(row) for row in rows], {f"p{n}": "Lamps" for n in range(4)})
    for seed, name in enumerate([f"s{n}" for n in range(80)] + [f"p{n}" for n in range(4)]):
        save_image(root / "images" / f"{name}.png", seed)
    data = data_module(root, tmp_path, source={"name": "folder"})
    data.setup()
    assert "40 of 80 pairs have no box: their scenes are used whole, so the product is visible" in caplog.text
    assert "80 pairs, 40 of them without a box" in data.summary()
    pair = next(pair for pair in data.pairs["train"] if pair.box == NO_BOX)
    whole = Image.open(root / "images" / f"{pair.scene}.png").resize((36, 36), Image.Resampling.BILINEAR)
    assert np.abs(data.store[crop_key(pair.scene, NO_BOX)].astype(int) - np.asarray(whole)).max() <= 1
    data.write_protocol_files(tmp_path)
    again = data_module(root, tmp_path, source={"name": "folder"}, triplets_file=str(tmp_path / "triplets.jsonl"))
    again.setup()
    assert again.triplets == data.triplets
