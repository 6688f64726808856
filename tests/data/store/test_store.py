import errno
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
from factories import save_image
from filelock import FileLock

from ctl_lightning.data.images import Aspect, ImageItem, Interpolation, decode
from ctl_lightning.data.store import packing
from ctl_lightning.data.store.factory import StoreKind, open_store
from ctl_lightning.data.store.packed import ImageStore
from ctl_lightning.runtime.errors import InputError

LITDATA = pytest.param("litdata", marks=pytest.mark.long)  # it starts processes that import torch


def images(folder: Path, count: int) -> list[ImageItem]:
    for number in range(count):
        save_image(folder / f"{number}.jpg", number)
    return [ImageItem(str(number), folder / f"{number}.jpg", None) for number in range(count)]


def opened(items: list[ImageItem], cache: Path, kind: StoreKind = "packed", size: int = 16) -> ImageStore:
    return open_store(items, size, "stretch", "bilinear", cache, kind, 1.0)


def stored(cache: Path) -> dict[str, bytes]:
    """Every file of the cache, but for the locks, which are empty and stay."""
    return {path.name: path.read_bytes() for path in (cache / "stores").iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize(("aspect", "interpolation"), [("stretch", "bilinear"), ("pad", "bicubic")])
@pytest.mark.parametrize("kind", ["packed", "none", LITDATA])
def test_a_store_holds_what_decoding_gives(
    tmp_path: Path, kind: StoreKind, aspect: Aspect, interpolation: Interpolation
) -> None:
    (item, *others) = images(tmp_path, 300)  # more than a block
    items = [item, item._replace(key="part", crop=(0, 0, 1, 0.5)), *others]
    store = open_store(items, 16, aspect, interpolation, tmp_path, kind, 1.0)
    assert store.size == 16
    for item in [items[1], items[-1], items[0], *items]:
        np.testing.assert_array_equal(store[item.key], decode(item, 16, aspect, interpolation))
    assert not np.array_equal(store["0"], store["part"])


@pytest.mark.parametrize("kind", ["packed", "none", LITDATA])
def test_unreadable_images_are_listed_and_the_others_kept(tmp_path: Path, kind: StoreKind) -> None:
    save_image(tmp_path / "good.jpg", 1)
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("<html>")
    (tmp_path / "empty.jpg").touch()
    names = ["missing", "cut", "good", "text", "empty"]
    items = [ImageItem(name, tmp_path / f"{name}.jpg", None) for name in names]
    for _ in range(2):  # made, and found in the cache
        store = opened(items, tmp_path / "cache", kind)
        assert store.bad.keys() == {"missing", "cut", "text", "empty"}
        assert store.bad["missing"] == f"{tmp_path / 'missing.jpg'}: missing"
        assert (
            store.bad["text"]
            == f"{tmp_path / 'text.jpg'}: not an image but a web page (HTML); download the picture itself"
        )
        np.testing.assert_array_equal(store["good"], decode(items[2], 16, "stretch", "bilinear"))


def test_a_store_is_reused_until_something_changes(tmp_path: Path) -> None:
    (item,) = images(tmp_path, 1)

    def stores() -> set[str]:
        return {path.name for path in (tmp_path / "stores").glob("*.npy")}

    opened([item], tmp_path)
    (first,) = stores()
    written = (tmp_path / "stores" / first).stat().st_mtime_ns
    opened([item], tmp_path)
    assert (tmp_path / "stores" / first).stat().st_mtime_ns == written
    opened([item], tmp_path, size=18)
    assert len(stores()) == 2
    open_store([item], 16, "pad", "bilinear", tmp_path, "packed", 1.0)
    assert len(stores()) == 3
    open_store([item], 16, "stretch", "bicubic", tmp_path, "packed", 1.0)
    assert len(stores()) == 4
    opened([item._replace(crop=(0, 0, 1, 0.5))], tmp_path)
    assert len(stores()) == 5
    save_image(item.path, 2)
    changed = opened([item], tmp_path)
    assert len(stores()) == 6
    np.testing.assert_array_equal(changed["0"], decode(item, 16, "stretch", "bilinear"))


def test_data_that_was_moved_keeps_its_store(tmp_path: Path) -> None:
    (item,) = images(tmp_path / "here", 1)
    opened([item], tmp_path)
    (tmp_path / "here").rename(tmp_path / "there")
    opened([item._replace(path=tmp_path / "there" / "0.jpg")], tmp_path)
    assert len(list((tmp_path / "stores").glob("*.npy"))) == 1


@pytest.mark.parametrize(("aspect", "interpolation"), [("pad", "bilinear"), ("stretch", "bicubic")])
def test_a_store_of_the_same_images_resized_in_another_way_is_not_taken(
    tmp_path: Path, aspect: Aspect, interpolation: Interpolation
) -> None:
    items = images(tmp_path, 3)
    opened(items, tmp_path)
    for item in items:
        os.utime(item.path, (1_000_000_000, 1_000_000_000))  # as after a copy: the images are compared
    store = open_store(items, 16, aspect, interpolation, tmp_path, "packed", 1.0)
    for item in items:
        np.testing.assert_array_equal(store[item.key], decode(item, 16, aspect, interpolation))
    assert store.content != opened(items, tmp_path).content
    assert len(list((tmp_path / "stores").glob("*.npy"))) == 3


def test_what_is_cut_or_resized_in_another_way_has_another_name() -> None:
    items = [ImageItem("a", Path("a.jpg"), None), ImageItem("b", Path("b.jpg"), (0.0, 0.0, 1.0, 0.5))]
    plan = packing.Plan(items, 16, "stretch", "bilinear", [(10, 20), None])
    ways = [
        plan._replace(size=size, aspect=aspect, interpolation=interpolation)
        for size, aspect, interpolation in product((16, 18), get_args(Aspect), get_args(Interpolation))
    ]
    assert len({way.fingerprint() for way in ways}) == len({way.content(["x", "y"]) for way in ways}) == 24


def test_a_store_goes_to_a_worker_without_its_pixels(tmp_path: Path) -> None:
    store = opened(images(tmp_path, 1), tmp_path, size=256)
    before = store["0"].copy()
    sent = pickle.dumps(store)
    assert len(sent) < 2000
    np.testing.assert_array_equal(pickle.loads(sent)["0"], before)


PACK = """
import os
import signal
import sys
from pathlib import Path
from ctl_lightning.data.store import packing
from ctl_lightning.data.images import ImageItem
from ctl_lightning.data.store.factory import open_store
packing.BLOCK = 8
folder, cache, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
pwrite, written = os.pwrite, []
def counted(*arguments):
    written.append(arguments)
    if len(written) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return pwrite(*arguments)
os.pwrite = counted
items = [ImageItem(path.stem, path, None) for path in sorted(folder.glob("*.jpg"))]
open_store(items, 64, "stretch", "bilinear", cache, "packed", 1.0)
"""


@pytest.mark.long
def test_a_packing_that_is_killed_again_and_again_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "BLOCK", 8)
    items = sorted(images(tmp_path / "images", 400), key=lambda item: item.path)
    (tmp_path / "images" / "7.jpg").write_text("<html>")
    opened(items, tmp_path / "once", size=64)

    def pack(last: int) -> int:
        command = [sys.executable, "-c", PACK, str(tmp_path / "images"), str(tmp_path / "killed"), str(last)]
        return subprocess.run(command, check=False, capture_output=True).returncode

    moments = random.Random(0)
    done = []
    for _ in range(4):
        assert pack(moments.randrange(20, 90)) == -signal.SIGKILL
        (journal,) = (tmp_path / "killed").glob("stores/*.journal")
        done.append(len(journal.read_text().splitlines()))
    assert pack(0) == 0
    assert done == sorted(done)  # what was done stayed done
    assert 0 < done[-1] < 50
    assert stored(tmp_path / "killed") == stored(tmp_path / "once")
    assert {Path(name).suffix for name in stored(tmp_path / "once")} == {".npy", ".json", ".txt"}


