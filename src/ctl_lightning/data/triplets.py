"""Pairs -> training triplets and evaluation triplets. Every random choice is a hash of what it is for."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from ctl_lightning.data.crop import scene_crop
from ctl_lightning.data.negatives import NegativeSampler
from ctl_lightning.data.pairs import Box, Pair, PairTable, Split
from ctl_lightning.data.store.features import CachedFeatures
from ctl_lightning.data.store.views import Views, centre
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import write_text

Keys = Sequence[tuple[int, int]]
Batch = TypeVar("Batch")


def crop_key(scene: str, box: Box) -> str:
    """The image store's key of a scene crop."""
    return f"{scene}@{','.join(map(str, box))}"


class Triplet(NamedTuple):
    """B scene crops, positives, negatives: uint8 pictures (B, 3, S, S) each, or their features; and category indices (B,)."""

    scene: Tensor | CachedFeatures
    positive: Tensor | CachedFeatures
    negative: Tensor | CachedFeatures
    category: Tensor


class PairBatch(NamedTuple):
    """B scene crops and their products, as in `Triplet`, which are each other's negatives.

    Attributes:
        category: indices, (B,).
        identity: a number of each product, (B,): equal numbers, equal products.
        named: the numbers of all products that any pair of the scene names, (B, N), filled up with -1: never negatives.
    """

    scene: Tensor | CachedFeatures
    product: Tensor | CachedFeatures
    category: Tensor
    identity: Tensor
    named: Tensor


class _TrainingPairs(Dataset[Batch], Generic[Batch]):
    """What both kinds of training batches have in common: items are asked for by (epoch, index), a whole batch at once.

    A batch is then copied from the store once and not collated. It depends on nothing but those keys, and on the seed of the run.
    """

    def __init__(self, pairs: Sequence[Pair], categories: Iterable[str], views: Views) -> None:
        self.pairs = pairs
        self._category = {category: index for index, category in enumerate(categories)}
        self._views = views

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        """A batch of one."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Keys) -> Batch:
        """A batch of the items of (epoch, index)."""
        raise NotImplementedError

    def _scenes(self, keys: Keys) -> Tensor | CachedFeatures:
        pairs = (self.pairs[index] for _, index in keys)
        return self._seen("scene", [crop_key(pair.scene, pair.box) for pair in pairs], keys)

    def _positives(self, keys: Keys) -> Tensor | CachedFeatures:
        return self._seen("positive", [self.pairs[index].product for _, index in keys], keys)

    def _seen(self, role: str, images: Sequence[str], keys: Keys) -> Tensor | CachedFeatures:
        return self._views.training(images, [(role, *key) for key in keys])

    def _categories(self, keys: Keys) -> Tensor:
        return torch.tensor([self._category[self.pairs[index].category] for _, index in keys])


class TripletDataset(_TrainingPairs[Triplet]):
    """Training triplets.

    Args:
        pairs: the training pairs.
        categories: in the order of their indices.
        views: of scene crops and products.
        negatives: where negatives come from.
        seed: of the run.
    """

    def __init__(
        self, pairs: Sequence[Pair], categories: Sequence[str], views: Views, negatives: NegativeSampler, seed: int
    ) -> None:
        super().__init__(pairs, categories, views)
        self._negatives = negatives
        self._seed = seed

    def __getitems__(self, keys: Keys) -> Triplet:
        """A batch of the triplets of (epoch, index)."""
        negatives = self._seen("negative", [self.negative(*key) for key in keys], keys)
        return Triplet(self._scenes(keys), self._positives(keys), negatives, self._categories(keys))

    def negative(self, epoch: int, index: int) -> str:
        """The negative of a triplet."""
        return self._negatives.draw(self.pairs[index], "negative", self._seed, epoch, index)


class PairDataset(_TrainingPairs[PairBatch]):
    """Training pairs.

    Args:
        pairs: the training pairs.
        table: all pairs of the source: what they name is never a negative.
        views: of scene crops and products.
    """

    def __init__(self, pairs: Sequence[Pair], table: PairTable, views: Views) -> None:
        super().__init__(pairs, table.products_of_category, views)
        self._identity = {product: number for number, product in enumerate(sorted(table.catalogue))}
        self._named = {
            scene: [self._identity[product] for product in sorted(table.products_of_scene[scene])]
            for scene in {pair.scene for pair in pairs}
        }

    def __getitems__(self, keys: Keys) -> PairBatch:
        """A batch of the pairs of (epoch, index)."""
        pairs = [self.pairs[index] for _, index in keys]
        identity = torch.tensor([self._identity[pair.product] for pair in pairs])
        named = pad_sequence(
            [torch.tensor(self._named[pair.scene]) for pair in pairs], batch_first=True, padding_value=-1
        )
        return PairBatch(self._scenes(keys), self._positives(keys), self._categories(keys), identity, named)


class Share(NamedTuple):
    """Which part of all batches a process has: the one of number `rank` of `processes`."""

    rank: int = 0
    processes: int = 1


class EpochSampler(Sampler[tuple[int, int]]):
    """Every index once an epoch, as (epoch, index), in an order that depends on seed and epoch alone.

    What is left over when all processes have had whole batches is left out. Of W processes with batches of B, each has B items
    of every W · B in a row: what one process would have with batches of W · B.

    Args:
        categories: of each item.
        seed: of the run.
        start: tells the current epoch, and how many of its batches are done. Asked when an iteration begins: Lightning
            announces the epoch of a resumed run only after its loader has begun to fetch.
        batch_size: of one process.
        same_category: about so many items in a row are of one category.
        share: of this process.
    """

    def __init__(
        self,
        categories: Sequence[str],
        seed: int,
        start: Callable[[], tuple[int, int]],
        batch_size: int,
        same_category: int = 1,
        share: Share = Share(),  # noqa: B008 - a constant
    ) -> None:
        self._categories = np.unique(np.array(categories), return_inverse=True)[1]
        self._seed = seed
        self._start = start
        self._batch_size = batch_size
        self._same_category = same_category
        self._share = share

    def __len__(self) -> int:
        """So many items this process has an epoch."""
        return len(self._categories) // (self._batch_size * self._share.processes) * self._batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, done = self._start()
        generator = np.random.Generator(np.random.PCG64([self._seed, epoch]))
        order = generator.permutation(len(self._categories))
        if self._same_category > 1:
            order = _in_groups(order, self._categories[order], self._same_category, generator)
        batches = len(self) // self._batch_size
        whole = order[: batches * self._batch_size * self._share.processes]
        own = whole.reshape(batches, self._share.processes, self._batch_size)[done:, self._share.rank]
        return iter([(epoch, int(index)) for index in own.flat])


class DealtBatches(Sampler[int]):
    """Items in order, but whole batches are dealt to the processes by turns: each is then computed as one process alone does.

    Every process has equally many, as what they do in step needs: when the last turn has too few, the first batch comes again.

    Args:
        count: of items.
        batch_size: of the loader.
        share: of this process.
    """

    def __init__(self, count: int, batch_size: int, share: Share) -> None:
        batches = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
        turns = math.ceil(len(batches) / share.processes)
        own = [turn * share.processes + share.rank for turn in range(turns)]
        self._items = [item for number in own for item in batches[number if number < len(batches) else 0]]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[int]:
        return iter(self._items)


def _in_groups(
    order: NDArray[np.int64], categories: NDArray[np.int64], size: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Brings `order` into groups of one category, as equal in size as can be, at most `size`; the groups in random order."""
    groups: list[NDArray[np.int64]] = []
    for category in range(categories.max() + 1):
        members = order[categories == category]
        groups += np.array_split(members, math.ceil(len(members) / size))
    return np.concatenate([groups[number] for number in generator.permutation(len(groups))])


