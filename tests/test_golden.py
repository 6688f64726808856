"""The golden run sees what it is there to see."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import REPOSITORY
from golden import RUNS, differences

RESULTS: dict[str, Any] = {
    "method": "hybrid",
    "test": {"all": {"auc": {"value": 0.7, "low": 0.6, "high": 0.8}}},
    "classifier": {"roc_auc": 0.71},
    "versions": {"torch": "2"},
}


def run_directory(folder: Path, weight: torch.Tensor, results: dict[str, Any], pairs: str = "a,b\n") -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("last.ckpt", "best-epoch000.ckpt"):
        torch.save({"state_dict": {"network.w": weight}}, folder / "checkpoints" / name)
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "pairs.csv").write_text(pairs)
    return folder


def test_a_weight_a_number_or_a_rank_that_differs_is_told(tmp_path: Path) -> None:
    weight = torch.ones(3)
    before = run_directory(tmp_path / "before", weight, RESULTS)
    same = RESULTS | {"versions": {"torch": "3"}, "classifier": {"roc_auc": 0.71 + 1e-13}}
    assert differences(before, run_directory(tmp_path / "same", weight, same)) == []
    last_bit = torch.nextafter(weight, torch.tensor(2.0))
    told = differences(before, run_directory(tmp_path / "weight", last_bit, RESULTS))
    assert told == ["last.ckpt: network.w", "best-epoch000.ckpt: network.w"]
    other = RESULTS | {"test": {"all": {"auc": {"value": 0.7 + 1e-13, "low": 0.6, "high": 0.8}}}}
    (told_of,) = differences(before, run_directory(tmp_path / "number", weight, other))
    assert told_of.startswith("results.json: test.all.auc.value is 0.7")
    far = RESULTS | {"classifier": {"roc_auc": 0.71 + 1e-11}}
    assert len(differences(before, run_directory(tmp_path / "far", weight, far))) == 1
    assert differences(before, run_directory(tmp_path / "ranks", weight, RESULTS, "a,c\n")) == ["pairs.csv"]
    for folder, loss in ((before, 0.5), (tmp_path / "same", 0.6)):
        (folder / "metrics.csv").write_text(f"step,train/loss,train/data_wait\n1,{loss},{loss}\n")
    (tmp_path / "same" / "hparams.yaml").touch()
    told = differences(before, tmp_path / "same")
    assert told == ["hparams.yaml is there in one of them alone", "metrics.csv"]


def test_what_is_measured_otherwise_since_is_not_compared_with_an_older_commit_but_with_a_later_one(
    tmp_path: Path,
) -> None:
    def measured(lift: float, auc: float, *new: str) -> dict[str, Any]:
        values = {"auc": auc, "lift": lift} | dict.fromkeys(new, 0.1)
        return RESULTS | {"test": {"all": {name: {"value": value} for name, value in values.items()}}}

    def made(name: str, lift: float, auc: float, *new: str) -> Path:
        head, row = ",".join(["auc", "lift", *new]), ",".join(map(str, [auc, lift, *(0.1 for _ in new)]))
        folder = run_directory(tmp_path / name, torch.ones(3), measured(lift, auc, *new), f"{head}\n{row}\n")
        logged = ",".join(f"val/{metric}" for metric in ("auc", "lift", *new))
        (folder / "metrics.csv").write_text(f"{logged}\n{row}\n")
        return folder

    older, later = made("older", 0.3, 0.7), made("later", 0.31, 0.7, "lift_geometry")
    assert differences(older, later) == []
    told = differences(later, made("other", 0.32, 0.7, "lift_geometry"))
    assert [one.partition(" is ")[0] for one in told] == [
        "results.json: test.all.lift.value",
        "pairs.csv",
        "metrics.csv",
    ]
    told = differences(older, made("worse", 0.3, 0.6, "lift_geometry"))
    assert [one.partition(" is ")[0] for one in told] == [
        "results.json: test.all.auc.value",
        "pairs.csv",
        "metrics.csv",
    ]


def test_every_experiment_has_a_golden_run() -> None:
    chosen = {word.removeprefix("+experiment=") for words in RUNS.values() for word in words if "experiment" in word}
    assert chosen == {path.stem for path in (REPOSITORY / "conf" / "experiment").glob("*.yaml")}


@pytest.mark.long
def test_a_commit_is_equal_to_itself_in_one_process_and_in_two() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a checkout, so there is no commit to compare with")
    command = [sys.executable, "tests/golden.py", "HEAD", "--runs", "hybrid", "popularity"]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.search("4 of 4 runs are equal", found.stdout)
