"""Which pairs are for training and which for evaluation: the rule, split files, and evaluation triplets."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from ctl_lightning.data.negatives import NegativeSampler
from ctl_lightning.data.pairs import Box, Pair, PairTable
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import write_text
from ctl_lightning.runtime.reading import json_lines, read_json

log = logging.getLogger(__name__)

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

VERSION = 2
"""Version of split files; version 1 had no groups of scenes that are one photo."""

MOST_FOLDS = 100
"""With more folds hardly a scene is left to be tested in each."""

TRAIN_OF_FOLDS = 0.9
"""With folds, the part of the scenes beside the tested fold that is for training; the rest is for validation."""


def hash_fraction(*key: object) -> float:
    """A number in [0, 1) that depends on `key` alone: the same on every platform and library version."""
    digest = hashlib.sha256("|".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_of(scene: str, salt: str) -> Split:
    """80 % train, 10 % validation, 10 % test, by a hash of the scene alone: no scene is ever in two splits."""
    fraction = hash_fraction("split", salt, scene)
    return "train" if fraction < 0.8 else "validation" if fraction < 0.9 else "test"


TwinRule = Literal["merge", "keep"]
"""What is done with pictures that are one photo: "merge": they count as one; "keep": nothing, as before version 2."""


@dataclass(frozen=True)
class SplitRule:
    """How scenes, or groups of scenes that are one photo, are split.

    Attributes:
        salt: text hashed into split and evaluation triplets; equal salt and data give the same split and triplets.
        split_file: published split.json to use in place of the rule; None: the rule decides.
        twins: "merge": scenes that are one photo are in one split, products that are one photo are one; "keep": they are not looked for.
        folds: number of folds, of which one is for testing; None: a tenth of the scenes is for testing.
        fold: number of the fold that is for testing, from 0.
        train_share: share of the training scenes that are used, such as 0.25; validation and test stay as they are.

    Raises:
        ValueError: an option out of its range, or beside a split file.
    """

    salt: str
    split_file: str | None
    twins: TwinRule
    folds: int | None
    fold: int
    train_share: float

    def __post_init__(self) -> None:
        if self.folds is not None and not 2 <= self.folds <= MOST_FOLDS:
            raise ValueError(f"folds must be between 2 and {MOST_FOLDS}, or null, not {self.folds}")
        if not 0 <= self.fold < (self.folds or 1):
            how_many = f"{self.folds} folds" if self.folds else "no folds; give data.folds=5"
            raise ValueError(
                f"fold must be at least 0 and less than the number of folds, not {self.fold} of {how_many}"
            )
        if self.folds is not None and self.split_file is not None:
            raise ValueError("folds and split_file both say what is for testing; give one of them, the other is null")
        if not 0 < self.train_share <= 1:
            raise ValueError(f"train_share must be more than 0 and at most 1, not {self.train_share}")

    def split_of(self, group: str) -> Split:
        """The split of a group of scenes that are one photo, by the smallest of their ids alone; without a split file."""
        if self.folds is None:
            return split_of(group, self.salt)
        if int(self.folds * hash_fraction("fold", self.salt, group)) == self.fold:
            return "test"
        return "validation" if hash_fraction("split", self.salt, group) >= TRAIN_OF_FOLDS else "train"

    def trains_on(self, group: str) -> bool:
        """Whether a group of the training split is among the share that is used."""
        return self.train_share == 1 or hash_fraction("train_share", self.salt, group) < self.train_share


def write_split(path: Path, split: Mapping[str, Split], rule: SplitRule, group_of: Mapping[str, str]) -> None:
    """Writes scene -> split and scene -> group, sorted so that equal splits are equal files; with counts and the rule.

    Args:
        path: file to write.
        split: scene -> its split.
        rule: rule that made it.
        group_of: scene -> the smallest id of its photo, for scenes that have a twin.
    """
    content = {
        "version": VERSION,
        "salt": None if rule.split_file else rule.salt,
        "twins": rule.twins,
        "folds": rule.folds,
        "fold": rule.fold,
        "train_share": rule.train_share,
        "scenes_in_split": Counter(split.values()),
        "split_of_scene": dict(split),
        "group_of_scene": {scene: group_of.get(scene, scene) for scene in split},
    }
    write_text(path, json.dumps(content, indent=0, sort_keys=True) + "\n")


class GivenSplit(NamedTuple):
    """A split file: scene -> split, and whether scenes that are one photo were grouped when it was made."""

    split: dict[str, Split]
    grouped: bool


def read_split(path: Path) -> dict[str, Split]:
    """Reads scene -> split from a file of `write_split`. Raises InputError: not such a file."""
    return read_split_file(path).split


def read_split_file(path: Path) -> GivenSplit:
    """Reads a file of `write_split`, of version 1 (without groups) or 2. Raises InputError: not such a file."""
    try:
        content = read_json(path)
        split: dict[str, Split] = content["split_of_scene"]
        if not set(split.values()) <= set(SPLITS):
            raise ValueError("another split than train, validation and test")
        return GivenSplit(split, "group_of_scene" in content and content.get("twins") != "keep")
    except (OSError, InputError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"data.split_file: {path} is not a split file ({why_unread(error)}); `train` writes one into its run directory"
        ) from None


def why_unread(error: Exception) -> str:
    """Why a file of JSON is not what it should be, in a few words."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return "other values than such a file has" if isinstance(error, (TypeError, AttributeError)) else str(error)


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


def split_pairs(
    pairs: Sequence[Pair], rule: SplitRule, group_of: Mapping[str, str], root: Path
) -> dict[Split, list[Pair]]:
    """Splits pairs by their scene, and so that scenes which are one photo stay together if the rule decides.

    Args:
        pairs: pairs to split.
        rule: rule, or the split file in its place; of all training pairs, not of a share of them.
        group_of: scene -> the smallest id of its photo, for scenes that have a twin.
        root: folder of the data, for messages.

    Raises:
        InputError: the split file is not readable, or lacks a scene of `pairs`.
    """
    given = read_split_file(Path(rule.split_file)) if rule.split_file else None
    found: dict[Split, list[Pair]] = {split: [] for split in SPLITS}
    for pair in pairs:
        if given and pair.scene not in given.split:
            raise InputError(f"data.split_file: {rule.split_file} does not have scene {pair.scene} of {root}")
        own = given.split[pair.scene] if given else rule.split_of(group_of.get(pair.scene, pair.scene))
        found[own].append(pair)
    if given and rule.twins == "merge":
        _warn_of_twins(found, rule, given.grouped, group_of)
    return found


def _warn_of_twins(
    pairs: Mapping[Split, Sequence[Pair]], rule: SplitRule, grouped: bool, group_of: Mapping[str, str]
) -> None:
    splits: dict[str, set[Split]] = {}
    for split, own in pairs.items():
        for pair in own:
            if pair.scene in group_of:
                splits.setdefault(group_of[pair.scene], set()).add(split)
    apart = sum(len(found) > 1 for found in splits.values())
    if apart or not grouped:
        made = "" if grouped else " was made without groups of twins (group_of_scene), so they may straddle it: it"
        log.warning(
            "data.split_file: %s%s has %d of %d photos that are several scenes in more than one split; without it the rule keeps them together",
            rule.split_file,
            made,
            apart,
            len(splits),
        )


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
