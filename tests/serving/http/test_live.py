"""A catalogue is exchanged while it serves: no error, no mixture of two, and a broken one changes nothing."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from factories import make_catalogue, until
from starlette.testclient import TestClient

from ctl_lightning.serving.http import live as live_module
from ctl_lightning.serving.http.app import create_app
from ctl_lightning.serving.http.limits import Limits
from ctl_lightning.serving.http.live import Live, open_live
from ctl_lightning.serving.http.service import Service


@pytest.fixture
def folder(served: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(served[1], tmp_path / "catalogue"))


@pytest.fixture
def live(served: tuple[Path, Path], folder: Path) -> Iterator[Live]:
    where = {"dir": str(folder), "url": None}
    options = {"ckpt_path": str(served[0]), "catalogue": where, "device": "cpu", "popularity": 0.0, "engine": "torch"}
    found = open_live(options)
    yield found
    found.close()


def change(served: tuple[Path, Path], folder: Path, count: int, tmp_path: Path, looks: Path) -> None:
    """Has the catalogue hold `count` products of each category."""
    every: dict[str, str] = json.loads((looks / "fashion-cat.json").read_text())
    kept = [product for name in set(every.values()) for product in [one for one in every if every[one] == name][:count]]
    (tmp_path / "products.json").write_text(json.dumps({product: every[product] for product in kept}))
    words = [f"products={tmp_path / 'products.json'}", f"images={looks / 'images'}"]
    make_catalogue(served[0], folder, *words, f"hydra.run.dir={tmp_path / 'hydra'}")


def test_another_catalogue_is_taken_over_and_the_old_one_serves_who_has_it(
    live: Live, served: tuple[Path, Path], folder: Path, tmp_path: Path, looks: Path
) -> None:
    told: list[bool] = []
    live.exchanged = told.append
    live.exchange_if_changed()
    assert told == []
    with live.leased() as old:
        change(served, folder, 4, tmp_path, looks)
        live.exchange_if_changed()
        assert told == [True]
        assert set(old.catalogue.counts.values()) == {6}
        product = next(iter(json.loads((looks / "fashion-cat.json").read_text())))
        assert old.catalogue.find([product])
        with live.leased() as new:
            assert set(new.catalogue.counts.values()) == {4}
            assert new.encoder is old.encoder
    with pytest.raises(Exception, match="closed"):
        old.catalogue.find([product])


def test_a_broken_catalogue_is_told_once_and_the_old_one_goes_on(
    live: Live, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[bool] = []
    live.exchanged = told.append
    manifest = (folder / "catalogue.json").read_text()
    (folder / "catalogue.json").write_text("{")
    for _ in range(5):
        live.exchange_if_changed()
    assert told == [False]
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("the catalogue has changed and cannot be opened; the old one goes on: catalogue=")
    with live.leased() as recommender:
        assert set(recommender.catalogue.counts.values()) == {6}
    (folder / "catalogue.json").unlink()
    live.exchange_if_changed()
    (folder / "catalogue.json").write_text(manifest)
    live.exchange_if_changed()
    assert told == [False, True]


def test_one_that_could_not_be_opened_for_a_time_is_tried_again(live: Live, folder: Path) -> None:
    told: list[bool] = []
    live.exchanged = told.append
    vectors = next(folder.glob("vectors-*.npy"))
    vectors.rename(folder / "away")
    (folder / "catalogue.json").touch()
    live.exchange_if_changed()
    assert told == [False]
    (folder / "away").rename(vectors)
    for _ in range(live_module.TRY_AGAIN + 1):
        live.exchange_if_changed()
    assert told == [False, True]


def put(made: Path, folder: Path) -> None:
    """Has a folder hold the catalogue of another, as `catalogue` does it: new files, and catalogue.json last."""
    for file in made.iterdir():
        if file.is_file() and file.name != "catalogue.json":
            shutil.copy(file, folder)
    shutil.copy(made / "catalogue.json", folder / "new.json")
    (folder / "new.json").replace(folder / "catalogue.json")


def test_under_load_every_answer_is_of_one_catalogue(
    live: Live,
    served: tuple[Path, Path],
    folder: Path,
    photos: list[Path],
    tmp_path: Path,
    looks: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_module, "LOOK_EVERY", 0.02)
    made = {}
    for count in (3, 6, 2, 5):  # before: while a network is made, torch patches the modules of all threads
        made[count] = Path(shutil.copytree(folder, tmp_path / str(count)))
        change(served, made[count], count, tmp_path, looks)
    service = Service(live, Limits())
    seen: list[Any] = []
    done = False

    def visit(number: int) -> None:
        while not done:
            photo = photos[number % len(photos)].read_bytes()
            answer = client.post("/v1/looks", files={"photo": photo}, data={"k": "100"})
            assert answer.status_code == 200, answer.text
            seen.append(tuple(len(one["products"]) for one in answer.json()["categories"]))

    with TestClient(create_app(service)) as client, ThreadPoolExecutor(8) as pool:
        visitors = [pool.submit(visit, number) for number in range(8)]
        try:
            for count in made:
                put(made[count], folder)
                until(lambda count=count: seen and seen[-1] == (count, count))  # type: ignore[misc]
        finally:
            done = True
        for visitor in visitors:
            visitor.result()
    assert set(seen) <= {(count, count) for count in range(7)}
    assert {(3, 3), (6, 6), (2, 2), (5, 5)} <= set(seen)
