"""Answers what visitors of the page of `demo` do: a photo, an example, a corner, a product that they ask about."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from ctl_lightning.data.category_names import last_part
from ctl_lightning.data.crop import WHOLE
from ctl_lightning.data.images import Pixels
from ctl_lightning.data.pairs import Box
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.encoder import opened
from ctl_lightning.serving.look_html import data_uri, look_html
from ctl_lightning.serving.pictures import boxed, thumbnail
from ctl_lightning.serving.recommender import Look

if TYPE_CHECKING:
    from ctl_lightning.serving.http.service import Service

SCENE, EXAMPLE, SMALL = 700, 360, 160
"""Longest side in pixels of the scene in which corners are tapped, of an example, and of the scene above the products."""

HOW_TO = "Choose a photo of a person or a room, and see which products go with it."
TO_REPLACE = "To replace something in the photo, tap two opposite corners of it; or move the mark there with the arrow keys and press Enter."
ONE_CORNER = "One corner is set; tap the opposite one."
BOXED = "Only the bright part beside the box is looked at."
OF_PRODUCT = "This product's photo stands where the scene stood. The network learned from photos of whole scenes, not of single products, so take what it finds as a guess."


class Asked(NamedTuple):
    """What a visitor has asked so far.

    Attributes:
        photo: path of the photo; None: there is none.
        corners: corners of the box tapped so far: none, one, or two opposite ones, (x, y) from 0 to 1.
        category: category of the product whose photo it is; None: it is a scene.
        before: what was asked before, a scene, if the photo is a product's.
    """

    photo: str | None = None
    corners: tuple[tuple[float, float], ...] = ()
    category: str | None = None
    before: "Asked | None" = None

    @property
    def box(self) -> Box | None:
        """The box of what is to be replaced, normalised; None: nothing is."""
        if len(self.corners) < 2:
            return None
        (x0, y0), (x1, y1) = self.corners
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


class Desk:
    """Answers the page's events. Each answer is: what is asked now, and the HTML of the scene, the products, and the note, which tells
    that they are there.

    Args:
        service: service that finds the products.
        examples: photos that are offered as examples.
        unchanged: what stands in an answer for HTML that stays as it is.

    Attributes:
        start: HTML that stands in the place of the products until there is a photo.

    Raises:
        InputError: an example that is no picture.
    """

    def __init__(self, service: "Service", examples: Sequence[Path], unchanged: Any) -> None:
        self._service = service
        self._examples = examples
        self._unchanged = unchanged
        self.start = start_html(examples)

    def new(self, photo: str | None, categories: list[str], count: float) -> tuple[Any, ...]:
        """Answers another photo, without a box."""
        return self.complete(Asked(photo), categories, count)

    def act(self, asked: Asked, categories: list[str], count: float, said: Mapping[str, Any]) -> tuple[Any, ...]:
        """Answers a button within the HTML; `said` is what page.js tells of it, which anybody could have written: what is no
        event of the page changes nothing."""
        product, example, corner, do = (said.get(name) for name in ("product", "example", "corner", "do"))
        if isinstance(product, str):
            return self._product(asked, categories, count, product)
        if isinstance(example, str) and example in map(str, range(len(self._examples))):
            return self.complete(Asked(str(self._examples[int(example)])), categories, count)
        # Of a whole number that is too large for a float, or of what is not a number, the comparison is false.
        if (
            isinstance(corner, list)
            and len(corner) == 2
            and all(type(one) in (int, float) and 0 <= one <= 1 for one in corner)
        ):
            return self._corner(asked, categories, count, (float(corner[0]), float(corner[1])))
        if do == "forget":
            return self.complete(asked._replace(corners=()), categories, count)
        if do == "back" and asked.before is not None:
            return self.complete(asked.before, categories, count)
        if do == "start over":
            return self.complete(Asked(), categories, count)
        return asked, self._unchanged, self._unchanged, self._unchanged

    def complete(self, asked: Asked, categories: list[str], count: float) -> tuple[Any, ...]:
        """Answers with the products that complete the photo."""
        if asked.photo is None:
            return asked, "", self.start, note_html(HOW_TO)
        try:
            return self._completed(asked, categories, count)
        except InputError as error:
            return self._refused(asked, error)

    def _completed(self, asked: Asked, categories: list[str], count: float) -> tuple[Any, ...]:
        scene = self._scene(asked)
        look = self._service.look(Path(str(asked.photo)), self._wanted(asked, categories), int(count), asked.box)
        if look.box is not None:
            scene = boxed(scene, look.box, look.kept)
        found = f"<div class='look'>{head_html(asked, scene)}{look_html(look, asks=True)}</div>"
        said = note_html(_counted(look), TO_REPLACE if asked.box is None else BOXED)
        return asked, scene_html(asked, scene), found, said

    def _product(self, asked: Asked, categories: list[str], count: float, product: str) -> tuple[Any, ...]:
        """Answers what goes with a product of the catalogue; where that fails, what was found before stays."""
        now = asked
        try:
            found = self._service.product(product)
            now = Asked(str(found.image), (), found.category, asked if asked.category is None else asked.before)
            return self._completed(now, categories, count)
        except InputError as error:
            return asked, self._unchanged, self._unchanged, _wrong_html(now, error)

    def _corner(
        self, asked: Asked, categories: list[str], count: float, corner: tuple[float, float]
    ) -> tuple[Any, ...]:
        """Answers a corner of a box, (x, y) from 0 to 1."""
        try:
            scene = self._scene(asked)
        except InputError as error:
            return self._refused(asked, error)
        # To the nearest pixel as it is shown, so that equal places are equal boxes.
        x, y = (round(one * side) / side for one, side in zip(corner, (scene.shape[1], scene.shape[0]), strict=True))
        asked = asked._replace(corners=(*asked.corners, (x, y)) if len(asked.corners) == 1 else ((x, y),))
        if len(asked.corners) == 2:
            return self.complete(asked, categories, count)
        mark = max(0.0, x - 0.03), max(0.0, y - 0.02), min(1.0, x + 0.03), min(1.0, y + 0.02)
        marked = scene_html(asked, boxed(scene, mark, [WHOLE]))
        return asked, marked, self._unchanged, note_html(ONE_CORNER)

    def _wanted(self, asked: Asked, categories: list[str]) -> list[str] | None:
        """The categories to complete; for a product all but its own, in which it would find itself, if none is chosen."""
        if categories or asked.category is None:
            return categories or None
        return [name for name in self._service.live.recommender.categories if name != asked.category] or None

    def _refused(self, asked: Asked, error: InputError) -> tuple[Any, ...]:
        """Answers with a note of what is wrong, and the scene without its box, if it can be shown."""
        asked = asked._replace(corners=())
        try:
            scene = scene_html(asked, self._scene(asked))
        except InputError:
            return Asked(), "", self.start, _wrong_html(asked, error)
        return asked, scene, "", _wrong_html(asked, error)

    def _scene(self, asked: Asked) -> Pixels:
        if asked.photo is None:
            raise InputError("choose a photo first")
        return thumbnail(opened(asked.photo), SCENE)


def start_html(examples: Sequence[Path]) -> str:
    """What there is to begin with: the examples, a button each. Raises InputError: one is no picture."""
    if not examples:
        return ""
    buttons = "".join(
        f"<li><button type='button' data-example='{number}'><img alt='Example {number + 1} of {len(examples)}' "
        f"src='{data_uri(thumbnail(opened(str(path)), EXAMPLE))}'></button></li>"
        for number, path in enumerate(examples)
    )
    return f"<div class='look'><h2 tabindex='-1'>Or begin with an example</h2><ul class='examples'>{buttons}</ul></div>"


def scene_html(asked: Asked, scene: Pixels) -> str:
    """The photo, in which corners can be set, and what can be done with it.

    Args:
        asked: what is asked.
        scene: the photo as it is shown, uint8 (H, W, 3).
    """
    what = "The scene" if asked.category is None else f"The product, of {last_part(asked.category)}"
    buttons = ""
    if asked.box is not None:
        buttons += "<button type='button' id='forget' data-do='forget'>Forget the box</button>"
    buttons += "<button type='button' id='over' data-do='start over'>Start over</button>"
    return (
        f"<button type='button' class='mark' aria-describedby='note'><img alt='{escape(what)}: set a corner of what is to be replaced' "
        f"src='{data_uri(scene)}'></button><div class='buttons'>{buttons}</div>"
    )


def head_html(asked: Asked, scene: Pixels) -> str:
    """What stands above the products: the photo again, small, for a narrow screen; of a product what that means, and the way back.

    Args:
        asked: what is asked.
        scene: the photo as it is shown, uint8 (H, W, 3).
    """
    small = data_uri(thumbnail(Image.fromarray(scene), SMALL))
    head = f"<img class='small' alt='' src='{small}'>"
    if asked.category is None:
        return f"<header>{head}<h2 tabindex='-1'>What goes with the scene</h2></header>"
    back = "<button type='button' id='back' data-do='back'>Back<span class='rest'> to the scene</span></button>"
    return f"<header>{head}<h2 tabindex='-1'>What goes with this product</h2>{back}</header><p class='guess'>{OF_PRODUCT}</p>"


def note_html(*sentences: str) -> str:
    """A note beside the photo, which is read out when it changes."""
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def _wrong_html(asked: Asked, error: InputError) -> str:
    """A note of what is wrong. The visitor knows the photo by its name, not by its folder on this machine."""
    said = str(error).replace(str(asked.photo), Path(str(asked.photo)).name)
    return f"<p class='wrong' role='alert'>{escape(said)}</p>"


def _counted(look: Look) -> str:
    products, categories = sum(len(answer.products) for answer in look.answers), len(look.answers)
    return f"Found: {products} product{'s' * (products != 1)} of {categories} {'category' if categories == 1 else 'categories'}."
