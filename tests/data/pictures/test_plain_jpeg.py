from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctl_lightning.data import images
from ctl_lightning.data.images import ImageItem, decode, open_upright, to_rgb, to_square
from ctl_lightning.data.pairs import Box
from ctl_lightning.data.pictures.opening import read
from ctl_lightning.data.pictures.plain_jpeg import decode_plain


def smooth(width: int, height: int) -> Image.Image:
    """A picture with edges and slopes, as photos have them."""
    small = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "JPEG", **options: Any) -> BytesIO:
    file = BytesIO()
    image.save(file, kind, **options)
    return file


PLAIN: dict[str, dict[str, Any]] = {
    "usual": {},
    "progressive": {"progressive": True},
    "full colours": {"subsampling": 0, "quality": 95},
    "half colours": {"subsampling": 1},
    "restarts": {"restart_marker_blocks": 3},
    "rgb": {"keep_rgb": True},
    "optimised": {"optimize": True, "quality": 20},
}


@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(61, 43), (64, 48), (1, 1)])
def test_a_plain_jpeg_has_the_pixels_that_pillow_gives(
    size: tuple[int, int], mode: str, options: dict[str, Any]
) -> None:
    file = saved(smooth(*size).convert(mode), **options)
    pixels = read(file, decode_plain)
    assert pixels is not None
    np.testing.assert_array_equal(pixels, np.asarray(to_rgb(Image.open(file))))


def test_what_is_more_than_a_plain_jpeg_is_left_to_pillow() -> None:
    image, exif = smooth(61, 43), Image.Exif()
    exif[0x0112] = 6
    others = [saved(image, kind) for kind in ("PNG", "WEBP", "GIF", "TIFF")]
    others += [
        saved(image.convert("CMYK")),
        saved(image, exif=exif),
        saved(image, "MPO", save_all=True, append_images=[image]),
    ]
    whole = saved(image).getvalue()
    others += [BytesIO(whole[:-count]) for count in (2, 40, 400)]
    assert [read(file, decode_plain) for file in others] == [None] * len(others)


def test_a_truncated_jpeg_is_refused_by_name_and_junk_behind_one_is_passed_over(tmp_path: Path) -> None:
    whole, path = saved(smooth(200, 300)).getvalue(), tmp_path / "a.jpg"
    for count in (2, 40, 400):
        path.write_bytes(whole[:-count])
        with pytest.raises(OSError, match="truncated"):
            decode(ImageItem("", path, None), 64, "stretch", "bilinear")
    expected = to_square(open_upright(BytesIO(whole)), None, 64, "stretch", "bilinear")
    path.write_bytes(whole + b"the video of a live photo" * 99)
    np.testing.assert_array_equal(decode(ImageItem("", path, None), 64, "stretch", "bilinear"), expected)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("crop", "scale"),
    [(None, 8), ((0.0, 0.0, 0.5, 0.6), 4), ((0.0, 0.3, 1.0, 0.4), 1)],
    ids=["whole", "a part", "a narrow part"],
)
def test_a_large_jpeg_is_decoded_no_larger_than_what_is_shown_of_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crop: Box | None, scale: int, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path, size, decoded = tmp_path / "a.jpg", 64, []
    path.write_bytes(saved(smooth(1600, 1200), exif=exif, quality=95).getvalue())
    exact = to_square(open_upright(path), crop, size, "stretch", "bilinear")
    square_of = images._square

    def noted(pixels: images.Pixels, *how: Any) -> images.Pixels:
        decoded.append(pixels.shape)
        return square_of(pixels, *how)

    monkeypatch.setattr(images, "_square", noted)
    square = decode(ImageItem("", path, crop), size, "stretch", "bilinear")
    sides = 1200 // scale, 1600 // scale
    assert decoded == [(*(sides if orientation == 1 else sides[::-1]), 3)]
    assert np.abs(square.astype(int) - exact).max() <= 4
