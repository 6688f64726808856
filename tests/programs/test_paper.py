"""The paper's table: cells that run, fail and are not run again; what stands in it, by hand."""

import csv
import json
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
from factories import TINY
from rich.console import Console

from ctl_lightning.paper import paper
from ctl_lightning.reports.cells import Cell, _why, cells_of
from ctl_lightning.reports.paper_markdown import markdown_table
from ctl_lightning.reports.paper_rows import METRICS, MethodRow, read_row
from ctl_lightning.reports.paper_table import check_docs, write_paper_table
from ctl_lightning.runtime.config import config_dir
from ctl_lightning.runtime.errors import InputError


def run(tmp_path: Path, cache: Path, *overrides: str) -> None:
    common = ("callbacks", "trainer.enable_progress_bar", "model")
    quick = ",".join(f'"{word}"' for word in TINY if not word.startswith(common))
    words = [
        f'overrides.synthetic=[{quick},"loss=info_nce"]',
        f"paths.cache_dir={cache}",
        "product_visible=false",
    ]
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        paper(hydra.compose("paper", [f"paths.run_dir={tmp_path / 'paper'}", *words, *overrides]))


@pytest.mark.long
def test_cells_run_side_by_side_a_failure_is_a_row_and_finished_ones_are_not_run_again(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.md").write_text(
        "before\n<!-- paper synthetic -->\nold\n<!-- end of paper synthetic -->\nafter\n"
    )
    with pytest.raises(
        InputError,
        match=r"1 of 2 trainings failed .first: train: model: loss=.*the table says why, train\.log in their folders",
    ):
        run(tmp_path, cache, "methods=[popularity,siamese]", "seeds=[0]", f"docs={tmp_path}")
    page = (tmp_path / "results.md").read_text()
    assert page.startswith("before\n<!-- paper synthetic -->\n| method |")
    assert page.endswith("<!-- end of paper synthetic -->\nafter\n")
    assert (
        "| `siamese` | 0 | did not run: train: model: loss=info_nce cannot train method=siamese; give loss=triplet, "
        in page
    )
    assert "| `popularity` | 1 | 0." in page
    assert "old" not in page
    assert (tmp_path / "paper" / "synthetic.png").exists()
    with (tmp_path / "results.csv").open(newline="") as lines:
        assert {row["method"] for row in csv.DictReader(lines)} == {"popularity", "siamese"}
    log = tmp_path / "paper" / "synthetic" / "popularity" / "seed0" / "train.log"
    before = log.stat().st_mtime_ns
    capsys.readouterr()
    run(tmp_path, cache, "methods=[popularity]", "seeds=[0]")
    assert "1 trainings, 1 of them finished before" in capsys.readouterr().out
    assert log.stat().st_mtime_ns == before


