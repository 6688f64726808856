"""A sheet of photos in rows and columns, each with a title and a frame, as PNG.

All photos are put on one canvas: axes of their own for each, laid out by matplotlib, take several times as long.
"""

from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from ctl_lightning.runtime.plotting import DPI, Pixels, save_figure

GAP, TITLE, HEADING = 10, 38, 24
"""Between photos, for the title above each, which may have three lines, and for the heading of the sheet, in pixels."""

THIN, THICK = 1, 3
"""Width of a frame, in pixels."""


class PhotoSheet:
    """A sheet that is filled photo by photo, and then written.

    Args:
        rows: number of rows.
        columns: number of columns.
        side: longest side of a photo on the sheet, in pixels.
        heading: one line above all photos.
    """

    def __init__(self, rows: int, columns: int, side: int, heading: str = "") -> None:
        self._side, self._top = side, HEADING if heading else 0
        width = columns * (side + GAP) + GAP
        height = self._top + rows * (side + TITLE + GAP)
        self._canvas = np.full((height, width, 3), 255, np.uint8)
        self._figure = Figure(figsize=(width / DPI, height / DPI))
        self._axes = self._figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self._axes.set_axis_off()
        if heading:
            self._axes.text(width / 2, HEADING - 4, heading, fontsize=8, ha="center", va="bottom")

    def photo(
        self, row: int, column: int, picture: Pixels, title: str = "", frame: str | None = None, span: int = 1
    ) -> None:
        """Puts a photo into a cell, in its own proportions, in the middle.

        Args:
            row: row of the cell, from 0.
            column: column of the cell, from 0.
            picture: the photo, (H, W, 3).
            title: text above it.
            frame: matplotlib's name of the frame's colour; None: no frame.
            span: number of rows and of columns that it takes.
        """
        left, top, width, height = self._cell(row, column, span)
        scale = min(width / picture.shape[1], height / picture.shape[0])
        size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
        shown = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
        x, y = left + (width - size[0]) // 2, top + (height - size[1]) // 2
        if frame is not None:
            line = THIN if frame[0].isdigit() else THICK  # grey is for what does not matter
            colour = [round(255 * part) for part in to_rgb(frame)]
            self._canvas[y - line : y + size[1] + line, x - line : x + size[0] + line] = colour
        self._canvas[y : y + size[1], x : x + size[0]] = shown
        if title:
            self._axes.text(left + width / 2, y - 5, title, fontsize=7, ha="center", va="bottom", linespacing=1.1)

    def words(self, row: int, column: int, text: str, title: str = "") -> None:
        """Writes into a cell why there is no photo."""
        left, top, width, height = self._cell(row, column, 1)
        self._axes.text(left + width / 2, top + height / 2, fill(text, 20), fontsize=6, ha="center", va="center")
        if title:
            self._axes.text(left + width / 2, top - 5, title, fontsize=7, ha="center", va="bottom")

    def write(self, path: Path) -> None:
        """Writes the sheet, whole or not at all."""
        self._figure.figimage(self._canvas, zorder=-1)  # below the texts
        save_figure(self._figure, path)

    def _cell(self, row: int, column: int, span: int) -> tuple[int, int, int, int]:
        """(left, top, width, height) of the photo's part of a cell, in pixels."""
        more = span - 1
        left = GAP + column * (self._side + GAP)
        top = self._top + TITLE + row * (self._side + TITLE + GAP)
        return left, top, self._side + more * (self._side + GAP), self._side + more * (self._side + TITLE + GAP)
