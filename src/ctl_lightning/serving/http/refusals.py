"""Why a request is not answered: a status, and one line in the client's own words, which names no file of this machine."""

import re
from collections.abc import Mapping

from ctl_lightning.runtime.errors import InputError

LONGEST = 500
"""Most letters of a line that a client gets."""


class RefusedError(InputError):
    """A request that is not answered.

    Attributes:
        status: HTTP status.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, line: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(one_line(line))
        self.status = status
        self.headers = dict(headers or {})


def busy(waiting: int) -> RefusedError:
    """Refuses a request because as many as may wait do."""
    return RefusedError(503, f"{waiting} requests are waiting, which is all that may; try again", {"Retry-After": "1"})


def too_slow(seconds: float) -> RefusedError:
    """Refuses a request that was not answered in time."""
    return RefusedError(504, f"no answer within {seconds:g} seconds; try again later", {"Retry-After": "5"})


def catalogue_away() -> RefusedError:
    """Refuses a request because the catalogue cannot be searched; why is for the log, as it names places of this machine."""
    return RefusedError(503, "the catalogue cannot be searched now; try again later", {"Retry-After": "5"})


def one_line(text: str) -> str:
    """A text as one line that is not too long, without letters that steer a terminal."""
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text).split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"
