"""The words that say why: what put the first product before the others."""

from pathlib import Path

import pytest
from PIL import Image

from ctl_lightning.serving.look_html import POPULARITY, lead, look_html
from ctl_lightning.serving.recommender import Answer, Look, Recommended

WHOLE = (0.0, 0.0, 1.0, 1.0)


def product(rank: int, parts: dict[str, float], bonus: float = 0.0) -> Recommended:
    mean = sum(parts.values()) / len(parts)
    return Recommended(rank, f"p{rank}", Path("gone.jpg"), mean, parts, None, bonus)


def told(products: list[Recommended]) -> str:
    return look_html(
        Look(Image.new("RGB", (40, 60)), None, WHOLE, [WHOLE], WHOLE, [Answer("Shoes", products, None, 9)])
    )


BOTH = [product(1, {"global": 0.2, "local": 1.1}), product(2, {"global": 0.4, "local": 1.0})]
THIRD = product(3, {"global": 0.6, "local": 1.4})


def test_the_parts_of_a_lead_sum_up_to_it() -> None:
    found = lead([*BOTH, THIRD])
    assert found == pytest.approx({"global": (0.5 - 0.2) / 2, "local": (1.2 - 1.1) / 2})
    assert sum(found.values()) == pytest.approx((0.7 + 1.0) / 2 - 0.65)


def test_the_part_that_adds_most_decided() -> None:
    page = told(BOTH)
    assert "<b>The whole scene</b> decided." in page
    assert (
        "is 0.050 nearer than the others here on average: 0.100 from the whole scene, −0.050 from the bright places."
        in page
    )


def test_popularity_can_decide() -> None:
    popular = [product(1, {"global": 0.5, "local": 0.5}, bonus=0.3), product(2, {"global": 0.4, "local": 0.4})]
    assert lead(popular) == pytest.approx({"global": -0.05, "local": -0.05, POPULARITY: 0.3})
    assert "<b>Its popularity</b> decided." in told(popular)


def test_one_part_decides_alone_and_one_product_has_no_lead() -> None:
    assert "Judged by the bright places alone." in told([product(1, {"local": 1.0}), product(2, {"local": 1.5})])
    assert "class='why'" not in told(BOTH[:1])
    assert "decided" not in told([])
