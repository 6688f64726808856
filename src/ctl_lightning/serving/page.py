"""The web page of `demo`, on which a colleague tries a checkpoint: a photo in, products out, and why.

Gradio is imported when a page is made, because it takes seconds.
"""

import logging
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from ctl_lightning.data.category_names import short_if_unique
from ctl_lightning.data.crop import WHOLE
from ctl_lightning.data.images import Pixels
from ctl_lightning.data.pairs import Box
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.encoder import opened
from ctl_lightning.serving.look import look_html, thumbnail
from ctl_lightning.serving.pictures import boxed

if TYPE_CHECKING:
    import gradio
    from fastapi import FastAPI

    from ctl_lightning.serving.http.service import Service

HOUR = 3600

WAITING = 200
"""Largest number of requests that wait; a visitor beyond it is told to come later."""

SCENE = 700
"""Longest side in pixels of the scene in which corners are tapped."""

HOW_TO = "Drop a photo of a person or a room. To replace something in it, tap two opposite corners of it."
ONE_CORNER = "One corner is set; tap the opposite one."
BOXED = "Only the bright part beside the box is looked at. To replace something else, tap two corners again."

CSS = """
.gradio-container { max-width: 80em !important; width: 100%; margin: auto; }
.note { min-height: 5em; } /* so that nothing moves between two taps */
#found .scene { display: none; } /* it is beside it */
.note .wrong { color: #b00020; font-weight: 600; overflow-wrap: anywhere; }
"""


class Asked(NamedTuple):
    """What a visitor has asked so far.

    Attributes:
        photo: path of the uploaded file; None: there is none.
        corners: corners of the box tapped so far: none, one, or two opposite ones, (x, y) from 0 to 1.
    """

    photo: str | None = None
    corners: tuple[tuple[float, float], ...] = ()

    @property
    def box(self) -> Box | None:
        """The box of what is to be replaced, normalised; None: nothing is."""
        if len(self.corners) < 2:
            return None
        (x0, y0), (x1, y1) = self.corners
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def load_gradio() -> Any:
    """Imports Gradio, set up to report nothing to anybody. Raises InputError: it is not installed."""
    for name, value in (
        ("GRADIO_ANALYTICS_ENABLED", "False"),
        ("HF_HUB_DISABLE_TELEMETRY", "1"),
        ("HF_HUB_OFFLINE", "1"),
    ):
        os.environ[name] = value
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs each request that Gradio makes to itself
    try:
        import gradio
    except ImportError:
        raise InputError("the page needs Gradio; pip install 'ctl_lightning[demo]'") from None
    return gradio


class _Desk:
    """Answers the page's events. Each answer is: what is asked now, the scene, the products, a note, and the button."""

    def __init__(self, service: "Service", examples: Sequence[Path], gradio: Any) -> None:
        self._service = service
        self._examples = examples
        self._gradio = gradio

    def new(self, photo: str | None, categories: list[str], count: float) -> tuple[Any, ...]:
        """Answers another photo, without a box."""
        return self.complete(Asked(photo), categories, count)

    def example(self, place: int, categories: list[str], count: float) -> tuple[Any, ...]:
        """Answers the choice of an example; `place` is its place among the examples, from 0."""
        return self.complete(Asked(str(self._examples[place])), categories, count)

    def forget(self, asked: Asked, categories: list[str], count: float) -> tuple[Any, ...]:
        """Answers the same photo without a box."""
        return self.complete(Asked(asked.photo), categories, count)

    def tap(self, asked: Asked, categories: list[str], count: float, point: tuple[int, int]) -> tuple[Any, ...]:
        """Answers a tapped corner of a box; `point` is (x, y) in pixels of the scene as it is shown."""
        try:
            scene = self._scene(asked)
        except InputError as error:
            return self._refused(asked, error)
        corner = point[0] / scene.shape[1], point[1] / scene.shape[0]
        corners = (*asked.corners, corner) if len(asked.corners) == 1 else (corner,)
        asked = asked._replace(corners=corners)
        if len(corners) == 1:
            x, y = corner
            mark = max(0.0, x - 0.03), max(0.0, y - 0.02), min(1.0, x + 0.03), min(1.0, y + 0.02)
            marked = self._shown(boxed(scene, mark, [WHOLE]))
            return asked, marked, self._gradio.skip(), _note(ONE_CORNER), self._gradio.skip()
        return self.complete(asked, categories, count)

    def complete(self, asked: Asked, categories: list[str], count: float) -> tuple[Any, ...]:
        """Answers with the products that complete the photo."""
        if asked.photo is None:
            return asked, self._gradio.Image(visible=False), "", _note(HOW_TO), self._forget(asked)
        try:
            scene = self._scene(asked)
            look = self._service.look(Path(asked.photo), categories or None, int(count), asked.box)
        except InputError as error:
            return self._refused(asked, error)
        if look.box is not None:
            scene = boxed(scene, look.box, look.kept)
        said = _note(HOW_TO if look.box is None else BOXED)
        return asked, self._shown(scene), look_html(look), said, self._forget(asked)

    def _refused(self, asked: Asked, error: InputError) -> tuple[Any, ...]:
        """Answers with a note of what is wrong, and the scene without its box, if it can be shown."""
        try:
            scene = self._shown(self._scene(asked))
        except InputError:
            scene = self._gradio.Image(visible=False)
        # The visitor knows the photo by its name, not by its folder on this machine.
        said = str(error).replace(str(asked.photo), Path(str(asked.photo)).name)
        word = f"<span class='wrong' role='alert'>{escape(said)}</span>"
        return Asked(asked.photo), scene, "", word, self._forget(Asked())

    def _scene(self, asked: Asked) -> Pixels:
        return thumbnail(opened(str(asked.photo)), SCENE)

    def _shown(self, scene: Pixels) -> Any:
        # In a file of this answer's own, among those that Gradio deletes later: Gradio itself writes equal pictures to
        # one file, and writes it anew while another visitor reads it.
        kept = Path(self._gradio.utils.get_upload_folder())
        kept.mkdir(parents=True, exist_ok=True)
        path = Path(mkdtemp(dir=kept)) / "scene.jpeg"
        Image.fromarray(scene).save(path, quality=90)
        return self._gradio.Image(path, visible=True)

    def _forget(self, asked: Asked) -> Any:
        """The button that forgets the box; it is shown only if there is a box."""
        return self._gradio.Button(visible=asked.box is not None)


