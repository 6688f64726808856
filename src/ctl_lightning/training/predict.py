"""How a trained network embeds and ranks a split outside of training."""

from typing import Any

from lightning import Trainer
from lightning.fabric.utilities import move_data_to_device
from torch import distributed

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.samplers import Share
from ctl_lightning.data.splits import Split
from ctl_lightning.metrics.ranking import CatalogueRanking, Ranked
from ctl_lightning.training.distributed import several_processes
from ctl_lightning.training.module import KINDS, CompleteTheLook, ranking_of


def ranked_split(trainer: Trainer, module: CompleteTheLook, data: TripletDataModule, split: Split) -> Ranked:
    """Embeds the scene crops and the catalogue of a split, and ranks them; nothing is logged.

    Args:
        trainer: trainer that gives device and precision.
        module: module with the weights to be measured.
        data: data module, already set up.
        split: name of the split, such as "test".

    Raises:
        InputError: an embedding is not finite.
        KeyboardInterrupt: Ctrl-C or SIGTERM came.
    """
    found: Any = [[], []]
    if module.sees:
        try:
            share = Share(trainer.global_rank, trainer.world_size)
            found = trainer.predict(module, data.evaluation_loaders(split, share))
        except SystemExit:
            if trainer.interrupted:  # Lightning has swallowed Ctrl-C
                raise KeyboardInterrupt from None
            raise
        if trainer.received_sigterm:  # and it goes on after SIGTERM
            raise KeyboardInterrupt
    # Lightning hands predictions over on the CPU, and they are ranked there; but NCCL gathers from GPUs alone.
    gathers_on_gpu = several_processes() and distributed.get_backend() == "nccl"
    task, device = data.evaluation(split), trainer.strategy.root_device if gathers_on_gpu else "cpu"
    embedded = CatalogueRanking(module.network).expecting(len(task.queries), len(task.products)).to(device)
    for kind, batches in zip(KINDS, found, strict=True):
        for place, part in batches:
            embedded.update(move_data_to_device(place, device), move_data_to_device(part, device), kind)
    return ranking_of(module.network, task, embedded)
