"""How the colours of training pictures are changed at random, on the device where the pictures are."""

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from ctl_lightning.data.seeding import random_integers
from ctl_lightning.data.triplets import PairBatch, Triplet

STRENGTH = 0.3
"""Range of the change: brightness, contrast and saturation are multiplied by 1 - STRENGTH to 1 + STRENGTH."""

DRAWS = 16
"""Number of draws for a batch: torchvision draws once a call, and a call for each picture would keep a GPU waiting."""


def jitter_colours(pictures: Tensor, seed: int) -> Tensor:
    """Changes brightness, contrast and saturation of uint8 pictures (B, 3, S, S); a function of pictures and seed."""
    jitter = v2.ColorJitter(brightness=STRENGTH, contrast=STRENGTH, saturation=STRENGTH)
    with torch.random.fork_rng(devices=[]):  # torchvision draws on the CPU
        torch.manual_seed(seed)
        return torch.cat([jitter(part) for part in pictures.chunk(DRAWS)])


def jitter_batch(batch: Triplet | PairBatch, seed: int, number: int, rank: int) -> Triplet | PairBatch:
    """Changes the colours of all pictures of a training batch.

    Args:
        batch: training batch; its pictures are changed, features stay as they are.
        seed: random seed of the run.
        number: number of the batch in the run.
        rank: number of the process, from 0; each process draws for its own pictures.
    """
    own = (rank,) if rank else ()
    changed: dict[str, Any] = {
        name: jitter_colours(pictures, random_integers([2**40], "colour", seed, number, name, *own)[0])
        for name in ("scene", "positive", "negative", "product")
        if isinstance(pictures := getattr(batch, name, None), Tensor)
    }
    return batch._replace(**changed)
