"""What a picture file says about its pixels: how they are to be turned, and in which colours they are meant."""

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

# A printer's profile has megabytes; Pillow takes one of them for an attack.
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, 16 * 2**20)

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright."""

SIDES_CHANGE = frozenset(TURNS[orientation] for orientation in (5, 6, 7, 8))
"""The turns that exchange width and height."""

SAME = 2
"""Levels of 255 by which a profile may differ from sRGB to count as sRGB: two makers' sRGB differ by one."""


def turn(image: Image.Image) -> Image.Transpose | None:
    """What makes a picture upright; None: it is upright, or its EXIF says nothing that can be understood."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever EXIF holds, it never decides whether a picture is read
        return None


def turned(image: Image.Image, by: Image.Transpose | None) -> Image.Image:
    """The picture upright, and without the EXIF that would turn it again."""
    if by is None:
        return image
    upright = image.transpose(by)
    for key in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
        upright.info.pop(key, None)
    return upright


def as_srgb(image: Image.Image) -> Image.Image:
    """The picture in the colours of sRGB, if a profile says that it is in others. A broken profile counts as none."""
    if image.mode == "LAB":
        return _transformed(image, _from_lab())
    mode = image.mode
    if mode == "P" or "transparency" in image.info:
        mode = "RGBA" if image.has_transparency_data else "RGB"
    transform = _to_srgb(_profile(image), mode)
    return image if transform is None else _transformed(image.convert(mode), transform)


def is_srgb(image: Image.Image) -> bool:
    """Whether a JPEG, which may not be decoded yet, is in the colours of sRGB, so that `as_srgb` leaves it as it is."""
    return _to_srgb(_profile(image), image.mode) is None


def _profile(image: Image.Image) -> bytes:
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) else b""


def _transformed(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # as it is not asked to change the picture in place
    return converted


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@cache
def _from_lab() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), _srgb(), "LAB", "RGB")


# lcms2's transforms may be used by several threads at once: each call works on a copy of the transform's cache.
@lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile to sRGB; None: it is sRGB, missing, broken, or not one for pictures of `mode`."""
    if not profile or mode not in ("RGB", "RGBA", "L", "CMYK"):
        return None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(BytesIO(profile)),
            _srgb(),
            mode,
            "RGBA" if mode == "RGBA" else "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except Exception:  # what is wrong with a profile is told in many ways
        return None
    if mode == "CMYK":
        return transform
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    probe = Image.fromarray(colours).convert(mode)
    shown = np.asarray(_transformed(probe, transform).convert("RGB")).astype(int)
    return None if np.abs(shown - np.asarray(probe.convert("RGB"))).max() <= SAME else transform


def without_metadata(data: bytes) -> bytes:
    """A JPEG, PNG, AVIF or HEIC file with its pixels alone; any other file as it is."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data[:8] + b"".join(_png_chunks(data))
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_pixels(data)
    # A reader passes over an item whose type it does not know; the file's offsets stay as they are.
    return (
        re.sub(rb"(infe\x02\0\0.{5})(?:Exif|mime)", rb"\1none", data, flags=re.DOTALL) if data[4:8] == b"ftyp" else data
    )


def _png_chunks(data: bytes) -> Iterator[bytes]:
    at = 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            yield data[at:end]
        at = end


def _jpeg_pixels(data: bytes) -> bytes:
    """A JPEG without its segments APP1 to APP13, APP15 and comments: what is left says how its samples are coded."""
    kept, at = [data[:2]], 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data) and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if not (0xE1 <= data[at + 1] <= 0xED or data[at + 1] in (0xEF, 0xFE)):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])
