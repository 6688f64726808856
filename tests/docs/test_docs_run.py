"""Every block of README and docs/ that has no reason above it is run, a page's in one folder and in its order, on small data."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import in_a_fork
import pytest
from doc_blocks import FOLLOWED, PAGES, Block, Command, blocks, commands
from factories import REPOSITORY, free_port, image_id, make_catalogue, save_image, train_on, until, write_look_files

from ctl_lightning.runtime.csv_files import csv_text

pytestmark = pytest.mark.long

RUN = {
    page.name: found
    for page in PAGES
    if page.name not in FOLLOWED
    and (found := [block for block in blocks(page) if block.language in ("bash", "python") and block.reason is None])
}

SYNTHETIC = ["data.source.scenes=150", "data.source.variants=1", "data.batch_size=16"]
PHOTOS = ["data.stored_size=72", "data.image_size=64", "data.batch_size=4", "data.same_category=2"]
DRAWN = ["data.stored_size=64", "data.image_size=56", "backbone.grid=7"]
"""What `train` has for drawn looks, and `train_on` has not."""

SHRUNK = {
    "train": ["trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.enable_progress_bar=false"],
    "evaluate": ["accelerator=cpu"],
    "export": [],
    "publish": [],
    "prepare": [],
    "catalogue": [],
    "recommend": [],
    "rerank": [],
    "sweep_table": [],
    "dashboard": [],
    "serve": [],
    "demo": [],
}
"""What is added to the words of a program, so that it has little work; of a multirun two jobs are left."""

SWEPT = {"sweep=seeds": ["seed=0"], "sweep=grid": ["loss.margin=0.2", "model.dim=64"]}
"""What is added to a ready-made sweep, so that few of its jobs are left."""

ENVIRONMENT = {"WANDB_MODE": "offline"}

SERVICES = ("serve", "demo")
"""Programs that go on until they are told to end."""

WORDS = {
    "output=DIR": "output=OUTPUT",
    "ckpt_path=DIR": "ckpt_path=OUTPUT",
    "init_from=RUN": "init_from=RUN_DIR",
    "products=FILE": "products=products.json",
    "images=DIR": "images=photos",
    "folder=DIR": "folder=SWEEP_DIR",
    "categories=FILE": "categories=map.json",
    "backbone.weights=FILE": "backbone.weights=null",
}
"""Words that stand for something of the reader's -> what there is in the folder. The other names are there as they are written."""

ROOTS = (("data=stl", "stl"), ("protocol=stl", "stl"), ("data.source.columns.", "columns"))
"""How a word begins -> the folder that data.root=DIR is then."""

