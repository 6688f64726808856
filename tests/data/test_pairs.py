import json
from pathlib import Path

import pytest
from factories import image_id

from ctl_lightning.data.crop import scene_crop
from ctl_lightning.data.pairs import NO_BOX, Pair, PairTable, read_pairs
from ctl_lightning.data.splits import SplitRule, read_split, split_of, write_split
from ctl_lightning.runtime.errors import InputError

SHOE, VASE = image_id("shoe"), image_id("vase")
SCENE = image_id("scene")
CATALOGUE = {SHOE: "Apparel & Accessories|Shoes", VASE: "Home & Garden|Decor"}

PUBLISHED = ["train", "train", "train", "validation", "validation", "train", "train", "train"]
"""Of scene0 ... scene7 with salt 0: a change here makes every published number incomparable."""


def line(**changes: object) -> str:
    return json.dumps({"product": SHOE, "scene": SCENE, "bbox": [0.1, 0.2, 0.5, 0.6]} | changes)


def written(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "fashion.json"
    path.write_text("".join(f"{one}\n" for one in lines))
    return path


def test_a_line_of_the_release_is_read_as_a_pair(tmp_path: Path) -> None:
    assert read_pairs(written(tmp_path, line()), CATALOGUE) == (
        Pair(SCENE, (0.1, 0.2, 0.5, 0.6), SHOE, "Apparel & Accessories|Shoes"),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"product": ', "not valid JSON"),
        ("[1, 2]", r"must be an object, not \[1, 2\]"),
        (json.dumps({"product": SHOE, "scene": SCENE}), "keys product, scene and bbox"),
        (line(scene="../../etc/passwd"), "not an id of 32"),
        (line(product=7), "not an id of 32"),
        (line(bbox=[0.1, 0.2, 0.5]), "four numbers"),
        (line(bbox=None), "four numbers"),
        (line(bbox=[0.1, 0.2, 0.5, True]), "four numbers"),
        (line(bbox=[0.1, 0.2, 1.5, 0.6]), r"outside \[0, 1\]"),
        (line(bbox=[0.5, 0.2, 0.5, 0.6]), "empty"),
        (line(bbox=[0.5, 0.6, 0.6, 0.2]), "empty"),
        (line(bbox=[0, 0, 10**400, 1]), "a number that is too large"),
        (line(bbox=[0.1, float("nan"), 0.5, 0.6]), r"not valid JSON \(NaN\)"),
        (line(product=image_id("unknown")), "no category"),
        ("[" * 100_000, "too many brackets"),
        (line()[:-1] + ",}", "a trailing comma"),
        (line()[:-1] + ', "scene": "x"}', "the key 'scene' is there twice"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InputError, match=rf"fashion\.json:3: .*{reason}") as error:
        read_pairs(written(tmp_path, line(), "", text), CATALOGUE)
    assert len(str(error.value)) < 400


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "fashion.json").write_bytes(line().encode() + b'\n{"scene": "\xe9"}\n')
    with pytest.raises(InputError, match=r"fashion\.json:2: not UTF-8 text; save"):
        read_pairs(tmp_path / "fashion.json", CATALOGUE)


@pytest.mark.parametrize("text", ["[{}]".replace("{}", line()), "[\n" + line() + "\n]", '{\n"product": 1}'])
def test_json_that_is_not_one_object_a_line_is_told_once(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"fashion\.json:1: this looks like one JSON array, or an object over"):
        read_pairs(written(tmp_path, text), CATALOGUE)


def test_repeated_pairs_count_once(tmp_path: Path) -> None:
    path = written(tmp_path, line(), line(), line(product=VASE))
    assert [pair.product for pair in read_pairs(path, CATALOGUE)] == [SHOE, VASE]


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pairs"):
        read_pairs(written(tmp_path, ""), CATALOGUE)


def test_a_pair_without_a_box_keeps_its_whole_scene() -> None:
    assert scene_crop(NO_BOX, 0.05) == (0, 0, 1, 1)


def test_a_category_that_is_a_prefix_of_another_stays_apart() -> None:
    catalogue = {image_id("a"): "Home & Garden|Decor", image_id("b"): "Home & Garden|Decor|Vases"}
    table = PairTable((), catalogue)
    assert {name: len(products) for name, products in table.products_of_category.items()} == {
        "Home & Garden|Decor": 1,
        "Home & Garden|Decor|Vases": 1,
    }
    left = table.without_categories(["Home & Garden|Decor"])
    assert list(left.products_of_category) == ["Home & Garden|Decor|Vases"]
    with pytest.raises(InputError, match="no category 'Decor'"):
        table.without_categories(["Decor"])


def test_all_products_of_a_scene_are_known_whatever_the_box() -> None:
    pairs = (Pair(SCENE, (0, 0, 0.5, 0.5), SHOE, "a"), Pair(SCENE, (0.5, 0.5, 1, 1), VASE, "b"))
    assert PairTable(pairs, {SHOE: "a", VASE: "b"}).products_of_scene == {SCENE: {SHOE, VASE}}


def test_the_split_is_what_it_was_when_numbers_were_published() -> None:
    scenes = [image_id(f"scene{n}") for n in range(8)]
    assert [split_of(scene, "0") for scene in scenes] == PUBLISHED


def test_the_split_is_near_80_10_10_and_changes_with_the_salt() -> None:
    scenes = [image_id(f"scene{n}") for n in range(5000)]
    splits = [split_of(scene, "0") for scene in scenes]
    # Three standard deviations of a binomial share at n = 5000: 0.017 and 0.013.
    assert splits.count("train") / 5000 == pytest.approx(0.8, abs=0.017)
    assert splits.count("test") / 5000 == pytest.approx(0.1, abs=0.013)
    assert splits.count("validation") / 5000 == pytest.approx(0.1, abs=0.013)
    assert splits != [split_of(scene, "1") for scene in scenes]


def test_a_written_split_is_read_back_and_does_not_depend_on_order(tmp_path: Path) -> None:
    split = {image_id(f"scene{n}"): split_of(image_id(f"scene{n}"), "0") for n in range(50)}
    rule = SplitRule("0", None, "merge", None, 0, 1.0)
    write_split(tmp_path / "a.json", split, rule, {})
    write_split(tmp_path / "b.json", dict(reversed(split.items())), rule, {})
    assert read_split(tmp_path / "a.json") == split
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"split_of_scene": {"a": "training"}}', '{"split_of_scene": {"a": []}}', '{"other": 1}', "[" * 100_000],
)
def test_another_file_is_not_a_split(tmp_path: Path, content: str) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(InputError, match="not a split file"):
        read_split(tmp_path / "split.json")