def plain(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        composed = hydra.compose("paper", [f"paths.run_dir={tmp_path}", *overrides])
    return dict(composed)


def test_cells_are_methods_times_protocols_times_seeds(tmp_path: Path) -> None:
    cells = cells_of(plain(tmp_path, "protocols=[synthetic,stl_fashion]", "seeds=[3,4]"), tmp_path)
    assert len(cells) == 2 * (8 * 2 + 1)
    assert len({cell.folder for cell in cells}) == len(cells)
    (one,) = [cell for cell in cells if (cell.protocol, cell.method, cell.seed) == ("stl_fashion", "hybrid", 4)]
    assert {"+experiment=hybrid", "protocol=stl_fashion", "seed=4", "ckpt_path=auto"} <= {*one.commands[0]}
    assert [len(cell.commands) for cell in cells if cell.method == "hybrid"] == [2, 1, 2, 1]


def test_a_training_with_other_options_is_neither_continued_nor_shown(tmp_path: Path, cache: Path) -> None:
    words = ["protocols=[synthetic]", "seeds=[3]", "methods=[hybrid]"]
    (one,) = cells_of(plain(tmp_path / "paper", *words), tmp_path / "paper")
    one.folder.mkdir(parents=True)
    (one.folder / "begun.json").write_text(json.dumps(one.commands))
    assert not one.is_finished()
    assert not one.is_another()
    (one.folder / "done.json").write_text(json.dumps(one.commands))
    assert one.is_finished()
    (without,) = cells_of(plain(tmp_path / "paper", *words, "product_visible=false"), tmp_path / "paper")
    assert without.is_finished()  # the same training, less of it
    (other,) = cells_of(plain(tmp_path / "paper", *words, "overrides.synthetic=[compile]"), tmp_path / "paper")
    assert other.is_another()
    with pytest.raises(
        InputError, match=r"hybrid/seed3 holds a training with other options; choose another hydra\.run\.dir"
    ):
        run(tmp_path, cache, *words)
    for name in ("begun.json", "done.json"):
        (one.folder / name).unlink()
    (one.folder / "results.json").write_text("{}")
    assert one.is_another()  # whose, nobody knows


def test_why_a_training_failed(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("Epoch 3\ntrain: data.root=x: no such folder\nsome later words\n\n")
    assert _why(tmp_path / "log", 1) == "train: data.root=x: no such folder"
    assert _why(tmp_path / "log", -9) == "killed by signal 9 (out of memory?)"
    (tmp_path / "log").write_text("Traceback\nValueError: bad\n")
    assert _why(tmp_path / "log", 1) == "ValueError: bad"
    (tmp_path / "log").write_text("")
    assert _why(tmp_path / "log", 3) == "exit code 3 without a word"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("methods=[hybird]", "no experiment=hybird; did you mean 'hybrid'"),
        ("protocols=[stl]", "no protocol=stl; there are"),
        ("methods=hybrid", "methods='hybrid': input should be a valid list"),
        ("methods=[hybrid,hybrid]", "hybrid is there twice"),
        ("seeds=[0,0]", "0 is there twice"),
        ("seeds=[]", "give one at least"),
        ("seeds=[x]", r"seeds\.?.*: input should be a valid integer"),
        ("workers=many", "workers='many': input should be a valid integer"),
        ("workers=0", "give 1 at least"),
        ("docs=5", "docs=5: input should be a valid string"),
        ("docs=nowhere", r"docs=nowhere: there is no nowhere/results\.md"),
        ("overrides.synthetic=compile", "overrides.synthetic='compile': input should be a valid list"),
    ],
)
def test_wrong_options_are_one_line_before_any_work(tmp_path: Path, cache: Path, override: str, says: str) -> None:
    words = [f"paths.run_dir={tmp_path / 'paper'}", f"paths.cache_dir={cache}", override]
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose("paper", words)
    with pytest.raises(InputError, match=says):
        paper(config)
    assert not (tmp_path / "paper").exists()


