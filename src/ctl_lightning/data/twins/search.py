"""Which thumbnails may be one photo: candidates by correlation, exactly, then a check of the aligned pixels."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, pad

from ctl_lightning.data.twins.thumbnails import SIDE, VIEWS, Thumbnails, Thumbs
from ctl_lightning.runtime.progress import progress

COARSE = 8
"""Side of the pictures by which candidates are found, in pixels."""

ALIKE = 0.9
"""Correlation of two coarse pictures from which they are candidates."""

STRETCHED = 1.18
"""Largest ratio of the proportions of two candidates: a crop of 3 % on two sides alone changes them by 6 %."""

ROWS = 1024
"""Number of pictures that are compared with all others at once."""

CHECKED = 512
"""Number of candidates that are aligned at once."""

STEPS = 10
"""Number of steps of the alignment."""

SHIFT = 0.16
"""Largest scale and shift of an alignment, as a share of half the picture: what was cropped is slight."""

CORRELATION = 0.97
"""Smallest correlation of the aligned pictures of one photo, in grey."""

COLOUR = 5.0
"""Largest difference of their mean colours, in levels of any channel."""

PATCH = 4
"""Side of the squares in which aligned pictures must agree, too, in pixels."""

PATCHES = 16.0
"""Largest difference of any square's mean colour, in levels."""

Pairs = NDArray[np.int64]


