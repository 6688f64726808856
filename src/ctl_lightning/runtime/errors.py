"""The one kind of error that is the user's to mend; a program prints it as one line and exits with code 1."""

from collections.abc import Iterable
from difflib import get_close_matches

ERROR = "error.txt"
"""Where a run directory says why its run failed."""


class InputError(Exception):
    """Something that came from outside is wrong. The message is one line: it names the thing and the way out."""


class InUseError(InputError):
    """Another process is at work there; what lies there is its own."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word nearest to `word`, or nothing if none is near."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
