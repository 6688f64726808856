"""How a picture file is opened: which formats are read, how many pixels, and what a file is that is not read."""

import os
import re
import stat
import warnings
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeVar

from PIL import Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from ctl_lightning.data.pictures.kinds import HEAD, HEIC_MISSING, RAW_PHOTO, is_heic, refusal
from ctl_lightning.data.pictures.metadata import without_metadata

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Formats that are read. Pillow reads more, some by starting programs; a file from the web must not choose those."""

ENDINGS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
        *(".avif", ".heic", ".heif", ".hif"),
    }
)
"""Endings of picture files, in lower case."""

MAX_PIXELS = 80_000_000
"""Most pixels that are decoded; more are refused before: a file of a few kB can claim to hold gigabytes."""

MAX_JPEG_PIXELS = 250_000_000
"""Most pixels of a JPEG, which can be decoded at a half, quarter or eighth of its size. Phones write 200 million."""

MAX_SCANS = 100
"""Most scans of a JPEG; programs write ten. Each is a pass over the whole picture, and a small file can hold thousands that are empty."""

# The scan's header, which says its own length; two bytes alone would be found in a phone's film behind the picture, too.
SCAN = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")

# TIFF tags: the version of DNG; what the first picture is (1: a preview); where the others are.
DNG_VERSION, KIND_OF_PICTURE, FURTHER_PICTURES = 50706, 254, 330
PREVIEW = 1

MOST_BYTES = 512 * 2**20
"""Size of the largest file that is tried again without its metadata, in bytes."""

Source = Path | BinaryIO
Result = TypeVar("Result")

# Pillow's own limit is a little higher than ours, and its warning would come first. That a picture's metadata are
# broken is nobody's concern.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class _UnclearError(Exception):
    """A decoder does not know the file (no words), or stumbles over it in a way of its own."""


def read(source: Source, use: Callable[[Image.Image], Result]) -> Result:
    """What `use` makes of a picture that is opened and not decoded yet; of its first frame or page if it has several.

    A picture that only its metadata make unreadable is read without them, so `use` may be called twice.

    Raises:
        OSError: missing, no image file, truncated, broken or enormous; the words say what the file is.
    """
    if isinstance(source, Path):
        check_regular(source)
    try:
        return _used(source, use)
    except _UnclearError as error:
        problem = str(error)
    data = _first_bytes(source, HEAD)
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG")) or data[4:8] == b"ftyp":
        data = _first_bytes(source, MOST_BYTES)
        with suppress(_UnclearError):
            return _used(BytesIO(without_metadata(data)), use)
    raise OSError(refusal(data) + problem)


def check_regular(path: Path) -> None:
    """Raises OSError: missing, a link to nothing, a folder, or a pipe, whose opening would wait for ever."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if not path.is_symlink():
            raise
        raise type(error)(error.errno, f"a link to {os.readlink(path)}, which leads nowhere") from None
    if stat.S_ISDIR(mode):
        raise OSError("a folder, not an image file")
    if not stat.S_ISREG(mode):
        raise OSError("a pipe, socket or device, not an image file")


def shrink(image: Image.Image, needed: tuple[int, int] | None = None) -> None:
    """Has an opened JPEG decoded at a half, quarter or eighth of its size if it has more than `MAX_PIXELS`, or than are needed.

    Args:
        image: opened, not decoded yet.
        needed: width and height that it must keep; it may lose more where it has more than `MAX_PIXELS`. None: all of them.
    """
    pixels = image.width * image.height
    scale = next(scale for scale in (1, 2, 4, 8) if pixels <= MAX_PIXELS * scale**2)
    if needed is not None:
        scale = max(scale, min(image.width // needed[0], image.height // needed[1]))
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))


def shrinks(image: Image.Image) -> bool:
    """Whether `shrink` saves an opened picture's memory: a plain JPEG's, as cameras write it; of a progressive one all is held."""
    return isinstance(image, JpegImagePlugin.JpegImageFile) and "progressive" not in image.info


def _used(source: Source, use: Callable[[Image.Image], Result]) -> Result:
    try:
        with _opened(source) as image:
            _check_size(image)
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                _check_not_raw(image)
                # It would turn the picture by its EXIF, which may be broken.
                image.load_end = lambda: None  # type: ignore[method-assign]
            return use(image)
    except UnidentifiedImageError:
        raise _UnclearError from None
    except OSError:
        raise
    except Exception as error:  # a broken file can make a decoder raise anything
        words = " ".join(str(error).split())
        raise _UnclearError(f" ({type(error).__name__}: {words[:100]})") from None


def _opened(source: Source) -> Image.Image:
    try:
        return Image.open(source, formats=FORMATS)
    except Image.DecompressionBombError:  # told by the file's header: nothing is decoded yet
        if not _first_bytes(source, HEAD).startswith(b"\xff\xd8\xff"):
            raise OSError(_too_large("")) from None
        return JpegImagePlugin.JpegImageFile(source)
    except UnidentifiedImageError:
        if not is_heic(_first_bytes(source, HEAD)):
            raise
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise OSError(HEIC_MISSING) from None
    image: Image.Image = HeifImageFile(source)  # type: ignore[no-untyped-call]
    for key in ("exif", "xmp"):  # a HEIC says in another place how it is turned, and is turned already
        image.info.pop(key, None)
    return image


def _first_bytes(source: Source, count: int) -> bytes:
    """The first `count` bytes of a file, which is left at its beginning."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(count)
    source.seek(0)
    data = source.read(count)
    source.seek(0)
    return data


def _check_size(image: Image.Image) -> None:
    most = MAX_JPEG_PIXELS if isinstance(image, JpegImagePlugin.JpegImageFile) else MAX_PIXELS
    if image.width * image.height > most:
        raise OSError(_too_large(f"{image.width} x {image.height} pixels, "))


def check_scans(source: Source) -> None:
    """Raises OSError: a JPEG whose decoding would never end. All of the file is read; it is for photos of strangers."""
    data = _first_bytes(source, MOST_BYTES)
    scans = len(SCAN.findall(data)) if data.startswith(b"\xff\xd8") else 0
    if scans > MAX_SCANS:
        raise OSError(f"a JPEG of {scans} scans, and {MAX_SCANS} are read at most; save it anew: magick FILE FILE.jpg")


def _too_large(size: str) -> str:
    most = f"more than {MAX_PIXELS // 10**6} million pixels ({MAX_JPEG_PIXELS // 10**6} million of a JPEG)"
    return f"{size}{most}; make it smaller: magick FILE -resize 4000x4000 FILE.jpg"


def _check_not_raw(image: TiffImagePlugin.TiffImageFile) -> None:
    """Raises OSError: a raw photo, the first picture in which is a small preview."""
    tags = image.tag_v2
    if DNG_VERSION in tags or (FURTHER_PICTURES in tags and tags.get(KIND_OF_PICTURE) == PREVIEW):
        raise OSError(RAW_PHOTO)
