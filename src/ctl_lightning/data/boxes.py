"""Which box a row of a table states: a list, four shares of the scene, or a corner and a size in pixels; or none."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from ctl_lightning.data.pairs import Box, listed_box
from ctl_lightning.data.tables import is_empty
from ctl_lightning.runtime.reading import shown

SHARES = ("left", "top", "right", "bottom")
PIXELS = ("x", "y", "width", "height")

NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?", re.ASCII)

ROUNDING = 1.0
"""By how many pixels a box may go beyond its scene: whoever rounded it meant the edge."""


def box_of(row: Mapping[str, Any], size: Callable[[], tuple[int, int]]) -> Box | None:
    """The box of a row, in shares of its scene; None: the row has none.

    Args:
        row: field -> value, of "bbox", SHARES and PIXELS those that the row has; None, NaN or "" is no value.
        size: function that gives width and height of the scene in pixels, called for a box in pixels alone.

    Raises:
        ValueError: what is wrong with it, in words.
    """
    row = {field: value for field, value in row.items() if not is_empty(value)}
    forms = [form for form in (("bbox",), SHARES, PIXELS) if all(field in row for field in form)]
    if len(forms) > 1:
        raise ValueError(f"the box is given twice: {' and '.join(', '.join(form) for form in forms)}; leave one")
    if not forms:
        if any(field in row for field in (*SHARES, *PIXELS)):
            lacking = next(form for form in (SHARES, PIXELS) if any(field in row for field in form))
            raise ValueError(f"the box has no {', '.join(field for field in lacking if field not in row)}")
        return None
    if forms == [("bbox",)]:
        return listed_box(row["bbox"])
    sides = [_number(field, row[field]) for field in forms[0]]
    return _in_shares(sides, size()) if forms == [PIXELS] else (sides[0], sides[1], sides[2], sides[3])


def clipped(box: Box, size: tuple[int, int]) -> Box | None:
    """The part of a box (left, top, right, bottom) in pixels that lies inside its picture, in shares of it; None: no part does."""
    (left, right), (top, bottom) = (
        (max(0.0, box[axis] / size[axis]), min(1.0, box[axis + 2] / size[axis])) for axis in (0, 1)
    )
    return (left, top, right, bottom) if left < right and top < bottom else None


def _number(field: str, value: object) -> float:
    """A number of a table as a float. Text may have a decimal comma, which Excel writes in half of the world."""
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        if "," in value and field in PIXELS:
            raise ValueError(
                f"{field} is {shown(value)}: write 1234.5, without a comma"
            )  # thousands, or a decimal comma?
        return float(value.strip().replace(",", "."))
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    raise ValueError(f"{field} must be a number, not {shown(value)}")


def _in_shares(sides: Sequence[float], size: tuple[int, int]) -> Box:
    """The box with corner (x, y), width and height in pixels, in shares of a scene of that size."""
    x, y, width, height = sides
    said = f"the box of {width:g} x {height:g} pixels at ({x:g}, {y:g})"
    if max(x, y, width, height) <= 1:
        raise ValueError(
            f"{said} is within one pixel; are these shares of the scene? Those are left, top, right and bottom"
        )
    right, bottom = x + width, y + height
    beyond = max(-x, -y, right - size[0], bottom - size[1])
    if not (width > 0 and height > 0 and beyond <= ROUNDING):
        raise ValueError(f"{said} is empty, or not within its scene of {size[0]} x {size[1]} pixels")
    return (
        max(0.0, x / size[0]),
        max(0.0, y / size[1]),
        min(1.0, right / size[0]),
        min(1.0, bottom / size[1]),
    )
