"""The published splits in this repository follow their rule, and a wrong one is found."""

import json
from pathlib import Path
from typing import Any

import pytest
from factories import REPOSITORY, MakeData, image_id
from hydra import compose, initialize_config_dir

from ctl_lightning.check_splits import check_splits
from ctl_lightning.data.pairs import Pair, PairTable
from ctl_lightning.data.published_splits import (
    LISTED,
    published_split,
    read_published,
    split_problems,
    triplet_problems,
    write_published,
)
from ctl_lightning.data.splits import EvaluationTriplet, read_triplets, write_triplets
from ctl_lightning.runtime.config import config_dir
from ctl_lightning.runtime.errors import InputError

SPLITS = REPOSITORY / "splits"


def check(name: str, *overrides: str, needs_data: bool = False) -> None:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        check_splits(compose("check_splits", [f"data={name}", *overrides]), name, needs_data)


def test_what_is_published_is_as_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check("stl_fashion", f"paths.data_dir={tmp_path}")
    said = capsys.readouterr().out
    assert "4,292 listed scenes" in said
    assert "stl_fashion_triplets.jsonl: its hash" in said.replace("\n", "")
    assert "the files are well; nothing was checked against data" in said
    with pytest.raises(InputError, match=r"data\.root=.*no such folder"):
        check("stl_fashion", f"paths.data_dir={tmp_path}", needs_data=True)
    check("stl_home", f"paths.data_dir={tmp_path}")
    assert "nothing is listed: the rule alone is published" in capsys.readouterr().out


def test_the_rule_of_the_file_is_the_one_of_the_code_written_out() -> None:
    from hashlib import sha256

    content = read_published(SPLITS / "stl_fashion.json")
    group = {scene: names[0] for names in content["twins"]["scenes"] for scene in names}
    for split, low, high in (("validation", 0.8, 0.9), ("test", 0.9, 1.0)):
        assert len(content[split]) > 2000
        for scene in content[split]:
            digest = sha256(f"split|{content['salt']}|{group.get(scene, scene)}".encode()).digest()
            assert low <= int.from_bytes(digest[:6], "big") / 2**48 < high
    assert sum(content["scenes"].values()) == 21917


def test_published_triplets_are_of_listed_scenes_and_of_two_products() -> None:
    content = read_published(SPLITS / "stl_fashion.json")
    listed = {*content["validation"], *content["test"]}
    triplets = read_triplets(SPLITS / "stl_fashion_triplets.jsonl")
    assert len(triplets) == 1055
    assert {scene for scene, _, _ in triplets} <= listed
    assert all(negative != positive for (_, _, positive), negative in triplets.items())


def test_a_wrong_split_is_found(tmp_path: Path) -> None:
    scenes = [image_id(str(n)) for n in range(60)]
    content = published_split("x", scenes, "0", {}, "a test", None)
    assert not list(split_problems(content))
    moved = content | {"test": [*content["test"], content["validation"][0]]}
    found = " ".join(split_problems(moved))
    assert "listed in test; the rule puts it in validation" in found
    assert "listed 2 times" in found
    assert f"{len(content['test'])} scenes counted, {len(content['test']) + 1} listed" in found
    write_published(tmp_path / "stl_home.json", moved)
    with pytest.raises(InputError, match="3 problems with the published split of stl_home"):
        check("stl_home", f"folder={tmp_path}", f"paths.data_dir={tmp_path}")
    for foreign in ("{}", "[]", json.dumps(content | {"test": [["a"]]}), json.dumps(content | {"scenes": 3})):
        (tmp_path / "stl_fashion.json").write_text(foreign)
        with pytest.raises(InputError, match=r"stl_fashion\.json: not a published split file"):
            check("stl_fashion", f"folder={tmp_path}")
    with pytest.raises(InputError, match=r"no published split of stl_fashion there; give folder=DIR"):
        check("stl_fashion", f"folder={tmp_path / 'nowhere'}")


def test_published_twins_are_in_one_split_and_a_file_of_version_1_says_that_it_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_published(SPLITS / "stl_fashion.json")
    assert len(content["twins"]["scenes"]) > 200
    listed = {scene: split for split in LISTED for scene in content[split]}
    assert all(len({listed.get(scene) for scene in group}) == 1 for group in content["twins"]["scenes"])
    scenes = sorted(image_id(str(n)) for n in range(60))
    groups = {"scenes": [scenes[:2], scenes[2:5]], "products": [["a", "b"]], "scenes_that_are_products": []}
    grouped = published_split("x", scenes, "0", {}, "a test", None, groups)
    assert not list(split_problems(grouped))
    plain = published_split("x", scenes, "0", {}, "a test", None)
    apart = next(n for n in range(1, 60) if (scenes[n] in plain["test"]) != (scenes[0] in plain["test"]))
    groups = {
        "scenes": [[scenes[apart], scenes[0]]],
        "products": [["b", "a"], ["b", "c"]],
        "scenes_that_are_products": [],
    }
    found = " ".join(split_problems(plain | {"twins": groups}))
    assert "are one photo, and are listed in different splits" in found
    assert "b is in 2 groups of twins (products)" in found
    assert "twins (products): b stands first, the smallest id is a" in found
    write_published(tmp_path / "stl_home.json", {key: plain[key] for key in plain if key not in ("twins", "version")})
    check("stl_home", f"folder={tmp_path}", f"paths.data_dir={tmp_path}")
    assert "a file of version 1" in capsys.readouterr().out


def test_triplets_are_checked_against_the_pairs(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data()
    write_triplets(tmp_path / "t.jsonl", data.triplets)
    content = published_split("x", [], "0", {}, "", tmp_path / "t.jsonl")
    assert not list(triplet_problems(tmp_path / "t.jsonl", content, data.table))
    box = (0.1, 0.1, 0.5, 0.5)
    scene, train = (
        next(s for s in map(str, range(99)) if (published_split("", [s], "0", {}, "", None)["test"] == [s]) == t)
        for t in (True, False)
    )
    pairs = tuple(Pair(s, box, p, "A") for s, p in ((scene, "p"), (scene, "q"), (train, "p")))
    table = PairTable(pairs, {"p": "A", "q": "A", "r": "A", "z": "B"})
    rows = [(scene, "p", "q"), (scene, "q", "z"), (scene, "r", "p"), (train, "p", "r")]
    wrong: Any = {"test": [EvaluationTriplet(s, box, p, n) for s, p, n in rows]}
    write_triplets(tmp_path / "wrong.jsonl", wrong)
    found = "\n".join(triplet_problems(tmp_path / "wrong.jsonl", content, table))
    for says in (
        "its sha256 is not the one",
        "one that the scene names",
        "not of category 'A'",
        "there is no such pair",
        "one to train on",
    ):
        assert found.count(says) == 1, says
    assert json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0]).keys() >= {"split", "scene"}
