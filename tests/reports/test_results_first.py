"""Numbers first: what is drawn or shown after them can fail, and grows with what is drawn, not with the categories."""

import json
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from factories import TINY, Compose
from PIL import Image

from ctl_lightning.reports import dashboards, run_report, watch
from ctl_lightning.reports.examples import largest
from ctl_lightning.reports.figures.curves import classifier_sheet, confusion, projection
from ctl_lightning.reports.figures.grids import Overlay, Retrieval, Shown, attention_overlays, retrieval_grid
from ctl_lightning.reports.figures.intervals import category_intervals
from ctl_lightning.reports.results import flat_table
from ctl_lightning.runtime.plotting import short_name, short_names
from ctl_lightning.train import train


def failing(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("the disk of pictures is full")


def test_pictures_tables_and_loggers_that_fail_are_a_warning_each_and_the_run_is_complete(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module, name in (
        (run_report, "retrieval_grid"),
        (run_report, "hard_negatives"),
        (run_report, "write_tables"),
        (dashboards, "_show_in_tensorboard"),
        (watch, "attention_overlays"),
    ):
        monkeypatch.setattr(module, name, failing)
    seen: list[bool] = []

    def drawn(path: Path, *rest: object) -> None:
        seen.append((tmp_path / "run" / "results.json").exists() and (tmp_path / "run" / "pairs.csv").exists())
        classifier_sheet(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(run_report, "classifier_sheet", drawn)
    assert train(compose("+experiment=hybrid", *TINY, "logger=tensorboard")) is not None
    assert seen == [True]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["test"]["all"]["auc"]["value"] is not None
    names = {path.stem for path in (tmp_path / "run" / "pictures").glob("*.png")}
    assert names == {"classifier", "categories", "distances", "embedding", "attention", "curves"}
    told = [record.getMessage() for record in caplog.records if "the disk of pictures is full" in record.getMessage()]
    assert [line.partition(": ")[0].rpartition("/")[2] for line in told] == [
        *(
            "attention_epoch000.png",
            "logger=tensorboard",
            "retrieval.png",
            "confusion.png",
            "tables",
            "loggers",
        )
    ]


def named(count: int) -> list[str]:
    return [f"Room|Kind {number}" for number in range(count)]


def height(path: Path) -> int:
    with Image.open(path) as image:
        return image.height


def test_pictures_of_many_categories_show_the_largest_and_say_how_many_there_are(tmp_path: Path) -> None:
    class Task:
        categories = named(1000)
        category = np.repeat(np.arange(1000), np.where(np.arange(1000) % 100 == 7, 5, 1))

    assert largest(Task(), 10) == list(range(7, 1000, 100))  # type: ignore[arg-type]
    labels = [name for number, name in enumerate(named(1000)) for _ in range(1 + (number < 20))]
    projection(tmp_path / "many.png", labels, np.random.default_rng(0).normal(size=(len(labels), 4)))
    projection(tmp_path / "few.png", labels[:40], np.random.default_rng(0).normal(size=(40, 4)))
    assert height(tmp_path / "many.png") == height(tmp_path / "few.png")
    found = {"value": 0.5, "low": 0.4, "high": 0.6}
    for left_out in (0, 970):
        category_intervals(tmp_path / f"c{left_out}.png", {"hybrid": dict.fromkeys(named(30), found)}, left_out)
        confusion(tmp_path / f"f{left_out}.png", named(30), np.eye(30), left_out)
    assert (tmp_path / "c0.png").read_bytes() != (tmp_path / "c970.png").read_bytes()
    assert (tmp_path / "f0.png").read_bytes() != (tmp_path / "f970.png").read_bytes()


def test_names_that_are_cut_to_the_same_are_told_apart() -> None:
    names = ["A|" + "long " * 60 + "x", "A|" + "long " * 60 + "y", "|", "Room|", "$x_{", "_hidden", "B|Sofas", "Sofas"]
    short = short_names(names)
    assert list(short) == names
    assert len({*short.values()}) == len(names)
    assert all(short.values())
    assert max(map(len, short.values())) < 70
    assert short_name("|") == "|"
    assert short_name("Home & Garden|Furniture|Sofas") == "Sofas"


def test_products_are_shown_in_their_own_proportions(tmp_path: Path) -> None:
    grey, green = np.full((32, 32, 3), 90, np.uint8), np.full((32, 32, 3), (0, 200, 0), np.uint8)
    tall = Shown(green, 0.5, False, False)
    retrieval_grid(tmp_path / "r.png", [Retrieval("A", grey, 1.0, Shown(grey, 1.0, True, False), 2, 9, [tall])])
    with Image.open(tmp_path / "r.png") as image:
        mask = np.abs(np.asarray(image.convert("RGB")).astype(int) - (0, 200, 0)).max(-1) < 10
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert len(columns) / len(rows) == pytest.approx(0.5, abs=0.03)


def test_a_category_that_is_called_as_a_group_has_rows_of_its_own() -> None:
    def metrics(value: float) -> dict[str, dict[str, float]]:
        return {"auc": {"value": value, "low": value, "high": value}}

    groups = {"all": metrics(0.1), "seen": metrics(0.2), "unseen": metrics(0.3)}
    categories = {"all": metrics(0.4), "Sofas": metrics(0.5), "hubs": metrics(0.6)}
    rows = flat_table({"test": groups | {"by_category": categories}, "hubs": {"share": 0.7}})
    assert [row[:3] for row in rows] == [
        *(("all", "auc", 0.1), ("seen", "auc", 0.2), ("unseen", "auc", 0.3)),
        *(("category all", "auc", 0.4), ("Sofas", "auc", 0.5), ("category hubs", "auc", 0.6)),
        ("hubs", "share", 0.7),
    ]


def test_an_overlay_says_how_many_categories_are_left_out(tmp_path: Path) -> None:
    row = Overlay(np.full((32, 32, 3), 90, np.uint8), 1.0, {"A": np.ones((4, 4)), "B": np.eye(4)})
    attention_overlays(tmp_path / "all.png", [row], 0)
    attention_overlays(tmp_path / "some.png", [row], 148)
    assert (tmp_path / "all.png").read_bytes() != (tmp_path / "some.png").read_bytes()
