"""How the features of a frozen backbone are computed once for all pictures, and kept in memory-mapped files."""

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ctl_lightning.data.seeding import random_integers
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import mapped_array, write_text
from ctl_lightning.runtime.large_files import array_file, check_room, make_once, told_if_full, write_at
from ctl_lightning.runtime.progress import progress
from ctl_lightning.runtime.reading import read_json

log = logging.getLogger(__name__)

FORMAT = 1
"""Format version; goes up when equal plans would be stored as other bytes, so that old files are not taken for new."""

SECONDS_A_NOTE = 5.0
"""Seconds between two notes of the progress: the most that a killed computation loses."""

FeatureType = Literal["float16", "bfloat16"]
_TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class CachedFeatures(NamedTuple):
    """Features of B pictures: `pooled` (B, F), `regions` (B, R, C). Products have R = 0: no method uses theirs."""

    pooled: Tensor
    regions: Tensor


class FeaturePlan(NamedTuple):
    """What a features file holds. Equal plans have equal features, up to the rounding of the device.

    Attributes:
        store: hash of all pictures, `ImageStore.content`.
        image_size: side of the part of a stored picture that the backbone sees, in pixels.
        backbone: values that identify the backbone: name, hash of its weights, layers, grid.
        crops: keys of the scene crops, which have pooled vectors and regions.
        products: keys of the products, which have only pooled vectors.
        views: number of random views of each picture beside its centre.
        dtype: type of the stored numbers, such as "float16".
        part: what is shown of scenes whose keys are among `products`, as only their pooled vectors are kept, and how it is
            cut; None: all keys are of squares of the store.
    """

    store: str
    image_size: int
    backbone: Mapping[str, Any]
    crops: Sequence[str]
    products: Sequence[str]
    views: int
    dtype: FeatureType
    part: str | None = None

    @property
    def keys(self) -> list[str]:
        """Keys of all pictures in the order of the rows: scene crops, then products."""
        return [*self.crops, *self.products]

    def fingerprint(self) -> str:
        """A hash of the whole plan and the format version."""
        named = [one for one in self if one is not None]  # those of squares are named as before there were parts
        return hashlib.sha256(json.dumps([FORMAT, *named]).encode()).hexdigest()[:20]


