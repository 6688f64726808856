import errno
import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from factories import save_image

from ctl_lightning.data.pictures.folder import PictureFolder, pictures_in, printable
from ctl_lightning.runtime.files import write_text


@pytest.fixture
def images(tmp_path: Path) -> Path:
    save_image(tmp_path / "images" / "room1.jpg")
    save_image(tmp_path / "images" / "lamps" / "lamp7.png", 1)
    return tmp_path / "images"


def test_links_to_a_folder_that_contains_them_end(images: Path) -> None:
    for place, target in (("self", "."), ("latest", "."), ("lamps/up", ".."), ("top", "/")):
        (images / place).symlink_to(target)
    (images / "a").mkdir()
    (images / "b").mkdir()
    (images / "a" / "b").symlink_to("../b")
    (images / "b" / "a").symlink_to("../a")
    assert PictureFolder(images).named() == {"room1": images / "room1.jpg", "lamp7": images / "lamps" / "lamp7.png"}


def test_a_folder_elsewhere_is_read_once_however_many_links_lead_to_it(images: Path, tmp_path: Path) -> None:
    save_image(tmp_path / "elsewhere" / "sofa.jpg")
    for name in ("one", "two"):
        (images / name).symlink_to(tmp_path / "elsewhere")
    (images / "again").symlink_to("lamps")
    folder = PictureFolder(images)
    assert folder.find("sofa") == [images / "one" / "sofa.jpg"]
    assert folder.find("lamp7") == [images / "lamps" / "lamp7.png"], "by its own name, though `again` comes first"


def test_links_to_one_file_are_one_image_and_two_files_are_two(images: Path) -> None:
    (images / "lamps" / "room1.jpg").symlink_to(images / "room1.jpg")
    os.link(images / "room1.jpg", images / "lamps" / "room1.jpeg")
    assert len(PictureFolder(images).find("room1")) == 1
    save_image(images / "lamps" / "room1.webp", 5)
    assert len(PictureFolder(images).find("room1")) == 2


def test_what_is_no_image_file_is_told_where_an_id_needs_it(images: Path) -> None:
    (images / "gone.jpg").symlink_to("nowhere/gone.jpg")
    (images / "loop.jpg").symlink_to("loop.jpg")
    (images / "dir.jpg").mkdir()
    (images / "drawing.svg").touch()
    os.mkfifo(images / "pipe.jpg")
    folder = PictureFolder(images)
    for name, why in (
        ("gone", "images/gone.jpg is a link to nowhere/gone.jpg, which leads nowhere"),
        ("loop.jpg", "images/loop.jpg is a link to loop.jpg, which leads nowhere"),
        ("dir", "images/dir.jpg is a folder"),
        ("pipe", "images/pipe.jpg is a pipe"),
        ("drawing", "images/drawing.svg is no image file by its ending"),
        ("chair", "missing: there is no chair with the ending of a picture (.jpg, .png, ...) below images/"),
    ):
        assert folder.find(name) == []
        assert why in folder.why_missing(name)
        assert "\n" not in folder.why_missing(name)


@pytest.mark.parametrize("asked", ["ROOM1", "room_1", "room-01", "room1.png", "Room 1.JPG"])
def test_a_name_that_differs_a_little_is_told(images: Path, asked: str) -> None:
    folder = PictureFolder(images)
    assert folder.find(asked) == []
    assert "there is images/room1.jpg" in folder.why_missing(asked)


def test_hidden_files_and_those_of_systems_are_passed_over(images: Path) -> None:
    for name in ("._room1.jpg", ".cache/room1.jpg", "__MACOSX/room1.jpg", "@eaDir/room1.jpg"):
        save_image(images / name, 3)
    (images / ".DS_Store").touch()
    (images / "Thumbs.db").touch()
    assert PictureFolder(images).find("room1") == [images / "room1.jpg"]
    assert pictures_in(images) == [images / "room1.jpg"]


@pytest.mark.parametrize(
    "ending", [".JPG", ".Jpeg", ".JFIF", ".mpo", ".HEIC", ".Avif", ".TIFF", ".tif", ".bmp", ".GIF"]
)
def test_every_ending_in_any_case(images: Path, ending: str) -> None:
    (images / f"chair{ending}").touch()
    assert PictureFolder(images).find("chair") == [images / f"chair{ending}"]
    assert images / f"chair{ending}" in pictures_in(images)


def test_an_id_is_a_whole_file_name_or_the_part_before_the_ending(images: Path) -> None:
    folder = PictureFolder(images)
    assert folder.find("room1.jpg") == folder.find("room1") == [images / "room1.jpg"]
    assert folder.find("room1.jpeg") == []
    save_image(images / "room1.jpg.png", 5)
    save_image(images / "lamp7.png.jpg", 5)
    folder = PictureFolder(images)
    assert folder.find("room1.jpg") == [images / "room1.jpg"], "the whole name wins"
    assert folder.find("room1.jpg.png") == [images / "room1.jpg.png"]
    (images / "room1.jpg").unlink()
    assert PictureFolder(images).find("room1.jpg") == [images / "room1.jpg.png"]


@pytest.mark.parametrize(("file", "asked"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_accents_are_found_in_any_normalisation(images: Path, file: Any, asked: Any) -> None:
    path = images / (unicodedata.normalize(file, "fauteuil crème") + ".jpg")
    path.touch()
    for name in ("fauteuil crème", "fauteuil crème.jpg"):
        assert PictureFolder(images).find(unicodedata.normalize(asked, name)) == [path]


def test_the_same_letters_win_over_the_same_sight(images: Path) -> None:
    for form in ("NFC", "NFD"):
        (images / (unicodedata.normalize(form, "crème") + ".jpg")).touch()
    folder = PictureFolder(images)
    assert {len(folder.find(unicodedata.normalize(form, "crème"))) for form in ("NFC", "NFD")} == {1}


def test_bytes_that_are_no_text_can_be_found_and_printed(images: Path) -> None:
    path = images / os.fsdecode(b"caf\xe9.jpg")
    path.touch()
    folder = PictureFolder(images)
    assert folder.find(path.stem) == [path]
    assert printable(path).encode("utf-8").endswith(rb"caf\udce9.jpg")
    folder.why_missing("caf").encode("utf-8")
    write_text(images / "list.json", json.dumps([str(path)], ensure_ascii=False))
    assert json.loads((images / "list.json").read_text()) == [str(path)]


def test_a_folder_that_cannot_be_read_is_told_and_the_others_are_read(
    images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scandir = os.scandir

    def guarded(path: Any) -> Any:
        if Path(path).name == "lamps":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    folder = PictureFolder(images)
    assert folder.unreadable == [f"{images / 'lamps'}: this folder cannot be read (Permission denied)"]
    assert folder.unreadable[0] in caplog.text
    assert folder.find("room1") == [images / "room1.jpg"]
    assert "1 folders there cannot be read" in folder.why_missing("lamp7")


def test_the_walk_opens_each_folder_once(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        (images / f"{number // 20}" / f"{number}").mkdir(parents=True)
        (images / f"{number // 20}" / f"{number}" / "up").symlink_to(images)
        (images / f"{number // 20}" / f"{number}" / "next").symlink_to(images / f"{(number + 1) % 300 // 20}")
    opened, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: opened.append(path) or scandir(path))  # type: ignore[func-returns-value]
    PictureFolder(images)
    assert len(opened) == len(set(opened)) == 1 + 1 + 15 + 300
