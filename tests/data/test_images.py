import struct
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from factories import save_image
from PIL import Image
from PIL.Image import Resampling

from ctl_lightning.data.images import (
    Aspect,
    ImageItem,
    Interpolation,
    decode,
    open_upright,
    placed,
    reason,
    size_in_pixels,
    to_rgb,
)
from ctl_lightning.data.pictures.opening import MAX_PIXELS


def test_a_crop_shows_its_part_of_the_image(tmp_path: Path) -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert decode(ImageItem("", tmp_path / "a.png", (0, 0, 1, 0.5)), 8, "stretch", "bilinear").min() == 255
    assert decode(ImageItem("", tmp_path / "a.png", (0, 0.5, 1, 1)), 8, "stretch", "bilinear").max() == 0


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255  # white at the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: white goes to the top
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright = decode(ImageItem("", tmp_path / "a.jpg", None), 20, "stretch", "bilinear")
    assert upright[:9].mean() > 240
    assert upright[11:].mean() < 15


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_any_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (20, 30), (200, 10, 10)).convert(mode).save(path)
    assert decode(ImageItem("", path, None), 8, "stretch", "bilinear").shape == (8, 8, 3)


@pytest.mark.parametrize(("aspect", "rows"), [("stretch", (0, 16)), ("pad", (4, 12)), ("crop", (0, 16))])
def test_a_wide_picture_becomes_a_square(tmp_path: Path, aspect: Aspect, rows: tuple[int, int]) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = (0, 0, 200)  # the central square
    Image.fromarray(pixels).save(tmp_path / "a.png")
    square = decode(ImageItem("", tmp_path / "a.png", None), 16, aspect, "bilinear")
    assert square.shape == (16, 16, 3)
    np.testing.assert_array_equal(np.flatnonzero((square[:, 8] != 255).any(1)), np.arange(*rows))
    blue = (square[8] == (0, 0, 200)).all(1).mean()
    assert blue == pytest.approx(1.0 if aspect == "crop" else 0.5, abs=0.13)


FILTERS: dict[Interpolation, Resampling] = {
    "nearest": Resampling.NEAREST,
    "bilinear": Resampling.BILINEAR,
    "bicubic": Resampling.BICUBIC,
    "lanczos": Resampling.LANCZOS,
}


@pytest.mark.parametrize("size", [(200, 100), (60, 90), (12, 10)], ids=["wide", "tall", "enlarged"])
@pytest.mark.parametrize("aspect", ["stretch", "pad", "crop"])
def test_a_picture_is_resized_by_the_chosen_filter_of_pillow(
    tmp_path: Path, size: tuple[int, int], aspect: Aspect
) -> None:
    save_image(tmp_path / "a.png", 0, size)
    image, side, (width, height) = Image.open(tmp_path / "a.png"), 20, size
    squares = []
    for interpolation, resampling in FILTERS.items():
        if aspect == "stretch":
            expected = image.resize((side, side), resampling)
        elif aspect == "crop":
            short = min(size)
            left, top = (width - short) / 2, (height - short) / 2
            expected = image.resize((side, side), resampling, box=(left, top, left + short, top + short))
        else:
            inner = (round(side * width / max(size)), round(side * height / max(size)))
            expected = Image.new("RGB", (side, side), "white")
            expected.paste(
                image.resize(inner, resampling), (round((side - inner[0]) / 2), round((side - inner[1]) / 2))
            )
        squares.append(decode(ImageItem("", tmp_path / "a.png", None), side, aspect, interpolation))
        apart = np.abs(squares[-1].astype(int) - np.asarray(expected))
        by_pillow = aspect == "crop" or interpolation in ("nearest", "lanczos")
        assert apart.max() <= (0 if by_pillow else 1)  # torch's filters have coarser weights
        assert (apart > 0).mean() < 0.02
    assert len({square.tobytes() for square in squares}) == len(FILTERS)


def test_how_large_the_part_of_a_picture_is_before_it_is_resized(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", 0, (40, 60))
    assert size_in_pixels(ImageItem("", tmp_path / "a.png", None)) == (40, 60)
    assert size_in_pixels(ImageItem("", tmp_path / "a.png", (0.25, 0, 1, 0.5))) == (30, 30)


def test_where_a_picture_lies_in_its_square_by_hand() -> None:
    assert placed(2.0, "stretch") == (0, 0, 1, 1)
    assert placed(2.0, "pad") == (0, 0.25, 1, 0.75)
    assert placed(0.5, "pad") == (0.25, 0, 0.75, 1)
    assert placed(2.0, "crop") == (-0.5, 0, 1.5, 1)
    assert placed(0.5, "crop") == (0, -0.5, 1, 1.5)


def claims_to_be_enormous(side: int) -> bytes:
    """A PNG of a hundred bytes that says it has side x side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])  # above our limit, Pillow's warning, Pillow's error
def test_an_image_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    bomb = claims_to_be_enormous(side)
    assert len(bomb) < 200
    with pytest.raises(OSError, match="pixels"):
        open_upright(BytesIO(bomb))
    assert side**2 > MAX_PIXELS


def test_formats_that_start_other_programs_are_no_images() -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(OSError, match="not an image but a PostScript"):
        open_upright(BytesIO(eps))


def test_a_zero_byte_file_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the message is looked at
        decode(ImageItem("", tmp_path / "a.jpg", None), 8, "stretch", "bilinear")
    assert reason(caught.value) == "not an image but an empty file"


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tiff", "bmp"])
def test_whatever_is_wrong_with_a_file_is_an_oserror(tmp_path: Path, suffix: str) -> None:
    save_image(tmp_path / f"a.{suffix}", 1)
    whole = (tmp_path / f"a.{suffix}").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        broken = np.frombuffer(whole, np.uint8).copy()
        broken[random.integers(len(broken), size=20)] = random.integers(256, size=20)
        with suppress(OSError):
            open_upright(BytesIO(broken[: random.integers(1, len(broken) + 1)].tobytes())).convert("RGB")


def test_pixels_of_16_and_32_bits_become_8_and_what_is_transparent_white() -> None:
    grey = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
    for deep in (
        grey.astype(np.uint16) * 257,
        grey.astype(np.int32) * 257,
        grey.astype(np.int32),
        grey / np.float32(255),
        grey.astype(np.float32),
    ):
        found = np.asarray(to_rgb(Image.fromarray(deep)))
        assert np.abs(found[..., 0].astype(int) - grey).max() <= 1
        assert found.shape == (8, 8, 3)
    clear = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    clear.putpixel((0, 0), (0, 0, 0, 0))
    for picture in (clear, clear.convert("LA"), clear.quantize()):
        assert np.asarray(to_rgb(picture))[0, 0].tolist() == [255, 255, 255]
