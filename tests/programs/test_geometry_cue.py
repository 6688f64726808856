"""Looks in which the box's geometry is the only cue, and looks in which it is none: what lift and lift_geometry say of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import image_id, train_on
from PIL import Image

PLACES = [(x, y) for x in (0.1, 0.7) for y in (0.1, 0.7)]
"""Left and top of the four places where a product may be worn."""

COLOURS = [(230, 30, 30), (30, 160, 30), (40, 60, 230), (240, 220, 40)]


def looks_with(folder: Path, cue: bool) -> Path:
    """1,000 scenes of noise with a box each; the products are of four colours, one for each place if `cue`."""
    random, category = np.random.default_rng(0), "Apparel & Accessories|Hats"
    products = [(image_id(f"p{n}"), n % 4) for n in range(40)]
    rows: list[dict[str, Any]] = []
    for n in range(1000):
        left, top = PLACES[n % 4]
        colour = n % 4 if cue else int(random.integers(4))
        product = products[colour + 4 * int(random.integers(10))][0]
        box = [left + random.uniform(0, 0.01), top, left + 0.15, top + 0.15 + random.uniform(0, 0.01)]
        rows.append({"product": product, "scene": image_id(f"s{n}"), "bbox": box})
    pictures = {row["scene"]: random.integers(0, 255, (40, 40, 3)) for row in rows}
    pictures |= {product: COLOURS[colour] + random.integers(-20, 20, (40, 40, 3)) for product, colour in products}
    for name, pixels in pictures.items():
        path = folder / "images" / name[:2] / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=95)
    (folder / "fashion.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "fashion-cat.json").write_text(json.dumps({product: category for product, _ in products}))
    return folder


@pytest.mark.parametrize("cue", [True, False])
def test_geometry_has_a_lift_where_it_is_a_cue_and_no_lift_beyond_it(tmp_path: Path, cue: bool) -> None:
    looks = looks_with(tmp_path / "looks", cue)
    words = ["+experiment=geometry", "backbone=small", "backbone.pooled=[colours]", "data.twins=keep"]
    budget = ["data.batch_size=32", "data.same_category=32", "trainer.max_epochs=15", "model.learning_rate=0.01"]
    run = train_on(looks, tmp_path / "cache", tmp_path / "run", *words, *budget, "model.warmup_steps=0")
    found = json.loads((run / "results.json").read_text())["test"]["all"]
    beyond = found["lift_geometry"]
    assert beyond["low"] <= 0 <= beyond["high"]
    if cue:
        assert found["lift"]["low"] > 0.2
        assert found["auc"]["value"] > 0.8
    else:
        assert found["lift"]["low"] <= 0 <= found["lift"]["high"]
