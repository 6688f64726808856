"""Tries many inputs that Hypothesis draws, each of them, whatever the others have shown."""

from collections.abc import Callable

from fuzz.odd import Draw
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st


def try_inputs(count: int, number: int, attempt: Callable[[Draw], tuple[str | None, str]]) -> str:
    """Makes a count of attempts.

    Args:
        count: so many inputs are drawn.
        number: seed; equal seeds, equal inputs.
        attempt: draws an input, tries it, and returns a complaint, or None, and what the input was.

    Returns:
        Every complaint once, with the first input that led to it; empty if there is none.
    """
    findings: dict[str, str] = {}

    # Nothing is kept in the repository, and nothing depends on a clock.
    @seed(number)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def inputs(data: st.DataObject) -> None:
        complaint, what = attempt(data.draw)
        if complaint is not None:
            findings.setdefault(complaint, what[:1500])

    inputs()
    return "\n".join(f"{complaint}\n    {what}" for complaint, what in findings.items())
