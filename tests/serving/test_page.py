"""The page in a real browser: a photo in, products out, categories, a box, a product in the scene's place, many visitors, a phone."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from browser import browser, skip_without_browser
from factories import free_port, save_image
from http_service import process_of, service_of, serving
from PIL import Image

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.http.app import create_app
from ctl_lightning.serving.http.limits import Limits
from ctl_lightning.serving.look import write_look
from ctl_lightning.serving.page import build_page, put_on
from ctl_lightning.serving.page_desk import Asked, Desk
from ctl_lightning.serving.recommender import Recommender


@pytest.fixture(scope="module")
def recommender(served: tuple[Path, Path]) -> Recommender:
    return Recommender.from_checkpoint(*served)


@pytest.fixture(scope="module")
def address(served: tuple[Path, Path], looks: Path) -> Iterator[str]:
    with serving(page_app(served, looks)) as found:
        yield found


def page_app(served: tuple[Path, Path], looks: Path, root_path: str = "") -> Any:
    """The page of a service with a limit of 1 MB, below a path."""
    service = service_of(Recommender.from_checkpoint(*served), served[1], Limits(max_upload=2**20))
    app = create_app(service, root_path=root_path)
    put_on(app, build_page(service, sorted((looks / "images").rglob("*.jpg"))[:3], 3), 2**20, root_path)
    return app


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    skip_without_browser()
    with browser() as found:
        yield found


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    save_image(tmp_path / "scene.jpg", 7, (120, 160))
    return tmp_path / "scene.jpg"


def opened(chromium: Any, address: str, **options: Any) -> Any:
    page = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}).new_page()
    page.goto(address)
    page.wait_for_selector("#photo input[type=file]", state="attached", timeout=60_000)
    page.locator("#found [data-example]").first.wait_for(timeout=60_000)  # what comes last is there
    page.wait_for_timeout(500)
    return page


def upload(page: Any, path: Path) -> None:
    page.set_input_files("#photo input[type=file]", str(path))


CARDS = """() => [...document.querySelectorAll('#found .card')].map(
    one => ['product', 'distance'].map(name => one.querySelector(`dd.${name}`).textContent).join(' '))"""


def shows(page: Any, wanted: list[str]) -> None:
    """Waits until the details of the cards say that."""
    with suppress(Exception):  # Playwright's own TimeoutError; what is there is told below
        page.wait_for_function(f"wanted => String(({CARDS})()) === String(wanted)", arg=wanted, timeout=60_000)
    assert page.evaluate(CARDS) == wanted


def expected(recommender: Recommender, photo: Path, **options: Any) -> list[str]:
    """What they should say."""
    return [
        f"{one.product} {one.distance:.3f}"
        for answer in recommender.look(photo, **options).answers
        for one in answer.products
    ]


@pytest.mark.long
def test_a_photo_its_categories_and_a_box(chromium: Any, address: str, recommender: Recommender, photo: Path) -> None:
    page = opened(chromium, address)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    upload(page, photo)
    shows(page, expected(recommender, photo))
    assert page.locator("#found section").count() == 2
    assert page.locator("#found section:first-of-type details.why[open]").count() == 1  # of the first category alone
    assert page.locator("#found details[open] img").evaluate("image => image.complete && image.naturalWidth > 100")
    assert page.locator("#note").inner_text().startswith("Found: 6 products of 2 categories.")

    page.locator("#categories input").click()
    page.get_by_role("option", name="Shoes").click()
    shows(page, expected(recommender, photo, categories=["Shoes"]))
    page.keyboard.press("Escape")

    def tap(x: float, y: float) -> None:
        scene = page.locator("#scene img")
        scene.scroll_into_view_if_needed()
        place = scene.bounding_box()
        page.mouse.click(place["x"] + x * place["width"], place["y"] + y * place["height"])

    tap(0.25, 0.75)
    page.get_by_text("One corner is set").wait_for(timeout=20_000)
    tap(0.75, 0.95)
    page.get_by_text("Only the bright part beside").wait_for(timeout=20_000)
    whole = expected(recommender, photo, categories=["Shoes"])
    boxed = expected(recommender, photo, categories=["Shoes"], box=(0.25, 0.75, 0.75, 0.95))
    assert whole != boxed
    shows(page, boxed)
    page.locator("#forget").click()
    page.locator("#forget").wait_for(state="detached", timeout=20_000)
    shows(page, whole)
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {
        address.split("/")[2]
    }  # nobody else is told
    page.context.close()


@pytest.mark.long
def test_a_wrong_file_gets_the_line_of_the_programs(chromium: Any, address: str, photo: Path, tmp_path: Path) -> None:
    page = opened(chromium, address)
    upload(page, photo)
    page.locator("#found .card").nth(5).wait_for(timeout=60_000)
    (tmp_path / "notes.jpg").write_text("no picture")
    upload(page, tmp_path / "notes.jpg")
    wrong = page.locator("#note .wrong")
    wrong.wait_for(timeout=20_000)
    assert wrong.inner_text() == "notes.jpg: not an image; give an image file"
    assert page.locator("#found .card, #scene img").count() == 0
    page.context.close()
    page = opened(chromium, address)
    Image.effect_noise((1500, 1500), 90).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size > 2**20
    upload(page, tmp_path / "large.png")
    page.get_by_text(re.compile("exceed the maximum allowed size of 1.0 Mb")).first.wait_for(timeout=20_000)
    assert page.locator("#found .card").count() == 0
    page.context.close()


@pytest.mark.long
def test_a_product_in_the_place_of_the_scene_and_back(
    chromium: Any, address: str, recommender: Recommender, photo: Path
) -> None:
    page = opened(chromium, address)
    upload(page, photo)
    scene = expected(recommender, photo)
    shows(page, scene)
    (first, second) = recommender.look(photo).answers
    page.locator("#found button[data-product]").nth(1).click()
    wanted = expected(recommender, first.products[1].image, categories=[second.category])  # not its own category
    shows(page, wanted)
    page.get_by_text("The network learned from photos of whole scenes").wait_for(timeout=20_000)
    page.wait_for_function("() => document.activeElement.matches('#found h2')", timeout=20_000)
    page.locator("#found button[data-product]").first.click()  # and so on: what goes with that
    shows(page, expected(recommender, second_image(recommender, wanted[0]), categories=[first.category]))
    page.locator("#back").click()
    shows(page, scene)
    assert page.locator("#back").count() == 0
    page.locator("#over").click()
    page.locator("#found [data-example]").first.wait_for(timeout=20_000)
    page.context.close()


def second_image(recommender: Recommender, told: str) -> Path:
    """The picture of the product that a card tells of."""
    with recommender.catalogue.snapshot() as catalogue:
        (found,) = catalogue.find([told.split()[0]]).values()
    return found.image


@pytest.mark.long
def test_a_box_by_the_keyboard(chromium: Any, address: str, recommender: Recommender, photo: Path) -> None:
    page = opened(chromium, address)
    upload(page, photo)
    page.locator("#scene .mark").focus()
    for key in ("ArrowLeft", "ArrowDown"):
        for _ in range(10):
            page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.get_by_text("One corner is set").wait_for(timeout=20_000)
    for key in ("ArrowRight", "ArrowDown"):
        for _ in range(10):
            page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.get_by_text("Only the bright part beside").wait_for(timeout=20_000)
    shows(page, expected(recommender, photo, box=(0.3, 0.7, 0.5, 0.9)))
    page.context.close()


@pytest.mark.long
def test_a_desktop_keeps_the_photo_in_view(chromium: Any, address: str, photo: Path) -> None:
    page = opened(chromium, address, viewport={"width": 1440, "height": 600})
    upload(page, photo)
    page.locator("#found .card").nth(5).wait_for(timeout=60_000)
    card = page.locator("#found .card").first.bounding_box()
    assert card["width"] > 250  # three of them use the width
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_function("() => scrollY > 100")
    place = page.locator("#scene img").bounding_box()
    assert 0 <= place["y"] < 100
    page.context.close()


PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "reduced_motion": "reduce"}


@pytest.mark.long
def test_examples_on_a_phone(chromium: Any, address: str, recommender: Recommender, looks: Path) -> None:
    page = opened(chromium, address, **PHONE)
    page.locator("#found [data-example]").nth(1).tap()
    shows(page, expected(recommender, sorted((looks / "images").rglob("*.jpg"))[1]))
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    edges = page.locator("#found .card").evaluate_all("all => all.map(one => one.getBoundingClientRect().right)")
    assert max(edges) <= 390
    page.wait_for_function("() => Math.abs(document.querySelector('#found').getBoundingClientRect().top) < 2")
    sizes = "all => all.map(one => one.getBoundingClientRect()).filter(one => one.width).map(one => one.height)"
    touched = page.locator("#found :is(button, a, summary), #photo button, #count input[type=number], #scene button")
    assert min(touched.evaluate_all(sizes)) >= 44
    page.context.close()


@pytest.mark.long
def test_a_saved_page_fits_a_phone(chromium: Any, recommender: Recommender, photo: Path, tmp_path: Path) -> None:
    long_name = tmp_path / f"{'0123456789abcdef' * 5}.jpg"
    photo.rename(long_name)
    write_look(tmp_path / "look.html", str(long_name), recommender.look(long_name))
    page = chromium.new_context(viewport={"width": 390, "height": 844}, is_mobile=True).new_page()
    page.goto(f"file://{tmp_path / 'look.html'}")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert str(tmp_path) not in page.locator("h1").inner_text()
    page.context.close()


class Stripping:
    """A proxy that offers an app below /looks, and takes that off before it asks the app."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            assert scope["path"].startswith("/looks/"), scope["path"]
            scope = {**scope, "path": scope["path"].removeprefix("/looks"), "raw_path": b""}
        await self._app(scope, receive, send)


