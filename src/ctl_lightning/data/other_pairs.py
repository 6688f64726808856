"""Pairs of data that a checkpoint was not trained on: all of them as its test split."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ctl_lightning.data.category_names import CategoryMap, matched_categories
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.pairs import Pair
from ctl_lightning.data.sources.truth import Truth
from ctl_lightning.data.splits import Split
from ctl_lightning.runtime.errors import InputError

AS_A_TEST_SPLIT: dict[str, Any] = {
    "exclude_categories": [],
    "boxes": False,
    "split_file": None,
    "triplets_file": None,
    "folds": None,
    "fold": 0,
    "train_share": 1.0,
}
"""Options of the data in which other pairs are not as the checkpoint's own: nothing is split, nothing is trained on."""


class OtherPairs(TripletDataModule):
    """All pairs of a source as the test split of a checkpoint that was trained on something else.

    Scenes are cut, pictures resized and negatives drawn as for the checkpoint's own test split, so the same pairs have the same
    numbers. The catalogue is the source's own.

    Args:
        known: the checkpoint's categories, in the order of their indices.
        train_counts: product -> number of the checkpoint's training pairs that it is in; products are the same if their ids are,
            but for those that `forget` names.
        given: map of categories of the user's; see `matched_categories`, which also says what `strict` is.
        strict: whether a category in the map that the checkpoint does not know is an error.
        options: options of TripletDataModule: the checkpoint's, but for AS_A_TEST_SPLIT and where the data lie.

    Attributes:
        matched: category of the source -> the checkpoint's; set by `read_table`.
        unmatched: category of the source that the checkpoint does not know -> its numbers of pairs and of products; set by
            `read_table`.
    """

    def __init__(
        self,
        known: Sequence[str],
        train_counts: Mapping[str, int],
        given: CategoryMap,
        strict: bool,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._known, self._train_counts = known, train_counts
        self._given, self._strict = given, strict
        self._least_train_pairs = 0
        self.matched: dict[str, str] = {}
        self.unmatched: dict[str, dict[str, int]] = {}

    @property
    def categories(self) -> list[str]:
        """The checkpoint's categories, in the order of their indices; the data may lack some."""
        return list(self._known)

    @property
    def train_counts(self) -> Mapping[str, int]:
        """Product -> number of the checkpoint's training pairs that it is in, more than 0."""
        return self._train_counts

    def forget(self, products: Collection[str]) -> None:
        """Takes products out of `train_counts`: they have the id of a product of the training by chance."""
        self._train_counts = {name: count for name, count in self._train_counts.items() if name not in products}

    @property
    def truth(self) -> Truth | None:
        """What decides in every look, if it is known and no category has got another name."""
        renamed = any(theirs != ours for theirs, ours in self.matched.items())
        return None if renamed else super().truth

    def read_table(self) -> None:
        """Reads pairs and catalogue, and leaves out those of categories that the checkpoint does not know.

        Raises:
            InputError: unreadable source; a wrong map; no category that the checkpoint knows.
        """
        table = self.source.read(self.root)
        self.matched = matched_categories(table.products_of_category, self._known, self._given, self._strict)
        pairs = Counter(pair.category for pair in table.pairs)
        self.unmatched = {
            name: {"pairs": pairs[name], "products": len(products)}
            for name, products in table.products_of_category.items()
            if name not in self.matched
        }
        self.table = self.as_read = table.renamed(self.matched)

    def _check_categories(self) -> None:
        """A category with a single product has no negatives: its pairs are dropped and counted, not refused."""

    def _split(self, usable: Sequence[Pair]) -> dict[Split, list[Pair]]:
        if not usable:
            why = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count)
            raise InputError(f"data.root={self.root}: no pair is left to be measured; dropped: {why}")
        return {"train": [], "validation": [], "test": list(usable)}

    def identity(self) -> dict[str, Any]:
        """What is measured, as plain values for results.json; the fingerprints are of the pictures and of the pairs."""
        return {
            "root": str(self.root),
            "pairs": len(self.pairs["test"]),
            "scenes": len({pair.scene for pair in self.pairs["test"]}),
            "products": len(self.products),
            "dropped": {reason: count for reason, count in self.dropped.items() if count},
            "categories": self.matched,
            "unmatched": self.unmatched,
            "pictures": self.store.content,
            "pair_hash": self.pair_hashes()["test"],
        }
