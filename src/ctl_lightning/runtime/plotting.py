"""What all figures share: images in axes, short names of categories, and files written whole."""

import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from textwrap import fill

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ctl_lightning.runtime.files import replacing

Pixels = NDArray[np.uint8]

DPI = 110

HIT, KNOWN, MISS = "tab:green", "tab:blue", "0.8"

matplotlib.rcParams["text.parse_math"] = False  # a dollar sign in a name is a dollar sign
# Names of every script: DejaVu, which comes with matplotlib, first, then the Noto fonts that this machine has.
matplotlib.rcParams["font.family"] = [
    "DejaVu Sans",
    *sorted({font.name for font in font_manager.fontManager.ttflist if font.name.startswith("Noto Sans")}),
]
warnings.filterwarnings("ignore", r"Glyph .* missing from")  # without such a font a box is drawn


def short_name(category: str) -> str:
    """The last part of a category's name, in at most three lines; both parts of a short name that has two."""
    parts = category.split("|")
    if len(parts) == 2 and all(parts) and len(category) < 26:
        return "\n".join(parts)
    return fill(parts[-1] or category, 18, max_lines=3, placeholder=" …")


def short_names(categories: Iterable[str]) -> dict[str, str]:
    """Category -> its name on one line, cut where it is long; names that would look the same are numbered."""
    seen: Counter[str] = Counter()
    names = {}
    for category in categories:
        name = short_name(category).replace("\n", " ")
        seen[name] += 1
        names[category] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return names


def with_aspect(image: Pixels, aspect: float) -> Pixels:
    """A picture (H, W, 3), stretched to width / height = `aspect`."""
    height, width = image.shape[:2]
    scale = 1 / max(aspect, 1)
    size = (max(1, round(width * aspect * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def heat_map(weights: NDArray[np.float64], width: int, height: int) -> NDArray[np.float32]:
    """Weights of regions, (grid, grid), smoothly enlarged to `width` × `height` pixels, (height, width)."""
    small = Image.fromarray(weights.astype(np.float32))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def in_grey(image: Pixels) -> NDArray[np.float64]:
    """A picture (H, W, 3) in light grey, (H, W, 1), because a map over it will darken it."""
    return 96 + image.mean(2, keepdims=True) * 0.6


def outlined(picture: Pixels, box: tuple[float, float, float, float], colour: str) -> Pixels:
    """A picture, (H, W, 3), with the outline of a box, (left, top, right, bottom) from 0 to 1, in it."""
    height, width = picture.shape[:2]
    line = max(2, round(max(height, width) / 150))
    left, top, right, bottom = (
        round(edge * side) for edge, side in zip(box, (width, height, width, height), strict=True)
    )
    drawn = picture.copy()
    for rows, columns in (
        (slice(top, top + line), slice(left, right)),
        (slice(max(0, bottom - line), bottom), slice(left, right)),
        (slice(top, bottom), slice(left, left + line)),
        (slice(top, bottom), slice(max(0, right - line), right)),
    ):
        drawn[rows, columns] = [round(255 * part) for part in to_rgb(colour)]
    return drawn


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG, whole or not at all."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)  # `savefig` would draw twice
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    with replacing(path) as temporary:  # photos hardly get smaller with more compression
        Image.fromarray(pixels).convert("RGB").save(temporary, "PNG", compress_level=3)