@pytest.mark.long
def test_below_a_sub_path(
    chromium: Any, served: tuple[Path, Path], looks: Path, recommender: Recommender, photo: Path
) -> None:
    with serving(Stripping(page_app(served, looks, "/looks"))) as address:
        page = opened(chromium, f"{address}/looks/")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        upload(page, photo)
        shows(page, expected(recommender, photo))
        page.locator("#over").click()
        page.locator("#found [data-example]").nth(1).click()
        shows(page, expected(recommender, sorted((looks / "images").rglob("*.jpg"))[1]))
        page.locator("#found nav a").nth(1).click()
        assert page.url == f"{address}/looks/#category-1"
        assert {url.startswith(f"{address}/looks/") for url in asked if url.startswith("http")} == {True}
        with urllib.request.urlopen(f"{address}/looks/v1/categories") as answer:
            assert len(json.load(answer)["categories"]) == 2
        page.context.close()


@pytest.mark.long
def test_fifty_visitors_at_once(address: str, recommender: Recommender, looks: Path) -> None:
    from gradio_client import Client, handle_file

    photos = sorted((looks / "images").rglob("*.jpg"))[:5]
    wanted = [expected(recommender, photo) for photo in photos]
    clients = [Client(address, verbose=False, analytics_enabled=False) for _ in range(50)]

    def ask(number: int) -> list[str]:
        answer = clients[number].predict(handle_file(photos[number % 5]), [], 3, api_name="/complete")
        (page,) = [part for part in answer if isinstance(part, str) and "class='card'" in part]
        found = re.findall(r"<dd class='(?:distance|product)'>([^<]*)</dd>", page)
        return [f"{product} {distance}" for distance, product in zip(found[::2], found[1::2], strict=True)]

    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(ask, range(50)))
    assert found == [wanted[number % 5] for number in range(50)]


