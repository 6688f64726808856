"""Whether pictures that are alike are one photo: their finest details, aligned. A series of products differs in them alone."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from ctl_lightning.data.images import open_upright
from ctl_lightning.data.twins.search import Pairs, aligned, smooth
from ctl_lightning.data.twins.thumbnails import SIDE, VIEWS, Thumbs, views_of
from ctl_lightning.runtime.progress import progress

FINE = 128
"""Side of the pictures whose details are compared, in pixels."""

DETAIL = 9
"""Details are what is left of a picture without its mean over squares of this side, in pixels."""

SAME = 0.95
"""Smallest correlation of the details of one photo. On the real photos looked at (docs/results.md), copies have at least .98, others at most .94."""

NOISE = 1.0
"""Variance of details, in levels of grey, that means nothing: two pictures without details have the same ones."""

CHECKED = 128
"""Number of pairs that are compared at once."""


def same_details(paths: Sequence[Path], pairs: Pairs) -> NDArray[np.bool_]:
    """Which pairs of pictures are one photo by their details, (P,).

    Args:
        paths: picture files.
        pairs: what `search.alike` found: first, second, view, and 1 if the second is mirrored, (P, 4).
    """
    kept = [np.zeros(0, np.bool_)]
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress("comparing details", len(pairs)) as shown:
        for start in range(0, len(pairs), CHECKED):
            some = pairs[start : start + CHECKED]
            indices = np.unique(some[:, :2])
            squares = np.stack(list(pool.map(_squares_of, (paths[index] for index in indices))))
            first, second = (squares[np.searchsorted(indices, some[:, role]), some[:, 2]] for role in (0, 1))
            flipped = some[:, 3] == 1
            second[flipped] = second[flipped, :, ::-1]
            kept.append(correlations(_floats(first), _floats(second)).numpy() >= SAME)
            shown.advance(len(some))
    return np.concatenate(kept)


def correlations(first: Tensor, second: Tensor) -> Tensor:
    """Correlation of the details of pictures that are aligned first, (B,).

    Args:
        first: pictures, (B, 3, FINE, FINE).
        second: pictures, (B, 3, FINE, FINE).
    """
    small = (smooth(avg_pool2d(part, FINE // SIDE)) for part in (first, second))
    *_, move = aligned(*small)
    first, second = smooth(first), smooth(second)
    seen, inside, _ = aligned(first, second, move)
    # Where a square reaches over the edge, the details are those of the edge.
    weight = 1 - max_pool2d(1 - inside.float(), DETAIL, 1, DETAIL // 2)
    area = weight.sum((1, 2, 3)).clamp(min=1)
    one, two = (_details(part.mean(1, keepdim=True)) * weight for part in (first, seen))
    common, own, other = (product.sum((1, 2, 3)) / area + NOISE for product in (one * two, one * one, two * two))
    return common / (own * other).sqrt()


def _details(grey: Tensor) -> Tensor:
    return grey - avg_pool2d(grey, DETAIL, 1, DETAIL // 2, count_include_pad=False)


def _floats(pictures: Thumbs) -> Tensor:
    return torch.from_numpy(pictures).float().permute(0, 3, 1, 2)


def _squares_of(path: Path) -> Thumbs:
    try:
        return views_of(open_upright(path), FINE)[0]
    except OSError:  # it was there for its thumbnail, and is gone
        return np.zeros((VIEWS, FINE, FINE, 3), np.uint8)
