"""How Lightning's trainer is made for a run, with our callbacks, loggers and plugins."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch.utils import deterministic

from ctl_lightning.models.checkpoint import LAST, MONITOR
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.training.callbacks import EpochLines, ProgressBar, RunInCheckpoint, Speed
from ctl_lightning.training.checkpointing import BestCheckpoint, WholeFiles
from ctl_lightning.training.distributed import SameConfig, plugins
from ctl_lightning.training.run_directory import RunDirectory
from ctl_lightning.training.trainer_options import build_trainer, chosen_callbacks


def make_trainer(run: RunDirectory, loggers: list[Logger], watching: Sequence[Callback]) -> Trainer:
    """The trainer of a run.

    Args:
        run: run directory that it writes into.
        loggers: loggers of the run.
        watching: callbacks that show how the training goes.

    Raises:
        InputError: an option that Lightning refuses; most have been refused by `check_trainer`, before any work.
    """
    options = run.options
    own = [
        *watching,
        SameConfig(options | {"ckpt_path": str(run.resumed), "global_step": run.checkpoint.get("global_step")}),
        Speed(),
        run.preemption,
        BestCheckpoint(run.path / LAST.parent, MONITOR, run.resumed),
        RunInCheckpoint(options, run.checkpoint.get("train_seconds", 0.0)),
    ]
    # A callback of its own: one that monitors a metric saves `last` only when the metric has improved.
    last = ModelCheckpoint(
        run.path / LAST.parent, LAST.stem, save_on_train_epoch_end=True, enable_version_counter=False
    )
    return build_trainer(
        options,
        [*chosen_callbacks(options), EpochLines(), *own, last],
        logger=loggers,
        default_root_dir=str(run.path),
        plugins=[WholeFiles(), *plugins(options["trainer"])],
    )


def make_evaluator(accelerator: str, devices: int, precision: object) -> Trainer:
    """A trainer that only embeds; it gives the same numbers on any number of processes.

    Args:
        accelerator: Lightning's name of the accelerator, such as "cpu".
        devices: number of processes that share the pictures.
        precision: Lightning's name of the precision, such as "32-true".

    Raises:
        InputError: Lightning refuses these options.
    """
    try:
        return Trainer(
            accelerator=accelerator,
            devices=devices,
            use_distributed_sampler=False,
            plugins=plugins({"sync_batchnorm": False}),
            precision=precision,  # type: ignore[arg-type]
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[ProgressBar()],
        )
    except (ValueError, TypeError, MisconfigurationException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"accelerator={accelerator} devices={devices} precision={precision}: {reason}") from None


def best_of(trainer: Trainer) -> BestCheckpoint:
    """The callback that keeps the best checkpoint, in a trainer from `make_trainer`."""
    return next(callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestCheckpoint))


def seconds_of(trainer: Trainer) -> float:
    """Training time of a trainer from `make_trainer`, including the runs that it continues, in seconds."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, RunInCheckpoint)).seconds()  # type: ignore[attr-defined]


@contextmanager
def errors_of_lightning(trainer: Trainer) -> Iterator[None]:
    """Turns what Lightning raises in this block into what a program expects.

    Raises:
        KeyboardInterrupt: Ctrl-C, which Lightning turns into another exception.
        InputError: an option that fits neither the number of batches nor the metrics.
    """
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except MisconfigurationException as error:
        raise InputError(f"trainer: {' '.join(str(error).split())}") from None
    except ValueError as error:
        if "`val_check_interval`" not in str(error):
            raise
        # Lightning's words propose limit_val_batches=0, which is refused here.
        raise InputError(
            f"trainer.val_check_interval={trainer.val_check_interval}: an epoch has only {trainer.num_training_batches} batches; "
            "give at most that, or trainer.check_val_every_n_epoch=null to count batches over epochs"
        ) from None
    except RuntimeError as error:
        if "conditioned on metric" not in str(error):
            raise
        raise InputError(f"callbacks: {' '.join(str(error).split())}") from None


def skip_deterministic_fill() -> None:
    """Stops torch from filling memory that an operation is about to write to, which costs a twentieth of a step here.

    It does so with deterministic algorithms, to guard against operations that read what they have not written; ours are
    tested to give equal results without it.
    """
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # it exists: torch defines it on the module's class