def test_an_answer_holds_its_pictures_so_that_visitors_share_no_file_that_is_written_while_it_is_read(
    address: str, looks: Path
) -> None:
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False, analytics_enabled=False, download_files=False)
    photo = handle_file(sorted((looks / "images").rglob("*.jpg"))[0])
    scene, found, note, place = client.predict(photo, [], 3, api_name="/complete")
    assert place is None  # it is free for another photo
    for html in (scene, found):
        assert set(re.findall(r"src='(.{23})", html)) == {"data:image/jpeg;base64,"}
    assert note.startswith("<p>Found: 6 products")


def test_what_a_browser_tells_is_not_trusted(recommender: Recommender, served: tuple[Path, Path], photo: Path) -> None:
    service = service_of(recommender, served[1])
    desk = Desk(service, [], "unchanged")
    asked = desk.new(str(photo), [], 1)[0]
    for said in ({"product": "/etc/passwd"}, {"product": "<b>" * 100}):
        now, scene, found, note = desk.act(asked, [], 1, said)
        assert (now, scene, found) == (asked, "unchanged", "unchanged")
        assert re.fullmatch("<p class='wrong' role='alert'>the catalogue has no product &#x27;[^<>]*&#x27;</p>", note)
    corners = ("0", [1], [None, 1], [10**400, 0], [float("nan"), 1], [0, float("inf")], [-0.1, 0], [0, 1.1], [True, 0])
    nonsense: list[dict[str, Any]] = [{"example": "7"}, {"do": "back"}, {"do": []}, {}]
    for told in [*nonsense, *({"corner": one} for one in corners)]:
        assert desk.act(asked, [], 1, told) == (asked, "unchanged", "unchanged", "unchanged")
    assert desk.act(asked, [], 1, {"corner": [0, 1]})[0].corners == ((0.0, 1.0),)
    assert desk.act(asked, [], 1, {"do": "start over"})[0] == Asked()
    assert "choose a photo first" in desk.act(Asked(), [], 1, {"corner": [0.5, 0.5]})[3]


@pytest.mark.long
def test_the_program_serves_until_it_is_told_to_end(served: tuple[Path, Path], tmp_path: Path) -> None:
    port = free_port()
    words = [f"ckpt_path={served[0]}", f"catalogue={served[1]}", f"port={port}"]
    with process_of(served, tmp_path, port, start=["-m", "ctl_lightning.demo"]) as process:
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=60).read().decode()
        assert "Complete the look" in page
        for host in {str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), port)} - {
            "127.0.0.1",
            "::1",
        }:
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((host, port), timeout=5).close()
        again = subprocess.run(
            [sys.executable, "-m", "ctl_lightning.demo", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert again.returncode == 1
        assert re.fullmatch(rf"demo: port={port}: it is taken .*\n", again.stderr.splitlines(keepends=True)[-1])
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=30)
    assert f"http://127.0.0.1:{port}/" in printed
    assert "Traceback" not in said


def test_without_gradio_one_line_says_how_to_get_it(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"the page needs Gradio; pip install 'ctl_lightning\[demo\]'"):
        build_page(service_of(recommender, Path()), [], 3)


def test_the_programs_do_not_import_gradio() -> None:
    code = "import sys, ctl_lightning.demo, ctl_lightning.recommend, ctl_lightning.catalogue; print('gradio' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
