"""The documentation as a site: it builds without a warning, asks nothing of other hosts, and its search finds what is in it."""

import functools
import html.parser
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import browser, skip_without_browser
from factories import REPOSITORY

pytestmark = pytest.mark.long

INPUTS = ("docs", "src", "conf", "mkdocs.yml", "README.md", "CHANGELOG.md")


def build(folder: Path) -> "subprocess.CompletedProcess[str]":
    """What `make docs` runs, in a copy."""
    environment = os.environ | {"NO_COLOR": "1", "PYTHONPATH": str(folder / "src")}
    zensical = Path(sys.executable).parent / "zensical"
    for command in ([sys.executable, "docs/reference.py"], [str(zensical), "build", "--clean", "--strict"]):
        found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if found.returncode:
            break
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the site is built from."""
    folder = tmp_path_factory.mktemp("docs")
    for path in (REPOSITORY / name for name in INPUTS):
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__", "reference"))
        elif path.exists():
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def site(copy: Path) -> Path:
    found = build(copy)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "No issues found" in found.stdout + found.stderr
    assert "warning" not in (found.stdout + found.stderr).lower()
    return copy / "site"


class Loaded(html.parser.HTMLParser):
    """Collects what a page makes a browser fetch, the places that it links to, and its anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a":
            self.links.append(found.get("href", ""))
        elif tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.fetched.append(found.get("href", ""))
        elif "src" in found:
            self.fetched.append(found["src"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Loaded]:
    found = {}
    for path in sorted(site.rglob("*.html")):
        found[path] = Loaded()
        found[path].feed(path.read_text())
    return found


def test_nothing_is_fetched_from_outside(site: Path, pages: dict[Path, Loaded]) -> None:
    assert len(pages) > 40
    for path, page in pages.items():
        for address in page.fetched:
            assert not urlsplit(address).netloc, (path.name, address)
            if path.name != "404.html":  # whose addresses are those of a server's root
                assert (path.parent / unquote(urlsplit(address).path)).exists(), (path.name, address)
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text()), style.name


def test_every_link_within_the_site_has_a_target(site: Path, pages: dict[Path, Loaded]) -> None:
    count, found = 0, {*site.rglob("*")}
    for path, page in pages.items():
        for link in map(urlsplit, page.links):
            if link.scheme or link.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target in found, (path.name, link.geturl())
            if link.fragment and target in pages and not link.fragment.startswith("__"):
                assert unquote(link.fragment) in pages[target].anchors, (path.name, link.geturl())
            count += 1
    assert count > 1000


def test_a_broken_link_stops_the_build(site: Path, copy: Path, tmp_path: Path) -> None:
    shutil.copytree(copy, tmp_path / "copy", ignore=shutil.ignore_patterns("site"))
    with (tmp_path / "copy" / "docs" / "pictures.md").open("a") as page:
        page.write("\n[nowhere](nowhere.md)\n")
    found = build(tmp_path / "copy")
    assert found.returncode != 0
    assert "page does not exist" in found.stdout + found.stderr


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_search_finds_an_option_and_asks_no_other_host(address: str) -> None:
    skip_without_browser()
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1440, "height": 900})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}/index.html", wait_until="networkidle")
        page.keyboard.press("/")
        page.keyboard.type("hnsw_links")
        page.locator("a[href*='reference/catalogue.html?h=hnsw_links']").wait_for()
        assert asked
        assert all(url.startswith((address, "data:", "blob:")) for url in asked), asked
