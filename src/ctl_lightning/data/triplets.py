"""Pairs -> training triplets and evaluation triplets. Every random choice is a hash of what it is for."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, get_worker_info

from ctl_lightning.data.crop import scene_crop
from ctl_lightning.data.files import write_text
from ctl_lightning.data.images import Pixels
from ctl_lightning.data.pairs import Box, Pair, PairTable, Split
from ctl_lightning.data.store import ImageStore
from ctl_lightning.errors import InputError

Negatives = Literal["uniform", "pairs"]


def crop_key(scene: str, box: Box) -> str:
    """The image store's key of a scene crop."""
    return f"{scene}@{','.join(map(str, box))}"


def random_integers(bounds: Sequence[int], *key: object) -> list[int]:
    """One integer in [0, bound) for each of the bounds: a function of `key` alone, whatever worker asks."""
    stream = hashlib.shake_128("|".join(map(str, key)).encode()).digest(6 * len(bounds))
    return [int.from_bytes(stream[6 * i : 6 * i + 6], "big") % bound for i, bound in enumerate(bounds)]


class NegativeSampler:
    """Draws a product of the positive's category that no pair of the scene names (design: positives are sets).

    Args:
        table: all pairs of the source: what they name is never a negative.
        usable: the products whose image can be read.
        pairs: from whose products to draw if `negatives` is "pairs", in each category.
        negatives: "uniform": any product of the category (the paper's); "pairs": the product of a random one of `pairs`, so that
            a product is as often a negative as a positive, and its popularity teaches nothing.
    """

    def __init__(self, table: PairTable, usable: frozenset[str], pairs: Sequence[Pair], negatives: Negatives) -> None:
        self._named = table.products_of_scene
        self._usable = usable
        self._pools: dict[str, Sequence[str]]
        if negatives == "uniform":
            # All products, not the usable ones: an image that breaks must not change the other draws.
            self._pools = dict(table.products_of_category)
        else:
            pools: dict[str, list[str]] = {}
            for pair in pairs:
                pools.setdefault(pair.category, []).append(pair.product)
            self._pools = {category: sorted(products) for category, products in pools.items()}

    def exists(self, pair: Pair) -> bool:
        """Whether the pair has any possible negative."""
        return any(self.allowed(pair, product) for product in self._pools.get(pair.category, ()))

    def draw(self, pair: Pair, *key: object) -> str:
        """A negative for a pair that has one, chosen by `key`."""
        pool = self._pools[pair.category]
        for attempt in range(1000):
            product = pool[random_integers([len(pool)], *key, attempt)[0]]
            if self.allowed(pair, product):
                return product
        allowed = [product for product in pool if self.allowed(pair, product)]
        return allowed[random_integers([len(allowed)], *key)[0]]

    def allowed(self, pair: Pair, product: str) -> bool:
        """Whether a product of the pair's category can be its negative: readable, and named by no pair of the scene."""
        return product in self._usable and product not in self._named[pair.scene]


class Triplet(NamedTuple):
    """What the network sees of scene crops, positives and negatives: uint8 (B, 3, S, S) each, and category indices (B,)."""

    scene: Tensor
    positive: Tensor
    negative: Tensor
    category: Tensor