def alike(found: Thumbnails) -> Pairs:
    """All pairs of thumbnails that may be one photo, (P, 4): first, second, view, and 1 if the second is mirrored.

    A picture may be a re-encoded, resized, slightly cropped, bordered or mirrored copy of the other. Thumbnails show too little to be
    sure: `details.same_details` has the last word.
    """
    firsts, copies = _without_copies(found)
    some = Thumbnails(found.pixels[firsts], found.proportion[firsts])
    kept = [copies]
    with progress("comparing pictures", VIEWS * 2 * -(-len(firsts) // ROWS)) as shown:
        for pairs in candidates(some):
            for start in range(0, len(pairs), CHECKED):
                part = pairs[start : start + CHECKED]
                chosen = part[is_alike(measured(some, part))]
                kept.append(np.column_stack([firsts[chosen[:, :2]], chosen[:, 2:]]))
            shown.advance()
    return np.concatenate(kept)


def _without_copies(found: Thumbnails) -> tuple[NDArray[np.int64], Pairs]:
    """Indices of thumbnails without those that are equal to an earlier one, and pairs of the earlier and the equal ones.

    A shop's picture for what has none can be there ten thousand times, which would be fifty million candidates.
    """
    first_of: dict[bytes, int] = {}
    copies = []
    for index, pixels in enumerate(found.pixels):
        first = first_of.setdefault(hashlib.sha256(pixels.tobytes()).digest(), index)
        if first != index and found.proportion[index].any():
            copies.append((first, index, int(found.proportion[index].argmax()), 0))
    return np.array(list(first_of.values()), np.int64), np.array(copies, np.int64).reshape(-1, 4)


def coarse(pixels: Thumbs, proportion: NDArray[np.float32]) -> Tensor:
    """What candidates are found by: (N, 3, COARSE, COARSE), centred and of length 1 (of length 0 for flat pictures)."""
    thumbs = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    small = torch.cat([avg_pool2d(part.float(), SIDE // COARSE) for part in torch.split(thumbs, 4096)])
    small = small - small.mean((1, 2, 3), keepdim=True)
    small[torch.from_numpy(proportion == 0)] = 0
    return small / small.flatten(1).norm(dim=1).clamp(min=1e-6).view(-1, 1, 1, 1)


def candidates(found: Thumbnails) -> Iterator[Pairs]:
    """Pairs of pictures that may be one photo, (C, 4) each time: first, second, view, and 1 if the second is mirrored."""
    for view in range(VIEWS):
        proportion = found.proportion[:, view]
        small = coarse(found.pixels[:, view], proportion)
        vectors, mirrored = small.flatten(1), small.flip(3).flatten(1)
        for start in range(0, len(vectors), ROWS):
            rows = vectors[start : start + ROWS]
            for flipped, others in enumerate((vectors, mirrored)):
                one, two = ((rows @ others[start:].T) > ALIKE).nonzero().T.numpy() + start
                ratio = proportion[one] / proportion[two]
                keep = (one < two) & (ratio < STRETCHED) & (ratio > 1 / STRETCHED)
                what = np.full((keep.sum(), 2), (view, flipped))
                yield np.column_stack([one[keep], two[keep], what])


def aligned(first: Tensor, second: Tensor, move: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Scales and shifts `second` in width and height so that it lies on `first` (Lucas and Kanade, 1981).

    Args:
        first: pictures, (B, 3, S, S) float.
        second: pictures, (B, 3, S, S) float.
        move: where to begin: what another size of the pictures gave; None: as they are.

    Returns:
        `second` on the grid of `first`, (B, 3, S, S); which pixels of it are inside `second`, (B, 1, S, S); and the move (B, 4):
        scale and shift in x, scale and shift in y, as a share of half the picture.
    """
    count, side = len(first), first.shape[-1]
    move = torch.zeros(count, 4) if move is None else move
    line = (torch.arange(side) * 2 + 1) / side - 1
    x, y = line.view(1, 1, 1, side), line.view(1, 1, side, 1)

    def moved(by: Tensor) -> tuple[Tensor, Tensor]:
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0], theta[:, 0, 2] = 1 + by[:, 0], by[:, 1]
        theta[:, 1, 1], theta[:, 1, 2] = 1 + by[:, 2], by[:, 3]
        grid = affine_grid(theta, [count, 3, side, side], align_corners=False)
        inside = (grid.abs().amax(3) <= 1).unsqueeze(1)
        return grid_sample(second, grid, padding_mode="border", align_corners=False), inside

    for _ in range(STEPS):
        seen, inside = moved(move)
        across = torch.gradient(seen, spacing=2 / side, dim=3)[0]
        down = torch.gradient(seen, spacing=2 / side, dim=2)[0]
        slopes = torch.stack([across * x, across, down * y, down], dim=1) * inside.unsqueeze(1)
        slopes = slopes.flatten(2)
        missing = ((first - seen) * inside).flatten(1)
        normal = slopes @ slopes.mT
        damping = 1e-3 * normal.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-3)
        normal = normal + damping.view(-1, 1, 1) * torch.eye(4)
        move = (move + torch.linalg.solve(normal, (slopes @ missing.unsqueeze(2)).squeeze(2))).clamp(-SHIFT, SHIFT)
    return *moved(move), move


def measured(found: Thumbnails, pairs: Pairs) -> NDArray[np.float32]:
    """What is measured of candidates, aligned, (C, 3): correlation of grey, difference of mean colour, worst patch."""
    thumbs = found.pixels[pairs[:, :2].T, pairs[:, 2]]
    first, second = torch.from_numpy(thumbs).float().movedim(4, 2)
    second = torch.where(torch.from_numpy(pairs[:, 3] == 1).view(-1, 1, 1, 1), second.flip(3), second)
    first, second = smooth(first), smooth(second)
    seen, inside, _ = aligned(first, second)
    weight = inside.float()
    area = weight.sum((2, 3), keepdim=True).clamp(min=1)
    off = (seen - first) * weight
    colour = (off.sum((2, 3), keepdim=True) / area).abs().amax((1, 2, 3))
    grey = [part.mean(1, keepdim=True) for part in (first, seen)]
    centred = [(part - (part * weight).sum((2, 3), keepdim=True) / area) * weight for part in grey]
    lengths = [part.square().sum((1, 2, 3)).sqrt().clamp(min=1e-6) for part in centred]
    correlation = (centred[0] * centred[1]).sum((1, 2, 3)) / (lengths[0] * lengths[1])
    return torch.stack([correlation, colour, _worst_patch(first, seen, inside)], dim=1).numpy()


def smooth(pictures: Tensor) -> Tensor:
    """Pictures (B, C, H, W) without their finest detail, which half a pixel of shift changes."""
    return avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)


def _worst_patch(first: Tensor, seen: Tensor, inside: Tensor) -> Tensor:
    """Largest difference of the mean colours of any square, (B,), each a pixel to and fro: alignment is not perfect."""
    wanted = avg_pool2d(first, PATCH)
    near = pad(seen, (1, 1, 1, 1), mode="replicate")
    moves = [
        avg_pool2d(near[:, :, y : y + SIDE, x : x + SIDE], PATCH).sub(wanted).abs().amax(1)
        for y in range(3)
        for x in range(3)
    ]
    whole = avg_pool2d(inside.float(), PATCH)[:, 0] == 1
    return (torch.stack(moves).amin(0) * whole).amax((1, 2))


def is_alike(measures: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of the candidates that were measured may be one photo, (C,)."""
    correlation, colour, patch = measures.T
    return (correlation >= CORRELATION) & (colour <= COLOUR) & (patch <= PATCHES)
