import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import save_image
from PIL import Image

from ctl_lightning.data.images import ImageItem, decode, open_store


def test_the_store_holds_what_decoding_gives(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg", 1)
    items = [ImageItem("whole", tmp_path / "a.jpg", None), ImageItem("part", tmp_path / "a.jpg", (0, 0, 1, 0.5))]
    store = open_store(items, 16, tmp_path)
    for item in items:
        np.testing.assert_array_equal(store[item.key], decode(item, 16))
    assert not np.array_equal(store["whole"], store["part"])


def test_a_crop_shows_its_part_of_the_image(tmp_path: Path) -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert decode(ImageItem("", tmp_path / "a.png", (0, 0, 1, 0.5)), 8).min() == 255
    assert decode(ImageItem("", tmp_path / "a.png", (0, 0.5, 1, 1)), 8).max() == 0


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255  # white at the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: white goes to the top
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright = decode(ImageItem("", tmp_path / "a.jpg", None), 20)
    assert upright[:9].mean() > 240
    assert upright[11:].mean() < 15


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_any_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (20, 30), (200, 10, 10)).convert(mode).save(path)
    assert decode(ImageItem("", path, None), 8).shape == (8, 8, 3)


def test_unreadable_images_are_listed_and_the_others_kept(tmp_path: Path) -> None:
    save_image(tmp_path / "good.jpg", 1)
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("<html>")
    names = ["missing", "cut", "good", "text"]
    store = open_store([ImageItem(name, tmp_path / f"{name}.jpg", None) for name in names], 16, tmp_path)
    assert store.bad.keys() == {"missing", "cut", "text"}
    assert "missing.jpg: missing" in store.bad["missing"]
    np.testing.assert_array_equal(store["good"], decode(ImageItem("", tmp_path / "good.jpg", None), 16))


def test_a_store_is_reused_until_something_changes(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg", 1)
    items = [ImageItem("a", tmp_path / "a.jpg", None)]

    def stores() -> set[str]:
        return {path.name for path in (tmp_path / "stores").glob("*.npy")}

    open_store(items, 16, tmp_path)
    (first,) = stores()
    written = (tmp_path / "stores" / first).stat().st_mtime_ns
    open_store(items, 16, tmp_path)
    assert (tmp_path / "stores" / first).stat().st_mtime_ns == written
    open_store(items, 18, tmp_path)
    assert len(stores()) == 2
    save_image(tmp_path / "a.jpg", 2)
    changed = open_store(items, 16, tmp_path)
    assert len(stores()) == 3
    np.testing.assert_array_equal(changed["a"], decode(items[0], 16))


def test_a_store_goes_to_a_worker_without_its_pixels(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg", 1)
    store = open_store([ImageItem("a", tmp_path / "a.jpg", None)], 256, tmp_path)
    before = store["a"].copy()
    sent = pickle.dumps(store)
    assert len(sent) < 2000
    np.testing.assert_array_equal(pickle.loads(sent)["a"], before)


def test_an_interrupted_packing_leaves_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_image(tmp_path / "a.jpg", 1)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ctl_lightning.data.images.decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_store([ImageItem("a", tmp_path / "a.jpg", None)], 16, tmp_path)
    assert not list((tmp_path / "stores").iterdir())
