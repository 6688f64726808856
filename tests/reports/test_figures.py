from pathlib import Path

import numpy as np
from PIL import Image

from ctl_lightning.reports.figures.curves import ClassifierCurves, classifier_sheet, curves
from ctl_lightning.reports.figures.grids import Overlay, Retrieval, Shown, attention_overlays, retrieval_grid
from ctl_lightning.reports.figures.intervals import category_intervals, method_intervals


def colour(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((32, 32, 3), (red, green, blue), np.uint8)


TRUE = Shown(colour(0, 0, 200), 1.0, True, False)


def count(path: Path, rgb: tuple[int, int, int], tolerance: int = 12) -> int:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return int((np.abs(pixels - rgb).max(-1) <= tolerance).sum())


def test_hits_known_products_and_misses_are_framed_apart(tmp_path: Path) -> None:
    shown = [
        Shown(colour(9, 9, 9), 1.0, True, False),
        Shown(colour(9, 9, 9), 1.0, False, True),
        Shown(colour(9, 9, 9), 1.0, False, False),
    ]
    retrieval_grid(tmp_path / "r.png", [Retrieval("A|B", colour(200, 0, 0), 1.5, TRUE, 1, 9, shown)])
    green, blue = (44, 160, 44), (31, 119, 180)
    assert count(tmp_path / "r.png", green) > 100
    assert count(tmp_path / "r.png", blue) > 100
    without = [Shown(colour(9, 9, 9), 1.0, False, False)] * 3
    retrieval_grid(tmp_path / "m.png", [Retrieval("A|B", colour(200, 0, 0), 1.5, TRUE, 7, 9, without)])
    assert count(tmp_path / "m.png", blue) == 0
    assert count(tmp_path / "m.png", green) < count(tmp_path / "r.png", green)


def test_an_overlay_is_bright_where_the_weight_is(tmp_path: Path) -> None:
    weights = np.full((4, 4), 0.01)
    weights[0] = 0.2
    attention_overlays(tmp_path / "a.png", [Overlay(colour(128, 128, 128), 1.0, {"A|Hats": weights})], 0)
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    overlay = pixels[:, pixels.shape[1] // 2 :].sum(-1)  # the right half of the sheet
    rows = np.flatnonzero((overlay < 720).mean(1) > 0.5)  # those that are mostly not white
    quarter = len(rows) // 4
    upper, lower = overlay[rows[:quarter]], overlay[rows[-quarter:]]
    assert np.median(upper) > np.median(lower) + 100


def test_curves_of_few_or_no_rows_do_not_fail(tmp_path: Path) -> None:
    curves(tmp_path / "none.png", [], {})
    curves(tmp_path / "one.png", [{"step": 0.0, "train/loss": 0.2}, {"step": 0.0, "val/auc": 0.6}], {"oracle": 0.9})
    rows = [{"step": float(step), "train/loss": 1 / (1 + step)} for step in range(100)]
    curves(tmp_path / "many.png", rows, {})
    for name in ("none", "one", "many"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width > 600


def found(value: float | None, half: float = 0.05) -> dict[str, float | None]:
    return {"value": value} | {
        name: None if value is None else value + sign * half for name, sign in (("low", -1), ("high", 1))
    }


def test_methods_and_categories_without_a_value_leave_a_gap(tmp_path: Path) -> None:
    auc = {name: {"all": found(0.6), "seen": found(0.7), "unseen": found(None)} for name in ("hybrid", "global")}
    method_intervals(
        tmp_path / "m.png", auc, {"lift": {"hybrid": found(0.1), "global": found(None)}}, {"oracle": found(0.9)}
    )
    assert count(tmp_path / "m.png", (31, 119, 180)) > 30  # seen
    assert count(tmp_path / "m.png", (255, 127, 14)) < count(
        tmp_path / "m.png", (31, 119, 180)
    )  # unseen: the legend alone
    category_intervals(tmp_path / "c.png", {"hybrid": {"A|Hats": found(0.6), "A|Shoes": found(None)}}, 0)
    assert count(tmp_path / "c.png", (31, 119, 180)) > 30


def test_a_classifier_is_drawn_with_its_threshold(tmp_path: Path) -> None:
    line = np.array([[0.0, 0.5, 1.0], [0.0, 0.8, 1.0]])
    sheet = ClassifierCurves(line, line[:, ::-1], (0.5, 0.8, 0.6), np.array([[0.3, 0.7], [0.2, 0.8], [10, 20]]))
    classifier_sheet(tmp_path / "c.png", sheet)
    assert count(tmp_path / "c.png", (0, 0, 0)) > 100
