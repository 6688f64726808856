"""Rows of the paper's table whose pairs come from folds: against one file that has them all, and against slow loops."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import MakeData, write_ranked

from ctl_lightning.metrics.pair_metrics import score_pairs
from ctl_lightning.reports.cells import Cell
from ctl_lightning.reports.paper_rows import METRICS, NEWER, RankedPairs, read_pairs, read_row, read_rows
from ctl_lightning.reports.run_report import ScoredSplit, write_pairs
from ctl_lightning.runtime.errors import InputError

FOLDS = 3


def ranked(seed: int, scenes: int = 30) -> list[dict[str, Any]]:
    """Two pairs a scene, with values drawn at random; the scenes, seen products and groups are those of every seed."""
    random = np.random.default_rng(seed)
    return [
        {
            **{"scene": f"s{scene}", "product": f"p{scene}-{turn}", "seen": int((scene + turn) % 3 > 0)},
            **{"group": f"g{scene // 2}"},
            **{metric: float(random.random()) for metric in METRICS},
        }
        for scene in range(scenes)
        for turn in range(2)
    ]


def folded(folder: Path, pairs: list[dict[str, Any]], folds: int = FOLDS) -> Path:
    """Run directories of folds, twins in one fold. Returns the folder that they are in."""
    for fold in range(folds):
        write_ranked(folder / f"fold{fold}", [pair for pair in pairs if int(pair["group"][1:]) % folds == fold])
    return folder


def test_folds_put_together_are_a_slow_concatenation(tmp_path: Path) -> None:
    seeds = [folded(tmp_path / f"seed{seed}", ranked(seed)) for seed in range(2)]
    row = read_row("hybrid", seeds, [], [], FOLDS)
    slow: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for seed in seeds:
        for fold in range(FOLDS):
            with (seed / f"fold{fold}" / "pairs.csv").open(newline="") as lines:
                for line in csv.DictReader(lines):
                    found = slow.setdefault((line["scene"], line["bbox"], line["product"]), {})
                    for metric in METRICS:
                        found.setdefault(metric, []).append(float(line[metric]))
    assert row.keys == tuple(slow)
    assert len(row.keys) == 60
    for metric in METRICS:
        expected = [sum(found[metric]) / 2 for found in slow.values()]
        np.testing.assert_allclose(row.values[metric], expected, rtol=1e-12)
        assert row.interval("all", metric)["value"] == pytest.approx(sum(expected) / 60, rel=1e-12)
        for number in range(2):
            own = sum(found[metric][number] for found in slow.values()) / 60
            assert row.by_seed["all", metric][number] == pytest.approx(own, rel=1e-12)
    assert (row.seeds, row.folds, len(row.results)) == (2, FOLDS, 6)


def test_intervals_and_differences_of_folds_are_those_of_one_split_with_all_pairs(tmp_path: Path) -> None:
    apart, whole = {}, {}
    for name, seed in (("hybrid", 0), ("imagenet", 1)):
        pairs = ranked(seed)
        order = [pair for fold in range(FOLDS) for pair in pairs if int(pair["group"][1:]) % FOLDS == fold]
        apart[name] = read_row(name, [folded(tmp_path / name, pairs)], [], [], FOLDS)
        whole[name] = read_row(name, [write_ranked(tmp_path / f"{name}-whole", order)], [], [])
    for group in ("all", "seen", "unseen"):
        assert apart["hybrid"].interval(group, "lift") == whole["hybrid"].interval(group, "lift")
        difference = apart["hybrid"].minus(apart["imagenet"], "auc", group)
        assert difference is not None
        assert difference == whole["hybrid"].minus(whole["imagenet"], "auc", group)
    assert apart["hybrid"].minus(read_row("x", [folded(tmp_path / "x", ranked(0, 28))], [], [], FOLDS), "auc") is None


def test_twins_are_one_cluster_and_without_groups_a_scene_is_one(tmp_path: Path) -> None:
    pairs = ranked(0, 400)
    for pair in pairs:  # one value a group: four pairs tell no more than one
        pair["auc"] = float(np.random.default_rng(int(pair["group"][1:])).random())
    without = [{name: value for name, value in pair.items() if name != "group"} for pair in pairs]
    row = read_row("x", [write_ranked(tmp_path / "a", pairs)], [], [])
    scenes = read_row("x", [write_ranked(tmp_path / "b", without)], [], [])
    assert len(np.unique(row.scenes())) == 200
    assert len(np.unique(scenes.scenes())) == 400
    wide, narrow = (
        float(found["high"] - found["low"])  # type: ignore[operator]
        for found in (row.interval("all", "auc"), scenes.interval("all", "auc"))
    )
    assert wide / narrow == pytest.approx(2**0.5, rel=0.12)
    blank = [pair | {"group": "" if pair["scene"] == "s0" else pair["group"]} for pair in pairs]
    assert read_pairs([write_ranked(tmp_path / "c", blank)]).twins[:4] == ("s0", "s0", "g0", "g0")


def test_a_pair_in_two_folds_is_one_line_that_names_both(tmp_path: Path) -> None:
    seed = folded(tmp_path / "seed0", ranked(0))
    write_ranked(seed / "fold2", ranked(0)[:4])
    with pytest.raises(InputError, match=r"scene s\d+ with product p\d+-\d is tested in .*/fold0 and in .*/fold2"):
        read_pairs([seed / f"fold{fold}" for fold in range(FOLDS)])
    row = read_row("x", [seed], [], [], FOLDS)
    assert not row.results
    assert "is tested in" in row.why_not[0]


def test_runs_of_before_have_no_lift_of_geometry(tmp_path: Path) -> None:
    new = write_ranked(tmp_path / "new", ranked(0))
    old = write_ranked(tmp_path / "old", ranked(1))
    with (old / "pairs.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    kept = [name for name in rows[0] if name not in NEWER]
    with (old / "pairs.csv").open("w", newline="") as lines:
        table = csv.DictWriter(lines, kept, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    assert "lift_geometry" in read_row("x", [new], [], []).values
    for finished in ([old], [new, old]):
        row = read_row("x", finished, [], [])
        assert not {*NEWER} & {*row.values}
        assert row.interval("all", "lift")["value"] is not None


def test_a_seed_whose_folds_failed_says_which_and_the_other_seeds_are_the_row(tmp_path: Path) -> None:
    plain = {"protocols": ["p"], "methods": ["m", "gone"], "folds": FOLDS}
    cells = [
        Cell("p", method, seed, tmp_path / method / f"seed{seed}" / f"fold{fold}", (("train",),), fold)
        for method in ("m", "gone")
        for seed in range(2)
        for fold in range(FOLDS)
    ]
    folded(tmp_path / "m" / "seed0", ranked(0))
    failures = {}
    for cell in cells:
        if cell.method == "m" and (cell.seed == 0 or cell.fold == 0):
            cell.folder.mkdir(parents=True, exist_ok=True)
            (cell.folder / "done.json").write_text('[["train"]]')
        else:
            failures[cell] = "train: no room"
    found, gone = read_rows(plain, cells, failures)["p"]
    assert (found.seeds, found.why_not) == (1, ("seed 1 fold 1, 2: train: no room",))
    assert gone.why_not == ("seed 0 fold 0, 1, 2: train: no room", "seed 1 fold 0, 1, 2: train: no room")


def test_one_folder_is_read_as_it_is(tmp_path: Path) -> None:
    pairs = ranked(0)
    found = read_pairs([write_ranked(tmp_path, pairs)])
    assert isinstance(found, RankedPairs)
    assert [key[2] for key in found.keys] == [pair["product"] for pair in pairs]
    assert found.seen.tolist() == [pair["seen"] == 1 for pair in pairs]


def test_pairs_csv_names_the_photo_that_a_scene_is(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data()
    task = data.evaluation("test")
    twin = task.pairs[0].scene
    scores = score_pairs(task, lambda queries, products: np.zeros((len(queries), len(products))))
    table = replace(data.table, group_of={twin: "the photo"})
    write_pairs(tmp_path / "pairs.csv", ScoredSplit(task, None, scores), table)  # type: ignore[arg-type]
    found = read_pairs([tmp_path])
    assert found.twins == tuple("the photo" if pair.scene == twin else pair.scene for pair in task.pairs)
    assert len(set(found.twins)) > 1
    assert [key[0] for key in found.keys] == [pair.scene for pair in task.pairs]