def finished(
    folder: Path, auc: list[float], seen: list[bool], scenes: list[str], seed: int, products: str = "p"
) -> Path:
    """A run directory with made-up results."""
    run = folder / f"seed{seed}"
    run.mkdir(parents=True)
    with (run / "pairs.csv").open("w", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(["scene", "bbox", "product", "category", "seen", *METRICS])
        for number, value in enumerate(auc):
            row = [scenes[number], "0,0,1,1", f"{products}{number}", "c", int(seen[number])]
            table.writerow([*row, *([value] * len(METRICS))])
    (run / "results.json").write_text(json.dumps({"classifier": {"accuracy": {"value": 0.5}}}))
    return run


def test_rows_are_means_over_seeds_and_differences_are_pair_by_pair(tmp_path: Path) -> None:
    seen, scenes = [True, True, False, False], ["a", "a", "b", "c"]
    ours = [
        finished(tmp_path / "hybrid", auc, seen, scenes, seed)
        for seed, auc in enumerate([[0.9, 0.8, 0.5, 0.6], [0.7, 0.8, 0.7, 0.6]])
    ]
    theirs = [finished(tmp_path / "imagenet", [0.5, 0.5, 0.6, 0.4], seen, scenes, 0)]
    hybrid, imagenet = read_row("hybrid", ours, [], []), read_row("imagenet", theirs, [], ["boom", "boom"])
    assert hybrid.interval("all", "auc")["value"] == pytest.approx((0.8 + 0.8 + 0.6 + 0.6) / 4)
    assert hybrid.interval("seen", "auc")["value"] == pytest.approx(0.8)
    assert hybrid.interval("unseen", "auc")["value"] == pytest.approx(0.6)
    assert hybrid.by_seed["unseen", "auc"] == pytest.approx([0.55, 0.65])
    difference = hybrid.minus(imagenet, "auc")
    assert difference is not None
    assert difference["value"] == pytest.approx(0.2)
    table = markdown_table("stl_fashion", [hybrid, imagenet, MethodRow("global", ("train: no such file",))])
    lines = table.splitlines()
    for part in table.split("\n\n"):
        assert len({line.count("|") for line in part.splitlines()}) == 1  # as many cells in every row
    assert "| `hybrid` | 2 | 0.700 [" in lines[2]
    assert f"| {np.std([0.7, 0.7], ddof=1):.3f} | 0.800 | 0.600 |" in lines[2]
    assert "did not run: train: no such file" in lines[4]
    second = lines[6:]
    assert second[0].startswith("| method | binary accuracy | published | classifier: accuracy |")
    assert second[2].startswith("| `hybrid` | 0.700 | about 0.70 (full size, third party) | 0.500 |")
    other = read_row("other", [finished(tmp_path / "other", [0.5, 0.5, 0.6, 0.4], seen, scenes, 0, "q")], [], [])
    assert hybrid.minus(other, "auc") is None
    mixed = read_row("mixed", [ours[0], tmp_path / "other" / "seed0"], [], [])
    assert "has other test pairs than" in mixed.why_not[0]
    assert read_row("none", [], [], []).why_not == ("no run of it is finished",)
    assert "| `imagenet` | 1 (2 failed: boom) |" in table
    parts = markdown_table("p", [hybrid, imagenet, other], ["imagenet", "global", "hybrid"]).split("\n\n")
    assert [part.splitlines()[0][:17] for part in parts[1:3]] == ["| minus `imagenet", "| minus `hybrid`,"]
    assert parts[1].splitlines()[2].startswith("| `hybrid` | +0.200 [")
    assert parts[1].splitlines()[3] == "| `other` | other pairs | other pairs | other pairs | other pairs |"


def test_docs_keep_what_is_of_other_protocols_and_need_their_marks(tmp_path: Path) -> None:
    row = read_row("hybrid", [finished(tmp_path / "hybrid", [0.9, 0.1], [True, False], ["a", "b"], 0)], [], [])
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "results.md").write_text("no marks")
    with pytest.raises(InputError, match=r"has no lines '<!-- paper one -->' and"):
        check_docs(docs, ["one"], ["hybrid"], 1)
    marks = "".join(f"<!-- paper {name} -->\n<!-- end of paper {name} -->\n" for name in ("one", "two"))
    (docs / "results.md").write_text(marks)
    for protocol in ("one", "two", "one"):
        write_paper_table(tmp_path, {protocol: [row]}, docs, Console(quiet=True))
    assert (docs / "results.md").read_text().count("| `hybrid` |") == 4  # two tables each
    check_docs(docs, ["one"], ["hybrid"], 1)
    with pytest.raises(InputError, match="its table of one has hybrid with 1 seeds, which this one would lose"):
        check_docs(docs, ["one"], ["global"], 5)
    with (docs / "results.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 2 * 3 * len(METRICS)
    (auc,) = [r for r in rows if (r["protocol"], r["pairs"], r["metric"]) == ("two", "all", "auc")]
    assert (auc["mean"], auc["seeds"], auc["sd_of_seeds"]) == ("0.500000", "1", "")


@pytest.mark.parametrize("content", [b"scene,bbox\n1,2\n", b"\xe9", b"", b"scene,bbox,product\n1,2,3\n"])
def test_broken_pairs_of_a_run_are_why_its_row_is_missing(tmp_path: Path, content: bytes) -> None:
    run = finished(tmp_path, [0.5], [True], ["a"], 0)
    (run / "pairs.csv").write_bytes(content)
    row = read_row("hybrid", [run], [], [])
    assert not row.keys
    assert str(run / "pairs.csv") in row.why_not[0]


@pytest.mark.parametrize("content", ["{}", "[1]", "[[1]]", "null"])
def test_notes_of_a_cell_that_are_no_commands_are_one_line(tmp_path: Path, content: str) -> None:
    cell = Cell("folder", "hybrid", 0, tmp_path, (("train",),))
    (tmp_path / "done.json").write_text(content)
    with pytest.raises(InputError, match=r"done\.json: not the commands that `paper` notes; delete the folder"):
        cell.is_finished()
