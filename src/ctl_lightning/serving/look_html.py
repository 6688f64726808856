"""A look as HTML: large product photos first, why they were chosen beneath, ids and distances under "Details".

The page of `demo` shows it, and a saved .html file holds it; look.css is the style of both.
"""

import base64
import io
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path

from PIL import Image

from ctl_lightning.data.category_names import last_part
from ctl_lightning.data.images import Pixels
from ctl_lightning.serving.pictures import product_picture, scene_pictures
from ctl_lightning.serving.recommender import Answer, Look, Recommended

STYLE = Path(__file__).with_name("look.css")

PHOTO = 360
"""Longest side of a product's photo, in pixels: as wide as a card becomes."""

PARTS = {"global": "the whole scene", "local": "the bright places"}
"""Part of a distance -> what of the scene it is a distance to; the places are bright in the picture of the attention."""

POPULARITY = "its popularity"


def saved_page(name: str, look: Look) -> str:
    """A page of its own, which contains its style and its pictures.

    Args:
        name: name of the scene.
        look: the scene and the products that complete it.
    """
    scene = f"<p class='scene'><img alt='the scene' src='{data_uri(scene_pictures(look).whole)}'></p>"
    beside = (
        ""
        if look.box is None
        else "<p class='note'>What is in the box is to be replaced; only the bright part beside it is looked at, so that nothing of it is seen.</p>"
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Complete the look</title><style>:root {{ color-scheme: light dark; }}\n{STYLE.read_text(encoding='utf-8')}</style>"
        f"<body class='look'><main><h1>{escape(name)}</h1>{scene}{beside}<h2>What goes with it</h2>{look_html(look)}</main></body></html>\n"
    )


def look_html(look: Look, *, asks: bool = False) -> str:
    """The products of a look, with their pictures, as a piece of an HTML page without its style; it belongs below an h2.

    Args:
        look: the scene and the products that complete it.
        asks: whether each photo is a button, with the product's id in `data-product`, that asks what goes with it.
    """
    attention = scene_pictures(look).attention
    answers = "".join(
        _answer_html(answer, seen, number, asks)
        for number, (answer, seen) in enumerate(zip(look.answers, attention, strict=True))
    )
    links = "".join(
        f"<a href='#category-{number}'>{escape(last_part(answer.category))}</a>"
        for number, answer in enumerate(look.answers)
    )
    jump = f"<nav aria-label='Categories'>{links}</nav>" if len(look.answers) > 1 else ""
    rank = (
        f" Ranked by distance minus {look.popularity:g} · log(1 + training pairs), so what is popular comes first more often."
        if look.popularity
        else ""
    )
    return (
        f"{jump}{answers}"
        "<p class='note'>The best comes first. The match is the probability that a product goes with the scene, in a world where one in two "
        f"does.{rank}</p>"
    )


def lead(products: Sequence[Recommended]) -> dict[str, float]:
    """How far the first product of a category is ahead of the others on average, and what each part of the rank adds to that.

    A rank is by distance minus bonus, and a distance is the mean of its parts, so what they add sums up to the lead.

    Args:
        products: n > 1 products of one category, the best first.

    Returns:
        A part of the distance, or `POPULARITY` if it counts -> what it adds, in units of the distance.
    """
    first, others = products[0], products[1:]
    parts = {
        name: sum(one.parts[name] - value for one in others) / len(others) / len(first.parts)
        for name, value in first.parts.items()
    }
    bonus = sum(first.bonus - one.bonus for one in others) / len(others)
    return parts | ({POPULARITY: bonus} if any(one.bonus for one in products) else {})


