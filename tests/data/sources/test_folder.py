import json
import re
from pathlib import Path
from typing import Any

import pytest
from factories import REPOSITORY, save_image

from ctl_lightning.data.pairs import Pair
from ctl_lightning.data.sources.folder import LooksFolder
from ctl_lightning.runtime.errors import InputError

README = (REPOSITORY / "README.md").read_text()

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


def test_the_example_of_the_readme_is_in_order(tmp_path: Path) -> None:
    (example,) = re.findall(r"^    pairs\.jsonl(?:.*\n)+?(?=    \()", README, re.MULTILINE)
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
        f"{pairs}:7: there is no product; a pair has a scene, a product and a bbox",
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
