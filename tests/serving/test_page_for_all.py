"""axe-core finds nothing wrong with the page: for those who see little or nothing, or have no mouse."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import browser, skip_without_browser
from factories import save_image
from http_service import service_of, serving

from ctl_lightning.serving.http.app import create_app
from ctl_lightning.serving.page import build_page, put_on
from ctl_lightning.serving.recommender import Recommender

SIZES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1440, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}


@pytest.fixture(scope="module")
def address(served: tuple[Path, Path], looks: Path) -> Iterator[str]:
    service = service_of(Recommender.from_checkpoint(*served), served[1])
    app = create_app(service)
    put_on(app, build_page(service, sorted((looks / "images").rglob("*.jpg"))[:3], 3), 2**20)
    with serving(app) as found:
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    skip_without_browser()
    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    with browser() as found:
        yield found


def check(page: Any, state: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.wait_for_timeout(400)  # a colour that fades in has no contrast yet
    found = Axe().run(page).response
    wrong = [(one["id"], [node["target"] for node in one["nodes"]]) for one in found["violations"]]
    assert wrong == [], state
    assert len(found["passes"]) > 15
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"], state


@pytest.mark.long
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(chromium: Any, address: str, tmp_path: Path, size: str, theme: str) -> None:
    save_image(tmp_path / "scene.jpg", 7, (120, 160))
    page = chromium.new_context(**SIZES[size], color_scheme=theme, reduced_motion="reduce").new_page()
    page.goto(address)
    page.wait_for_selector("#photo input[type=file]", state="attached", timeout=60_000)
    page.locator("#found [data-example]").first.wait_for()
    assert page.title() == "Complete the look"
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("body.dark").count() == (theme == "dark")
    check(page, "empty")
    page.set_input_files("#photo input[type=file]", str(tmp_path / "scene.jpg"))
    page.locator("#found .card").nth(5).wait_for(timeout=60_000)
    check(page, "results")
    page.locator("#found details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    assert page.locator("#found details[open]").count() == 8  # 6 products, 2 categories
    check(page, "details")
    page.locator("#found button[data-product]").first.click()
    page.locator("#back").wait_for(timeout=60_000)
    check(page, "a product in the place of the scene")
    (tmp_path / "scene.jpg").write_text("no picture")
    page.set_input_files("#photo input[type=file]", str(tmp_path / "scene.jpg"))
    page.locator("#note .wrong").wait_for(timeout=60_000)
    check(page, "an error")
    page.context.close()
