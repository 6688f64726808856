"""The program `prepare`, from a user's command to what lies on the disk."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from factories import save_image
from omegaconf import DictConfig
from photo_server import Faults, PhotoServer
from PIL import Image

from ctl_lightning.data.fetching import http as fetching
from ctl_lightning.prepare import main, prepare
from ctl_lightning.runtime.config import config_dir
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.train import train

Prepared = Callable[..., DictConfig]

SMALL = ("data.stored_size=36", "data.image_size=32", "data.batch_size=4", "download.requests_per_second=null")


@pytest.fixture
def composed(tmp_path: Path) -> Prepared:
    def compose(*overrides: str) -> DictConfig:
        paths = [f"paths.run_dir={tmp_path / 'run'}", f"paths.cache_dir={tmp_path / 'cache'}"]
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            return hydra.compose("prepare", [*paths, *SMALL, *overrides])

    return compose


@pytest.fixture
def host(looks: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PhotoServer]:
    """Serves the looks of the other tests as if they were Shop-the-Look."""
    monkeypatch.setattr(fetching, "BACKOFF", 0.01)
    with PhotoServer(looks / "images").running() as server:
        yield server


def published(host: PhotoServer, root: Path, pairs: int = 120, products: int = 12) -> list[str]:
    return [
        "data=stl_fashion",
        f"data.root={root}",
        f"data.source.metadata_url={host.url}/metadata",
        f"data.source.images_url={host.url}/400x",
        f"data.source.published={{pairs: {pairs}, products: {products}, scenes: 77}}",
    ]


def test_from_nothing_to_training(
    composed: Prepared,
    host: PhotoServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    without_pictures: None,
) -> None:
    overrides = published(host, tmp_path / "data")
    prepare(composed(*overrides))
    printed = capsys.readouterr().out
    assert "72 fetched" in printed
    assert "0 retries, 0 dead" in printed
    for name in ("split.json", "triplets.jsonl", "summary.json", "crops.png"):
        assert (tmp_path / "run" / name).exists(), name
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["here"] == {
        "pairs": 120,
        "scenes": 60,
        "scene crops": 120,
        "products": 12,
        "products in pairs": 9,
        "categories": 2,
    }
    assert "open question" in printed
    assert sum(summary["splits"].values()) == summary["used"]["pairs"] == 120
    with Image.open(tmp_path / "run" / "crops.png") as sheet:
        assert sheet.width > 500

    asked = host.asked.total()
    prepare(composed(*overrides))
    assert host.asked.total() == asked
    assert "0 fetched, 72 were there" in capsys.readouterr().out

    run = [f"paths.run_dir={tmp_path / 'train'}", f"paths.cache_dir={tmp_path / 'cache'}"]
    stores = set((tmp_path / "cache" / "stores").iterdir())
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        overrides = [
            "protocol=stl_fashion",
            f"data.root={tmp_path / 'data'}",
            *SMALL[:3],
            "backbone=small",
            "backbone.grid=4",
        ]
        train(hydra.compose("train", [*run, *overrides, "trainer.max_epochs=1", "trainer=cpu", "callbacks=quiet"]))
    assert set((tmp_path / "cache" / "stores").iterdir()) == stores  # training found what was prepared
    for name in ("split.json", "triplets.jsonl"):
        assert (tmp_path / "train" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_pairs_of_dead_images_are_dropped_and_counted(
    composed: Prepared, host: PhotoServer, looks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = json.loads((looks / "fashion.json").read_text().splitlines()[0])["scene"]
    host.always = {scene: 404}
    prepare(composed(*published(host, tmp_path / "data"), "data.max_bad_images=0.05"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["dead_images"] == 1
    assert summary["dropped"] == {"unreadable image": 2}
    assert summary["used"]["pairs"] == 118
    assert "1 dead" in capsys.readouterr().out
    assert json.loads((tmp_path / "data" / "dead_images.jsonl").read_text())["id"] == scene


def test_fewer_pairs_than_published_are_refused(composed: Prepared, host: PhotoServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="120 pairs in the files that were fetched, 72,198 are published"):
        prepare(composed(*published(host, tmp_path / "data", pairs=72198)))
    with pytest.raises(InputError, match="12 products in the files that were fetched, 38,111 are published"):
        prepare(composed(*published(host, tmp_path / "data", products=38111)))
    prepare(composed(*published(host, tmp_path / "data", products=9)))  # the catalogue has 12, the pairs name 9


def test_a_part_of_the_data_that_the_user_brought_is_taken_as_it_is(
    composed: Prepared, looks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(composed("data=stl_fashion", f"data.root={looks}", "download.offline=true"))
    assert "not the whole published data" in capsys.readouterr().out


def test_a_folder_is_checked_whole_before_anything_is_packed(
    composed: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = own_folder(tmp_path / "own")
    with (root / "pairs.jsonl").open("a") as pairs:
        pairs.write('{\n{"scene": "room1", "product": "../../x", "bbox": [0, 0, 1, 1]}\n')
    with pytest.raises(InputError, match=r"2 problems in .*problems\.txt"):
        prepare(composed("data=folder", f"data.root={root}"))
    listed = (tmp_path / "run" / "problems.txt").read_text().splitlines()
    assert [line.split(":")[1] for line in listed] == ["61", "62"]
    printed = capsys.readouterr().out
    assert all(line in printed for line in listed)
    assert not (tmp_path / "cache").exists()


def own_folder(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    catalogue = {f"lamp{n}": "Lamps" for n in range(4)}
    pairs = [{"scene": f"room{n}", "product": f"lamp{n % 3}", "bbox": [0.1, 0.6, 0.4, 0.9]} for n in range(60)]
    (root / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (root / "categories.json").write_text(json.dumps(catalogue))
    for seed, name in enumerate([*catalogue, *(f"room{n}" for n in range(60))]):
        save_image(root / "images" / f"{name}.jpg", seed)
    return root


@pytest.mark.parametrize("what", ["folder", "synthetic", "street2shop"])
def test_every_source_is_prepared(composed: Prepared, tmp_path: Path, what: str) -> None:
    root, more = tmp_path / "own", []
    if what == "folder":
        own_folder(root)
    elif what == "street2shop":
        street2shop_folder(root)
    else:
        more = ["data.source.scenes=150", "data.source.variants=1"]
    prepare(composed(f"data={what}", f"data.root={root}", "download.offline=true", *more))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["used"]["pairs"] > 50
    assert summary["published"] == {}


def street2shop_folder(root: Path) -> None:
    (root / "meta").mkdir(parents=True)
    box = {"left": 4, "top": 40, "width": 12, "height": 12}
    pairs: list[dict[str, Any]] = [{"photo": n, "product": n % 3, "bbox": box} for n in range(60)]
    (root / "meta" / "train_pairs_hats.json").write_text(json.dumps(pairs))
    shop = [{"photo": 100 + n, "product": n} for n in range(4)]
    (root / "meta" / "retrieval_hats.json").write_text(json.dumps(shop))
    for n in (*range(60), *range(100, 104)):
        save_image(root / "images" / f"{n}.jpg", n)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data=stl_fashoin"], r"no data=stl_fashoin; did you mean 'stl_fashion'"),
        (["data=folder"], r"data\.root has no value; give one with data\.root=VALUE"),
        (["data=folder", "data.root=nowhere"], r"pairs\.jsonl is not there"),
        (["data=stl_fashion", "download.conections=3"], r"no option 'download\.conections'; did you mean"),
        (["data=stl_fashion", "download.connections=0"], r"download: connections must be at least 1"),
        (
            ["data=stl_fashion", "data.root=nowhere", "download.offline=true"],
            r"fashion-cat\.json is not there.*data\.root=DIR",
        ),
        (["data=synthetic", "paths.cache_dir=file"], r"file.*choose another place with .*paths\.cache_dir=DIR"),
    ],
)
def test_a_mistake_is_one_line_and_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], overrides: list[str], says: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the program sets it for itself
    monkeypatch.setattr(sys, "argv", ["prepare", *overrides])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1, said
    assert said.startswith("prepare: ")
    assert re.search(says, said), said


@pytest.mark.long
def test_an_interrupted_download_goes_on_with_the_same_command(host: PhotoServer, tmp_path: Path) -> None:
    host.faults = Faults(slow=1.0)
    command = [sys.executable, "-m", "ctl_lightning.prepare", *published(host, tmp_path / "data"), *SMALL]
    command += [f"paths.cache_dir={tmp_path / 'cache'}", f"hydra.run.dir={tmp_path / 'run'}", "download.connections=4"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Shells give their background jobs an ignored SIGINT, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while sum(1 for _ in (tmp_path / "data").rglob("*.jpg")) < 5:
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert (
        said.strip().splitlines()[-1]
        == "prepare: interrupted; run the same command again: what is fetched, packed, computed or finished is kept"
    )
    assert "Traceback" not in said
    there = sum(1 for _ in (tmp_path / "data").rglob("*.jpg"))
    host.faults = Faults()
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"{72 - there} fetched" in again.stdout
    assert f"{there} were there" in again.stdout
