"""Which pairs, pictures and triplets a protocol uses: those of a source, cropped, checked and split. No batches yet."""

import logging
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ctl_lightning.data.crop import area, crop_key, scene_crop
from ctl_lightning.data.evaluation_set import EvaluationSet, evaluation_set
from ctl_lightning.data.images import Aspect, ImageItem, Interpolation, size_in_pixels
from ctl_lightning.data.negatives import NegativeSampler
from ctl_lightning.data.pairs import NO_BOX, Pair, PairTable
from ctl_lightning.data.sources.source import Source
from ctl_lightning.data.sources.truth import Truth
from ctl_lightning.data.splits import (
    SPLITS,
    EvaluationTriplet,
    Split,
    SplitRule,
    evaluation_triplets,
    pair_hashes,
    split_pairs,
    write_split,
    write_triplets,
)
from ctl_lightning.data.store.factory import StoreKind, open_store, picture_items
from ctl_lightning.data.store.packed import ImageStore
from ctl_lightning.data.twins.groups import Twins, find_twins
from ctl_lightning.runtime.errors import InputError

log = logging.getLogger(__name__)

MANY = 0.1
"""A larger share of pairs that are dropped because of their boxes is a warning, not only a number of the summary."""

SAMPLE = 100
"""Number of photos that are looked at to say whether most are smaller than asked for."""


