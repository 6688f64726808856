"""How an image file becomes a square of pixels: turned upright, cropped, resized."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from ctl_lightning.data.crop import to_pixels
from ctl_lightning.data.pairs import Box

Pixels = NDArray[np.uint8]

Aspect = Literal["stretch", "pad", "crop"]
"""How a picture becomes a square: "stretch": stretched; "pad": whole, on white; "crop": its central square."""

MAX_PIXELS = 80_000_000
"""Most pixels of a picture; more are refused before decoding: a file of a few kB can claim to hold gigabytes."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are read. Pillow reads more, some by starting programs; a file from the web must not choose those."""

WHITE = (255, 255, 255)

# Pillow's own limit is a little higher than ours, and its warning would come first.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageItem(NamedTuple):
    """One picture to decode: its key, its image file, and the part of it to keep (None: all of it)."""

    key: str
    path: Path
    crop: Box | None


def open_upright(source: Path | BinaryIO) -> Image.Image:
    """Decodes a picture and turns it as EXIF says. Raises OSError: missing, truncated, undecodable or enormous."""
    with _opened(source) as image:
        if image.width * image.height > MAX_PIXELS:
            raise OSError(f"{image.width} x {image.height} pixels: more than {MAX_PIXELS // 10**6} million")
        return ImageOps.exif_transpose(image)


def size_upright(path: Path) -> tuple[int, int]:
    """Width and height of a picture as EXIF turns it, without decoding it. Raises OSError: missing or not an image."""
    with _opened(path) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.size[::-1] if turned else image.size


@contextmanager
def _opened(source: Path | BinaryIO) -> Iterator[Image.Image]:
    try:
        with Image.open(source, formats=FORMATS) as image:
            yield image
    except OSError:
        raise
    except Exception as error:  # a broken file can make a decoder raise anything
        raise OSError(f"{type(error).__name__}: {error}") from None


def reason(error: OSError) -> str:
    """Why a picture cannot be read, in a few words, without the memory address that Pillow may name."""
    words = str(error)
    return "not an image" if words.startswith("cannot identify image file") else error.strerror or words


def decode(item: ImageItem, size: int, aspect: Aspect) -> Pixels:
    """Opens, crops and resizes one picture to uint8 (size, size, 3), RGB.

    Raises:
        OSError: missing, truncated, undecodable or enormous file.
    """
    return to_square(open_upright(item.path), item.crop, size, aspect)


def to_square(image: Image.Image, crop: Box | None, size: int, aspect: Aspect) -> Pixels:
    """Crops and resizes an upright picture to uint8 (size, size, 3), RGB.

    Args:
        image: picture of any Pillow mode.
        crop: part of the picture to keep, normalised to [0, 1]; None: all of it.
        size: side of the square, in pixels.
        aspect: how the picture becomes a square.
    """
    image = to_rgb(image)
    if crop is not None:
        image = image.crop(to_pixels(crop, image.width, image.height))
    if aspect == "stretch":
        image = image.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    elif aspect == "pad":
        thinnest = math.ceil(max(image.size) / size)  # a side that would come out thinner than a pixel becomes one
        if min(image.size) < thinnest:
            image = image.resize((max(image.width, thinnest), max(image.height, thinnest)))
        image = ImageOps.pad(image, (size, size), Image.Resampling.BILINEAR, color=WHITE)
    else:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as 8-bit RGB; transparent parts become white, like the background of catalogue photos."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        # A mode of 32 bits does not say what white is.
        white = (
            2**16 - 1
            if image.mode.startswith("I;16")
            else next(
                (top for top in (1, 2**8 - 1, 2**16 - 1) if values.max() <= top and (top > 1 or image.mode == "F")),
                values.max(),
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
