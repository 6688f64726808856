"""How an image file becomes a square of pixels: turned upright, cropped, resized."""

import math
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

from ctl_lightning.data.crop import to_pixels
from ctl_lightning.data.pairs import Box
from ctl_lightning.data.pictures.metadata import SIDES_CHANGE, as_srgb, turn, turned
from ctl_lightning.data.pictures.opening import read, shrink
from ctl_lightning.data.pictures.plain_jpeg import decode_plain

Pixels = NDArray[np.uint8]

Aspect = Literal["stretch", "pad", "crop"]
"""How a picture becomes a square: "stretch": stretched; "pad": whole, on white; "crop": its central square."""

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
"""Filter that resizes a picture, antialiased but for "nearest": as Pillow has them, and so torchvision's and timm's transforms."""

UNNAMED: Interpolation = "bilinear"
"""The filter that is meant where none is named: catalogues from before there was a choice name none, and still count."""

WHITE = (255, 255, 255)

GAP = 2
"""How many times the pixels of the square a JPEG keeps, on each side of what is shown of it, if it is decoded at reduced size."""


class ImageItem(NamedTuple):
    """One picture to decode: its key, its image file, and the part of it to keep (None: all of it)."""

    key: str
    path: Path
    crop: Box | None


def open_upright(source: Path | BinaryIO) -> Image.Image:
    """Decodes a picture, turned as EXIF says, in the colours of sRGB; a JPEG of more than 80 million pixels at reduced size.

    Raises:
        OSError: missing, no image file, truncated, undecodable or enormous.
    """
    return read(source, _decoded)


def _decoded(image: Image.Image) -> Image.Image:
    by = turn(image)
    shrink(image)
    image.load()
    return as_srgb(turned(image, by))


def upright(image: Image.Image) -> Image.Image:
    """A picture that is open already, as `open_upright` would give it. Raises OSError: it cannot be decoded."""
    try:
        image.load()
    except OSError:
        raise
    except Exception as error:  # a broken file can make a decoder raise anything
        raise OSError(f"{type(error).__name__}: {error}") from None
    return as_srgb(turned(image, turn(image)))


def size_upright(path: Path) -> tuple[int, int]:
    """Width and height of a picture as EXIF turns it, without decoding it. Raises OSError: as `open_upright`."""
    return read(path, lambda image: image.size[::-1] if turn(image) in SIDES_CHANGE else image.size)


def size_if_readable(path: Path) -> tuple[int, int] | None:
    """The same; None: the picture is missing or unreadable."""
    try:
        return size_upright(path)
    except OSError:
        return None


def size_in_pixels(item: ImageItem) -> tuple[int, int]:
    """Width and height of an item's part of its picture, before it is resized. Raises OSError: as `open_upright`."""
    width, height = size_upright(item.path)
    left, top, right, bottom = (0, 0, width, height) if item.crop is None else to_pixels(item.crop, width, height)
    return right - left, bottom - top


def reason(error: OSError) -> str:
    """Why a picture cannot be read, in a few words."""
    return error.strerror or str(error)


def decode(item: ImageItem, size: int, aspect: Aspect, interpolation: Interpolation) -> Pixels:
    """Opens, crops and resizes one picture to uint8 (size, size, 3), RGB.

    Raises:
        OSError: missing, truncated, undecodable or enormous file.
    """
    return _square(whole(item, size), item.crop, size, aspect, interpolation)


def whole(item: ImageItem, size: int) -> Pixels:
    """Opens the picture of an item, all of it; see `whole_of`."""
    return whole_of(item.path, item.crop, size)


def whole_of(source: Path | BinaryIO, crop: Box | None, size: int) -> Pixels:
    """Opens a picture, all of it, upright, in the colours of sRGB, uint8 (H, W, 3).

    As `open_upright` does, but that a JPEG is decoded at a half, quarter or eighth of its size where enough is left of
    `crop` (None: of all of it) for a square of `size` pixels.

    Raises:
        OSError: as `open_upright`.
    """

    def decoded(image: Image.Image) -> Pixels:
        shrink(image, _needed(image, crop, size))
        pixels = decode_plain(image)
        return np.array(to_rgb(_decoded(image))) if pixels is None else pixels

    return read(source, decoded)


def _needed(image: Image.Image, crop: Box | None, size: int) -> tuple[int, int]:
    """Width and height that an opened picture must keep if GAP times `size` pixels are to be left of both sides of its crop."""
    turns = turn(image) in SIDES_CHANGE
    width, height = image.size[::-1] if turns else image.size
    left, top, right, bottom = (0, 0, width, height) if crop is None else to_pixels(crop, width, height)
    needed = math.ceil(GAP * size * width / (right - left)), math.ceil(GAP * size * height / (bottom - top))
    return needed[::-1] if turns else needed


