"""The data of a protocol: the pairs of a source, cut, checked and split, with their pictures in a store. No batches yet."""

import logging
import statistics
from collections import Counter
from pathlib import Path

from ctl_lightning.data.crop import area, crop_key, scene_crop
from ctl_lightning.data.evaluation_set import EvaluationSet, evaluation_set
from ctl_lightning.data.images import Aspect
from ctl_lightning.data.negatives import NegativeSampler
from ctl_lightning.data.pairs import Pair, PairTable
from ctl_lightning.data.sources.source import Source
from ctl_lightning.data.splits import (
    SPLITS,
    EvaluationTriplet,
    Split,
    evaluation_triplets,
    pair_hashes,
    split_pairs,
    write_split,
    write_triplets,
)
from ctl_lightning.data.store.factory import StoreKind, open_store, picture_items
from ctl_lightning.data.store.packed import ImageStore
from ctl_lightning.runtime.errors import InputError

log = logging.getLogger(__name__)


class PreparedData:
    """What is known of the data before a batch is made.

    Args:
        root: folder of the source's data.
        source: the format of what is in it.
        cache_dir: where image stores are kept.
        stored_size: side of the stored pictures, in pixels.
        aspect: how a picture becomes a square: "stretch", "pad" or "crop".
        store: "packed", "litdata" or "none"; see `open_store`.
        chunks_dir: where the chunks of "litdata" are kept; see `open_store`.
        margin: by how much a box grows before it is cut away, as a share of the image side.
        min_area: pairs whose scene crop is a smaller share of the scene are dropped.
        exclude_categories: their products and pairs are left out.
        max_bad_images: the share of unreadable images up to which the run goes on without them.
        salt: of split and evaluation triplets: equal salt and data, equal numbers.
        split_file: a published split to use in place of the salt's.
        triplets_file: published evaluation triplets to use in place of the salt's.
        least_train_pairs: fewer pairs in the training split are an error.

    Attributes:
        table: all pairs and the catalogue, once `read_table` was called.
        store: of all pictures, once `setup` was called.
        pairs: of each split, likewise.
        triplets: of each evaluation split, likewise.
        dropped: why -> how many pairs are in no split.

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
        store: StoreKind,
        chunks_dir: str | None,
        margin: float,
        min_area: float,
        exclude_categories: list[str],
        max_bad_images: float,
        salt: str | int,
        split_file: str | None,
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
        self.store_kind: StoreKind = store
        self.chunks_dir = Path(chunks_dir).expanduser() if chunks_dir else None
        self.margin = margin
        self.min_area = min_area
        self.exclude_categories = exclude_categories
        self.max_bad_images = max_bad_images
        self.salt = str(salt)
        self.split_file = split_file
        self.triplets_file = triplets_file
        self.table: PairTable
        self.store: ImageStore
        self.pairs: dict[Split, list[Pair]] = {}
        self.triplets: dict[Split, list[EvaluationTriplet]] = {}
        self.dropped: Counter[str] = Counter()
        self._least_train_pairs = least_train_pairs

    @property
    def categories(self) -> list[str]:
        """Names, in the order of their indices."""
        return list(self.table.products_of_category)

    def prepare_data(self) -> None:
        """Makes what the source can make; once a machine."""
        self.source.prepare(self.root)

    def read_table(self) -> None:
        """Reads the pairs and the catalogue, which takes seconds and tells the categories. `setup` does it if nobody has.

        Raises:
            InputError: unreadable source, a category with a single product.
        """
        self.table = self.source.read(self.root).without_categories(self.exclude_categories)
        for category, products in self.table.products_of_category.items():
            if len(products) == 1:
                raise InputError(
                    f"{self.root}: category {category!r} has a single product ({products[0]}), so it has no negatives; "
                    f"leave it out with 'data.exclude_categories=[\"{category}\"]'"
                )

    def setup(self, stage: str | None = None) -> None:
        """Cuts the crops, opens the store, splits by scene. Does nothing the second time.

        Raises:
            InputError: as `read_table`; too many bad images, an empty split.
        """
        if self.pairs:
            return
        if not hasattr(self, "table"):
            self.read_table()
        self.dropped.update(self.table.left_out)
        large = [pair for pair in self.table.pairs if area(scene_crop(pair.box, self.margin)) >= self.min_area]
        self.dropped["crop smaller than min_area"] = len(self.table.pairs) - len(large)
        self.store = self._open_store(large)
        readable = [
            pair for pair in large if not {crop_key(pair.scene, pair.box), pair.product} & self.store.bad.keys()
        ]
        self.dropped["unreadable image"] = len(large) - len(readable)

        uniform = NegativeSampler(self.table, frozenset(self.products), (), "uniform")
        usable = [pair for pair in readable if uniform.exists(pair)]
        self.dropped["no possible negative"] = len(readable) - len(usable)
        pairs = split_pairs(usable, self.split_file, self.salt, self.root)
        for split in SPLITS:
            needed = self._least_train_pairs if split == "train" else 1
            if len(pairs[split]) < needed:
                smaller = "a smaller data.batch_size" if split == "train" else "another data.salt"
                raise InputError(
                    f"{self.root}: {len(pairs[split])} pairs in the {split} split, at least {needed} needed; more data, or {smaller}"
                )
        self.triplets = {
            split: evaluation_triplets(pairs[split], uniform, self.salt, self.triplets_file, self.table)
            for split in SPLITS[1:]
        }
        self.pairs = pairs

    @property
    def products(self) -> list[str]:
        """The catalogue's products whose image can be read, in alphabetical order."""
        return [product for product in sorted(self.table.catalogue) if product not in self.store.bad]

    def _open_store(self, pairs: list[Pair]) -> ImageStore:
        items = picture_items(self.source, self.root, self.table, pairs, self.margin)
        store = open_store(
            items,
            self.stored_size,
            self.aspect,
            self.cache_dir,
            self.store_kind,
            self.max_bad_images,
            self.chunks_dir,
        )
        if store.bad:
            log.warning(
                "%d of %d images cannot be read, first %s; going on without them; all are listed in %s: "
                "mend them, or delete those that `prepare` can fetch again",
                len(store.bad),
                len(items),
                next(iter(store.bad.values())),
                store.listing,
            )
        return store

    def summary(self) -> str:
        """One line: how many pairs, crops and products there are, and what was dropped."""
        areas = [area(scene_crop(pair.box, self.margin)) for pairs in self.pairs.values() for pair in pairs]
        counts = ", ".join(f"{len(self.pairs[split]):,} {split}" for split in SPLITS)
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count) or "none"
        return (
            f"{len(areas):,} pairs ({counts}; dropped: {dropped}), {len(self.products):,} products in "
            f"{len(self.categories)} categories, median scene crop {statistics.median(areas):.2f} of the scene"
        )

    def write_protocol_files(self, folder: Path) -> None:
        """Writes split.json and triplets.jsonl: ids only, they can be published and read back by `split_file`, `triplets_file`."""
        split_of_scene = {pair.scene: split for split, pairs in self.pairs.items() for pair in pairs}
        write_split(folder / "split.json", split_of_scene, None if self.split_file else self.salt)
        write_triplets(folder / "triplets.jsonl", self.triplets)

    def evaluation(self, split: Split) -> EvaluationSet:
        """What `split` asks of a ranking."""
        return evaluation_set(self.table, self.products, self.pairs[split], self.triplets[split], self.pairs["train"])

    def pair_hashes(self) -> dict[str, str]:
        """See `splits.pair_hashes`."""
        return pair_hashes(self.pairs)
