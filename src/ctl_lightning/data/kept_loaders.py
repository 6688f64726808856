"""How several lists of pictures share loader processes that are kept: to start one that imports torch takes seconds."""

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from ctl_lightning.data.samplers import DealtBatches, Share
from ctl_lightning.data.triplets import EvaluationImage, EvaluationImages

Place = tuple[str, int]


def as_it_is(batch: Any) -> Any:
    """Collates nothing: our datasets make whole batches themselves."""
    return batch


def import_torch_once() -> None:
    """Has processes that come from a fork server, Python's default on Linux since 3.14, find torch imported.

    It counts for a server that has not been started yet.
    """
    if multiprocessing.get_start_method() == "forkserver":
        multiprocessing.set_forkserver_preload([__name__])


class _Lists(Dataset[EvaluationImage]):
    """Batches of several lists of pictures, by (name of the list, index in it)."""

    def __init__(self, lists: Mapping[str, EvaluationImages]) -> None:
        self._lists = lists

    def __getitem__(self, place: Place) -> EvaluationImage:
        """A batch of one."""
        return self.__getitems__([place])

    def __getitems__(self, places: Sequence[Place]) -> EvaluationImage:
        """A batch of pictures that are all of one list."""
        return self._lists[places[0][0]].__getitems__([index for _, index in places])


class _Chosen(Sampler[list[Place]]):
    """The batches that are wanted next."""

    def __init__(self) -> None:
        self.batches: Sequence[list[Place]] = ()

    def __iter__(self) -> Iterator[list[Place]]:
        return iter(self.batches)


class KeptLoader:
    """One set of loader processes for several lists of pictures, which are asked for one after the other.

    Args:
        lists: name -> pictures.
        options: further arguments for torch's DataLoader.
    """

    def __init__(self, lists: Mapping[str, EvaluationImages], **options: Any) -> None:
        self._lists = lists
        self._chosen = _Chosen()
        self._loader = DataLoader(_Lists(lists), batch_sampler=self._chosen, **options)

    def batches(self, name: str, share: Share, batch_size: int) -> "Batches":
        """One process's share of the batches of a list, to iterate over any number of times."""
        dealt = DealtBatches(len(self._lists[name]), batch_size, share)
        batches = [[(name, index) for index in batch] for batch in BatchSampler(dealt, batch_size, drop_last=False)]
        return Batches(self._loader, self._chosen, batches)


class Batches:
    """What `KeptLoader.batches` returns. A second iteration, of these or of others from the same loader, ends the first."""

    def __init__(self, loader: DataLoader[EvaluationImage], chosen: _Chosen, batches: Sequence[list[Place]]) -> None:
        self._loader = loader
        self._chosen = chosen
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        """EvaluationImage batches."""
        # A generator: the loader is not touched before the first batch is wanted, as another iteration may be going on.
        self._chosen.batches = self._batches
        yield from self._loader
