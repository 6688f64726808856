"""The errors that a user can mend, and the suggestion in them; a program prints them as one line and exits with code 1."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

ERROR = "error.txt"
"""File of a run directory that says why its run failed."""


class InputError(Exception):
    """Something that came from outside is wrong. The message is one line that says what is wrong and how to mend it."""


class InUseError(InputError):
    """Another process is at work in the same folder, and the files in it belong to that process."""


def first_of(problems: Sequence[str]) -> InputError:
    """The error of the first of some problems, which says how many more there are."""
    return InputError(f"{problems[0]}; {len(problems) - 1:,} more problems" if len(problems) > 1 else problems[0])


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word nearest to `word`, or nothing if none is near."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
