"""Lab against published values, the histogram against a slow loop."""

import math

import pytest
import torch
from factories import pictures

from ctl_lightning.models.components.colours import BINS, RANGE, WIDTH, colour_histogram, lab

PUBLISHED = {
    (255, 255, 255): (100.0, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.73, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
    (119, 119, 119): (50.03, 0.0, 0.0),
}
"""sRGB -> Lab under D65, as tables of colours give them (Lindbloom)."""


@pytest.mark.parametrize(("rgb", "expected"), PUBLISHED.items())
def test_lab_has_the_published_values(rgb: tuple[int, int, int], expected: tuple[float, float, float]) -> None:
    picture = torch.tensor(rgb, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 2, 5)
    torch.testing.assert_close(lab(picture)[0, :, 1, 3], torch.tensor(expected), atol=0.02, rtol=0)


def test_a_histogram_has_the_roots_of_the_shares_of_its_bins() -> None:
    images = pictures(2, size=9)[:, :, :, :6]
    found, values = colour_histogram(images), lab(images)
    assert found.shape == (2, WIDTH)
    for number in range(2):
        counts = [0] * WIDTH
        for y in range(9):
            for x in range(6):
                lightness, a, b = values[number, :, y, x].tolist()
                shares = (lightness / 100, (a + RANGE) / (2 * RANGE), (b + RANGE) / (2 * RANGE))
                i, j, k = (min(max(math.floor(s * n), 0), n - 1) for s, n in zip(shares, BINS, strict=True))
                counts[(i * BINS[1] + j) * BINS[2] + k] += 1
        torch.testing.assert_close(found[number], torch.tensor([math.sqrt(count / 54) for count in counts]))


def test_the_histogram_of_a_picture_is_that_of_its_pixels_in_any_order() -> None:
    image = pictures(1, size=8)
    mixed = image.flatten(2)[:, :, torch.randperm(64)].view(1, 3, 4, 16)
    torch.testing.assert_close(colour_histogram(image), colour_histogram(mixed))
    assert float(colour_histogram(image).square().sum()) == pytest.approx(1)