def _answer_html(answer: Answer, attention: Pixels | None, number: int, asks: bool) -> str:
    last = last_part(answer.category)
    first = answer.category.removesuffix(last).removesuffix("|")
    where = f" <small>{escape(first.replace('|', ' › '))}</small>" if first else ""
    cards = "".join(_card(one, f"{last} {one.rank} of {len(answer.products)}", asks) for one in answer.products)
    return (
        f"<section id='category-{number}' data-category='{escape(answer.category)}'><h3>{escape(last)}{where}</h3><ul class='cards'>{cards}</ul>"
        f"{_why(answer, last, attention, opened=number == 0)}</section>"
    )


def _why(answer: Answer, category: str, attention: Pixels | None, *, opened: bool) -> str:
    """What the attention looks at, and which part decided; nothing if there is nothing to say."""
    looks = (
        f"<img loading='lazy' alt='The scene, bright where the network looks for {escape(category)}' src='{data_uri(attention)}'>"
        if attention is not None
        else ""
    )
    legend = "<p>Bright: where it looks. Dark: where it does not.</p>" if looks else ""
    words = "".join(f"<p>{sentence}</p>" for sentence in _decided(answer.products))
    if not looks and not words:
        return ""
    return (
        f"<details class='why'{' open' if opened else ''}><summary>Why these {escape(category)}?</summary>"
        f"<div>{looks}<div>{words}{legend}</div></div></details>"
    )


def _decided(products: Sequence[Recommended]) -> list[str]:
    """Sentences that say which part of the distance decided."""
    if len(products) < 2:
        return []
    adds = lead(products)
    if len(adds) == 1:
        return [f"Judged by {PARTS[name]} alone." for name in adds if name in PARTS]
    decided = max(adds, key=lambda name: adds[name])
    said = PARTS.get(decided, decided)
    told = ", ".join(f"{value:.3f} from {PARTS.get(name, name)}" for name, value in adds.items()).replace("-", "−")
    return [
        f"<b>{said[0].upper()}{said[1:]}</b> decided.",
        f"The first is {sum(adds.values()):.3f} nearer than the others here on average: {told}.",
    ]


def _card(one: Recommended, called: str, asks: bool) -> str:
    """A product; `called` is what it is called where its photo is not seen, such as "Shoes 1 of 3"."""
    version = one.image.stat().st_mtime_ns if one.image.exists() else 0
    picture = _product_uri(one.image, version)
    shown = (
        f"<img loading='lazy' alt='{escape(called)}' src='{picture}'>"
        if picture.startswith("data:")
        else f"<span class='none'>{escape(picture)}</span>"
    )
    match = f"<span class='rank'>{one.rank}</span>" + (
        "" if one.probability is None else f" <b>{one.probability:.0%}</b> match"
    )
    shown = f"{shown}<span class='match'>{match}</span>"
    if asks:
        shown = f"<button type='button' data-product='{escape(one.product)}'>{shown}<span class='ask'>What goes with it?</span></button>"
    return (
        f"<li class='card'>{shown}"
        f"<details><summary>Details<span class='unseen'> of {escape(called)}</span></summary><dl>{_details(one)}</dl></details></li>"
    )


def _details(one: Recommended) -> str:
    rows = [("Distance", f"{one.distance:.3f}", "distance")]
    if len(one.parts) > 1:
        rows += [(f"to {PARTS.get(name, name)}", f"{value:.3f}", "part") for name, value in one.parts.items()]
    if one.bonus:
        rows.append(("Popularity takes off", f"{one.bonus:.3f}", "bonus"))
    rows.append(("Product", one.product, "product"))
    return "".join(f"<dt>{escape(term)}</dt><dd class='{kind}'>{escape(value)}</dd>" for term, value, kind in rows)


@lru_cache(maxsize=2048)
def _product_uri(path: Path, version: int) -> str:
    """A catalogue photo as a data: address, or why there is none; `version` changes when the file does (for the cache)."""
    picture = product_picture(path, PHOTO)
    return picture if isinstance(picture, str) else data_uri(picture)


def data_uri(picture: Pixels) -> str:
    """A picture, uint8 (H, W, 3), as a data: address that a page can hold."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