def test_a_packing_goes_on_after_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BLOCK", 4)
    items = images(tmp_path, 12)
    decoded: list[str] = []

    def counted(item: ImageItem, *options: Any) -> Any:
        if len(decoded) == 10:
            raise KeyboardInterrupt
        decoded.append(item.key)
        return decode(item, *options)

    monkeypatch.setattr(packing, "decode", counted)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        opened(items, tmp_path)
    assert not list((tmp_path / "stores").glob("*.npy"))
    (journal,) = (tmp_path / "stores").glob("*.journal")
    with journal.open("a") as cut:
        cut.write("[8, [")  # a line that the killed process had not written whole
    for _ in range(2):  # killed again before it has written another
        decoded[:] = ["x"] * 10
        with pytest.raises(KeyboardInterrupt):
            opened(items, tmp_path)
        with journal.open("a") as cut:
            cut.write("[8, [")
    decoded.clear()
    opened(items, tmp_path)
    assert sorted(map(int, decoded)) == [8, 9, 10, 11]
    assert {path.suffix for path in (tmp_path / "stores").iterdir()} <= {".npy", ".json", ".lock"}


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_too_small_a_disk_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = images(tmp_path, 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1000))
    with pytest.raises(InputError, match=r"needs 0\.00 GB.*are free.*paths\.cache_dir=DIR.*data\.store=none"):
        opened(items, tmp_path)
    assert not list((tmp_path / "stores").glob("*.partial"))
    opened(items, tmp_path, "none")


