"""Random choices that are a function of what they are for."""

import hashlib
from collections.abc import Sequence


def random_integers(bounds: Sequence[int], *key: object) -> list[int]:
    """One integer in [0, bound) for each of the bounds: a function of `key` alone, whatever worker asks."""
    stream = hashlib.shake_128("|".join(map(str, key)).encode()).digest(6 * len(bounds))
    return [int.from_bytes(stream[6 * i : 6 * i + 6], "big") % bound for i, bound in enumerate(bounds)]
