"""How the strips of a scene become one pooled vector: the mean of theirs, weighted by area."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ctl_lightning.models.components.backbone import Backbone

Strips = Sequence[tuple[Tensor, float]]
"""Strips of a scene: picture, uint8 (1, 3, H, W), and area."""


def pooled_strips(backbone: Backbone, scenes: Sequence[Strips], device: torch.device | str) -> Tensor:
    """The strips of B scenes -> the mean of their pooled vectors, weighted by area, (B, F)."""
    every = [(row, picture, area) for row, strips in enumerate(scenes) for picture, area in strips]
    pooled: dict[int, Tensor] = {}
    # Pictures of one size go through the network together, no more of them than there are scenes.
    for size in dict.fromkeys(picture.shape for _, picture, _ in every):
        same = [place for place, (_, picture, _) in enumerate(every) if picture.shape == size]
        for start in range(0, len(same), len(scenes)):
            places = same[start : start + len(scenes)]
            found = backbone.pooled(torch.cat([every[place][1] for place in places]).to(device, non_blocking=True))
            pooled |= dict(zip(places, found.float(), strict=True))
    sums = torch.zeros(len(scenes), backbone.pooled_features, device=device)
    weights = torch.zeros(len(scenes), 1, device=device)
    for place, (row, _, area) in enumerate(every):
        sums[row] += area * pooled[place]
        weights[row] += area
    return sums / weights