def test_a_disk_that_fills_up_while_packing_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BLOCK", 4)
    items = images(tmp_path, 12)
    write, written = os.pwrite, []

    def full(*arguments: Any) -> int:
        written.append(arguments)
        if len(written) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InputError, match=r"the disk is full; what is packed is kept"):
        opened(items, tmp_path)
    assert not list((tmp_path / "stores").glob("*.npy"))
    monkeypatch.setattr(os, "pwrite", write)
    store = opened(items, tmp_path)
    for item in items:
        np.testing.assert_array_equal(store[item.key], decode(item, 16, "stretch", "bilinear"))


def test_a_disk_that_takes_only_a_part_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, offset: write(file, content[:500], offset))
    items = images(tmp_path, 2)
    store = opened(items, tmp_path)
    for item in items:
        np.testing.assert_array_equal(store[item.key], decode(item, 16, "stretch", "bilinear"))


@pytest.mark.parametrize("kind", ["packed", "none", LITDATA])
def test_the_content_is_a_hash_of_the_images_and_not_of_times_and_places(tmp_path: Path, kind: StoreKind) -> None:
    items = images(tmp_path / "a", 2)
    first = opened(items, tmp_path / "cache", kind).content
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)  # other times
    there = [item._replace(path=tmp_path / "b" / item.path.name) for item in items]
    assert opened(there, tmp_path / "cache", kind).content == first
    assert opened(there, tmp_path / "other", "packed").content == first
    if kind == "litdata":
        return  # one hash for all kinds, and its chunks take seconds each time
    save_image(there[1].path, 77)
    assert opened(there, tmp_path / "cache", kind).content != first
    assert opened(items, tmp_path / "cache", kind, size=18).content != first
    assert opened([items[0], items[1]._replace(crop=(0, 0, 1, 0.5))], tmp_path / "cache", kind).content != first


def test_the_same_images_under_other_times_are_not_packed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = images(tmp_path, 300)
    (tmp_path / "3.jpg").write_text("<html>")
    first = opened(items, tmp_path)
    for item in items:
        os.utime(item.path, (1, 1))
    monkeypatch.setattr(packing, "decode", lambda *_: pytest.fail("decoded again"))
    second = opened(items, tmp_path)
    monkeypatch.undo()
    assert (second.content, second.bad) == (first.content, first.bad)
    np.testing.assert_array_equal(second["299"], decode(items[299], 16, "stretch", "bilinear"))
    assert len(list((tmp_path / "stores").glob("*.npy"))) == 2
    save_image(items[5].path, 1234)
    third = opened(items, tmp_path)
    assert third.content != first.content
    np.testing.assert_array_equal(third["5"], decode(items[5], 16, "stretch", "bilinear"))


def test_too_many_missing_images_are_told_before_anything_is_packed(tmp_path: Path) -> None:
    items = images(tmp_path, 10)
    items[4].path.unlink()
    open_store(items, 16, "stretch", "bilinear", tmp_path, "packed", 0.1)
    items[5].path.unlink()
    stores = set((tmp_path / "stores").iterdir())
    with pytest.raises(InputError, match=r"2 of 10 images \(20\.00%\) are missing, first .*4\.jpg; fetch them"):
        open_store(items, 16, "stretch", "bilinear", tmp_path, "packed", 0.1)
    assert set((tmp_path / "stores").iterdir()) == stores


