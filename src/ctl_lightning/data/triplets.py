"""How pairs become batches for training and evaluation. Every random choice is a hash of what it is for."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ctl_lightning.data.crop import crop_key
from ctl_lightning.data.negatives import NegativeSampler
from ctl_lightning.data.pairs import Pair, PairTable
from ctl_lightning.data.store.features import CachedFeatures
from ctl_lightning.data.store.views import Views

Keys = Sequence[tuple[int, int]]
Batch = TypeVar("Batch")


class Triplet(NamedTuple):
    """B scene crops, positives, negatives, each uint8 pictures (B, 3, S, S) or features; and category indices (B,)."""

    scene: Tensor | CachedFeatures
    positive: Tensor | CachedFeatures
    negative: Tensor | CachedFeatures
    category: Tensor


class PairBatch(NamedTuple):
    """B scene crops and their products, as in `Triplet`; the products of the batch are each other's negatives.

    Attributes:
        category: category index of each pair, (B,).
        identity: number of each product, (B,); equal numbers are equal products.
        named: numbers of all products that any pair of the scene names, (B, N), padded with -1; never negatives.
        box: features of the boxes that the scene crops were cut beside: the products as they are worn; None: not asked for.
    """

    scene: Tensor | CachedFeatures
    product: Tensor | CachedFeatures
    category: Tensor
    identity: Tensor
    named: Tensor
    box: Tensor | CachedFeatures | None = None


class _TrainingPairs(Dataset[Batch], Generic[Batch], ABC):
    """What both kinds of training batches have in common: items are requested by (epoch, index), a whole batch at once.

    So a batch is copied from the store once and not collated. It depends only on those keys and the run's random seed.
    """

    def __init__(
        self, pairs: Sequence[Pair], categories: Iterable[str], views: Views, scenes: Views | None = None
    ) -> None:
        self.pairs = pairs
        self._category = {category: index for index, category in enumerate(categories)}
        self._views = views
        self._scene_views = views if scenes is None else scenes

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        """A batch of one."""
        return self.__getitems__([key])

    @abstractmethod
    def __getitems__(self, keys: Keys) -> Batch:
        """A batch of the items with these keys, (epoch, index) each."""

    def _scenes(self, keys: Keys) -> Tensor | CachedFeatures:
        return self._scene_views.training(self._crops(keys), [("scene", *key) for key in keys])

    def _crops(self, keys: Keys) -> list[str]:
        pairs = (self.pairs[index] for _, index in keys)
        return [crop_key(pair.scene, pair.box) for pair in pairs]

    def _positives(self, keys: Keys) -> Tensor | CachedFeatures:
        return self._seen("positive", [self.pairs[index].product for _, index in keys], keys)

    def _seen(self, role: str, images: Sequence[str], keys: Keys) -> Tensor | CachedFeatures:
        return self._views.training(images, [(role, *key) for key in keys])

    def _categories(self, keys: Keys) -> Tensor:
        return torch.tensor([self._category[self.pairs[index].category] for _, index in keys])


class TripletDataset(_TrainingPairs[Triplet]):
    """Batches of training triplets.

    Args:
        pairs: the training pairs.
        categories: category names in the order of their indices.
        views: views of scene crops and products.
        negatives: sampler that draws the negatives.
        seed: random seed of the run.
        scenes: views of scenes, if they are others than `views`.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        categories: Sequence[str],
        views: Views,
        negatives: NegativeSampler,
        seed: int,
        scenes: Views | None = None,
    ) -> None:
        super().__init__(pairs, categories, views, scenes)
        self._negatives = negatives
        self._seed = seed

    def __getitems__(self, keys: Keys) -> Triplet:
        """A batch of the triplets with these keys, (epoch, index) each."""
        negatives = self._seen("negative", [self.negative(*key) for key in keys], keys)
        return Triplet(self._scenes(keys), self._positives(keys), negatives, self._categories(keys))

    def negative(self, epoch: int, index: int) -> str:
        """Product id of the negative of a triplet."""
        return self._negatives.draw(self.pairs[index], "negative", self._seed, epoch, index)


class PairDataset(_TrainingPairs[PairBatch]):
    """Batches of training pairs.

    Args:
        pairs: the training pairs.
        table: all pairs of the source; a product that any of them names for a scene is never a negative of that scene.
        views: views of scene crops and products.
        scenes: views of scenes, if they are others than `views`.
        boxes: features of the boxes, by the keys of the scene crops; None: batches have none.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        table: PairTable,
        views: Views,
        scenes: Views | None = None,
        boxes: Views | None = None,
    ) -> None:
        super().__init__(pairs, table.products_of_category, views, scenes)
        self._boxes = boxes
        self._identity = {product: number for number, product in enumerate(sorted(table.catalogue))}
        self._named = {
            scene: [self._identity[product] for product in sorted(table.products_of_scene[scene])]
            for scene in {pair.scene for pair in pairs}
        }

    def __getitems__(self, keys: Keys) -> PairBatch:
        """A batch of the pairs with these keys, (epoch, index) each."""
        pairs = [self.pairs[index] for _, index in keys]
        identity = torch.tensor([self._identity[pair.product] for pair in pairs])
        named = pad_sequence(
            [torch.tensor(self._named[pair.scene]) for pair in pairs], batch_first=True, padding_value=-1
        )
        box = None if self._boxes is None else self._boxes.evaluation(self._crops(keys))
        return PairBatch(self._scenes(keys), self._positives(keys), self._categories(keys), identity, named, box)


class EvaluationImage(NamedTuple):
    """Pictures to embed, uint8 (B, 3, S, S), or features; category indices (B,); places in the list of all (B,)."""

    image: Tensor | CachedFeatures
    category: Tensor
    place: Tensor


class EvaluationImages(Dataset[EvaluationImage]):
    """Batches of scene crops or products, as evaluation sees them, and their categories.

    Args:
        keys: store key of each picture.
        categories: category index of each picture.
        views: views of scene crops and products.
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
        """A batch of the pictures at these indices."""
        images = self._views.evaluation([self.keys[index] for index in indices])
        categories = torch.tensor([self._categories[index] for index in indices])
        return EvaluationImage(images, categories, torch.tensor(indices))
