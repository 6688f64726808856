"""In which order training items come, and which of them each of several processes has."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from ctl_lightning.runtime.errors import InputError


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


def check_processes(processes: int, pairs: int, batch_size: int, state: Mapping[str, Any]) -> None:
    """Whether so many processes can train, from the start or from what a checkpoint says of the data.

    Args:
        processes: how many.
        pairs: to train on.
        batch_size: of one process.
        state: of `TripletDataModule.state_dict`; empty: from the start.

    Raises:
        InputError: too few pairs for one step of all of them; a run that was stopped within an epoch, of which another number of
            processes would have other batches.
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
