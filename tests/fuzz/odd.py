"""What is odd: texts, numbers and other values; and how one of several is drawn."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


class Draw(Protocol):
    """Chooses a value of a strategy."""

    def __call__(self, strategy: st.SearchStrategy[T]) -> T: ...


def one_of(draw: Draw, choices: Sequence[T]) -> T:
    return choices[place_in(draw, len(choices))]


def place_in(draw: Draw, length: int) -> int:
    """A place from 0 on; drawn so that what is drawn later does not depend on the length, which may differ between machines."""
    return draw(st.integers(0, 2**16)) % max(length, 1)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


ODD_TEXTS = (
    *(
        "",
        " ",
        "\0",
        "\n",
        "a\nb",
        "\ud800",
        "\u202e",
        "e\u0301",
        "caf\udce9",
        "💡" * 50,
        "x" * 5000,
        "../../x",
        "/proc/nowhere/x",
        ".",
    ),
    *(
        "~",
        "~nobody/x",
        "null",
        "???",
        "${oc.env:HOME}",
        "${",
        "${seed}",
        "{a,b}",
        "[a",
        "'",
        '"',
        "a,b",
        "a=b",
        "$x_1$",
    ),
    *(
        "[bold]",
        "<script>",
        "true",
        "no",
        "12_3",
        "1e5",
        "0x10",
        "1e999",
        "nan",
        "2026-01-01",
        "%s",
        "{0}",
        "\\",
        "|",
        "all",
    ),
)
ODD_NUMBERS = (0, -1, 1, 2, 3, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), -1.5)
ODD_VALUES: tuple[Any, ...] = (
    *ODD_TEXTS,
    *ODD_NUMBERS,
    *(
        None,
        True,
        False,
        [],
        {},
        [[]],
        {"": None},
        [None],
        {"a": {"b": {}}},
        [1, "a", None],
        [0, 0, 0, 0],
        [1, 0, 0, 1],
        deep(300),
    ),
)
