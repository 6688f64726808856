import struct
import zlib
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from ctl_lightning.data.images import open_upright, size_upright, to_rgb, upright
from ctl_lightning.data.pictures import metadata

SIZE = (40, 60)
PICTURE = Image.fromarray(np.full((SIZE[1], SIZE[0], 3), (200, 40, 90), np.uint8))

UPRIGHT, TURNED = SIZE, SIZE[::-1]


def saved(kind: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def block(*entries: tuple[int, int, int, bytes], behind: bytes = b"") -> bytes:
    """An EXIF block of entries (tag, type, count, four bytes), followed by more bytes at offset 10 + 12 n + 4."""
    written = b"".join(struct.pack(">HHI4s", *entry) for entry in entries)
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + written + b"\0\0\0\0" + behind


SIX = (0x0112, 3, 1, b"\0\6\0\0")
BROKEN = {
    "garbage": (b"garbage, not EXIF", UPRIGHT),
    "nothing": (b"", UPRIGHT),
    "text": (block((0x0112, 2, 2, b"6\0\0\0")), UPRIGHT),
    "nine": (block((0x0112, 3, 1, b"\0\x09\0\0")), UPRIGHT),
    "offset beyond the file": (block((0x0112, 5, 1, b"\x7f\xff\xff\xff")), UPRIGHT),
    "directory beyond the file": (block(SIX, (0x8769, 4, 1, b"\x7f\xff\xff\xff")), TURNED),
    "rational": (
        block(
            SIX,
            (0x8769, 4, 1, b"\0\0\0\x26"),
            behind=block((0x9204, 10, 1, b"\0\0\0\x38"))[8:] + struct.pack(">ii", -1, 0),
        ),
        TURNED,
    ),
    "in order": (block(SIX), TURNED),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", BROKEN)
def test_exif_never_decides_whether_a_picture_is_read(kind: str, name: str, tmp_path: Path) -> None:
    exif, size = BROKEN[name]
    path = tmp_path / "a"
    path.write_bytes(saved(kind, exif=b"Exif\0\0" + exif))
    image = open_upright(path)
    assert image.size == size_upright(path) == size
    assert upright(image).size == size, "turned once"
    assert np.abs(np.asarray(to_rgb(image))[30, 30].astype(int) - (200, 40, 90)).max() < 6


@pytest.mark.parametrize("name", BROKEN)
def test_exif_of_a_picture_that_is_open_already(name: str) -> None:
    exif, size = BROKEN[name]
    with Image.open(BytesIO(saved("JPEG", exif=b"Exif\0\0" + exif))) as image:
        assert upright(image).size == size
        assert image.size == SIZE


def test_a_tiff_whose_directories_lead_nowhere_is_read_and_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = saved("TIFF", exif=exif)
    assert open_upright(BytesIO(whole)).size == TURNED
    (at,) = struct.unpack("<I", whole[4:8])
    (count,) = struct.unpack("<H", whole[at : at + 2])
    entries = whole[at + 2 : at + 2 + 12 * count] + struct.pack("<HHII", 0x8769, 4, 1, 0x7FFFFFFF)
    broken = whole[:4] + struct.pack("<I", len(whole)) + whole[8:] + struct.pack("<H", count + 1) + entries + b"\0" * 4
    assert open_upright(BytesIO(broken)).size == TURNED


def test_an_avif_that_pillow_refuses_for_its_exif_is_read() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 200
    block_of_avif = exif.tobytes()[6:]
    whole = saved("AVIF", exif=exif.tobytes())
    assert block_of_avif in whole
    for name, (other, _) in BROKEN.items():
        broken = whole.replace(block_of_avif, other.ljust(len(block_of_avif), b"\0"))
        assert open_upright(BytesIO(broken)).size == SIZE, name


def test_an_orientation_that_only_xmp_tells() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    image = open_upright(BytesIO(saved("JPEG", xmp=xmp)))
    assert image.size == upright(image).size == TURNED


def test_a_heic_is_turned_by_its_own_rules_whatever_its_exif_says() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    for name, (exif, size) in BROKEN.items():
        if exif.startswith(b"MM"):
            file = BytesIO()
            pillow_heif.from_pillow(PICTURE).save(
                file, exif=b"Exif\0\0" + exif
            )  # which notes a turn by its own rules too
            assert open_upright(file).size == size, name
    exif = BROKEN["nine"][0]
    file = BytesIO()
    pillow_heif.from_pillow(PICTURE).save(file, exif=b"Exif\0\0" + exif)
    said_by_exif_alone = file.getvalue().replace(exif, block(SIX))
    assert said_by_exif_alone != file.getvalue()
    assert open_upright(BytesIO(said_by_exif_alone)).size == SIZE


def profile(space: bytes, **tags: bytes) -> bytes:
    """An ICC profile of version 2 with the given tags."""
    table, content = b"", b""
    start = 132 + 12 * (len(tags) + 1)
    for name, tag in (tags | {"wtpt": xyz(0.9642, 1.0, 0.8249)}).items():
        table += name.encode() + struct.pack(">II", start + len(content), len(tag))
        content += tag + b"\0" * (-len(tag) % 4)
    size = start + len(content)
    connection, kind = (b"Lab ", b"prtr") if space == b"CMYK" else (b"XYZ ", b"mntr")
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, kind, space, connection) + b"\0" * 12 + b"acsp"
    white = struct.pack(">iii", *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)))
    return header.ljust(68, b"\0") + white + b"\0" * 48 + struct.pack(">I", len(tags) + 1) + table + content


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(value * 65536) for value in values))


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


