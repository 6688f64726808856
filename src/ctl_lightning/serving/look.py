"""Writes a look to a file: a picture (.png), a page (.html), or data for another program (.json)."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ctl_lightning.runtime.errors import InputError, suggestion
from ctl_lightning.runtime.files import write_text
from ctl_lightning.serving.look_html import saved_page
from ctl_lightning.serving.pictures import Completed, look_sheet, product_picture, scene_pictures
from ctl_lightning.serving.recommender import Look, Recommended

log = logging.getLogger(__name__)

DRAWN = 30
"""Categories that a sheet shows at most; a page and data have all."""


def write_look(path: Path, name: str, look: Look) -> None:
    """Writes a look to a file, as the ending of its name says. Raises InputError: an unknown ending; OSError.

    Args:
        path: .png, .html or .json file to write.
        name: name of the scene, such as the path of its photo.
        look: the scene and the products that complete it.
    """
    check_ending(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[path.suffix.lower()](path, name, look)


def check_ending(path: Path) -> None:
    """Raises InputError if a look cannot be written to a file with this ending."""
    if path.suffix.lower() not in WRITERS:
        raise InputError(
            f"output={path}: the ending says what is written{suggestion(path.suffix, WRITERS)}; there are {', '.join(WRITERS)}"
        )


def _write_png(path: Path, name: str, look: Look) -> None:
    largest = sorted(look.answers, key=lambda answer: -answer.candidates)[:DRAWN]
    drawn = [answer for answer in look.answers if answer in largest]
    scene = scene_pictures(replace(look, answers=drawn))
    rows = [
        Completed(answer.category, attention, [(_caption(one), product_picture(one.image)) for one in answer.products])
        for answer, attention in zip(drawn, scene.attention, strict=True)
    ]
    look_sheet(path, scene.whole, rows, len(look.answers) - len(drawn))
    if len(drawn) < len(look.answers):
        log.warning(
            "%s: the %d categories with the most products of %d are drawn; category=NAME draws others, output=FILE.html has all",
            path,
            len(drawn),
            len(look.answers),
        )


def _caption(one: Recommended) -> str:
    chance = "" if one.probability is None else f" · {one.probability:.0%}"
    return f"{one.rank} · {one.distance:.3f}{chance}"


def _write_json(path: Path, name: str, look: Look) -> None:
    write_text(path, json.dumps(look_data(name, look), indent=2, ensure_ascii=False) + "\n")


def look_data(
    name: str, look: Look, image: Callable[[Recommended], str] = lambda one: str(one.image)
) -> dict[str, Any]:
    """A look as plain values, as in a .json file.

    Args:
        name: name of the scene.
        look: the scene and the products that complete it.
        image: function that says where the picture of a product is.
    """
    return {
        "scene": name,
        "box": look.box,
        "scene_crop": look.crop,
        "popularity": look.popularity,
        "categories": [
            {
                "category": answer.category,
                "products": [
                    {
                        "rank": one.rank,
                        "product": one.product,
                        "image": image(one),
                        "distance": one.distance,
                        **{f"distance_{part}": value for part, value in one.parts.items()},
                        "probability": one.probability,
                        "bonus": one.bonus,
                    }
                    for one in answer.products
                ],
                "attention": None if answer.attention is None else answer.attention.tolist(),
                "attention_covers": look.seen,
            }
            for answer in look.answers
        ],
    }


def _write_html(path: Path, name: str, look: Look) -> None:
    write_text(path, saved_page(Path(name).name, look))


WRITERS: dict[str, Callable[[Path, str, Look], None]] = {
    ".png": _write_png,
    ".html": _write_html,
    ".json": _write_json,
}
