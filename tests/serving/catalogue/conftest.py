"""What the tests of several backends have in common."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from factories import save_image


@pytest.fixture
def shop(tmp_path: Path) -> Callable[[int, int], list[str]]:
    """Photos of products, half of them shoes, and the options that name products first to last."""

    def make(first: int, last: int) -> list[str]:
        for number in range(first, last):
            if not (tmp_path / "images" / f"p{number}.png").exists():
                save_image(tmp_path / "images" / f"p{number}.png", number, (12, 12))
        listed = {f"p{number}": "Shoes" if number % 2 else "Hats" for number in range(first, last)}
        (tmp_path / "products.json").write_text(json.dumps(listed))
        return [f"products={tmp_path / 'products.json'}", f"images={tmp_path / 'images'}"]

    return make
