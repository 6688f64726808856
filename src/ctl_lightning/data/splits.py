"""The published split of a data set, ids only: by what rule it is made, which scenes it puts where, and whether that is right."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ctl_lightning.data.pairs import PairTable, Split, split_of
from ctl_lightning.data.triplets import read_triplets
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import sha256_of, write_text

RULE = (
    "x = the first 6 bytes of sha256('split|' + salt + '|' + scene id), as a big-endian number, / 2^48; "
    "x < 0.8: train, x < 0.9: validation, else test"
)

LISTED: tuple[Split, ...] = ("validation", "test")
"""Splits whose scenes are listed; every other scene is one to train on."""


def published_split(
    data: str, scenes: Iterable[str], salt: str, counts: Mapping[str, int], known: str, triplets: Path | None
) -> dict[str, Any]:
    """The content of a published split file.

    Args:
        data: name of the data set.
        scenes: all that are known.
        salt: of the rule.
        counts: of the whole data set, as its authors publish them.
        known: of what the ids were taken.
        triplets: the published evaluation triplets; None: there are none.
    """
    placed = {scene: split_of(scene, salt) for scene in sorted(set(scenes))}
    return {
        "data": data,
        "rule": RULE,
        "salt": salt,
        "published_counts": dict(counts),
        "known": known,
        "triplets_sha256": None if triplets is None else sha256_of(triplets),
        "scenes": dict(Counter(placed.values())),
        **{split: [scene for scene, own in placed.items() if own == split] for split in LISTED},
    }


def write_published(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a published split file."""
    write_text(path, json.dumps(content, indent=0) + "\n")


def read_published(path: Path) -> dict[str, Any]:
    """Reads a published split file. Raises InputError: missing, or not such a file."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        ids = [scene for split in LISTED for scene in content[split]]
        whole = all(isinstance(scene, str) for scene in ids) and {"salt", "triplets_sha256"} <= content.keys()
        if not whole or not isinstance(content["scenes"], dict):
            raise ValueError("other keys or values than such a file has")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a published split file ({error})") from None
    return content


def split_problems(content: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a published split by itself: an id in the wrong place, twice, or not counted."""
    seen: Counter[str] = Counter()
    for split in LISTED:
        for scene in content[split]:
            seen[scene] += 1
            if split_of(scene, content["salt"]) != split:
                yield f"scene {scene} is listed in {split}; the rule puts it in {split_of(scene, content['salt'])}"
        if content["scenes"].get(split, 0) != len(content[split]):
            yield f"{split}: {content['scenes'].get(split, 0)} scenes counted, {len(content[split])} listed"
    for scene, count in seen.items():
        if count > 1:
            yield f"scene {scene} is listed {count} times"


def triplet_problems(path: Path, content: Mapping[str, Any], table: PairTable | None) -> Iterator[str]:
    """What is wrong with published evaluation triplets.

    Args:
        path: as `write_triplets` wrote it.
        content: of the split file beside it.
        table: the pairs that they are of; None: not here.
    """
    if sha256_of(path) != content["triplets_sha256"]:
        yield f"{path}: its sha256 is not the one that was published"
    if table is None:
        return
    pairs = {(pair.scene, pair.box, pair.product): pair for pair in table.pairs}
    for (scene, box, positive), negative in read_triplets(path).items():
        pair = pairs.get((scene, box, positive))
        where = f"{path}: scene {scene}, product {positive}"
        if pair is None:
            yield f"{where}: there is no such pair here"
        elif table.catalogue.get(negative) != pair.category:
            yield f"{where}: its negative {negative} is not of category {pair.category!r}"
        elif negative in table.products_of_scene[scene]:
            yield f"{where}: its negative {negative} is one that the scene names"
        elif split_of(scene, content["salt"]) == "train":
            yield f"{where}: the scene is one to train on"
