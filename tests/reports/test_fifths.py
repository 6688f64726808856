"""Fifths of the pairs against a slow loop, and what the table says of them."""

import csv
from pathlib import Path

import numpy as np
import pytest
from factories import write_ranked
from rich.console import Console

from ctl_lightning.reports.fifths import fifths_by
from ctl_lightning.reports.paper_markdown import markdown_table
from ctl_lightning.reports.paper_rows import MethodRow, read_row
from ctl_lightning.reports.paper_table import write_paper_table


def row(folder: Path, name: str, seeds: list[list[float]], first: int = 0) -> MethodRow:
    """A row whose pairs have these AUCs, seed by seed; two pairs a scene."""
    finished = [
        write_ranked(
            folder / name / f"seed{seed}",
            [
                {"scene": f"s{place // 2}", "product": f"p{first + place}", "auc": value, "lift": value / 2}
                for place, value in enumerate(auc)
            ],
        )
        for seed, auc in enumerate(seeds)
    ]
    return read_row(name, finished, [], [])


def test_fifths_are_those_of_a_slow_loop(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shown = random.random((3, 43)).round(1)  # with ties
    shown[:, 7] = np.nan
    visible, hybrid = row(tmp_path, "visible", shown.tolist()), row(tmp_path, "hybrid", random.random((2, 43)).tolist())
    found = fifths_by([hybrid, visible], "visible")
    assert found is not None
    mean_auc = [sum(float(seed[pair]) for seed in shown) / 3 for pair in range(43)]
    ordered = sorted((pair for pair in range(43) if pair != 7), key=lambda pair: mean_auc[pair])
    slow = [[ordered[rank] for rank in range(42) if rank * 5 // 42 == fifth] for fifth in range(5)]
    assert [len(own) for own in slow] == [9, 8, 9, 8, 8]
    for fifth, own in enumerate(slow):
        assert {*np.flatnonzero(found.of_pair == fifth).tolist()} == {*own}
    assert found.of_pair[7] == -1
    for metric in ("auc", "lift"):
        intervals = found.intervals(hybrid, metric)
        assert intervals is not None
        for own, interval in zip(slow, intervals, strict=True):
            expected = sum(float(hybrid.values[metric][pair]) for pair in own) / len(own)
            assert interval["value"] == pytest.approx(expected, rel=1e-12)
            assert interval["low"] is not None
            assert interval["high"] is not None
            assert interval["low"] <= expected <= interval["high"]
    own_auc = [interval["value"] for interval in found.intervals(visible, "auc") or ()]
    assert own_auc == sorted(own_auc)  # type: ignore[type-var]
    assert found.intervals(row(tmp_path, "other", [[0.5] * 43], 1), "auc") is None


def test_fewer_pairs_than_fifths_leave_some_empty(tmp_path: Path) -> None:
    visible = row(tmp_path, "visible", [[0.9, 0.1, np.nan]])
    found = fifths_by([visible], "visible")
    assert found is not None
    assert found.of_pair.tolist() == [2, 0, -1]
    assert found.heads()[:2] == ["1: 0.10 to 0.10, 1 pairs", "2: no pairs"]
    assert "| `visible` (by construction) | 0.100 [0.100, 0.100] | - |" in markdown_table("p", [visible], (), "visible")


def test_the_table_says_that_the_selection_is_a_models_and_which_row_made_it(tmp_path: Path) -> None:
    values = [[place / 9 for place in range(10)]]
    rows = [row(tmp_path, "hybrid", values), row(tmp_path, "visible", values), row(tmp_path, "odd", values, 1)]
    table = markdown_table("p", rows, ["hybrid"], "visible")
    assert "| AUC by fifths of `visible` | 1: 0.00 to 0.11, 2 pairs | 2: 0.22 to 0.33, 2 pairs |" in table
    assert "| `visible` (by construction) | 0.056 [" in table
    assert "| `hybrid` | 0.056 [" in table
    assert "| `odd` | other pairs |" in table
    assert "| lift by fifths of `visible` |" in table
    assert "a selection by a model, not by people" in table
    plain = markdown_table("p", rows, ["hybrid"])
    assert "fifth" not in plain
    assert table.startswith(plain)
    gone = markdown_table("p", [rows[0], MethodRow("visible", ("no room",))], ["hybrid"], "visible")
    assert gone.endswith("\nNo fifths: `visible` did not run.\n")
    write_paper_table(tmp_path, {"p": rows}, None, Console(quiet=True), ["hybrid"], "visible")
    with (tmp_path / "table.csv").open(newline="") as lines:
        found = [line for line in csv.DictReader(lines) if line["pairs"] == "fifth 2 of visible"]
    assert [(line["method"], line["metric"]) for line in found] == [
        *(("hybrid", "auc"), ("hybrid", "lift"), ("visible", "auc"), ("visible", "lift"))
    ]
    assert float(found[0]["mean"]) == pytest.approx((2 + 3) / 18, abs=1e-6)
