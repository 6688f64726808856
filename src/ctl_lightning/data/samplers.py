"""In which order items come, and which of them each of several processes has."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from ctl_lightning.runtime.errors import InputError


class Share(NamedTuple):
    """The part of all batches that one process has: that of process number `rank`, from 0, of `processes`."""

    rank: int = 0
    processes: int = 1


class EpochSampler(Sampler[tuple[int, int]]):
    """Every index once an epoch, as (epoch, index), in an order that depends on seed and epoch alone.

    Items that do not fill a whole batch for every process are left out. With W processes and batches of B items, each
    process has B of every W · B consecutive items: together the batch of a single process with batches of W · B.

    Args:
        categories: category of each item.
        seed: random seed of the run.
        start: function that returns the current epoch and the number of its batches that are done. Called when an
            iteration begins: Lightning announces the epoch of a resumed run only after its loader has begun to fetch.
        batch_size: number of items in a batch of one process.
        same_category: number of consecutive items, roughly, that are of one category; 1: categories are mixed.
        share: share of this process.
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
        """Number of items that this process has in a whole epoch."""
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
    """Items in order, whole batches dealt to the processes in turn: each batch is the same as with a single process.

    Every process gets the same number of batches, because they work in step: if the last turn has too few batches, the
    first batch comes again.

    Args:
        count: number of items.
        batch_size: batch size of the loader.
        share: share of this process.
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
    """Rearranges `order` into groups of one category, at most `size` long and of nearly equal size, in random order."""
    groups: list[NDArray[np.int64]] = []
    for category in range(categories.max() + 1):
        members = order[categories == category]
        groups += np.array_split(members, math.ceil(len(members) / size))
    return np.concatenate([groups[number] for number in generator.permutation(len(groups))])


def check_processes(processes: int, pairs: int, batch_size: int, state: Mapping[str, Any]) -> None:
    """Checks that this number of processes can train, from the start or from a checkpoint.

    Args:
        processes: number of processes.
        pairs: number of training pairs.
        batch_size: batch size of one process.
        state: the checkpoint's `TripletDataModule.state_dict`; empty: training starts from the beginning.

    Raises:
        InputError: too few pairs for one step of all processes; the checkpoint was saved within an epoch by another
            number of processes, which has other batches.
    """
    if processes * batch_size > pairs:
        raise InputError(
            f"data.batch_size={batch_size}: {processes} processes need {processes * batch_size} training pairs a step, there "
            f"are {pairs}; give a smaller batch, or fewer devices"
        )
    batch, before = state.get("batch", 0), state.get("processes", 1)
    if batch and before != processes:
        raise InputError(
            f"ckpt_path: it was saved after batch {batch} of an epoch of {before} processes, this run has {processes}; give "
            f"trainer.devices={before}, or continue from the checkpoint of a whole epoch"
        )