CATEGORIES = {
    "shoe": "Apparel & Accessories|Shoes",
    "lamp": "Lamps",
    "sofa": "Sofas",
    "large": "Sofas, large",
    "hat": "Hats|To go with shoes",  # one of drawn looks, so that a run on them can be measured on these
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A folder with what the pages name: data, two runs, a catalogue, photos and lists."""
    folder = tmp_path_factory.mktemp("place")
    products = {f"{kind}{n}": category for kind, category in CATEGORIES.items() for n in range(9)}
    kinds = [*CATEGORIES]
    pairs = [
        {"scene": f"{n}_3", "product": f"{kind}{n % 8}", "bbox": [0.1 + 0.4 * k, 0.6, 0.5 + 0.4 * k, 0.9]}
        for n in range(50)
        for k, kind in enumerate((kinds[n % 5], kinds[(n + 1) % 5]))
    ]
    looks = folder / "looks"
    for seed, name in enumerate(sorted({str(pair["scene"]) for pair in pairs} | {*products})):
        save_image(looks / "images" / f"{name}.jpg", seed)
    (looks / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (looks / "categories.json").write_text(json.dumps(products))
    hashed = [pair | {name: image_id(str(pair[name])) for name in ("scene", "product")} for pair in pairs]
    write_look_files(folder / "stl", hashed, {image_id(name): category for name, category in products.items()})
    for name in ("", "-cat"):
        shutil.copy(folder / "stl" / f"fashion{name}.json", folder / "stl" / f"home{name}.json")
    shutil.copytree(looks / "images", folder / "columns" / "images")
    rows = [[pair["scene"], pair["product"], *[4 + 16 * (n % 2)] * 2, 36, 16, 18] for n, pair in enumerate(pairs)]
    names = ["image_id", "product", "bbox_x", "x", "y", "width", "height"]
    (folder / "columns" / "pairs.csv").write_text(csv_text([names, *rows]))
    (folder / "columns" / "categories.json").write_text(json.dumps(products))
    for name in ("photo.jpg", "room.jpg", "scene.jpg", "a.jpg", "b.jpg", "FOLDER/a.jpg", "FOLDER/b.jpg"):
        save_image(folder / name, 7)
    shutil.copy(folder / "photo.jpg", folder / "PHOTO")
    shutil.copytree(looks / "images", folder / "photos")
    (folder / "map.json").write_text(json.dumps({"Lamps": "Sofas"}))
    (folder / "products.json").write_text(json.dumps(products))
    for number, name in enumerate(("RUN_DIR", "OTHER_RUN_DIR")):
        train_on(looks, cache, folder / name, "data=folder", f"data.root={looks}", "backbone.grid=2", f"seed={number}")
    train_on(
        looks, cache, folder / "DRAWN_RUN_DIR", "data=synthetic", f"data.root={cache}/synthetic", *SYNTHETIC, *DRAWN
    )
    make_catalogue(folder / "RUN_DIR", folder / "DIR")
    shutil.copytree(folder / "DIR", folder / "CATALOGUE_DIR")
    for number, name in enumerate(("RUN_DIR", "OTHER_RUN_DIR")):
        job = folder / "SWEEP_DIR" / f"{number}_hybrid_seed{number}"
        shutil.copytree(folder / name, job)
        (job / ".hydra").mkdir(exist_ok=True)
        (job / ".hydra" / "overrides.yaml").write_text(f"- seed={number}\n")
    return folder


def fitted(command: Command, cache: Path, port: int) -> list[str]:
    """The words of one of our programs, with what there is for what they stand for, and with little work."""
    program, words = command.program, [WORDS.get(word, word) for word in command.words[3:]]
    assert program is not None
    root = next((root for start, root in ROOTS if any(word.startswith(start) for word in words)), "looks")
    words = [re.sub("^data.root=((OTHER_)?DIR|DATA)$", f"data.root={root}", word) for word in words]
    if "ckpt_path=runs/mine" in words:  # of drawn looks, on all pages
        words = [word.replace("against=OTHER_RUN_DIR", "against=DRAWN_RUN_DIR") for word in words]
    words = [f"port={port}" if word == "port=8000" else word for word in words]
    if "-m" in words:
        words = _two_jobs(words)
    more = [*SHRUNK[program], *(word for sweep in {*SWEPT} & {*words} for word in SWEPT[sweep])]
    if program in ("train", "prepare"):
        own = any(re.match("(protocol|data)=(stl|folder)", word) for word in words)
        more += [*(PHOTOS if own else SYNTHETIC), f"paths.cache_dir={cache}"]
        if own:
            more += ["backbone=small"] * (not any(word.startswith(("backbone=", "protocol=stl")) for word in words))
            more += ["backbone.grid=2"] * (program == "train")
    if program in SERVICES and not any(word.startswith("port=") for word in words):
        more.append(f"port={port}")
    return [*words, *more]


def _two_jobs(words: list[str]) -> list[str]:
    """The words of a multirun of whose first list two values are left, and of the others one."""
    left, first = [], True
    for word in words:
        name, _, value = word.partition("=")
        values = re.split(r",(?![^\[]*\])", value)
        left.append("=".join([name, ",".join(values[: 1 + first])]) if value else word)
        first = first and len(values) == 1
    return left


class Page:
    """Runs the blocks of a page, one after the other, in one folder."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache, self.port = folder, cache, free_port()
        self.services: list[BaseProcess] = []
        self.python = ""

    def run(self, block: Block) -> None:
        if block.language == "python":
            self.python += block.text
            self._wait(block, in_a_fork.start(["-c", self.python], self.folder, ENVIRONMENT))
            return
        for command in commands(block):
            self._run(command)

    def _run(self, command: Command) -> None:
        words, program = command.words, command.program
        if program in SERVICES:
            self._end_services()
            given = ["-m", f"ctl_lightning.{program}", *fitted(command, self.cache, self.port)]
            self.services.append(in_a_fork.start(given, self.folder, ENVIRONMENT | command.environment))
            until(self._answers, 180)
        elif program:
            given = ["-m", f"ctl_lightning.{program}", *fitted(command, self.cache, self.port)]
            self._wait(command.block, in_a_fork.start(given, self.folder, ENVIRONMENT | command.environment))
        elif words[0] == "python":
            script = str(REPOSITORY / words[1])
            self._wait(
                command.block, in_a_fork.start([script, *words[2:]], self.folder, ENVIRONMENT | command.environment)
            )
        elif words[0] == "curl":
            words = [word.replace(":8000/", f":{self.port}/") for word in words]
            subprocess.run([*words, "--fail", "--silent", "--show-error"], cwd=self.folder, check=True)
        else:
            raise AssertionError(f"{command.block}: {words[0]} is not run by a test; say so above the block")

    def _wait(self, block: Block, process: BaseProcess) -> None:
        process.join()
        assert process.exitcode == 0, f"{block}: {(self.folder / 'said.txt').read_text()[-3000:]}"

    def _answers(self) -> bool:
        assert self.services[-1].exitcode is None, (self.folder / "said.txt").read_text()[-3000:]
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=60).close()
        except urllib.error.HTTPError:
            pass  # an answer too
        except OSError:
            return False
        return True

    def _end_services(self) -> None:
        for process in self.services:
            os.kill(process.pid or 0, signal.SIGTERM)
            process.join(60)
            assert process.exitcode == 0, (self.folder / "said.txt").read_text()[-3000:]
        self.services = []

    def end(self) -> None:
        self._end_services()


@pytest.fixture
def page(place: Path, cache: Path, tmp_path: Path) -> Iterator[Page]:
    shutil.copytree(place, tmp_path / "page", symlinks=True)
    found = Page(tmp_path / "page", cache)
    try:
        yield found
    finally:
        for process in found.services:
            process.kill()


@pytest.mark.parametrize("name", RUN)
def test_the_blocks_of_a_page_run(name: str, page: Page) -> None:
    for block in RUN[name]:
        began = time.perf_counter()
        page.run(block)
        print(f"{block}: {time.perf_counter() - began:.1f} s")
    page.end()