def to_square(image: Image.Image, crop: Box | None, size: int, aspect: Aspect, interpolation: Interpolation) -> Pixels:
    """Crops and resizes an upright picture to uint8 (size, size, 3), RGB.

    Args:
        image: picture of any Pillow mode.
        crop: part of the picture to keep, normalised to [0, 1]; None: all of it.
        size: side of the square, in pixels.
        aspect: how the picture becomes a square.
        interpolation: filter that resizes it.
    """
    return _square(np.array(to_rgb(image)), crop, size, aspect, interpolation)


def _square(pixels: Pixels, crop: Box | None, size: int, aspect: Aspect, interpolation: Interpolation) -> Pixels:
    if crop is not None:
        left, top, right, bottom = to_pixels(crop, pixels.shape[1], pixels.shape[0])
        pixels = pixels[top:bottom, left:right]
    if aspect == "stretch":
        return _resized(pixels, size, size, interpolation)
    if aspect == "crop":  # Pillow's: the central square may begin at half a pixel
        return np.asarray(ImageOps.fit(Image.fromarray(pixels), (size, size), _of_pillow(interpolation)))
    height, width = (max(1, round(side / max(pixels.shape) * size)) for side in pixels.shape[:2])
    top, left = round((size - height) / 2), round((size - width) / 2)
    square = np.full((size, size, 3), WHITE, np.uint8)
    square[top : top + height, left : left + width] = _resized(pixels, width, height, interpolation)
    return square


def _resized(pixels: Pixels, width: int, height: int, interpolation: Interpolation) -> Pixels:
    """Resizes (H, W, 3) to (height, width, 3): by torch, several times faster than Pillow, where torch has the filter."""
    if interpolation in ("bilinear", "bicubic"):
        picture = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
        resized = interpolate(picture, (height, width), mode=interpolation, antialias=True)
        return resized[0].permute(1, 2, 0).numpy()
    return np.asarray(Image.fromarray(pixels).resize((width, height), _of_pillow(interpolation)))


def _of_pillow(interpolation: Interpolation) -> Image.Resampling:
    return Image.Resampling[interpolation.upper()]


STEP = 32
"""Sides of pictures that are not square are multiples of it, in pixels, as most networks ask for."""


def at_own_proportions(image: Image.Image, crop: Box | None, short_side: int, interpolation: Interpolation) -> Pixels:
    """Crops an upright picture and resizes the part as if the whole picture's shorter side became `short_side` pixels.

    Args:
        image: picture of any Pillow mode.
        crop: part of the picture to keep, normalised to [0, 1]; None: all of it.
        short_side: length of the shorter side of the whole picture after resizing, in pixels.
        interpolation: filter that resizes it.

    Returns:
        uint8 (H, W, 3), RGB; sides are rounded to multiples of STEP, at least one, at most eight times `short_side`.
    """
    image = to_rgb(image)
    scale = short_side / min(image.size)
    if crop is not None:
        image = image.crop(to_pixels(crop, image.width, image.height))
    width, height = (STEP * max(1, min(round(side * scale / STEP), 8 * short_side // STEP)) for side in image.size)
    return _resized(np.array(image), width, height, interpolation)


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as 8-bit RGB; transparent parts become white, like the background of catalogue photos."""
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.array(image, np.float64), copy=False, nan=0, posinf=np.inf, neginf=0)
        largest = values.max(where=np.isfinite(values), initial=0)
        # A mode of 32 bits does not say what white is.
        white = (
            2**16 - 1
            if image.mode.startswith("I;16")
            else next(
                (top for top in (1, 2**8 - 1, 2**16 - 1) if largest <= top and (top > 1 or image.mode == "F")),
                largest,
            )
        )
        image = Image.fromarray((values.clip(0, white) * (255 / white)).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return image.convert("RGB")


def placed(width_over_height: float, aspect: Aspect) -> Box:
    """Where the whole picture lies in its square: (0, 0, 1, 1) if stretched, inside it if padded, beyond if cropped."""
    width = height = 1.0
    if aspect == "pad":
        width, height = min(1.0, width_over_height), min(1.0, 1 / width_over_height)
    elif aspect == "crop":
        width, height = max(1.0, width_over_height), max(1.0, 1 / width_over_height)
    return (1 - width) / 2, (1 - height) / 2, (1 + width) / 2, (1 + height) / 2