class EvaluationImage(NamedTuple):
    """Pictures to embed, uint8 (B, 3, S, S), or their features; the indices of their categories (B,), and their places in the
    list of all pictures (B,).
    """

    image: Tensor | CachedFeatures
    category: Tensor
    place: Tensor


class EvaluationImages(Dataset[EvaluationImage]):
    """Scene crops or products as they are measured with, and their categories.

    Args:
        keys: of the store.
        categories: index of each picture's category.
        views: of scene crops and products.
    """

    def __init__(self, keys: Sequence[str], categories: Sequence[int], views: Views) -> None:
        self.keys = keys
        self._categories = categories
        self._views = views

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> EvaluationImage:
        """A batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> EvaluationImage:
        """A batch."""
        images = self._views.evaluation([self.keys[index] for index in indices])
        categories = torch.tensor([self._categories[index] for index in indices])
        return EvaluationImage(images, categories, torch.tensor(indices))


def region_centre(
    region: int, grid: int, stored: int, size: int, box: Box, margin: float, place: Box
) -> tuple[float, float]:
    """Where in the whole scene, (x, y) in [0, 1], the centre of a region of an evaluation picture lies.

    Args:
        region: index, row by row.
        grid: regions are grid x grid.
        stored: side of the stored crop, in pixels.
        size: side of its centre that the network sees.
        box: of the pair, which was cut away.
        margin: that the box was grown by.
        place: where in the stored square the crop lies; see `placed`.
    """
    row, column = divmod(region, grid)
    left, top, right, bottom = scene_crop(box, margin)
    start, _ = centre(stored, size)
    x, y = ((start + (cell + 0.5) / grid * size) / stored for cell in (column, row))
    x, y = (x - place[0]) / (place[2] - place[0]), (y - place[1]) / (place[3] - place[1])
    return left + x * (right - left), top + y * (bottom - top)


class EvaluationTriplet(NamedTuple):
    """A pair of an evaluation split and its one seeded negative."""

    scene: str
    box: Box
    positive: str
    negative: str


def write_triplets(path: Path, triplets: dict[Split, list[EvaluationTriplet]]) -> None:
    """Writes one JSON object a line, split by split, in the order of the pairs."""
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
    """Reads what `write_triplets` wrote: (scene, box, positive) -> negative. Raises InputError with the line."""
    negatives = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"data.triplets_file: cannot read {path} ({error})") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            negatives[row["scene"], tuple(row["bbox"]), row["positive"]] = row["negative"]
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{path}:{number}: not an evaluation triplet; `train` writes such a file into its run directory"
            ) from None
    return negatives


def evaluation_triplet(pair: Pair, negatives: NegativeSampler, salt: str) -> EvaluationTriplet:
    """The pair with a negative that a hash of its ids and the salt chooses: it depends on no order and no seed of a run."""
    negative = negatives.draw(pair, "evaluation", salt, pair.scene, pair.box, pair.product)
    return EvaluationTriplet(pair.scene, pair.box, pair.product, negative)
