"""What is compared of a picture: 32 x 32 pixels of it without its uniform borders, and with them, and the proportions."""

import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctl_lightning.data.images import open_upright, to_rgb
from ctl_lightning.data.store.packing import version_of
from ctl_lightning.runtime.files import replacing
from ctl_lightning.runtime.progress import progress

log = logging.getLogger(__name__)

SIDE = 32
"""Side of a thumbnail, in pixels."""

SEEN = 192
"""Longest side, in pixels, to which a picture is brought before its borders are looked for."""

BORDER = 14
"""A row or column is a border if hardly a pixel is further than this from the edge's median colour, of 255 levels."""

ODD = 0.02
"""Share of the pixels of a border that may be further from its colour: noise of the encoder."""

ROUNDS = 6
"""Most borders within each other that are looked for."""

VIEWS = 2
"""Thumbnails of each picture: without borders, as one copy may have some, and whole, as a crop may cut into them."""

FLAT = 4.0
"""Standard deviation, in levels of grey, below which a thumbnail shows nothing that could be recognised."""

BLOCK = 1024
"""Number of pictures whose thumbnails are kept together: the most that is lost when the work is stopped."""

Thumbs = NDArray[np.uint8]


class Thumbnails(NamedTuple):
    """Thumbnails of N pictures, each without borders and whole.

    Attributes:
        pixels: (N, VIEWS, SIDE, SIDE, 3) uint8, RGB; zeros where there is none.
        proportion: width / height of what each shows, (N, VIEWS) float32; 0: unreadable, or nothing to be recognised.
    """

    pixels: Thumbs
    proportion: NDArray[np.float32]


def thumbnails(paths: Sequence[Path], folder: Path) -> Thumbnails:
    """Makes the thumbnails of picture files on all cores. What cannot be read has none; the image store tells why.

    Args:
        paths: picture files.
        folder: folder in which finished blocks are kept, so that after a stop the work goes on from there; `forget` it
            when the thumbnails are not needed any more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(paths), BLOCK)
    blocks: list[Thumbnails] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress("looking for twins", len(paths)) as shown:
        for start in starts:
            own, kept = paths[start : start + BLOCK], folder / f"{start}.npz"
            found = _kept(kept, len(own))
            if found is None:
                made = list(pool.map(_views_of, own))
                found = Thumbnails(np.stack([one for one, _ in made]), np.array([one for _, one in made], np.float32))
                with replacing(kept) as temporary:
                    np.savez(temporary, **found._asdict())
            blocks.append(found)
            shown.advance(len(own))
    return Thumbnails(
        np.concatenate([block.pixels for block in blocks]), np.concatenate([block.proportion for block in blocks])
    )


def forget(folder: Path) -> None:
    """Deletes what `thumbnails` kept."""
    shutil.rmtree(folder, ignore_errors=True)


def fingerprint(keys: Sequence[str], paths: Sequence[Path]) -> str:
    """A hash of what is known of the pictures without reading them: keys, and sizes and times of their files."""
    digest = hashlib.sha256()
    for key, path in zip(keys, paths, strict=True):
        digest.update(repr((key, version_of(path))).encode())
    return digest.hexdigest()[:20]


def _kept(path: Path, count: int) -> Thumbnails | None:
    """A finished block of `count` pictures; None: there is none that can be read."""
    try:
        with np.load(path) as file:
            found = Thumbnails(file["pixels"], file["proportion"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    whole = found.pixels.shape == (count, VIEWS, SIDE, SIDE, 3) and found.proportion.shape == (count, VIEWS)
    return found if whole else None


def _views_of(path: Path) -> tuple[Thumbs, list[float]]:
    try:
        return thumbnail(open_upright(path))
    except OSError:
        return np.zeros((VIEWS, SIDE, SIDE, 3), np.uint8), [0.0] * VIEWS


def thumbnail(image: Image.Image) -> tuple[Thumbs, list[float]]:
    """Both thumbnails of an upright picture, (VIEWS, SIDE, SIDE, 3) uint8, and width / height of what each shows.

    The proportion is 0 where a thumbnail is too flat for anything to be recognised in it.
    """
    image = to_rgb(image)
    if max(image.size) > SEEN:
        scale = SEEN / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    views = [image.crop(content(np.asarray(image))), image]
    small = [np.asarray(view.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for view in views]
    flat = [pixels.mean(axis=2).std() < FLAT for pixels in small]
    shown = [0.0 if empty else view.width / view.height for view, empty in zip(views, flat, strict=True)]
    return np.stack(small), shown


def content(pixels: Thumbs) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a picture (H, W, 3) without its uniform borders; all of it if hardly anything is left."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = 0, 0, width, height
    # A border may have another one within: a photo on white that was framed in black, and the grey line between them.
    for _ in range(ROUNDS):
        inner = pixels[top:bottom, left:right].astype(np.int16)
        across = inner.swapaxes(0, 1)
        cut = [_depth(lines) for lines in (across, inner, across[::-1], inner[::-1])]
        left, top, right, bottom = left + cut[0], top + cut[1], right - cut[2], bottom - cut[3]
        if bottom - top < SIDE // 4 or right - left < SIDE // 4:
            return 0, 0, width, height
        if not any(cut):
            break
    return left, top, right, bottom


def _depth(lines: NDArray[np.int16]) -> int:
    """Number of lines at the beginning of a picture (H, W, 3) that are of the first one's colour."""
    off = (np.abs(lines - np.median(lines[0], axis=0).astype(np.int16)) > BORDER).any(axis=2)
    shown = off.mean(axis=1) > ODD
    return int(shown.argmax()) if shown.any() else len(lines)
