import multiprocessing
from collections.abc import Iterable

import pytest
import torch
from factories import MakeData

from ctl_lightning.data.kept_loaders import Batches


def processes() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


def same(some: Iterable[Batches], others: Iterable[Batches]) -> bool:
    return all(
        torch.equal(one.image, other.image) and torch.equal(one.place, other.place)
        for loader, plain in zip(some, others, strict=True)
        for one, other in zip(loader, plain, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_all_evaluation_loaders_share_processes_that_are_kept(make_data: MakeData, workers: int) -> None:
    data, plain = make_data(num_workers=workers), make_data()
    before = processes()
    assert same(data.val_dataloader(), plain.val_dataloader())
    started = processes() - before
    assert len(started) == workers
    for _ in range(2):
        assert same(data.test_dataloader(), plain.test_dataloader())
        assert same(data.val_dataloader(), plain.val_dataloader())
    assert processes() - before == started


def test_an_iteration_that_was_left_does_not_show_in_the_next(make_data: MakeData) -> None:
    data, plain = make_data(num_workers=2, eval_batch_size=3), make_data(eval_batch_size=3)
    scenes, products = data.val_dataloader()
    left = iter(products)
    next(left)
    assert same([scenes, products, *data.test_dataloader()], [*plain.val_dataloader(), *plain.test_dataloader()])


def test_other_pictures_come_from_other_processes(make_data: MakeData) -> None:
    data = make_data(num_workers=1)
    crops = torch.cat([batch.image for batch in data.test_dataloader()[0]])
    with data.whole_scenes():
        whole = torch.cat([batch.image for batch in data.test_dataloader()[0]])
    assert crops.shape == whole.shape
    assert not torch.equal(crops, whole)
    assert torch.equal(torch.cat([batch.image for batch in data.test_dataloader()[0]]), crops)
