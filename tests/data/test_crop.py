import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ctl_lightning.data.crop import LEAST, area, scene_crop, strips, to_pixels
from ctl_lightning.data.pairs import NO_BOX, Box

side = st.floats(0, 1)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    left, right = sorted((draw(side), draw(side)))
    top, bottom = sorted((draw(side), draw(side)))
    assume((left, top, right, bottom) != NO_BOX)  # means that there is no box
    return left, top, right, bottom


@pytest.mark.parametrize(
    ("box", "crop"),
    [
        ((0.3, 0.6, 0.7, 0.9), (0, 0, 1, 0.55)),  # shoes: what is above
        ((0.3, 0.0, 0.7, 0.2), (0, 0.25, 1, 1)),  # hat: what is below
        ((0.6, 0.2, 0.9, 0.8), (0, 0, 0.55, 1)),  # bag at the right: what is left
        ((0.1, 0.2, 0.4, 0.8), (0.45, 0, 1, 1)),  # bag at the left: what is right
    ],
)
def test_the_crop_is_the_largest_of_the_four_strips(box: Box, crop: Box) -> None:
    assert scene_crop(box, 0.05) == pytest.approx(crop)


def test_a_box_that_covers_the_scene_leaves_nothing() -> None:
    assert area(scene_crop((0.02, 0.02, 0.98, 0.98), 0.05)) == 0


@given(boxes(), st.floats(0, 0.3), st.integers(20, 400), st.integers(20, 400))
def test_no_pixel_of_the_product_is_in_its_crop(box: Box, margin: float, width: int, height: int) -> None:
    crop = scene_crop(box, margin)
    x0, y0, x1, y1 = to_pixels(crop, width, height)
    if (crop[2] - crop[0]) * width < 2 or (crop[3] - crop[1]) * height < 2:
        return  # less than the pixels that rounding inwards takes: min_area drops such pairs
    # A pixel shows the product if its square overlaps the box.
    columns, rows = np.arange(x0, x1), np.arange(y0, y1)
    across = ((columns + 1) / width > box[0]) & (columns / width < box[2])
    down = ((rows + 1) / height > box[1]) & (rows / height < box[3])
    assert not (across.any() and down.any())


@given(boxes(), st.floats(0, 0.3))
def test_no_strip_is_larger_than_the_crop(box: Box, margin: float) -> None:
    left, top, right, bottom = box
    strips = [top - margin, 1 - bottom - margin, left - margin, 1 - right - margin]
    assert area(scene_crop(box, margin)) == pytest.approx(max(0, *strips), abs=1e-9)


def test_the_strips_are_those_that_are_worth_a_look_the_scene_crop_first() -> None:
    beside = {"above": (0, 0, 1, 0.35), "below": (0, 0.75, 1, 1), "left": (0, 0, 0.25, 1), "right": (0.95, 0, 1, 1)}
    found = strips((0.3, 0.4, 0.9, 0.7), 0.05)
    assert found == [pytest.approx(beside[name]) for name in ("above", "below", "left")]  # the right one is thin
    assert strips(NO_BOX, 0.05) == [(0, 0, 1, 1)]


@given(boxes(), st.floats(0, 0.3))
def test_strips_keep_off_the_grown_box_and_are_large_enough(box: Box, margin: float) -> None:
    first, *others = strips(box, margin)
    assert first == scene_crop(box, margin)
    for left, top, right, bottom in others:
        assert min(right - left, bottom - top, area((left, top, right, bottom))) >= LEAST
        apart = (
            right <= box[0] - margin or left >= box[2] + margin or bottom <= box[1] - margin or top >= box[3] + margin
        )
        assert apart or box == NO_BOX
