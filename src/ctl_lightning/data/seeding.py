"""How random numbers are drawn from a key that says what they are for, and from nothing else."""

import hashlib
from collections.abc import Sequence


def random_integers(bounds: Sequence[int], *key: object) -> list[int]:
    """One random integer in [0, bound) for each bound; it depends on `key` alone, so every worker gets the same."""
    stream = hashlib.shake_128("|".join(map(str, key)).encode()).digest(6 * len(bounds))
    return [int.from_bytes(stream[6 * i : 6 * i + 6], "big") % bound for i, bound in enumerate(bounds)]
