"""How torch's threads wait for each other."""


def settle_pace() -> None:
    """Placeholder until measured."""
