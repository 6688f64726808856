import builtins
import os
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from ctl_lightning.data.images import open_upright, reason, size_upright, to_rgb
from ctl_lightning.data.pictures import opening
from ctl_lightning.data.pictures.opening import MAX_JPEG_PIXELS, MAX_PIXELS

COLOURS = np.random.default_rng(0).integers(40, 216, (3, 2, 3)).astype(np.uint8)
PICTURE = Image.fromarray(np.kron(COLOURS, np.ones((16, 16, 1), np.uint8)))


def saved(kind: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def colours(data: bytes) -> Any:
    """The colours in the middle of the patches of a picture like `PICTURE`."""
    return np.asarray(to_rgb(open_upright(BytesIO(data))))[8::16, 8::16].astype(int)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def heic(**options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = BytesIO()
    pillow_heif.from_pillow(PICTURE).save(file, quality=95, **options)
    return file.getvalue()


def several() -> dict[str, Any]:
    """Options that save a black picture behind the first one."""
    return {"save_all": True, "append_images": [Image.new("RGB", PICTURE.size)]}


@pytest.mark.parametrize(
    ("make", "within"),
    [
        (lambda: saved("JPEG", quality=95, progressive=True), 6),
        (lambda: saved("MPO", quality=95, **several()), 6),
        (lambda: saved("JPEG", PICTURE.convert("CMYK"), quality=95), 6),
        (lambda: saved("PNG", **several()), 0),
        (lambda: saved("PNG", PICTURE.quantize(16)), 2),
        (lambda: saved("GIF", **several()), 2),
        (lambda: saved("WEBP", lossless=True, **several()), 0),
        (lambda: saved("AVIF", quality=95), 6),
        (lambda: saved("BMP"), 0),
        (lambda: saved("TIFF", **several()), 0),
        (lambda: saved("TIFF", PICTURE.convert("CMYK")), 2),
        (heic, 8),
    ],
    ids=["progressive", "MPO", "CMYK", "APNG", "palette", "GIF", "WebP", "AVIF", "BMP", "pages", "CMYK-TIFF", "HEIC"],
)
def test_what_phones_browsers_and_scanners_write_is_read(make: Callable[[], bytes], within: int) -> None:
    assert np.abs(colours(make()) - COLOURS).max() <= within


def test_a_lab_tiff_is_read() -> None:
    lab = ImageCms.profileToProfile(
        PICTURE, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    assert np.abs(colours(saved("TIFF", lab)) - COLOURS).max() <= 4


def test_numbers_that_are_none_are_black_and_infinite_ones_white() -> None:
    values = np.full((4, 4), 0.5, np.float32)
    values[0] = [np.nan, np.inf, -np.inf, 1.0]
    with warnings.catch_warnings(action="error"):
        grey = np.asarray(to_rgb(open_upright(BytesIO(saved("TIFF", Image.fromarray(values))))))[..., 0]
        nothing = saved("TIFF", Image.fromarray(np.full((4, 4), np.nan, np.float32)))
        assert np.asarray(to_rgb(open_upright(BytesIO(nothing)))).max() == 0
    assert grey[0].tolist() == [0, 255, 0, 255]
    assert set(grey[1:].ravel()) == {128}


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
@pytest.mark.parametrize("end", [False, True])
def test_texts_and_profiles_of_any_size_do_not_keep_a_png_from_being_read(kind: bytes, end: bool) -> None:
    whole = saved("PNG")
    at = len(whole) - 12 if end else 33
    content = b"k\0\0" + zlib.compress(b"a" * 20_000_000)
    large = whole[:at] + chunk(kind, content) + whole[at:]
    assert np.abs(colours(large) - COLOURS).max() == 0
    if not end:
        with pytest.raises(OSError, match="truncated"):
            open_upright(BytesIO(large[:-60]))


def jpeg_of(width: int, height: int, **options: Any) -> bytes:
    return saved("JPEG", Image.new("L", (width, height), 90), **options)


def test_a_jpeg_beyond_the_limit_is_decoded_smaller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(opening, "MAX_PIXELS", 600)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    path.write_bytes(saved("JPEG", PICTURE.resize((320, 480), 0), quality=95, exif=exif))
    assert size_upright(path) == (480, 320)
    monkeypatch.setattr(opening, "MAX_PIXELS", 10_000)
    small = open_upright(path)
    assert small.size == (120, 80)
    assert np.abs(np.asarray(small)[20::40, 20::40] - np.rot90(COLOURS, -1).astype(int)).max() <= 6
    with pytest.raises(OSError, match=r"320 x 480 pixels, more than .* magick"):
        open_upright(BytesIO(saved("PNG", PICTURE.resize((320, 480)))))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(OSError, match="truncated"):
        open_upright(path)


def test_the_photos_of_a_108_megapixel_phone(tmp_path: Path) -> None:
    claims = jpeg_of(16, 16).replace(b"\x00\x10\x00\x10\x01\x01\x11", struct.pack(">HH", 9000, 12000) + b"\x01\x01\x11")
    (tmp_path / "a.jpg").write_bytes(claims)
    assert size_upright(tmp_path / "a.jpg") == (12000, 9000)
    claims = claims.replace(
        struct.pack(">HH", 9000, 12000), struct.pack(">HH", 12240, 16320)
    )  # Pillow refuses to open it
    (tmp_path / "a.jpg").write_bytes(claims)
    assert size_upright(tmp_path / "a.jpg") == (16320, 12240)
    assert MAX_PIXELS * 2 < 12240 * 16320
    claims = claims.replace(struct.pack(">HH", 12240, 16320), struct.pack(">HH", 65500, 65500))
    assert MAX_JPEG_PIXELS < 65500**2
    with pytest.raises(OSError, match="65500 x 65500 pixels, more than"):
        open_upright(BytesIO(claims))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "an empty file"),
        (b"\0" * 900, "a file of zeros"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page (HTML); download the picture itself"),
        (b'<?xml version="1.0"?>\n<!-- made by -->\n<svg width="3">', "a drawing (SVG)"),
        (b"<svg>", "a drawing (SVG)"),
        (b"%PDF-1.7", "pdftoppm"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\xff\x0a\xfa", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"II*\0\x10\0\0\0CR\2\0", "a raw photo (Canon)"),
        (b"\0\0\0\x18ftypcrx \0", "a raw photo (Canon)"),
        (b"FUJIFILMCCD-RAW 0201", "a raw photo (Fujifilm)"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "ffmpeg"),
        (b"\0\0\0\x14ftypqt  \0\0\2\0", "ffmpeg"),
        (b"\x1aE\xdf\xa3\1", "ffmpeg"),
        (b"\0\5\x16\7\0\2", "AppleDouble"),
        (b"PK\3\4\x14", "unpack"),
        (b"\xff\xd8\xff\xd9" + b"x" * 99, "a broken JPEG"),
        (saved("TIFF")[:60], "a broken TIFF"),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1", "a broken AVIF"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_says_what_the_file_is(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    for open_it in (open_upright, size_upright):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the message is looked at
            open_it(path)
        words = reason(caught.value)
        assert words.startswith("not an image but "), words
        assert says in words
        assert "\n" not in words
        assert len(words) < 200


def test_a_text_file_is_simply_no_image() -> None:
    with pytest.raises(OSError, match=r"^not an image$"):
        open_upright(BytesIO(b"no picture"))


def test_a_jpeg_of_12_bits_and_a_raw_photo_with_a_preview_are_refused() -> None:
    whole = bytearray(saved("JPEG"))
    whole[whole.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(OSError, match="a JPEG of 12 bits"):
        open_upright(BytesIO(bytes(whole)))
    for tags in ({50706: (1, 4, 0, 0)}, {254: 1, 330: 8}):
        with pytest.raises(OSError, match="not an image but a raw photo"):
            open_upright(BytesIO(saved("TIFF", tiffinfo=tags)))


def test_without_pillow_heif_a_heic_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    imported = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "pillow_heif":
            raise ModuleNotFoundError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(OSError, match=r"pip install 'ctl_lightning\[heic\]'"):
        open_upright(BytesIO(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"))


def test_a_program_that_meets_no_heic_does_not_import_its_reader() -> None:
    source = "from ctl_lightning.data.images import open_upright; import sys; assert 'pillow_heif' not in sys.modules"
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", source) == 0


def test_a_pipe_does_not_make_the_reader_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    for open_it in (open_upright, size_upright):
        with pytest.raises(OSError, match="a pipe"):
            open_it(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(FileNotFoundError, match=r"a link to nowhere\.jpg"):
        open_upright(tmp_path / "b.jpg")
