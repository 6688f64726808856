"""What is compared of a picture: 32 x 32 pixels of its content, 32 x 32 of all but its frame, and the proportions."""

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
"""A row or column is plain if hardly a pixel is further than this from its mean colour, of 255 levels."""

ODD = 0.02
"""Share of the pixels of a plain row that may be further from its colour: noise of the encoder."""

ASIDE = 40
"""This part of a row at each of its ends does not tell whether it is plain: what is left of a border at the other sides."""

VIEWS = 2
"""Thumbnails of each picture: its content without all that is plain around it; and all but a frame, as what is plain may be unclear."""

FRAME = 0.08
"""Widest frame of one colour on each side, as a share of the picture."""


FLAT = 4.0
"""Standard deviation, in levels of grey, below which a thumbnail shows nothing that could be recognised."""

BLOCK = 1024
"""Number of pictures whose thumbnails are kept together: the most that is lost when the work is stopped."""

BOX, BILINEAR = Image.Resampling.BOX, Image.Resampling.BILINEAR

Thumbs = NDArray[np.uint8]


class Thumbnails(NamedTuple):
    """Thumbnails of N pictures, each of its content, and of all but its frame.

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
                made = list(pool.map(_thumbnails_of, own))
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


def _thumbnails_of(path: Path) -> tuple[Thumbs, list[float]]:
    try:
        pixels, proportions = views_of(open_upright(path), SIDE)
    except OSError:
        return np.zeros((VIEWS, SIDE, SIDE, 3), np.uint8), [0.0] * VIEWS
    flat = pixels.mean(axis=3).std(axis=(1, 2)) < FLAT
    return pixels, [0.0 if empty else proportion for proportion, empty in zip(proportions, flat, strict=True)]


def views_of(image: Image.Image, side: int) -> tuple[Thumbs, list[float]]:
    """Both views of an upright picture as squares, (VIEWS, side, side, 3) uint8, and width / height of what each shows."""
    image = to_rgb(image)
    width, height = image.size
    scale = min(1.0, SEEN / max(image.size))
    seen = image
    if scale < 1:
        seen = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), BOX, reducing_gap=2.0)
    across, down = width / seen.width, height / seen.height
    boxes = [
        (left * across, top * down, min(width, right * across), min(height, bottom * down))
        for left, top, right, bottom in (content(np.asarray(seen)), within_frame(np.asarray(seen)))
    ]
    squares = [image.resize((side, side), BILINEAR, box=box, reducing_gap=2.0) for box in boxes]
    proportions = [(right - left) / (bottom - top) for left, top, right, bottom in boxes]
    return np.stack([np.asarray(square) for square in squares]), proportions


def content(pixels: Thumbs) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a picture (H, W, 3) without the plain rows and columns at its edges; all, if little is left.

    A row is plain if it has one colour; the next one may have another, as in a sky, so that a copy with a border gives the same.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = 0, 0, width, height
    while True:
        inner = pixels[top:bottom, left:right].astype(np.float32)
        above, below, before, after = (*_plain(inner), *_plain(inner.swapaxes(0, 1)))
        left, top, right, bottom = left + before, top + above, right - after, bottom - below
        if bottom - top < SIDE // 4 or right - left < SIDE // 4:
            return 0, 0, width, height
        if not above + below + before + after:  # rows may be plain once the columns of a border are gone
            return left, top, right, bottom


def within_frame(pixels: Thumbs) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a picture (H, W, 3) without a frame of one colour at each side, if it has one."""
    height, width = pixels.shape[:2]
    lines = pixels.astype(np.float32)
    across = lines.swapaxes(0, 1)
    left, top, right, bottom = (_frame(part) for part in (across, lines, across[::-1], lines[::-1]))
    return left, top, width - right, height - bottom


def _frame(lines: NDArray[np.float32]) -> int:
    """Number of rows of one colour at the beginning of a picture (H, W, 3), with the one in which they end; at most FRAME."""
    some = lines[: max(1, round(FRAME * len(lines)))]
    other = (np.abs(some - some[0].mean(axis=0)) > BORDER).any(axis=2).mean(axis=1) > ODD
    depth = int(other.argmax()) if other.any() else len(some)
    return depth + (depth > 0)


def _plain(lines: NDArray[np.float32]) -> tuple[int, int]:
    """Number of plain rows at the beginning and at the end of a picture (H, W, 3), each with the one in which a border ends."""
    aside = lines.shape[1] // ASIDE
    lines = lines[:, aside : lines.shape[1] - aside]
    off = (np.abs(lines - lines.mean(axis=1, keepdims=True)) > BORDER).any(axis=2)
    shown = np.flatnonzero(off.mean(axis=1) > ODD)
    if not len(shown):
        return len(lines), 0
    begin, end = int(shown[0]), len(lines) - 1 - int(shown[-1])
    return begin + (begin > 0), end + (end > 0)