def test_two_processes_make_one_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = images(tmp_path, 3)
    opened(items, tmp_path)
    (path,) = (tmp_path / "stores").glob("*.npy")
    content = path.read_bytes()
    path.unlink()
    with FileLock(path.with_suffix(".lock")):
        waiting = threading.Thread(target=opened, args=(items, tmp_path))
        with caplog.at_level("INFO"):
            waiting.start()
            time.sleep(0.3)
        assert not path.exists()
        path.write_bytes(content)  # what the other process makes
        made = path.stat().st_mtime_ns
    waiting.join()
    assert "another process is making" in caplog.text
    assert path.stat().st_mtime_ns == made


def test_a_broken_index_says_what_to_delete(tmp_path: Path) -> None:
    items = images(tmp_path, 1)
    opened(items, tmp_path)
    (index,) = (tmp_path / "stores").glob("*.json")
    index.write_text("{")
    with pytest.raises(InputError, match=r"json: not a readable index.*delete it"):
        opened(items, tmp_path)


def test_a_store_that_was_cut_off_says_what_to_delete(tmp_path: Path) -> None:
    items = images(tmp_path, 3)
    opened(items, tmp_path)
    (path,) = (tmp_path / "stores").glob("*.npy")
    whole = path.read_bytes()
    for broken in (whole[:-200], b"\0" * 64 + whole[64:], b""):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"npy: broken, or not the 3 pictures of its index.*Delete it"):
            opened(items, tmp_path)
    path.unlink()
    np.testing.assert_array_equal(opened(items, tmp_path)["2"], decode(items[2], 16, "stretch", "bilinear"))
    path.with_suffix(".json").unlink()
    np.testing.assert_array_equal(opened(items, tmp_path)["2"], decode(items[2], 16, "stretch", "bilinear"))


def test_an_image_that_breaks_after_it_was_checked_is_named(tmp_path: Path) -> None:
    (item,) = images(tmp_path, 1)
    store = opened([item], tmp_path, "none")
    item.path.write_text("<html>")
    with pytest.raises(InputError, match=r"0\.jpg: not an image but a web page.*; it could be read when the run began"):
        store["0"]


@pytest.mark.long
def test_chunks_lie_where_they_are_told_and_are_written_once(tmp_path: Path) -> None:
    items = images(tmp_path, 3)

    def chunks() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "far" / "away").rglob("*") if path.is_file()}

    where = tmp_path / "far" / "away"
    before = multiprocessing.get_start_method()
    open_store(items, 16, "stretch", "bilinear", tmp_path / "cache", "litdata", 1.0, where)
    seen = chunks()
    assert seen
    store = open_store(items, 16, "stretch", "bilinear", tmp_path / "cache", "litdata", 1.0, where)
    assert chunks() == seen
    assert multiprocessing.get_start_method() == before
    sent = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(sent["1"], decode(items[1], 16, "stretch", "bilinear"))


@pytest.mark.long
def test_chunks_of_a_killed_process_are_written_anew(tmp_path: Path) -> None:
    items = images(tmp_path, 3)
    opened(items, tmp_path / "cache", "litdata")
    (folder,) = (tmp_path / "cache" / "stores").glob("*.chunks")
    (folder / "index.json").unlink()
    (chunk, *_) = folder.glob("*.bin")
    chunk.write_bytes(b"half")
    store = opened(items, tmp_path / "cache", "litdata")
    np.testing.assert_array_equal(store["2"], decode(items[2], 16, "stretch", "bilinear"))


def test_without_litdata_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ctl_lightning.data.store.litdata", raising=False)
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(InputError, match=r"pip install 'ctl_lightning\[litdata\]'.*data\.store=packed"):
        opened(images(tmp_path, 1), tmp_path, "litdata")


def test_a_pipe_named_like_an_image_is_bad_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    store = opened([*images(tmp_path, 2), ImageItem("pipe", tmp_path / "pipe.jpg", None)], tmp_path)
    assert store.bad == {"pipe": f"{tmp_path / 'pipe.jpg'}: a pipe, socket or device, not an image file"}
