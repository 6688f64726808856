"""Which pairs are for training and which for evaluation: the rule, split files, triplets, and their publication."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from ctl_lightning.data.negatives import NegativeSampler
from ctl_lightning.data.pairs import Box, Pair, PairTable
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import sha256_of, write_text
from ctl_lightning.runtime.reading import json_lines, read_json

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

RULE = (
    "x = the first 6 bytes of sha256('split|' + salt + '|' + scene id), as a big-endian number, / 2^48; "
    "x < 0.8: train, x < 0.9: validation, else test"
)

LISTED: tuple[Split, ...] = ("validation", "test")
"""Splits whose scenes a published split file lists; every other known scene is in the training split."""


def published_split(
    data: str, scenes: Iterable[str], salt: str, counts: Mapping[str, int], known: str, triplets: Path | None
) -> dict[str, Any]:
    """The content of a published split file.

    Args:
        data: name of the data set, such as "stl_fashion".
        scenes: ids of all scenes that are known.
        salt: salt of the split rule.
        counts: published numbers of the whole data set, such as {"pairs": 72198}.
        known: sentence that says from which part of the data set the ids were taken.
        triplets: file of the published evaluation triplets; None: there are none.
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
        content: dict[str, Any] = read_json(path)
        ids = [scene for split in LISTED for scene in content[split]]
        whole = all(isinstance(scene, str) for scene in ids) and {"salt", "triplets_sha256"} <= content.keys()
        if not whole or not isinstance(content["scenes"], dict):
            raise ValueError("other keys or values than such a file has")
    except (OSError, InputError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a published split file ({_why(error)})") from None
    return content


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return "other values than such a file has" if isinstance(error, (TypeError, AttributeError)) else str(error)


def split_problems(content: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a published split by itself: an id in the wrong split or listed twice, a wrong count."""
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
        path: triplets file, as `write_triplets` wrote it.
        content: content of the split file beside it.
        table: all pairs of the data and the catalogue; None: the data is not here, only the file's hash is checked.
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


def hash_fraction(*key: object) -> float:
    """A number in [0, 1) that depends on `key` alone: the same on every platform and library version."""
    digest = hashlib.sha256("|".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_of(scene: str, salt: str) -> Split:
    """80 % train, 10 % validation, 10 % test, by a hash of the scene alone: no scene is ever in two splits."""
    fraction = hash_fraction("split", salt, scene)
    return "train" if fraction < 0.8 else "validation" if fraction < 0.9 else "test"


def write_split(path: Path, split: Mapping[str, Split], salt: str | None) -> None:
    """Writes scene -> split, sorted so that equal splits are equal files; with counts, and the salt if it was used."""
    content = {"salt": salt, "scenes_in_split": Counter(split.values()), "split_of_scene": dict(split)}
    write_text(path, json.dumps(content, indent=0, sort_keys=True) + "\n")


def read_split(path: Path) -> dict[str, Split]:
    """Reads scene -> split from a file of `write_split`. Raises InputError: not such a file."""
    try:
        split: dict[str, Split] = read_json(path)["split_of_scene"]
        if not set(split.values()) <= set(SPLITS):
            raise ValueError("another split than train, validation and test")
    except (OSError, InputError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"data.split_file: {path} is not a split file ({_why(error)}); `train` writes one into its run directory"
        ) from None
    return split


class EvaluationTriplet(NamedTuple):
    """A pair of an evaluation split and its one seeded negative."""

    scene: str
    box: Box
    positive: str
    negative: str


def write_triplets(path: Path, triplets: dict[Split, list[EvaluationTriplet]]) -> None:
    """Writes one JSON object on each line, split by split, in the order of the pairs."""
    rows = [
        {
            "split": split,
            "scene": triplet.scene,
            "bbox": triplet.box,
            "positive": triplet.positive,
            "negative": triplet.negative,
        }
        for split, chosen in triplets.items()
        for triplet in chosen
    ]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_triplets(path: Path) -> dict[tuple[str, Box, str], str]:
    """Reads (scene, box, positive) -> negative from a file of `write_triplets`. Raises InputError with the line."""
    negatives: dict[tuple[str, Box, str], str] = {}
    try:
        for where, row in json_lines(path):
            try:
                left, top, right, bottom = row["bbox"]
                negatives[row["scene"], (left, top, right, bottom), row["positive"]] = row["negative"]
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{where}: not an evaluation triplet; `train` writes such a file into its run directory"
                ) from None
    except OSError as error:
        raise InputError(f"data.triplets_file: cannot read {path} ({error.strerror})") from None
    return negatives


def evaluation_triplet(pair: Pair, negatives: NegativeSampler, salt: str) -> EvaluationTriplet:
    """The pair with a negative chosen by a hash of ids, box and salt; no order and no random seed of a run matters."""
    negative = negatives.draw(pair, "evaluation", salt, pair.scene, pair.box, pair.product)
    return EvaluationTriplet(pair.scene, pair.box, pair.product, negative)


def split_pairs(pairs: Sequence[Pair], split_file: str | None, salt: str, root: Path) -> dict[Split, list[Pair]]:
    """Splits pairs by their scene.

    Args:
        pairs: pairs to split.
        split_file: split file, as `write_split` wrote it; None: the rule decides.
        salt: salt of the split rule.
        root: folder of the data, for error messages.

    Raises:
        InputError: the file is not readable, or lacks a scene of `pairs`.
    """
    given = read_split(Path(split_file)) if split_file else {}
    found: dict[Split, list[Pair]] = {split: [] for split in SPLITS}
    for pair in pairs:
        if given and pair.scene not in given:
            raise InputError(f"data.split_file: {split_file} does not have scene {pair.scene} of {root}")
        found[given.get(pair.scene) or split_of(pair.scene, salt)].append(pair)
    return found


def evaluation_triplets(
    pairs: Sequence[Pair], negatives: NegativeSampler, salt: str, triplets_file: str | None, table: PairTable
) -> list[EvaluationTriplet]:
    """One seeded triplet for each pair: chosen by the rule, or read from a published file.

    Args:
        pairs: pairs of an evaluation split.
        negatives: sampler from which the rule draws negatives.
        salt: salt of the rule.
        triplets_file: triplets file, as `write_triplets` wrote it; None: the rule decides.
        table: all pairs and the catalogue.

    Raises:
        InputError: the file is not readable, lacks a pair, or names a product that cannot be its negative.
    """
    chosen = [evaluation_triplet(pair, negatives, salt) for pair in pairs]
    if not triplets_file:
        return chosen
    given = read_triplets(Path(triplets_file))
    triplets = []
    for pair, triplet in zip(pairs, chosen, strict=True):
        negative = given.get((pair.scene, pair.box, pair.product))
        if negative is None:
            raise InputError(
                f"data.triplets_file: {triplets_file} has no triplet for product {pair.product} "
                f"at {pair.box} of scene {pair.scene}"
            )
        if table.catalogue.get(negative) != pair.category or not negatives.allowed(pair, negative):
            raise InputError(
                f"data.triplets_file: {triplets_file}: {negative} cannot be the negative of product {pair.product} "
                f"in scene {pair.scene}: it must be another readable product of {pair.category!r} "
                "that no pair of the scene names"
            )
        triplets.append(triplet._replace(negative=negative))
    return triplets


def pair_hashes(pairs: Mapping[Split, Sequence[Pair]]) -> dict[str, str]:
    """Split -> a hash of its pairs: equal for two runs with the same pairs in that split, in the same order."""
    return {split: hashlib.sha256("\n".join(map(repr, own)).encode()).hexdigest() for split, own in pairs.items()}
