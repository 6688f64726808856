"""The errors that a user can mend, and the suggestion in them; a program prints them as one line and exits with code 1."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

log = logging.getLogger(__name__)

ERROR = "error.txt"
"""File of a run directory that says why its run failed."""


class InputError(Exception):
    """Something that came from outside is wrong. The message is one line that says what is wrong and how to mend it."""


class InUseError(InputError):
    """Another process is at work in the same folder, and the files in it belong to that process."""


@contextmanager
def only_warned(what: str) -> Iterator[None]:
    """Turns an error of the block into one warning that begins with `what`: a picture or a logger never costs the numbers."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        log.warning("%s (%s: %s)", what, type(error).__name__, said, exc_info=os.environ.get("CTL_FULL_ERROR") == "1")


def listed(names: Iterable[str]) -> str:
    """Names in quotes, with commas; of many the first twenty, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(map(repr, names[:20])) + more


def first_of(problems: Sequence[str]) -> InputError:
    """The error of the first of some problems, which says how many more there are."""
    return InputError(f"{problems[0]}; {len(problems) - 1:,} more problems" if len(problems) > 1 else problems[0])


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word nearest to `word`, or nothing if none is near."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
