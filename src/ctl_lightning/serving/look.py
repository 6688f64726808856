"""Writes a look to a file: a picture (.png), a page (.html), or data for another program (.json)."""

import base64
import io
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ctl_lightning.data.category_names import last_part
from ctl_lightning.data.images import Pixels, open_upright, reason, to_rgb
from ctl_lightning.runtime.errors import InputError, suggestion
from ctl_lightning.runtime.files import write_text
from ctl_lightning.serving.pictures import Completed, attended, boxed, look_sheet
from ctl_lightning.serving.recommender import Answer, Look, Recommended

log = logging.getLogger(__name__)

SCENE, PRODUCT = 480, 240
"""Longest side of a scene and of a product as they are shown, in pixels."""

DRAWN = 30
"""Categories that a sheet shows at most; a page and data have all."""

HEADING = "font: 600 1.3em system-ui, sans-serif; overflow-wrap: anywhere"

STYLE = """
.look { font: 15px/1.4 system-ui, sans-serif; color: #222; background: #fff; }
.look * { color: inherit; }
.look h2 { font-size: 1.1em; margin: 1.2em 0 .4em; }
.look h2 small { font-weight: normal; color: #666; }
.look .scene img, .look details img { margin: 0; max-width: min(100%, 24em); max-height: 26em; width: auto; border-radius: 6px; }
.look .cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5em, 1fr)); gap: .7em; }
.look .card { border: 1px solid #ddd; border-radius: 6px; padding: .5em; min-width: 0; }
.look .card img, .look .card .none { width: 100%; height: 9em; margin: 0; object-fit: contain; background: #fff; display: block; font-size: .75em; color: #a00; overflow: hidden; overflow-wrap: anywhere; }
.look .card b { font-size: 1.05em; }
.look .card .id { color: #666; font-size: .75em; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; display: block; }
.look .bar { display: grid; grid-template-columns: 3.4em 1fr 2.6em; gap: .3em; align-items: center; font-size: .75em; color: #444; }
.look .bar i { background: #eee; height: .6em; border-radius: 3px; display: block; }
.look .bar i i { background: #1f77b4; }
.look summary { cursor: pointer; color: #1f77b4; padding: .3em 0; }
.look p.note { color: #666; font-size: .85em; }
"""


def thumbnail(image: Image.Image, side: int) -> Pixels:
    """A picture, (H, W, 3), made smaller if its longest side has more than `side` pixels."""
    small = to_rgb(image)  # a copy, of a mode that can be made smaller
    small.thumbnail((side, side))
    return np.asarray(small)


class Scene(NamedTuple):
    """The pictures of a look's scene, (H, W, 3) each.

    Attributes:
        whole: the whole scene; with a box, the box drawn in it, and pale outside the scene crop.
        attention: for each category, the scene with what the attention looks at; None: the method has no attention.
    """

    whole: Pixels
    attention: Sequence[Pixels | None]


def scene_pictures(look: Look) -> Scene:
    """Draws the pictures of a look's scene."""
    scene = thumbnail(look.photo, SCENE)
    return Scene(
        scene if look.box is None else boxed(scene, look.box, look.kept),
        [None if one.attention is None else attended(scene, look.seen, one.attention) for one in look.answers],
    )


def product_picture(path: Path) -> Pixels | str:
    """A catalogue photo, (H, W, 3); or why there is none, without the file's folder, because anybody may see it."""
    try:
        return thumbnail(open_upright(path), PRODUCT)
    except OSError as error:
        return f"{path.name}: {reason(error)}"


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
    body = f"<h1 style='{HEADING}'>{escape(Path(name).name)}</h1>{look_html(look)}"
    write_text(
        path,
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Complete the look</title><body style='max-width: 70em; margin: 1em auto; padding: 0 1em'>{body}</body></html>\n",
    )


WRITERS: dict[str, Callable[[Path, str, Look], None]] = {
    ".png": _write_png,
    ".html": _write_html,
    ".json": _write_json,
}


def look_html(look: Look) -> str:
    """A look as a piece of an HTML page, which contains its style and its pictures."""
    scene = scene_pictures(look)
    answers = "".join(map(_answer_html, look.answers, scene.attention))
    return f"<style>{STYLE}</style><div class='look'>{_scene_html(look, scene.whole)}{answers}</div>"


def _scene_html(look: Look, scene: Pixels) -> str:
    note = (
        " What is in the box is to be replaced; only the bright part beside it is looked at, so that nothing of it is seen."
        if look.box is not None
        else ""
    )
    if look.popularity:
        note += f" Ranked by distance minus {look.popularity:g} · log(1 + training pairs), so what is popular comes first more often."
    return (
        f"<p class='scene'><img alt='the scene' src='{_uri(scene)}'></p>"
        "<p class='note'>A smaller distance goes better with the scene. The percentage is the probability that a product goes with it, in a "
        f"world where one in two does.{note}</p>"
    )


def _answer_html(answer: Answer, attention: Pixels | None) -> str:
    last = last_part(answer.category)
    first = answer.category.removesuffix(last).removesuffix("|")
    shown = (
        f"<details><summary>Where it looks for {escape(last)} (dark: not at all)</summary><img loading='lazy' alt='attention for {escape(last)}' "
        f"src='{_uri(attention)}'></details>"
        if attention is not None
        else ""
    )
    cards = "".join(_card(one) for one in answer.products)
    where = f" <small>{escape(first.replace('|', ' › '))}</small>" if first else ""
    return f"<section data-category='{escape(answer.category)}'><h2>{escape(last)}{where}</h2><div class='cards'>{cards}</div>{shown}</section>"


def _card(one: Recommended) -> str:
    version = one.image.stat().st_mtime_ns if one.image.exists() else 0
    picture = _product_uri(one.image, version)
    shown = (
        f"<img loading='lazy' alt='{escape(one.product)}' src='{picture}'>"
        if picture.startswith("data:")
        else f"<span class='none'>{escape(picture)}</span>"
    )
    chance = "" if one.probability is None else f" · {one.probability:.0%}"
    bars = "".join(
        f"<span class='bar'>{name}<i><i style='width: {min(100.0, 25 * value):.0f}%'></i></i>{value:.3f}</span>"
        for name, value in one.parts.items()
    )
    return (
        f"<div class='card'>{shown}<b>{one.rank}. {one.distance:.3f}{chance}</b>{bars}"
        f"<span class='id' title='{escape(one.product)}'>{escape(one.product)}</span></div>"
    )


@lru_cache(maxsize=4096)
def _product_uri(path: Path, version: int) -> str:
    """A catalogue photo as a data: address, or why there is none; `version` changes when the file does (for the cache)."""
    picture = product_picture(path)
    return picture if isinstance(picture, str) else _uri(picture)


def _uri(picture: Pixels) -> str:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
