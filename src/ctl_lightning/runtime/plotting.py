"""What all figures share: images in axes, short names of categories, and files written whole."""

from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ctl_lightning.runtime.files import replacing

Pixels = NDArray[np.uint8]

HIT, KNOWN, MISS = "tab:green", "tab:blue", "0.8"


def short_name(category: str) -> str:
    """The last part of a category's name, wrapped; both parts of a short name that has two."""
    parts = category.split("|")
    return "\n".join(parts) if len(parts) == 2 and len(category) < 26 else fill(parts[-1], 18)


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


def show_image(axes: Axes, image: NDArray[np.generic], border: str | None = None) -> None:
    """Fills axes with a picture (H, W, 3), without ticks; `border`: colour of a frame around it; None: no frame."""
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=border is not None, color=border or "none", linewidth=2.5 if border in (HIT, KNOWN) else 1)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
