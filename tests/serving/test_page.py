"""The page in a real browser: a photo in, products out, categories, a box, a wrong file, many visitors, a phone's width."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
    page.wait_for_timeout(500)
    return page


def upload(page: Any, path: Path) -> None:
    page.set_input_files("#photo input[type=file]", str(path))


def cards(page: Any, count: int) -> list[str]:
    """What the cards say, when there are so many."""
    page.wait_for_function("n => document.querySelectorAll('#found .card').length == n", arg=count, timeout=60_000)
    return [text.replace("\n", " ") for text in page.locator("#found .card b").all_inner_texts()]


def expected(recommender: Recommender, photo: Path, **options: Any) -> list[str]:
    """What they should say."""
    return [
        f"{one.rank}. {one.distance:.3f} · {one.probability:.0%}"
        for answer in recommender.look(photo, **options).answers
        for one in answer.products
    ]


@pytest.mark.long
def test_a_photo_its_categories_and_a_box(chromium: Any, address: str, recommender: Recommender, photo: Path) -> None:
    page = opened(chromium, address)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    upload(page, photo)
    assert cards(page, 6) == expected(recommender, photo)
    assert page.locator("#found section").count() == 2
    page.locator("#found summary").first.click()
    assert page.locator("#found details[open] img").evaluate("image => image.complete && image.naturalWidth > 100")

    page.locator("#categories input").click()
    page.get_by_role("option", name="Shoes").click()
    assert cards(page, 3) == expected(recommender, photo, categories=["Shoes"])
    page.keyboard.press("Escape")

    def tap(x: float, y: float) -> None:
        scene = page.locator("#scene img")
        scene.scroll_into_view_if_needed()
        place = scene.bounding_box()
        page.mouse.click(place["x"] + x * place["width"], place["y"] + y * place["height"])

    tap(0.25, 0.75)
    page.get_by_text("One corner is set").wait_for(timeout=20_000)
    tap(0.75, 0.95)
    page.get_by_text("Only the bright part beside").first.wait_for(timeout=20_000)
    whole = expected(recommender, photo, categories=["Shoes"])
    boxed = expected(recommender, photo, categories=["Shoes"], box=(0.25, 0.75, 0.75, 0.95))
    assert whole != boxed
    assert cards(page, 3) == boxed
    page.locator("#forget").click()
    page.get_by_text("Drop a photo of a person").wait_for(timeout=20_000)
    assert cards(page, 3) == whole
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {
        address.split("/")[2]
    }  # nobody else is told
    page.context.close()


@pytest.mark.long
def test_a_wrong_file_gets_the_line_of_the_programs(chromium: Any, address: str, photo: Path, tmp_path: Path) -> None:
    page = opened(chromium, address)
    upload(page, photo)
    cards(page, 6)
    (tmp_path / "notes.jpg").write_text("no picture")
    page.locator("#photo button[aria-label='Clear'], #photo button[title='Clear']").first.click()
    page.locator("#scene").wait_for(state="hidden", timeout=20_000)
    upload(page, tmp_path / "notes.jpg")
    wrong = page.locator("#note .wrong")
    wrong.wait_for(timeout=20_000)
    assert wrong.inner_text() == "notes.jpg: not an image; give an image file"
    assert page.locator("#found .card").count() == 0
    page.context.close()
    page = opened(chromium, address)
    Image.effect_noise((1500, 1500), 90).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size > 2**20
    upload(page, tmp_path / "large.png")
    page.get_by_text(re.compile("exceed the maximum allowed size of 1.0 Mb")).first.wait_for(timeout=20_000)
    assert page.locator("#found .card").count() == 0
    page.context.close()


@pytest.mark.long
def test_examples_on_a_phone(chromium: Any, address: str, recommender: Recommender, looks: Path) -> None:
    page = opened(chromium, address, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page.locator("#examples .thumbnail-item").nth(1).tap()
    assert cards(page, 6) == expected(recommender, sorted((looks / "images").rglob("*.jpg"))[1])
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    edges = page.locator("#found .card").evaluate_all("all => all.map(one => one.getBoundingClientRect().right)")
    assert max(edges) <= 390
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
        assert cards(page, 6) == expected(recommender, photo)
        page.locator("#examples .thumbnail-item").nth(1).click()
        wanted = expected(recommender, sorted((looks / "images").rglob("*.jpg"))[1])
        page.get_by_text(wanted[0]).wait_for(timeout=20_000)
        assert cards(page, 6) == wanted
        page.wait_for_function(
            "() => [...document.querySelectorAll('#scene img, #examples img')].every(image => image.naturalWidth > 0)"
        )
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
        return re.findall(r"<b>([^<]*)</b>", page)

    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(ask, range(50)))
    assert found == [wanted[number % 5] for number in range(50)]


def test_visitors_with_the_same_photo_do_not_share_a_file_that_is_written_while_it_is_read(
    address: str, looks: Path
) -> None:
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False, analytics_enabled=False, download_files=False)
    photo = handle_file(sorted((looks / "images").rglob("*.jpg"))[0])
    shown = [client.predict(photo, [], 3, api_name="/complete")[0]["value"]["path"] for _ in range(2)]
    assert shown[0] != shown[1]
    assert Path(shown[0]).read_bytes() == Path(shown[1]).read_bytes()
    assert Image.open(shown[0]).format == "JPEG"


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
