"""The web page of `demo`, on which a colleague tries a checkpoint: a photo in, products out, and why.

Gradio is imported when a page is made, because it takes seconds.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ctl_lightning.data.category_names import short_if_unique
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.page_desk import HOW_TO, Asked, Desk, note_html

if TYPE_CHECKING:
    import gradio
    from fastapi import FastAPI

    from ctl_lightning.serving.http.service import Service

HOUR = 3600

WAITING = 200
"""Largest number of requests that wait; a visitor beyond it is told to come later."""

HERE = Path(__file__).parent

STYLES = (HERE / "look.css", HERE / "page.css")


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


def build_page(service: "Service", examples: Sequence[Path], k: int) -> "gradio.Blocks":
    """Builds the page, without serving it yet.

    Args:
        service: service that finds the products.
        examples: photos that are offered as examples.
        k: number of products of each category that is chosen at first.

    Raises:
        InputError: Gradio is not installed; an example that is no picture.
    """
    gr = load_gradio()
    desk = Desk(service, examples, gr.skip())

    def new(photo: str | None, categories: list[str], count: float) -> tuple[Any, ...]:
        return *desk.new(photo, categories, count), None  # the place for a photo is free for another one

    # By its annotation Gradio knows that a function wants the event.
    def act(asked: Asked, categories: list[str], count: float, event: gr.EventData) -> tuple[Any, ...]:  # type: ignore[name-defined]
        return desk.act(asked, categories, count, event._data if isinstance(event._data, dict) else {})

    with gr.Blocks(
        title="Complete the look", analytics_enabled=False, delete_cache=(HOUR, HOUR), fill_width=True
    ) as page:
        asked = gr.State(Asked())
        place = _lay_out(gr, service.live.recommender.categories, desk.start, k)
        options = [place.categories, place.count]
        answers = [asked, place.scene, place.found, place.note]
        at = {"show_progress_on": place.found}
        place.photo.upload(new, [place.photo, *options], [*answers, place.photo], **at, api_name="complete")
        for piece in (place.scene, place.found):
            piece.click(act, [asked, *options], answers, **at, api_visibility="private")
        place.categories.change(desk.complete, [asked, *options], answers, **at, api_visibility="private")
        place.count.release(desk.complete, [asked, *options], answers, **at, api_visibility="private")
    page.queue(default_concurrency_limit=os.cpu_count(), max_size=WAITING)
    return page


class _Layout(NamedTuple):
    """The page's components."""

    photo: Any
    scene: Any
    note: Any
    categories: Any
    count: Any
    found: Any


def _lay_out(gr: Any, names: Sequence[str], start: str, k: int) -> _Layout:
    """Lays out scene, photo and options on the left, products on the right; called within the page's block."""
    script = (HERE / "page.js").read_text(encoding="utf-8")

    def piece(name: str, html: str = "", **more: Any) -> Any:
        return gr.HTML(html, elem_id=name, js_on_load=script, apply_default_css=False, **more)

    gr.HTML("<h1>Complete the look</h1>", elem_id="title", js_on_load=None, apply_default_css=False)
    with gr.Row(elem_id="desk"):
        with gr.Column(elem_id="side", min_width=0):
            scene = piece("scene")
            # The status is there from the beginning: changes within it are read out.
            note = piece("note", note_html(HOW_TO), html_template="<div role='status'>${value}</div>")
            photo = gr.File(label="A photo", type="filepath", height=120, elem_id="photo")
            categories = gr.Dropdown(
                [(short_if_unique(name, names), name) for name in names],
                multiselect=True,
                label="Categories",
                info="none chosen: complete everything",
                elem_id="categories",
            )
            count = gr.Slider(1, 20, k, step=1, buttons=[], label="Products of each category", elem_id="count")
        with gr.Column(elem_id="products", min_width=0):
            found = piece("found", start)
    return _Layout(photo, scene, note, categories, count, found)


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
    # Its quiet text is too pale to be read well.
    theme = theme.set(body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300")
    # Not as its `css`, whose selectors it rewrites, so that some within @media match nothing.
    style = "".join(path.read_text(encoding="utf-8") for path in STYLES)
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
        head=f"<style>{style}</style>",
    )
