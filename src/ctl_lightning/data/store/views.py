"""Which part of a stored picture the network sees in training and evaluation (its features: store/features.py)."""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ctl_lightning.data.images import Pixels
from ctl_lightning.data.seeding import random_integers
from ctl_lightning.data.store.features import CachedFeatures
from ctl_lightning.data.store.packed import ImageStore

Augment = Literal["none", "crop", "colour"]
"""Change of training pictures: "none": the centre; "crop": a random part, mirrored half of the time (the paper's);
"colour": that, and a change of colours."""


class Views(Protocol):
    """Batches of what the network sees. `images` are keys of the store: all of scene crops, or all of products."""

    def training(self, images: Sequence[str], draws: Sequence[tuple[object, ...]]) -> Tensor | CachedFeatures:
        """A view of each image; it depends only on the image's draw and the random seed of the run."""

    def evaluation(self, images: Sequence[str]) -> Tensor | CachedFeatures:
        """The view of each image that evaluation uses."""


class PictureViews:
    """Batches of pictures, uint8 (B, 3, S, S).

    Args:
        store: image store of scene crops and products.
        size: side S of the part that is cut out of the stored picture, in pixels.
        augment: change of training pictures. Colours are not changed here but on the device; see `jitter_colours`.
        seed: random seed of the run.
    """

    def __init__(self, store: ImageStore, size: int, augment: Augment, seed: int) -> None:
        self._store = store
        self._size = size
        self._augment = augment
        self._seed = seed

    def training(self, images: Sequence[str], draws: Sequence[tuple[object, ...]]) -> Tensor:
        """A random part of each picture, mirrored half of the time; its centre if `augment` is "none"."""
        if self._augment == "none":
            return self.evaluation(images)
        pictures = self._empty(len(images))
        for out, image, draw in zip(pictures, images, draws, strict=True):
            self.cut(out, image, self._seed, *draw)
        return _channels_first(pictures)

    def cut(self, out: Tensor, image: str, *key: object) -> None:
        """Writes into `out`, uint8 (S, S, 3), the part of a picture that `key` chooses."""
        room = self._store.size - self._size + 1
        top, left, mirror = random_integers([room, room, 2], "view", *key)
        out.numpy()[...] = self._store[image][top : top + self._size, left : left + self._size]
        if mirror:
            picture = _channels_first(out[None])  # torch mirrors this memory format several times faster than numpy
            picture.copy_(picture.flip(-1))

    def evaluation(self, images: Sequence[str]) -> Tensor:
        """The centre of each picture."""
        pictures = self._empty(len(images))
        for out, image in zip(pictures, images, strict=True):
            out.numpy()[...] = self.centre(image)
        return _channels_first(pictures)

    def fixed(self, images: Sequence[str], views: int) -> Tensor:
        """The centre of each picture and `views` random parts, the same in every run, (B · (1 + views), 3, S, S), image by image."""
        pictures = self._empty(len(images) * (1 + views))
        for row, out in enumerate(pictures):
            image, view = images[row // (1 + views)], row % (1 + views)
            if view == 0:
                out.numpy()[...] = self.centre(image)
            else:
                self.cut(out, image, "fixed", image, view)
        return _channels_first(pictures)

    def centre(self, image: str) -> Pixels:
        """What the network sees of a picture in evaluation, uint8 (S, S, 3)."""
        start, end = centre(self._store.size, self._size)
        return self._store[image][start:end, start:end]

    def _empty(self, count: int) -> Tensor:
        """An empty tensor for pictures, uint8 (count, S, S, 3); in a worker it is shared memory, to save a copy."""
        pictures = torch.empty((count, self._size, self._size, 3), dtype=torch.uint8)
        return pictures if get_worker_info() is None else pictures.share_memory_()  # type: ignore[no-untyped-call]


def centre(stored: int, size: int) -> tuple[int, int]:
    """Start and end of the central `size` pixels of a side of `stored` pixels."""
    start = (stored - size) // 2
    return start, start + size


def _channels_first(pictures: Tensor) -> Tensor:
    """(B, S, S, 3) -> (B, 3, S, S) without a copy: what torch calls the channels-last memory format."""
    return pictures.permute(0, 3, 1, 2)