def build_page(service: "Service", examples: Sequence[Path], k: int) -> "gradio.Blocks":
    """Builds the page, without serving it yet.

    Args:
        service: service that finds the products.
        examples: photos that are offered as examples.
        k: number of products of each category that is chosen at first.

    Raises:
        InputError: Gradio is not installed.
    """
    gr = load_gradio()
    desk = _Desk(service, examples, gr)

    # By its annotation Gradio knows that a function wants the event.
    def tap(asked: Asked, categories: list[str], count: float, event: gr.SelectData) -> tuple[Any, ...]:  # type: ignore[name-defined]
        return desk.tap(asked, categories, count, (event.index[0], event.index[1]))

    def example(categories: list[str], count: float, event: gr.SelectData) -> tuple[Any, ...]:  # type: ignore[name-defined]
        return desk.example(event.index, categories, count)

    with gr.Blocks(title="Complete the look", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown("# Complete the look")
        asked = gr.State(Asked())
        place = _lay_out(gr, service.live.recommender.categories, examples, k)
        options = [place.categories, place.count]
        answers = [asked, place.scene, place.found, place.note, place.forget]
        place.photo.upload(desk.new, [place.photo, *options], answers, api_name="complete")
        place.photo.clear(desk.new, [place.photo, *options], answers, api_visibility="private")
        if place.gallery is not None:
            place.gallery.select(example, options, answers, api_visibility="private")
        place.scene.select(tap, [asked, *options], answers, api_visibility="private")
        place.forget.click(desk.forget, [asked, *options], answers, api_visibility="private")
        place.categories.change(desk.complete, [asked, *options], answers, api_visibility="private")
        place.count.release(desk.complete, [asked, *options], answers, api_visibility="private")
    page.queue(default_concurrency_limit=os.cpu_count(), max_size=WAITING)
    return page


class _Layout(NamedTuple):
    """The page's components; `gallery` is None if there are no examples."""

    photo: Any
    gallery: Any
    scene: Any
    note: Any
    forget: Any
    categories: Any
    count: Any
    found: Any


def _lay_out(gr: Any, names: Sequence[str], examples: Sequence[Path], k: int) -> _Layout:
    """Lays out photo, examples, scene and options on the left, products on the right; called within the page's block."""
    gallery = None
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            photo = gr.File(label="A photo", type="filepath", height=130, elem_id="photo")
            if examples:
                gallery = gr.Gallery(
                    [str(path) for path in examples],
                    label="Examples",
                    show_label=False,
                    columns=len(examples),
                    rows=1,
                    height=116,
                    object_fit="cover",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="examples",
                )
            scene = gr.Image(
                label="The scene",
                show_label=False,
                interactive=False,
                visible=False,
                format="jpeg",
                buttons=[],
                elem_id="scene",
            )
            note = gr.HTML(_note(HOW_TO), elem_classes="note", elem_id="note")
            forget = gr.Button("Forget the box", size="sm", visible=False, elem_id="forget")
            categories = gr.Dropdown(
                [(short_if_unique(name, names), name) for name in names],
                multiselect=True,
                label="Categories",
                info="none chosen: complete everything",
                elem_id="categories",
            )
            count = gr.Slider(1, 20, k, step=1, label="Products of each category", elem_id="count")
        with gr.Column(scale=2, min_width=280):
            found = gr.HTML(elem_id="found")
    return _Layout(photo, gallery, scene, note, forget, categories, count, found)


def put_on(app: "FastAPI", page: "gradio.Blocks", max_upload: int, root_path: str = "") -> None:
    """Has the app of the page's service serve the page, too.

    Args:
        app: app of the service that `build_page` was given.
        page: page that `build_page` made.
        max_upload: size of the largest photo, in bytes.
        root_path: path below which a proxy offers the app.
    """
    gr = load_gradio()
    # Fonts that every system has: the default theme's come from Google.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    gr.mount_gradio_app(
        app,
        page,
        "/",
        root_path=root_path or None,
        max_file_size=max_upload,
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        footer_links=[],
        theme=theme,
        css=CSS,
    )


def _note(text: str) -> str:
    return f"<span>{escape(text)}</span>"