@cache
def of_monitor(name: str) -> bytes:
    """Profiles with the primaries of Display P3 and Adobe RGB (adapted to D50), and the curve of a power."""
    red, green, blue = {
        "P3": ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)),
        "Adobe RGB": ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)),
    }[name]
    curves = {f"{channel}TRC": gamma(2.2) for channel in "rgb"}
    return profile(b"RGB ", rXYZ=xyz(*red), gXYZ=xyz(*green), bXYZ=xyz(*blue), **curves)


@cache
def of_printer() -> bytes:
    """A profile of CMYK in which cyan ink is green: a table with two steps a channel."""
    ink = {0: (255, 128, 128), 1: (180, 60, 160)}  # L a b as bytes: paper, and any cyan
    cells = bytes(value for cell in range(16) for value in (ink[cell >> 3] if cell & 7 == 0 else (0, 128, 128)))
    identity = b"".join(struct.pack(">i", 65536 * (place % 4 == 0)) for place in range(9))
    steps = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + steps * 4 + cells + steps * 3
    return profile(b"CMYK", A2B0=table)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize(("name", "expected"), [("P3", (218, 0, 90)), ("Adobe RGB", (234, 37, 91))])
def test_colours_of_a_wide_profile_become_those_of_srgb(kind: str, name: str, expected: tuple[int, ...]) -> None:
    shown = to_rgb(open_upright(BytesIO(saved(kind, icc_profile=of_monitor(name)))))
    assert np.abs(np.asarray(shown)[30, 20].astype(int) - expected).max() <= 6
    assert np.asarray(upright(shown))[30, 20].tolist() == np.asarray(shown)[30, 20].tolist(), "converted once"


def test_transparent_and_palette_pictures_keep_what_is_transparent() -> None:
    clear = PICTURE.convert("RGBA")
    clear.putpixel((0, 0), (200, 40, 90, 0))
    for image in (clear, clear.quantize(4)):
        shown = np.asarray(to_rgb(open_upright(BytesIO(saved("PNG", image, icc_profile=of_monitor("P3"))))))
        assert shown[0, 0].tolist() == [255, 255, 255]
        assert shown[30, 20, 1] < 10


def test_inks_are_shown_as_their_profile_says() -> None:
    inks = Image.new("CMYK", SIZE, (255, 0, 0, 0))
    for kind in ("JPEG", "TIFF"):
        cyan = np.asarray(to_rgb(open_upright(BytesIO(saved(kind, inks)))))[30, 20].tolist()
        green = np.asarray(to_rgb(open_upright(BytesIO(saved(kind, inks, icc_profile=of_printer())))))[30, 20].tolist()
        assert cyan[2] > 200
        assert green[1] > 150 > green[2], green


@pytest.mark.parametrize("broken", [b"x" * 500, b"\0" * 128, of_monitor("P3")[:200], of_printer()])
def test_a_profile_that_is_broken_or_for_other_pictures_counts_as_none(broken: bytes) -> None:
    shown = np.asarray(open_upright(BytesIO(saved("PNG", icc_profile=broken))))
    np.testing.assert_array_equal(shown, np.asarray(PICTURE))


def test_srgb_costs_nothing_and_changes_no_level(monkeypatch: pytest.MonkeyPatch) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    open_upright(BytesIO(saved("PNG", icc_profile=srgb)))  # looked at once
    monkeypatch.setattr(metadata, "_transformed", lambda *_: pytest.fail("converted"))
    np.testing.assert_array_equal(
        np.asarray(open_upright(BytesIO(saved("PNG", icc_profile=srgb)))), np.asarray(PICTURE)
    )


def test_a_png_without_its_metadata_is_the_same_picture() -> None:
    text = zlib.compress(b"a" * 99)
    whole = saved("PNG", PICTURE.quantize(4), exif=b"Exif\0\0" + block(SIX), icc_profile=text)
    bare = metadata.without_metadata(whole)
    assert len(bare) < len(whole)
    np.testing.assert_array_equal(np.asarray(open_upright(BytesIO(bare)).convert("RGB")), np.asarray(PICTURE))
    jpeg = saved(
        "JPEG", PICTURE.convert("CMYK"), exif=b"Exif\0\0" + block(SIX), icc_profile=of_printer(), comment="x" * 99
    )
    bare = metadata.without_metadata(jpeg)
    assert len(bare) < len(jpeg) - 1000
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(bare))), np.asarray(Image.open(BytesIO(jpeg))))
    assert metadata.without_metadata(b"anything else") == b"anything else"
