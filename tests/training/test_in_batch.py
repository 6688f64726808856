"""Training on pairs whose products are each other's negatives, in one process and in several."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import LOSSES, MakeData, module, slow_loss, trainer
from lightning.pytorch.strategies import DDPStrategy
from ranks import in_processes
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ctl_lightning.data.triplets import PairBatch
from ctl_lightning.models.components.losses import InfoNCELoss
from ctl_lightning.models.components.style_network import StyleNetwork, region_distance
from ctl_lightning.training.module import CompleteTheLook


def slow(model: CompleteTheLook, variant: str, batch: PairBatch, own: range | None = None) -> Tensor:
    """The loss of a batch from the region-by-region distances; of the queries `own` alone, if given."""
    network = model.network
    assert isinstance(network, StyleNetwork)
    style, (products,), _ = network(batch.scene, (batch.product,), batch.category)
    every = [
        region_distance(network.method, style, product.expand(len(products), -1), network.squared)
        for product in products
    ]
    rows = [(str(row), str(int(number)), int(batch.category[row])) for row, number in enumerate(batch.identity)]
    named = {str(row): {str(int(number)) for number in batch.named[row]} for row in range(len(rows))}
    distance = torch.stack(every, 1)
    tau = model.loss.temperature() if isinstance(model.loss, InfoNCELoss) else torch.tensor(0.0)
    if own is None:
        return slow_loss(variant, distance, rows, named, tau)
    # The others have no negatives of their own, so they do not count.
    everything = {number for found in named.values() for number in found} | {name for _, name, _ in rows}
    named = {scene: found if int(scene) in own else everything for scene, found in named.items()}
    return slow_loss(variant, distance, rows, named, tau)


def pairs(make_data: MakeData, batch_size: int = 8) -> PairBatch:
    data = make_data(negatives="in_batch", batch_size=batch_size, augment="none")
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, PairBatch)
    return batch


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("variant", LOSSES)
def test_the_loss_of_pictures_is_that_of_the_slow_loop_region_by_region(
    make_data: MakeData, variant: str, squared: bool
) -> None:
    batch = pairs(make_data)
    # In double precision: with a rounding, the two could choose different negatives where distances are nearly equal.
    torch.manual_seed(0)
    model = module(loss=LOSSES[variant], squared=squared).eval().double()
    found = []
    for loss in (slow(model, variant, batch), model.in_batch_loss(batch)):
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        found.append(
            (loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        )
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-9, atol=1e-12)
    assert found[1][1].keys() == found[0][1].keys()
    for name, gradient in found[1][1].items():
        torch.testing.assert_close(gradient, found[0][1][name], rtol=1e-7, atol=1e-10, msg=name)


def test_a_pair_costs_two_backbone_passes(make_data: MakeData) -> None:
    model = module(loss=LOSSES["all"])
    passed = []
    model.network.backbone.network.register_forward_pre_hook(lambda _, inputs: passed.append(len(inputs[0])))
    model.in_batch_loss(pairs(make_data))
    assert passed == [16]


@pytest.mark.parametrize("variant", LOSSES)
def test_training_brings_the_true_product_nearer_than_the_others(
    make_data: MakeData, tmp_path: Path, variant: str
) -> None:
    batch = pairs(make_data)
    loader: DataLoader[PairBatch] = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    model = module(loss=LOSSES[variant], learning_rate=0.01)
    runner = trainer(tmp_path, max_epochs=60, log_every_n_steps=1)
    runner.fit(model, train_dataloaders=loader)
    with torch.no_grad():
        before = float(slow(module(loss=LOSSES[variant]).eval(), variant, batch))
        assert float(slow(model.eval(), variant, batch)) < before / 2
    if isinstance(model.loss, InfoNCELoss):
        assert float(model.loss.temperature().detach()) != pytest.approx(0.1)
        assert "train/temperature" in runner.callback_metrics


class Recording(CompleteTheLook):
    """Notes what its one step gave."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.found = super().training_step(batch, batch_idx)
        return self.found

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        gradients = {name: p.grad for name, p in self.named_parameters() if p.grad is not None}
        torch.save((gradients, self.found.detach()), os.environ["RECORD"])


def _of_rank(folder: str, variant: str, batch: PairBatch, state: Any, rank: int) -> None:
    os.environ["RECORD"] = f"{folder}/{rank}.pt"
    # Evaluation mode, which Lightning leaves: BatchNorm's statistics of half a batch are not those of the whole.
    model = module(Recording, loss=LOSSES[variant]).eval()
    model.load_state_dict(state)
    half = [part[rank * 4 : rank * 4 + 4] for part in batch if part is not None]
    loader: Any = DataLoader([PairBatch(*half)], batch_size=None)  # type: ignore[arg-type]
    strategy = DDPStrategy(process_group_backend="gloo")
    trainer(Path(folder), devices=2, strategy=strategy, use_distributed_sampler=False).fit(
        model, train_dataloaders=loader
    )


@pytest.mark.parametrize("variant", ["all", "info_nce"])
def test_two_processes_use_each_others_products_and_have_the_gradients_of_one(
    make_data: MakeData, tmp_path: Path, variant: str
) -> None:
    batch = pairs(make_data)
    model = module(loss=LOSSES[variant]).eval()
    # Each process takes the mean over its own queries, and DDP the mean over the processes.
    halves = [slow(model, variant, batch, own) for own in (range(4), range(4, 8))]
    (sum(halves) / 2).backward()  # type: ignore[union-attr]
    assert in_processes(2, _of_rank, str(tmp_path), variant, batch, model.state_dict(), each=[(0,), (1,)]) == [None] * 2
    for rank, (gradients, loss) in enumerate(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)):
        torch.testing.assert_close(loss, halves[rank].detach(), rtol=0, atol=1e-5)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(gradients[name], parameter.grad, rtol=2e-3, atol=2e-5, msg=name)
