"""Random changes of colour, on the device where the pictures are."""

import torch
from torch import Tensor
from torchvision.transforms import v2

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
