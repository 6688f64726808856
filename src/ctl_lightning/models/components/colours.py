"""Which colours does a picture have? A histogram in CIE Lab, where equal steps look equally far apart."""

import torch
from torch import Tensor

BINS = (5, 6, 6)
"""Number of bins along L (0 to 100), a and b (each from -RANGE to RANGE; what lies beyond is in the outermost bin)."""

RANGE = 60.0

WIDTH = BINS[0] * BINS[1] * BINS[2]
"""Number of values of `colour_histogram`."""

TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
"""Linear sRGB -> XYZ (IEC 61966-2-1), white point D65."""

WHITE = (0.95047, 1.0, 1.08883)
"""XYZ of D65."""


def lab(images: Tensor) -> Tensor:
    """uint8 RGB pictures (B, 3, H, W) -> CIE Lab (B, 3, H, W), as CIE 1976 defines it for sRGB and D65."""
    values = torch.arange(256, device=images.device, dtype=torch.float32) / 255
    linear = torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)[images.long()]
    to_xyz = torch.tensor(TO_XYZ, device=images.device) / torch.tensor(WHITE, device=images.device)[:, None]
    xyz = torch.einsum("kc,bchw->bkhw", to_xyz, linear)
    edge = 6 / 29
    f = torch.where(xyz > edge**3, xyz.clamp_min(1e-12) ** (1 / 3), xyz / (3 * edge**2) + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def colour_histogram(images: Tensor) -> Tensor:
    """uint8 RGB pictures (B, 3, H, W) -> square roots of the shares of the pixels in each bin of Lab, (B, WIDTH).

    Square roots, so that the Euclidean distance of two histograms is Hellinger's, up to a factor.
    """
    lightness, a, b = lab(images).flatten(2).unbind(1)
    parts = [lightness / 100, *((one + RANGE) / (2 * RANGE) for one in (a, b))]
    row, column, layer = (
        (part * bins).floor().clamp(0, bins - 1).long() for part, bins in zip(parts, BINS, strict=True)
    )
    place = (row * BINS[1] + column) * BINS[2] + layer
    count = torch.zeros(len(images), WIDTH, device=images.device)
    return (count.scatter_add(1, place, torch.ones_like(lightness)) / place.shape[1]).sqrt()