class PreparedData:
    """The data of a protocol before batches are made of it.

    Args:
        root: folder with the data of the source.
        source: format of that data.
        cache_dir: folder in which image stores are kept.
        stored_size: side of the stored pictures, in pixels.
        aspect: how a picture becomes a square: "stretch", "pad" or "crop".
        interpolation: filter that resizes it: "nearest", "bilinear", "bicubic" or "lanczos".
        store: kind of image store, "packed", "litdata" or "none"; see `open_store`.
        chunks_dir: folder for the chunks of "litdata"; see `open_store`.
        margin: distance that a box grows on each side before it is cut away, as a share of the image side, say 0.05.
        min_area: smallest area of a scene crop, as a share of the scene, such as 0.2; pairs below it are dropped.
        exclude_categories: names of categories to leave out, with their products and pairs.
        max_bad_images: largest share of unreadable images, such as 0.01, up to which the run goes on without them.
        rule: how scenes are split.
        triplets_file: published triplets.jsonl to use in place of those that the salt gives; None: the salt decides.
        least_train_pairs: smallest number of pairs in the training split; with fewer `setup` raises InputError.

    Attributes:
        table: all pairs and the catalogue; set by `read_table`; `setup` merges what is one photo.
        as_read: the table before that.
        twins: which scenes and products are one photo; set by `setup`; None: the rule keeps them, or they are no photos.
        store: image store of all pictures; set by `setup`.
        stored: key of each scene crop that is in the store -> a pair that has it, whatever is merged or trained on; set by
            `setup`.
        pairs: split -> its pairs; filled by `setup`.
        triplets: evaluation split -> its evaluation triplets, one for each pair; filled by `setup`.
        dropped: reason -> number of pairs that are in no split because of it; filled by `setup`.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        root: str,
        source: Source,
        cache_dir: str,
        stored_size: int,
        aspect: Aspect,
        interpolation: Interpolation,
        store: StoreKind,
        chunks_dir: str | None,
        margin: float,
        min_area: float,
        exclude_categories: list[str],
        max_bad_images: float,
        rule: SplitRule,
        triplets_file: str | None,
        least_train_pairs: int,
    ) -> None:
        if not 0 <= margin < 1:
            raise ValueError(f"margin must be in [0, 1), not {margin}")
        if not 0 < min_area < 1:
            raise ValueError(f"min_area must be between 0 and 1, not {min_area}")
        if chunks_dir is not None and "://" in chunks_dir:
            raise ValueError(
                f"chunks_dir must be a folder, not {chunks_dir}; a bucket can be mounted as one (docs/scaling.md)"
            )
        if not 0 <= max_bad_images <= 1:
            raise ValueError(f"max_bad_images must be a share from 0 to 1, not {max_bad_images}")
        self.root = Path(root).expanduser()
        self.source = source
        self.cache_dir = Path(cache_dir).expanduser()
        self.stored_size = stored_size
        self.aspect: Aspect = aspect
        self.interpolation: Interpolation = interpolation
        self.store_kind: StoreKind = store
        self.chunks_dir = Path(chunks_dir).expanduser() if chunks_dir else None
        self.margin = margin
        self.min_area = min_area
        self.exclude_categories = exclude_categories
        self.max_bad_images = max_bad_images
        self.rule = rule
        self.triplets_file = triplets_file
        self.table: PairTable
        self.as_read: PairTable
        self.twins: Twins | None = None
        self.store: ImageStore
        self.stored: dict[str, Pair] = {}
        self.pairs: dict[Split, list[Pair]] = {}
        self.triplets: dict[Split, list[EvaluationTriplet]] = {}
        self.dropped: Counter[str] = Counter()
        self._least_train_pairs = least_train_pairs

    @property
    def salt(self) -> str:
        """Text hashed into split and evaluation triplets."""
        return self.rule.salt

    @property
    def split_file(self) -> str | None:
        """Split file that is used in place of the rule."""
        return self.rule.split_file

    @property
    def categories(self) -> list[str]:
        """Category names in the order of their indices."""
        return list(self.table.products_of_category)

    @property
    def train_counts(self) -> Mapping[str, int]:
        """Product -> number of training pairs that it is in, more than 0."""
        return Counter(pair.product for pair in self.pairs["train"])

    @property
    def truth(self) -> Truth | None:
        """What decides in every look, where it is known (synthetic looks); None: not known."""
        return self.source.truth(self.root)

    def prepare_data(self) -> None:
        """Lets the source make what it can make; called once on each machine."""
        self.source.prepare(self.root)

    def read_table(self) -> None:
        """Reads the pairs and the catalogue, and so the categories, in seconds. `setup` calls it if nobody has.

        Raises:
            InputError: unreadable source, a category with a single product.
        """
        self.table = self.as_read = self.source.read(self.root).without_categories(self.exclude_categories)
        self._check_categories()

    def _check_categories(self) -> None:
        for category, products in self.table.products_of_category.items():
            if len(products) == 1:
                raise InputError(
                    f"{self.root}: category {category!r} has a single product ({products[0]}), so it has no negatives; "
                    f"leave it out with 'data.exclude_categories=[\"{category}\"]'"
                )

    def setup(self, stage: str | None = None) -> None:
        """Computes the scene crops, opens the store, splits by scene. Does nothing when called again.

        Raises:
            InputError: as `read_table`; too many bad images; a split without enough pairs.
        """
        if self.pairs:
            return
        if not hasattr(self, "table"):
            self.read_table()
        large = self._large_crops()
        if len(large) < self._least_train_pairs:  # told before images are packed, which takes long
            raise InputError(self._too_few(len(large), "train", self._least_train_pairs))
        self._warn_of_boxes(large)
        self.store = self._open_store(large)  # of all products, so that it serves whatever is merged
        keys = {crop_key(pair.scene, pair.box): pair for pair in large}
        self.stored = {key: pair for key, pair in keys.items() if key not in self.store.bad}
        if self.source.photos:
            self._merge_twins()
            large = self._large_crops()
        readable = [
            pair for pair in large if not {crop_key(pair.scene, pair.box), pair.product} & self.store.bad.keys()
        ]
        self.dropped["unreadable image"] = len(large) - len(readable)

        uniform = NegativeSampler(self.table, frozenset(self.products), (), "uniform")
        usable = [pair for pair in readable if uniform.exists(pair)]
        self.dropped["no possible negative"] = len(readable) - len(usable)
        pairs = self._split(usable)
        self.triplets = {
            split: evaluation_triplets(pairs[split], uniform, self.salt, self.triplets_file, self.table)
            for split in SPLITS[1:]
        }
        self.pairs = pairs

    def _split(self, usable: Sequence[Pair]) -> dict[Split, list[Pair]]:
        """Split -> its pairs. Raises InputError: a split without enough of them."""
        pairs = split_pairs(usable, self.rule, self.table.group_of, self.root)
        used = [pair for pair in pairs["train"] if self.rule.trains_on(self.table.group(pair.scene))]
        self.dropped["not in train_share"] = len(pairs["train"]) - len(used)
        pairs["train"] = used
        for split in SPLITS:
            needed = self._least_train_pairs if split == "train" else 1
            if len(pairs[split]) < needed:
                raise InputError(self._too_few(len(pairs[split]), split, needed))
        return pairs

    def _large_crops(self) -> list[Pair]:
        """The pairs whose scene crop is large enough; counts those that are dropped until now."""
        large = [pair for pair in self.table.pairs if area(scene_crop(pair.box, self.margin)) >= self.min_area]
        small = {"crop smaller than min_area": len(self.table.pairs) - len(large)}
        self.dropped = Counter({**self.table.left_out, **small})
        return large

    def _merge_twins(self) -> None:
        if self.rule.twins == "keep":
            log.warning(
                "the split of %s keeps twins (data.twins=keep): one photo under several ids may be on both sides of it",
                self.root,
            )
            return
        self.twins = find_twins(self.source, self.root, self.as_read, self.cache_dir)
        self.table = self.as_read.merged(self.twins.group_of, self.twins.product_of, self.twins.own_photos)
        self._check_categories()

    def _too_few(self, found: int, split: Split, needed: int) -> str:
        """What is said where a split has not enough pairs: where the others are lost, and the way out."""
        told = [f"{self.root}: {found} pairs in the {split} split, at least {needed} needed"]
        if lost := ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count):
            read = len(self.table.pairs) + sum(self.table.left_out.values())
            told.append(f"of {read:,} pairs, {self.dropped.total():,} are dropped ({lost})")
        if self.dropped["crop smaller than min_area"]:
            told.append(self._way_out_of_small_crops())
        told.append(f"more data, or {'a smaller data.batch_size' if split == 'train' else 'another data.salt'}")
        return "; ".join(told)

    def _way_out_of_small_crops(self) -> str:
        shares = [area(scene_crop(pair.box, self.margin)) for pair in self.table.pairs]
        return (
            f"beside a box, grown by data.margin={self.margin}, there must be a part of the scene of at least data.min_area={self.min_area} "
            f"(the median here: {max(0.0, statistics.median(shares)):.2f}): a smaller data.min_area or data.margin, or tighter boxes, keep more"
        )

    def _warn_of_boxes(self, used: list[Pair]) -> None:
        small = self.dropped["crop smaller than min_area"]
        if small > MANY * len(self.table.pairs):
            log.warning("%d of %d pairs are dropped: %s", small, len(self.table.pairs), self._way_out_of_small_crops())
        if whole := _without_box(used):
            log.warning(
                "%d of %d pairs have no box: their scenes are used whole, so the product is visible in them, and what is measured is "
                "finding the same product, not what goes together; boxes make it that",
                whole,
                len(used),
            )

    @property
    def products(self) -> list[str]:
        """The catalogue's products whose image can be read, in alphabetical order."""
        return [product for product in sorted(self.table.catalogue) if product not in self.store.bad]

    @property
    def stored_products(self) -> list[str]:
        """The same before products that are one photo were merged."""
        return [product for product in sorted(self.as_read.catalogue) if product not in self.store.bad]

    def _open_store(self, pairs: list[Pair]) -> ImageStore:
        items = picture_items(self.source, self.root, self.table, pairs, self.margin)
        store = self.store_of(items, self.max_bad_images)
        if store.bad:
            log.warning(
                "%d of %d images cannot be read, first %s; going on without them; all are listed in %s: "
                "mend them, or delete those that `prepare` can fetch again",
                len(store.bad),
                len(items),
                next(iter(store.bad.values())),
                store.listing,
            )
        self._warn_of_small_photos([item for item in items if item.key not in store.bad])
        return store

    def store_of(self, items: Sequence[ImageItem], max_bad: float) -> ImageStore:
        """The store of these pictures, cut and resized as these data's are; see `open_store`."""
        return open_store(
            items,
            self.stored_size,
            self.aspect,
            self.interpolation,
            self.cache_dir,
            self.store_kind,
            max_bad,
            self.chunks_dir,
        )

    def _warn_of_small_photos(self, items: Sequence[ImageItem]) -> None:
        sample = items[:: max(1, -(-len(items) // SAMPLE))]
        small = sum(math.prod(size_in_pixels(item)) < self.stored_size**2 for item in sample)
        if 2 * small > len(sample):
            log.warning(
                "%d of %d photos (a sample) have fewer pixels than data.stored_size=%d makes of them: larger photos show more; a smaller "
                "data.stored_size takes less time and room",
                small,
                len(sample),
                self.stored_size,
            )

    def summary(self) -> str:
        """One line with the number of pairs, products and categories, the median scene crop, and what was dropped."""
        used = [pair for pairs in self.pairs.values() for pair in pairs]
        areas = [area(scene_crop(pair.box, self.margin)) for pair in used]
        counts = ", ".join(f"{len(self.pairs[split]):,} {split}" for split in SPLITS if self.pairs[split])
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count) or "none"
        whole = f", {count:,} of them without a box" if (count := _without_box(used)) else ""
        twins = f"; {self.twins}" if self.twins else ""
        return (
            f"{len(areas):,} pairs{whole} ({counts}; dropped: {dropped}), {len(self.products):,} products in "
            f"{len(self.table.products_of_category)} categories, median scene crop {statistics.median(areas):.2f} of the scene{twins}"
        )

    def write_protocol_files(self, folder: Path) -> None:
        """Writes split.json and triplets.jsonl, ids only, to publish, and for `split_file` and `triplets_file`."""
        split_of_scene = {pair.scene: split for split, pairs in self.pairs.items() for pair in pairs}
        write_split(folder / "split.json", split_of_scene, self.rule, self.table.group_of)
        write_triplets(folder / "triplets.jsonl", self.triplets)

    def evaluation(self, split: Split) -> EvaluationSet:
        """The evaluation set of a split."""
        pairs, triplets = self.pairs[split], self.triplets[split]
        return evaluation_set(self.table, self.categories, self.products, pairs, triplets, self.train_counts)

    def pair_hashes(self) -> dict[str, str]:
        """Split -> a hash of its pairs; see `splits.pair_hashes`."""
        return pair_hashes(self.pairs)


def _without_box(pairs: Iterable[Pair]) -> int:
    return sum(pair.box == NO_BOX for pair in pairs)
