"""The program `paper` with folds: every pair is tested once, what is finished is not run again, and a row says what failed."""

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
from factories import TINY, write_ranked
from PIL import Image

from ctl_lightning.paper import paper
from ctl_lightning.reports import cells
from ctl_lightning.reports.cells import Cell
from ctl_lightning.reports.paper_table import check_docs
from ctl_lightning.runtime.config import config_dir
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.words import spelled_out

BEST = {"auc": {"value": 0.9, "low": 0.8, "high": 1.0}}


def run(folder: Path, *words: str) -> None:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        paper(hydra.compose("paper", spelled_out([f"paths.run_dir={folder}", *words], "paper")))


class Trainings:
    """Stands in for the trainings: what each would have left is there at once.

    Attributes:
        fail: names of the cells that fail.
        ran: names of the cells that were run.
    """

    def __init__(self) -> None:
        self.fail: set[str] = set()
        self.ran: list[str] = []

    def start(self, cell: Cell, number: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """The pairs of a training's fold: better ranked by `hybrid`, and the better the higher the seed."""
        self.ran.append(cell.name)
        cell.folder.mkdir(parents=True, exist_ok=True)
        (cell.folder / "begun.json").write_text("[]")
        if cell.name in self.fail:
            (cell.folder / "train.log").write_text("train: no room\n")
            return subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
        folds = next((int(word[11:]) for word in cell.commands[0] if word.startswith("data.folds=")), 1)
        better = 0.2 if cell.method == "hybrid" else 0.0
        pairs = [
            {
                "scene": f"s{scene}",
                "product": f"p{scene}",
                "seen": scene % 2,
                "auc": better + scene / 60 + cell.seed / 10,
            }
            for scene in range(40)
            if scene % folds == (cell.fold or 0)
        ]
        made: dict[str, Any] = {
            "test": {"all": {"auc": {"value": 0.5}}},
            "oracle": BEST,
            "ceilings": {"global": BEST["auc"]},
        }
        made["hubs"] = {"share": 0.1 + 0.1 * (cell.fold or 0), "skewness": 1.0, "coverage": 0.5}
        write_ranked(cell.folder, pairs, **made)
        return subprocess.Popen([sys.executable, "-c", ""])


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    made = Trainings()
    monkeypatch.setattr(cells, "_start", made.start)
    return made


WORDS = ("methods=[global,hybrid]", "seeds=[0,1]", "folds=4", "workers=4", "compared=[global]")


def test_pairs_of_all_folds_are_one_row_and_finished_folds_are_not_run_again(
    tmp_path: Path, trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    trainings.fail = {"synthetic hybrid seed 1 fold 2"}
    with pytest.raises(InputError, match=r"1 of 16 trainings failed .first: train: no room."):
        run(tmp_path, *WORDS)
    assert len(trainings.ran) == 16
    table = (tmp_path / "table.md").read_text()
    assert "| `hybrid` | 1 x 4 folds (1 failed: seed 1 fold 2: train: no room) | 0.525 [" in table
    assert "| `global` | 2 x 4 folds | 0.375 [" in table
    trainings.ran, trainings.fail = [], set()
    run(tmp_path, *WORDS)
    assert trainings.ran == ["synthetic hybrid seed 1 fold 2"]
    table = (tmp_path / "table.md").read_text()
    assert "| `hybrid` | 2 x 4 folds | 0.575 [" in table
    assert "| `hybrid` | +0.200 [0.200, 0.200], 0.002 | +0.200 [" in table
    assert "| minus `global`, pair by pair: [95 %], p | AUC | matched unseen | lift | lift_geometry |" in table
    assert "| best possible (oracle) |  | 0.900 |" in table
    (head,) = [line for line in table.splitlines() if "hubs: share" in line]
    (rest,) = [line for line in table[table.index(head) :].splitlines() if line.startswith("| `hybrid`")]
    found = dict(zip(head.split("|"), rest.split("|"), strict=True))
    assert found[" hubs: share "] == " 0.250 "
    with (tmp_path / "table.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert {(line["seeds"], line["folds"]) for line in rows} == {("2", "4")}
    with Image.open(tmp_path / "synthetic.png") as picture:
        dark = (np.asarray(picture.convert("RGB")).astype(int) - (44, 160, 44)).__abs__().max(-1) < 12
    assert dark.sum() > 30  # lift_geometry beside lift
    assert "2 x 4" not in capsys.readouterr().err


def test_one_split_stands_beside_folds_and_other_folds_are_refused(tmp_path: Path, trainings: Trainings) -> None:
    run(tmp_path, *WORDS)
    run(tmp_path, *WORDS[:2], "product_visible=false")
    assert (tmp_path / "synthetic/hybrid/seed0/pairs.csv").exists()
    assert "| `hybrid` | 2 | " in (tmp_path / "table.md").read_text()
    begun = [tuple(path.parent.parts[-2:]) for path in tmp_path.rglob("done.json")]
    assert len(begun) == 20
    with pytest.raises(InputError, match="fold0 holds a training with other options"):
        run(tmp_path, *WORDS, "folds=2")


def test_pairs_tested_twice_are_why_a_row_is_missing(tmp_path: Path, trainings: Trainings) -> None:
    run(tmp_path, *WORDS)
    other = tmp_path / "synthetic/hybrid/seed0"
    (other / "fold1/pairs.csv").write_bytes((other / "fold0/pairs.csv").read_bytes())
    run(tmp_path, *WORDS)
    assert "| `hybrid` | 0 | did not run: scene s0 with product p0 is tested in" in (tmp_path / "table.md").read_text()


def test_docs_are_replaced_by_folds_and_folds_by_no_fewer(tmp_path: Path, trainings: Trainings) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "results.md").write_text("<!-- paper synthetic -->\n<!-- end of paper synthetic -->\n")
    old = "protocol,method,pairs,metric,mean,sd_of_seeds,low,high,seeds,failed\n"
    (docs / "results.csv").write_text(
        f"{old}synthetic,hybrid,all,auc,0.9,,0.8,1.0,5,\nother,hybrid,all,auc,0.7,,0.6,0.8,5,none\n"
    )
    with pytest.raises(InputError, match="has hybrid with 5 seeds, which this one would lose"):
        check_docs(docs, ["synthetic"], ["hybrid"], 2)
    run(tmp_path / "run", *WORDS, f"docs={docs}")
    with (docs / "results.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    (kept,) = [line for line in rows if line["protocol"] == "other"]
    assert (kept["mean"], kept["seeds"], kept["failed"], kept["folds"]) == ("0.7", "5", "none", "")
    assert {line["folds"] for line in rows if line["protocol"] == "synthetic"} == {"4"}
    check_docs(docs, ["synthetic"], ["hybrid", "global"], 2, 4)
    with pytest.raises(InputError, match="has global with 2 seeds of 4 folds, which this one would lose"):
        check_docs(docs, ["synthetic"], ["hybrid", "global"], 5)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("folds=1", "folds=1: give 2 at least, or null for one split"),
        ("folds=many", "folds='many': input should be a valid integer"),
        ("clean_by=hybird", "clean_by=hybird: there is no such row; did you mean 'hybrid'"),
        ("+variants.x=[]", r"variants.x=\[\]: give a method first"),
        ("+variants.x=hybrid", r"variants\.x='hybrid': input should be a valid list"),
        ("compared=hybrid", "compared='hybrid': input should be a valid list"),
    ],
)
def test_wrong_options_are_one_line_before_any_work(tmp_path: Path, trainings: Trainings, word: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        run(tmp_path / "run", word)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_every_pair_of_synthetic_looks_is_tested_once_by_trainings_on_one_cache_of_features(tmp_path: Path) -> None:
    quick = [word for word in TINY if not word.startswith(("callbacks", "trainer.enable", "model"))]
    frozen = ["backbone.frozen=true", "data.augment=none"]
    given = ",".join(f'"{word}"' for word in [*quick, *frozen])
    run(
        tmp_path / "run",
        *("methods=[hybrid,imagenet,narrow]", '+variants.narrow=[hybrid,"model.dim=8"]', "seeds=[0]", "folds=2"),
        *(f"overrides.synthetic=[{given}]", f"paths.cache_dir={tmp_path / 'cache'}", "clean_by=imagenet", "workers=1"),
    )
    table = (tmp_path / "run" / "table.md").read_text()
    assert table.count("x 2 folds") == 3
    assert "other pairs" not in table
    assert "| `imagenet` (by construction) |" in table
    tested = []
    for fold in range(2):
        with (tmp_path / "run/synthetic/narrow/seed0" / f"fold{fold}" / "pairs.csv").open(newline="") as lines:
            tested.append({(line["scene"], line["bbox"], line["product"]) for line in csv.DictReader(lines)})
    assert not tested[0] & tested[1]
    split = json.loads((tmp_path / "run/synthetic/narrow/seed0/fold1/split.json").read_text())["split_of_scene"]
    assert {scene for scene, _, _ in tested[0] | tested[1]} == {*split}
    assert {scene for scene, _, _ in tested[1]} == {scene for scene, own in split.items() if own == "test"}
    assert len({*(tmp_path / "cache" / "features").glob("*.npy")}) == 1