class FeatureViews:
    """Features in place of pictures. Cheap to send to a worker process: the file is mapped there anew, not copied.

    Args:
        path: features file that `open_features` made.
        plan: plan of that file.
        seed: random seed of the run; it chooses among the random views.

    Attributes:
        path: the features file.
    """

    def __init__(self, path: Path, plan: FeaturePlan, seed: int) -> None:
        self.path = path
        self._rows = {key: row for row, key in enumerate(plan.keys)}
        self._crops, self._views, self._dtype, self._seed = len(plan.crops), plan.views, plan.dtype, seed
        self._arrays: tuple[NDArray[np.int16], NDArray[np.int16]] | None = None
        try:
            index = read_json(path.with_suffix(".json"))
            self._shapes: list[list[int]] = index["shapes"]
            whole = mapped_array(path).shape == (sum(map(math.prod, self._shapes)),)
        except (OSError, InputError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise InputError(
                f"{path}: it or its index is broken: a copy that was cut off? Delete both: they are made anew"
            )

    def training(self, images: Sequence[str], draws: Sequence[tuple[object, ...]]) -> CachedFeatures:
        """The random view of each image that its draw chooses; the centre if there are no random views."""
        if not self._views:
            return self.evaluation(images)
        return self._take(images, [1 + random_integers([self._views], "view", self._seed, *draw)[0] for draw in draws])

    def evaluation(self, images: Sequence[str]) -> CachedFeatures:
        """The centre of each image."""
        return self._take(images, [0] * len(images))

    def _take(self, images: Sequence[str], views: Sequence[int]) -> CachedFeatures:
        pooled, regions = self._mapped()
        rows = [self._rows[image] for image in images]
        places = [row * (1 + self._views) + view for row, view in zip(rows, views, strict=True)]
        none = np.empty((len(rows), 0, regions.shape[2]), np.int16)
        chosen = pooled[places], regions[places] if rows[0] < self._crops else none
        return CachedFeatures(*(torch.from_numpy(np.asarray(part)).view(_TORCH[self._dtype]) for part in chosen))

    def _mapped(self) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
        """The pooled vectors and the regions of all views, mapped into memory, one row for each view."""
        if self._arrays is None:
            # Read-only: a writable map of a file larger than the memory is refused by the system.
            numbers = mapped_array(self.path)
            border = math.prod(self._shapes[0])
            pooled, regions = (
                part.reshape(shape[0] * shape[1], *shape[2:])
                for part, shape in zip((numbers[:border], numbers[border:]), self._shapes, strict=True)
            )
            self._arrays = pooled, regions
        return self._arrays

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arrays": None}


def features_file(plan: FeaturePlan, cache_dir: Path) -> Path:
    """Path of the features file of this plan, whether or not it exists."""
    return cache_dir / "features" / f"{plan.fingerprint()}.npy"


def open_features(
    plan: FeaturePlan,
    cache_dir: Path,
    pictures: Callable[[Sequence[str], int], Any],
    encode: Callable[[Any], tuple[Tensor, Tensor]],
    batch_size: int,
    num_workers: int,
    seed: int,
) -> FeatureViews:
    """Opens the features of exactly this plan; computes them first if the cache does not have them.

    The file's name is a hash of the plan: features of other pictures, weights, layers or options are never used by
    mistake. A process that finds another one at work on the same file waits for it; a killed one loses a few seconds of
    work.

    Args:
        plan: what the features file has to hold.
        cache_dir: folder in which features are kept.
        pictures: function, (keys, views) -> centre and random views of each image, uint8 (B · (1 + views), 3, S, S), or
            whatever else `encode` takes.
        encode: function, what `pictures` gives -> pooled (B, F) and regions (B, R, C), all finite.
        batch_size: number of pictures encoded at a time.
        num_workers: number of processes that read pictures.
        seed: random seed of the run.

    Raises:
        InputError: no room on the disk; numbers too large for the type.
    """
    path = features_file(plan, cache_dir)
    make_once(path, lambda: _compute(plan, path, pictures, encode, batch_size, num_workers))
    return FeatureViews(path, plan, seed)


class _Blocks(Dataset[Any]):
    """The pictures of blocks (start, end) of a plan's rows, read in loader processes: a GPU need not wait for them."""

    def __init__(
        self, plan: FeaturePlan, pictures: Callable[[Sequence[str], int], Any], blocks: Sequence[tuple[int, int]]
    ) -> None:
        self._keys, self._views, self._pictures, self._blocks = plan.keys, plan.views, pictures, blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> Any:
        start, end = self._blocks[index]
        return self._pictures(self._keys[start:end], self._views)


def _blocks(plan: FeaturePlan, done: int, size: int) -> list[tuple[int, int]]:
    """(start, end) of blocks of up to `size` rows to do; none mixes crops and products, which store no regions."""
    blocks = []
    while done < len(plan.crops) + len(plan.products):
        end = min(done + size, len(plan.crops) if done < len(plan.crops) else len(plan.crops) + len(plan.products))
        blocks.append((done, end))
        done = end
    return blocks


def _compute(
    plan: FeaturePlan,
    path: Path,
    pictures: Callable[[Sequence[str], int], Any],
    encode: Callable[[Any], tuple[Tensor, Tensor]],
    batch_size: int,
    num_workers: int,
) -> None:
    keys, views = plan.keys, 1 + plan.views
    pooled, regions = encode(pictures(keys[:1], 0))
    shapes = (len(keys), views, *pooled.shape[1:]), (len(plan.crops), views, *regions.shape[1:])
    # The pooled vectors of all pictures, then the regions of the crops; bits as int16, because numpy has no bfloat16.
    sizes = [2 * math.prod(shape) for shape in shapes]
    partial, journal = path.with_suffix(".partial"), path.with_suffix(".journal")
    done = _read_journal(journal) if partial.exists() else 0
    if not done:
        check_room(path, "the features need", sum(sizes), _other_ways(sum(sizes)))
    begin = array_file(partial, (sum(sizes) // 2,), np.int16, keep=done > 0)
    places = [(begin, sizes[0] // len(keys)), (begin + sizes[0], sizes[1] // max(1, len(plan.crops)))]
    before = f", {done:,} of them done before" if done else ""
    log.info("features of %d images, %.2f GB, once%s", len(keys), sum(sizes) / 1e9, before)

    blocks = _blocks(plan, done, max(1, batch_size // views))
    loader = DataLoader(
        _Blocks(plan, pictures, blocks),
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pooled.device.type == "cuda",
    )
    with told_if_full(path.parent, "is computed", lambda: _other_ways(sum(sizes))):
        with partial.open("r+b") as file, progress("computing features", len(keys), done) as shown:
            noted = time.monotonic()
            for (start, end), batch in zip(blocks, loader, strict=True):
                found = encode(batch)
                stored = zip(found, places, strict=True) if start < len(plan.crops) else [(found[0], places[0])]
                for values, (first, row) in stored:
                    write_at(file.fileno(), _numbers(values, plan.dtype), first + start * row)
                shown.advance(end - start)
                if time.monotonic() - noted > SECONDS_A_NOTE or end == len(keys):
                    os.fsync(file.fileno())
                    write_text(journal, f"{end}\n")
                    noted = time.monotonic()
        index = {"format": FORMAT, "shapes": shapes} | plan._asdict()
        write_text(path.with_suffix(".json"), json.dumps(index))
    partial.replace(path)
    journal.unlink()


def _numbers(values: Tensor, dtype: FeatureType) -> bytes:
    small = values.to(_TORCH[dtype]).cpu().contiguous()
    if not bool(torch.isfinite(small).all()):
        raise InputError(
            f"backbone.cache_dtype={dtype}: the backbone gives numbers that it cannot hold; take "
            "backbone.cache_dtype=bfloat16, or backbone.cache=never"
        )
    content: bytes = small.view(torch.int16).numpy().tobytes()
    return content


def _read_journal(path: Path) -> int:
    """Number of rows that are done."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _other_ways(needed: int) -> str:
    return (
        f"Delete what is old in that folder, choose another disk with paths.cache_dir=DIR, a smaller backbone.grid or fewer "
        f"backbone.cache_views ({needed / 1e9:.2f} GB now), or backbone.cache=never"
    )
