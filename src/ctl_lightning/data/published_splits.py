"""The split and the evaluation triplets of a data set as they are published, ids only: how they are made, and what can be wrong."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctl_lightning.data.pairs import PairTable
from ctl_lightning.data.splits import VERSION, Split, read_triplets, split_of, why_unread
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import sha256_of, write_text
from ctl_lightning.runtime.reading import read_json

RULE = (
    "x = the first 6 bytes of sha256('split|' + salt + '|' + scene id), as a big-endian number, / 2^48; "
    "x < 0.8: train, x < 0.9: validation, else test; of scenes that are one photo (twins), all by the smallest id"
)

Groups = Mapping[str, Sequence[Sequence[str]]]
"""Ids that are one photo, the smallest first: "scenes", "products" (of one category), and "scenes_that_are_products" (in one group)."""

NO_GROUPS: Groups = {"scenes": (), "products": (), "scenes_that_are_products": ()}

LISTED: tuple[Split, ...] = ("validation", "test")
"""Splits whose scenes a published split file lists; every other known scene is in the training split."""


def published_split(
    data: str,
    scenes: Iterable[str],
    salt: str,
    counts: Mapping[str, int],
    known: str,
    triplets: Path | None,
    twins: Groups = NO_GROUPS,
) -> dict[str, Any]:
    """The content of a published split file.

    Args:
        data: name of the data set, such as "stl_fashion".
        scenes: ids of all scenes that are known.
        salt: salt of the split rule.
        counts: published numbers of the whole data set, such as {"pairs": 72198}.
        known: sentence that says from which part of the data set the ids, and from which photos the twins were taken.
        triplets: file of the published evaluation triplets; None: there are none.
        twins: ids that are one photo.
    """
    group = _firsts(twins["scenes"])
    placed = {scene: split_of(group.get(scene, scene), salt) for scene in sorted(set(scenes))}
    return {
        "version": VERSION,
        "data": data,
        "rule": RULE,
        "salt": salt,
        "published_counts": dict(counts),
        "known": known,
        "triplets_sha256": None if triplets is None else sha256_of(triplets),
        "scenes": dict(Counter(placed.values())),
        "twins": {kind: [list(group) for group in groups] for kind, groups in twins.items()},
        **{split: [scene for scene, own in placed.items() if own == split] for split in LISTED},
    }


def _firsts(groups: Iterable[Sequence[str]]) -> dict[str, str]:
    """Id -> the first id of its group."""
    return {name: group[0] for group in groups for name in group}


def twins_of(content: Mapping[str, Any]) -> Groups:
    """The ids that are one photo, of a published split; a file of version 1 has none."""
    found: Groups = content.get("twins", NO_GROUPS)
    return found


def merged_as_published(table: PairTable, content: Mapping[str, Any]) -> PairTable:
    """A table in which what is one photo counts as one, as a published split says."""
    twins = twins_of(content)
    others = {product: first for product, first in _firsts(twins["products"]).items() if product != first}
    own_photos = {scene for group in twins["scenes_that_are_products"] for scene in group}
    return table.merged(_firsts(twins["scenes"]), others, own_photos)


def write_published(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a published split file."""
    write_text(path, json.dumps(content, indent=0) + "\n")


def read_published(path: Path) -> dict[str, Any]:
    """Reads a published split file. Raises InputError: missing, or not such a file."""
    try:
        content: dict[str, Any] = read_json(path)
        ids = [scene for split in LISTED for scene in content[split]]
        whole = all(isinstance(scene, str) for scene in ids) and {"salt", "triplets_sha256"} <= content.keys()
        kinds = [content["twins"][kind] for kind in NO_GROUPS] if "twins" in content else []
        whole &= all(group and all(isinstance(name, str) for name in group) for groups in kinds for group in groups)
        if not whole or not isinstance(content["scenes"], dict):
            raise ValueError("other keys or values than such a file has")
    except (OSError, InputError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a published split file ({why_unread(error)})") from None
    return content


def split_problems(content: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a published split by itself: an id in the wrong split or listed twice, twins apart, a wrong count."""
    seen: Counter[str] = Counter()
    groups = twins_of(content)["scenes"]
    group = _firsts(groups)
    for split in LISTED:
        for scene in content[split]:
            seen[scene] += 1
            if (own := split_of(group.get(scene, scene), content["salt"])) != split:
                yield f"scene {scene} is listed in {split}; the rule puts it in {own}"
        if content["scenes"].get(split, 0) != len(content[split]):
            yield f"{split}: {content['scenes'].get(split, 0)} scenes counted, {len(content[split])} listed"
    for scene, count in seen.items():
        if count > 1:
            yield f"scene {scene} is listed {count} times"
    listed = {scene: split for split in LISTED for scene in content[split]}
    for names in groups:
        if len({listed.get(scene) for scene in names}) > 1:
            yield f"scenes {', '.join(names)} are one photo, and are listed in different splits"
    for kind in ("scenes", "products"):
        counted = Counter(name for names in twins_of(content)[kind] for name in names)
        for name, count in counted.items():
            if count > 1:
                yield f"{name} is in {count} groups of twins ({kind})"
        for names in twins_of(content)[kind]:
            if names[0] != min(names):
                yield f"twins ({kind}): {names[0]} stands first, the smallest id is {min(names)}"


def triplet_problems(path: Path, content: Mapping[str, Any], table: PairTable | None) -> Iterator[str]:
    """What is wrong with published evaluation triplets.

    Args:
        path: triplets file, as `write_triplets` wrote it.
        content: content of the split file beside it.
        table: all pairs of the data and the catalogue, as `merged_as_published`; None: the data is not here, only the file's hash is
            checked.
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
        elif split_of(table.group(scene), content["salt"]) == "train":
            yield f"{where}: the scene is one to train on"
