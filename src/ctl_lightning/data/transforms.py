"""Random changes of colour, on the device where the pictures are."""

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from ctl_lightning.data.seeding import random_integers
from ctl_lightning.data.triplets import PairBatch, Triplet

STRENGTH = 0.3
"""Brightness, contrast and saturation become 1 - STRENGTH to 1 + STRENGTH times what they were."""

DRAWS = 16
"""So many draws a batch of pictures: torchvision draws once a call, and a call a picture would keep a GPU waiting."""


def jitter_colours(pictures: Tensor, seed: int) -> Tensor:
    """Changes brightness, contrast and saturation of uint8 pictures (B, 3, S, S); a function of pictures and seed."""
    jitter = v2.ColorJitter(brightness=STRENGTH, contrast=STRENGTH, saturation=STRENGTH)
    with torch.random.fork_rng(devices=[]):  # torchvision draws on the CPU
        torch.manual_seed(seed)
        return torch.cat([jitter(part) for part in pictures.chunk(DRAWS)])


def jitter_batch(batch: Triplet | PairBatch, seed: int, number: int, rank: int) -> Triplet | PairBatch:
    """Changes the colours of all pictures of a training batch.

    Args:
        batch: of pictures; features stay as they are.
        seed: of the run.
        number: of the batch in the run.
        rank: of the process: each has pictures of its own.
    """
    own = (rank,) if rank else ()
    changed: dict[str, Any] = {
        name: jitter_colours(pictures, random_integers([2**40], "colour", seed, number, name, *own)[0])
        for name in ("scene", "positive", "negative", "product")
        if isinstance(pictures := getattr(batch, name, None), Tensor)
    }
    return batch._replace(**changed)