class TripletDataset(Dataset[Triplet]):
    """Training triplets. One is asked for by (epoch, index): its negative and its augmentation depend on nothing else.

    A loader asks for a whole batch at once, which is then copied from the store once and not collated.

    Args:
        pairs: the training pairs.
        categories: in the order of their indices.
        store: of scene crops and products.
        negatives: where negatives come from.
        size: side of the pictures, cut at random from the stored ones, mirrored half of the time.
        seed: of the run.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        categories: Sequence[str],
        store: ImageStore,
        negatives: NegativeSampler,
        size: int,
        seed: int,
    ) -> None:
        self.pairs = pairs
        self._category = {category: index for index, category in enumerate(categories)}
        self._store = store
        self._negatives = negatives
        self._size = size
        self._seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: tuple[int, int]) -> Triplet:
        """A batch of one."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Triplet:
        """A batch of the triplets of (epoch, index)."""
        scene, positive, negative = (_empty(len(keys), self._size) for _ in range(3))
        for row, (epoch, index) in enumerate(keys):
            pair = self.pairs[index]
            self._view(scene[row], crop_key(pair.scene, pair.box), "scene", epoch, index)
            self._view(positive[row], pair.product, "positive", epoch, index)
            self._view(negative[row], self.negative(epoch, index), "negative", epoch, index)
        category = torch.tensor([self._category[self.pairs[index].category] for _, index in keys])
        return Triplet(_channels_first(scene), _channels_first(positive), _channels_first(negative), category)

    def negative(self, epoch: int, index: int) -> str:
        """The negative of a triplet."""
        return self._negatives.draw(self.pairs[index], "negative", self._seed, epoch, index)

    def _view(self, out: Tensor, image: str, *key: object) -> None:
        room = self._store.size - self._size + 1
        top, left, mirror = random_integers([room, room, 2], "view", self._seed, *key)
        out.numpy()[...] = self._store[image][top : top + self._size, left : left + self._size]
        if mirror:
            picture = _channels_first(out[None])  # torch mirrors this memory format several times faster than numpy
            picture.copy_(picture.flip(-1))


class EpochSampler(Sampler[tuple[int, int]]):
    """Every index once an epoch, as (epoch, index), in an order that depends on seed and epoch alone.

    Args:
        length: how many items.
        seed: of the run.
        epoch: tells the current epoch. Asked when an iteration begins: Lightning announces the epoch of a resumed run only
            after its loader has begun to fetch.
    """

    def __init__(self, length: int, seed: int, epoch: Callable[[], int]) -> None:
        self._length = length
        self._seed = seed
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self._epoch()
        generator = np.random.Generator(np.random.PCG64([self._seed, epoch]))
        return iter([(epoch, int(index)) for index in generator.permutation(self._length)])


class EvaluationImage(NamedTuple):
    """Pictures to embed: uint8 (B, 3, S, S), and the indices of their categories (B,)."""

    image: Tensor
    category: Tensor


class EvaluationImages(Dataset[EvaluationImage]):
    """The centres of stored pictures, with their categories.

    Args:
        keys: of the store.
        categories: index of each picture's category.
        store: of scene crops and products.
        size: side of the pictures.
    """

    def __init__(self, keys: Sequence[str], categories: Sequence[int], store: ImageStore, size: int) -> None:
        self.keys = keys
        self._categories = categories
        self._store = store
        self._size = size

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> EvaluationImage:
        """A batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> EvaluationImage:
        """A batch of pictures."""
        images = _empty(len(indices), self._size)
        for row, index in enumerate(indices):
            images[row].numpy()[...] = self.pixels(index)
        return EvaluationImage(_channels_first(images), torch.tensor([self._categories[index] for index in indices]))

    def pixels(self, index: int) -> Pixels:
        """What the network sees of a picture, uint8 (S, S, 3)."""
        start, end = centre(self._store.size, self._size)
        return self._store[self.keys[index]][start:end, start:end]


def centre(stored: int, size: int) -> tuple[int, int]:
    """Start and end of the central `size` of `stored` pixels."""
    start = (stored - size) // 2
    return start, start + size


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


def _empty(count: int, size: int) -> Tensor:
    """Room for pictures, uint8 (count, size, size, 3); in a worker it is shared memory: a batch is not copied on its way."""
    pictures = torch.empty((count, size, size, 3), dtype=torch.uint8)
    return pictures if get_worker_info() is None else pictures.share_memory_()  # type: ignore[no-untyped-call]


def _channels_first(pictures: Tensor) -> Tensor:
    """(B, S, S, 3) -> (B, 3, S, S) without a copy: what torch calls the channels-last memory format."""
    return pictures.permute(0, 3, 1, 2)


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
