from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from factories import MakeData
from PIL import Image

from ctl_lightning.data.evaluation_set import Integers
from ctl_lightning.metrics.intervals import Floats
from ctl_lightning.metrics.pair_metrics import score_pairs
from ctl_lightning.reports.examples import hard_negatives, retrieval_rows


def by_number(queries: Integers, products: Integers) -> Floats:
    """The farther, the smaller a product's number."""
    return np.tile(-products.astype(float), (len(queries), 1))


def test_the_grid_shows_the_nearest_products_of_the_category(make_data: MakeData) -> None:
    data = make_data()
    task = data.evaluation("test")
    for row in retrieval_rows(data, task, by_number, score_pairs(task, by_number)):
        category = task.categories.index(row.category)
        wanted = np.flatnonzero(task.product_category == category)[::-1]
        for shown, product in zip(row.nearest, wanted, strict=False):
            np.testing.assert_array_equal(shown.image, data.pictures.centre(task.products[product]))
            if shown.hit:
                np.testing.assert_array_equal(shown.image, row.truth.image)


def test_hard_negatives_are_counted_by_category_in_the_whole_catalogue(make_data: MakeData) -> None:
    data = make_data()
    task = data.evaluation("test")
    found = hard_negatives(task, by_number)
    counts = np.zeros_like(found)
    for pair in range(len(task.pairs)):
        left = [
            one
            for one in range(len(task.products) - 1, -1, -1)
            if one != task.positive[pair] and one not in task.masked[pair]
        ]
        for product in left[:10]:
            counts[task.category[pair], task.product_category[product]] += 1
    np.testing.assert_allclose(found, counts / counts.sum(1, keepdims=True))
    assert found.sum(1) == pytest.approx([1, 1])


def test_a_category_without_pairs_takes_no_part(make_data: MakeData) -> None:
    task = make_data().evaluation("test")
    alone = replace(task, category=np.zeros_like(task.category))
    assert np.isnan(hard_negatives(alone, by_number)[1]).all()


def test_a_turned_photo_is_shown_in_its_own_proportions(make_data: MakeData, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: 300 x 100 stored, 100 x 300 to look at
    Image.new("RGB", (300, 100)).save(tmp_path / "turned.jpg", exif=exif)
    data = make_data()
    data.source = SimpleNamespace(image_path=lambda *_: tmp_path / "turned.jpg")  # type: ignore[assignment]
    task = data.evaluation("test")
    rows = retrieval_rows(data, task, by_number, score_pairs(task, by_number))
    # Shoes at 0.8 to 0.95, margin 0.05: what is left is the upper three quarters.
    (aspect, *_) = [row.aspect for row in rows if row.category.endswith("Shoes")]
    assert aspect == pytest.approx(100 / 225, abs=0.01)
