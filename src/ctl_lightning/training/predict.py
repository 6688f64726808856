"""A split's pictures through a trained network, outside of training."""

from lightning import Trainer

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.samplers import Share
from ctl_lightning.data.splits import Split
from ctl_lightning.metrics.ranking import Ranked
from ctl_lightning.training.module import CompleteTheLook


def ranked_split(trainer: Trainer, module: CompleteTheLook, data: TripletDataModule, split: Split) -> Ranked:
    """Embeds the scene crops and the catalogue of a split; nothing is logged.

    Args:
        trainer: whose device and precision.
        module: with the weights that are to be measured.
        data: set up.
        split: which pairs.

    Raises:
        InputError: an embedding is not finite.
        KeyboardInterrupt: Ctrl-C, or SIGTERM.
    """
    embedded: list[list[object]] = [[], []]
    if module.sees:
        try:
            share = Share(trainer.global_rank, trainer.world_size)
            embedded = trainer.predict(module, data.evaluation_loaders(split, share))  # type: ignore[assignment]
        except SystemExit:
            if trainer.interrupted:  # Lightning has swallowed Ctrl-C
                raise KeyboardInterrupt from None
            raise
        if trainer.received_sigterm:  # and it goes on after SIGTERM
            raise KeyboardInterrupt
    return module.ranked(data.evaluation(split), embedded)
