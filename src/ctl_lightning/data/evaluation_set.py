"""What a split asks of a ranking: which product belongs to which scene crop, and which others it is ranked against."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ctl_lightning.data.crop import crop_key
from ctl_lightning.data.pairs import Pair, PairTable
from ctl_lightning.data.splits import EvaluationTriplet

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class EvaluationSet:
    """N pairs of one split against a catalogue of M products, as indices.

    Attributes:
        pairs: the N pairs.
        categories: category names in the order of their indices.
        products: ids of the M catalogue products.
        product_category: category index of each product, (M,).
        train_count: number of training pairs that each product is in, (M,); 0: unseen.
        queries: the Q distinct queries, each (key of a scene crop, category index).
        query: index in `queries` of each pair's query, (N,).
        positive: index in `products` of each pair's product, (N,).
        negative: index in `products` of the negative of each pair's seeded triplet, (N,).
        category: category index of each pair, (N,).
        scene: scene number of each pair, (N,); pairs of one scene, or of scenes that are one photo, have equal numbers.
        masked: for each pair, indices in `products` of the other products that its scene names: neither hit nor error.
    """

    pairs: tuple[Pair, ...]
    categories: tuple[str, ...]
    products: tuple[str, ...]
    product_category: Integers
    train_count: Integers
    queries: tuple[tuple[str, int], ...]
    query: Integers
    positive: Integers
    negative: Integers
    category: Integers
    scene: Integers
    masked: tuple[Integers, ...]

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Whether each pair's product is in a training pair, (N,)."""
        return self.train_count[self.positive] > 0

    @cached_property
    def products_of_category(self) -> tuple[frozenset[str], ...]:
        """The ids of each category's products."""
        found: list[set[str]] = [set() for _ in self.categories]
        for product, category in zip(self.products, self.product_category.tolist(), strict=True):
            found[category].add(product)
        return tuple(map(frozenset, found))

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Box of each pair, (N, 4); NO_BOX for a pair that has none."""
        return np.array([pair.box for pair in self.pairs], dtype=np.float64).reshape(-1, 4)

    def only(self, chosen: Sequence[int]) -> "EvaluationSet":
        """The set of the pairs with these indices, in that order, against the same catalogue; queries keep their indices."""
        at = np.array(chosen, dtype=np.int64)
        return replace(
            self,
            pairs=tuple(self.pairs[index] for index in chosen),
            query=self.query[at],
            positive=self.positive[at],
            negative=self.negative[at],
            category=self.category[at],
            scene=self.scene[at],
            masked=tuple(self.masked[index] for index in chosen),
        )


def evaluation_set(
    table: PairTable,
    categories: Sequence[str],
    products: Sequence[str],
    pairs: Sequence[Pair],
    triplets: Sequence[EvaluationTriplet],
    train_counts: Mapping[str, int],
) -> EvaluationSet:
    """Makes the evaluation set of a split, with indices in place of ids.

    Args:
        table: all pairs and the catalogue.
        categories: category names in the order of their indices; the table may lack some.
        products: ids of the catalogue products that can be ranked.
        pairs: pairs of the split.
        triplets: evaluation triplets, one for each of `pairs`, in their order.
        train_counts: product -> number of training pairs that it is in; a product that is not there is in none.
    """
    category_index = {category: index for index, category in enumerate(categories)}
    product_index = {product: index for index, product in enumerate(products)}
    scene_index = {scene: index for index, scene in enumerate(sorted({table.group(pair.scene) for pair in pairs}))}
    pair_queries = [(crop_key(pair.scene, pair.box), category_index[pair.category]) for pair in pairs]
    queries = {query: index for index, query in enumerate(dict.fromkeys(pair_queries))}
    return EvaluationSet(
        pairs=tuple(pairs),
        categories=tuple(categories),
        products=tuple(products),
        product_category=_integers(category_index[table.catalogue[product]] for product in products),
        train_count=_integers(train_counts.get(product, 0) for product in products),
        queries=tuple(queries),
        query=_integers(queries[query] for query in pair_queries),
        positive=_integers(product_index[pair.product] for pair in pairs),
        negative=_integers(product_index[triplet.negative] for triplet in triplets),
        category=_integers(category_index[pair.category] for pair in pairs),
        scene=_integers(scene_index[table.group(pair.scene)] for pair in pairs),
        masked=tuple(
            _integers(
                sorted(
                    product_index[other]
                    for other in table.products_of_scene[pair.scene] - {pair.product}
                    if other in product_index
                )
            )
            for pair in pairs
        ),
    )


def alike(first: EvaluationSet, second: EvaluationSet) -> tuple[list[int], list[int]]:
    """The pairs of two sets that ask the same: equal pairs, with the same negative, against the same products.

    Returns:
        Indices of these pairs in the first and in the second set, in the order of the first, (n,) each.
    """
    places = {_asked(second, index): index for index in range(len(second.pairs))}
    found = [(index, places.get(_asked(first, index))) for index in range(len(first.pairs))]
    return [one for one, other in found if other is not None], [other for _, other in found if other is not None]


def _asked(task: EvaluationSet, index: int) -> tuple[object, ...]:
    """What a pair asks, whatever the checkpoint calls its category: pair, negative, products masked and ranked."""
    pair = task.pairs[index]
    ranked = task.products_of_category[task.category[index]]
    masked = ranked.intersection(task.products[product] for product in task.masked[index])
    return *pair[:3], task.products[task.negative[index]], masked, ranked


def _integers(values: Iterable[int]) -> Integers:
    return np.fromiter(values, dtype=np.int64)
