"""Where the programs print, and which messages they keep from printing."""

import logging
import sys
import warnings

from rich.console import Console

from ctl_lightning.runtime.launch import is_first

console = Console(
    width=None if sys.stdout.isatty() else 110, highlight=False, soft_wrap=True, markup=False, emoji=False
)
"""Prints every text as it is: a name of a category is never markup, nor the word for an emoji."""


def silence_other_ranks() -> bool:
    """Lets only the first process of a run print; the others log errors alone. Returns whether this is the first."""
    if not is_first():
        console.quiet = True
        logging.getLogger().setLevel(logging.ERROR)
    return is_first()


def quiet_lightning() -> None:
    """Silences advice from Lightning that does not apply: loaders without workers are right for a mapped store."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for name in ("lightning.pytorch.loggers.mlflow", "mlflow", "alembic"):  # that a store and its experiment are made
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        "MLFlow only allows.*",  # hit@1 is hit1 there
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        ".*could not find the monitored key in the returned metrics.*",  # in an epoch that is not validated
        ".*Consider setting `persistent_workers=True`.*",
        ".*is smaller than the logging interval.*",
        ".*Found .* module.s. in eval mode.*",
        ".*defined a `validation_step` but have no `val_dataloader`.*",  # the benchmark
        ".*`isinstance.treespec, LeafSpec.` is deprecated.*",
        ".*It is recommended to use `self.log.*sync_dist=True.*",  # every process has the same value
        ".*your dataloader is not resumable.*",  # its sampler is
        ".*`srun` command is available on your system but is not used.*",  # check_launched (training/distributed.py) knows when
    ):
        warnings.filterwarnings("ignore", message)
