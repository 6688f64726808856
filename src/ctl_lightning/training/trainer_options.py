"""Which of the arguments of Lightning's Trainer can a run be given? All of them are in docs/trainer.md, which a test reads."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelSummary, Timer
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from ctl_lightning.runtime.config import Config, build, check_options
from ctl_lightning.runtime.errors import InputError, suggestion
from ctl_lightning.training.distributed import plugins

WHOLE = "validation and test splits are ranked whole, so no part of one can be left out; +trainer.limit_train_batches=N shortens the training"

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "logger": ((None,), "loggers are chosen with logger=wandb, logger=tensorboard, logger=mlflow or logger=csv"),
    "callbacks": ((None,), "callbacks are options of their own, such as +callbacks.stop._target_=CLASS"),
    "fast_dev_run": ((False, 0), WHOLE),
    "limit_val_batches": ((None, 1.0), WHOLE),
    "limit_test_batches": ((None, 1.0), WHOLE),
    "limit_predict_batches": ((None, 1.0), WHOLE),
    "overfit_batches": (
        (0, 0.0),
        "each epoch draws other batches, and validation scenes are never trained on; +trainer.limit_train_batches=N with "
        "trainer.max_epochs=N is a short training",
    ),
    "enable_checkpointing": ((None, True), "the best checkpoint is what is tested; delete checkpoints/ afterwards"),
    "use_distributed_sampler": (
        (False,),
        "batches are dealt to the processes by a sampler of ours, which Lightning's would replace",
    ),
    "barebones": (
        (False,),
        "it forbids the checkpoints and metrics that a run is made of; callbacks=quiet is a plain run",
    ),
    "plugins": (
        (None,),
        "they are chosen for the way in which the run was started; for mixed precision give trainer.precision",
    ),
    "default_root_dir": ((None,), "everything lies in the run directory; choose it with hydra.run.dir=DIR"),
    "model_registry": ((None,), "checkpoints go to Weights & Biases with logger=wandb upload_checkpoints=true"),
}
"""Argument that a run cannot be given -> values that change nothing and are accepted, and what is said of all others."""

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
"""Strategies that leave the whole network to each process, as the checkpoints and rankings here need it."""

HINTS: dict[str, Any] = {
    "max_epochs": Annotated[int, Ge(-1)] | None,
    "min_epochs": NonNegativeInt | None,
    "max_steps": Annotated[int, Ge(-1)],
    "min_steps": NonNegativeInt | None,
    "limit_train_batches": PositiveInt | Annotated[float, Gt(0), Le(1)] | None,
    "val_check_interval": PositiveInt | Annotated[float, Gt(0), Le(1)] | str | dict[str, int] | None,
    "check_val_every_n_epoch": PositiveInt | None,
    "num_sanity_val_steps": Annotated[int, Ge(-1)] | None,
    "log_every_n_steps": NonNegativeInt | None,
    "accumulate_grad_batches": PositiveInt,
    "gradient_clip_val": NonNegativeInt | NonNegativeFloat | None,
    "gradient_clip_algorithm": Literal["norm", "value"] | None,
    "reload_dataloaders_every_n_epochs": NonNegativeInt,
    "profiler": Literal["simple", "advanced", "pytorch"] | None,
    "num_nodes": PositiveInt,
}
"""Argument -> annotation, where Lightning's own lets values pass that end in a traceback, or in nothing, later."""


def check_trainer(options: Config) -> None:
    """Refuses, before any work, what a run cannot be given, what has no end, and what Lightning itself refuses.

    Args:
        options: resolved options of a training.

    Raises:
        InputError: names the option, and the way out.
    """
    trainer = options["trainer"]
    for name, (harmless, why) in REFUSED.items():
        value = trainer.get(name, harmless[0])
        if not any(type(value) is type(one) and value == one for one in harmless):  # 1 is a batch, 1.0 is all of them
            raise InputError(f"trainer.{name}={value}: {why}")
    check_options(trainer, HINTS, "trainer.")
    strategy = trainer.get("strategy", "auto")
    if strategy not in STRATEGIES:
        near = suggestion(str(strategy), STRATEGIES)
        raise InputError(
            f"trainer.strategy={strategy}: every process has the whole network; there are: {', '.join(STRATEGIES)}{near}"
        )
    if trainer["max_epochs"] == 0:
        raise InputError("trainer.max_epochs=0: nothing would be learned; give 1 at least")
    if trainer.get("max_steps") == 0:
        raise InputError("trainer.max_steps=0: nothing would be learned; give 1 at least")
    if trainer["max_epochs"] in (None, -1) and trainer.get("max_steps", -1) == -1 and trainer.get("max_time") is None:
        raise InputError(
            "trainer.max_epochs is null or -1: the training would have no end; give a number, +trainer.max_steps=N or "
            "+trainer.max_time=DD:HH:MM:SS"
        )
    _try_to_make(options)


def chosen_callbacks(options: Config) -> list[Callback]:
    """The callbacks that the options choose; no progress bar where `trainer.enable_progress_bar` is false."""
    chosen: list[Callback] = [build(node, f"callbacks.{name}") for name, node in options["callbacks"].items()]
    if options["trainer"].get("enable_progress_bar") is False:
        return [callback for callback in chosen if not isinstance(callback, AnyProgressBar)]
    return chosen


def build_trainer(options: Config, callbacks: list[Callback], **given: Any) -> Trainer:
    """Lightning's trainer with the options of a run. Raises InputError as `build` does."""
    trainer = dict(options["trainer"])
    if any(isinstance(callback, ModelSummary) for callback in callbacks):
        trainer["enable_model_summary"] = True  # else Lightning refuses the one that was asked for
    return build(trainer, "trainer", callbacks=callbacks, **given)


def _try_to_make(options: Config) -> None:
    """Makes a trainer as the run will, which costs milliseconds, so that Lightning's refusals come first."""
    callbacks, trainer = chosen_callbacks(options), options["trainer"]
    try:
        made = build_trainer(options, callbacks, logger=False, plugins=plugins(trainer))
    except InputError as error:
        raise InputError(f"{_culprit(trainer)}: {str(error).removeprefix('trainer: ')}") from None
    timers = [callback for callback in made.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    if any((timer.time_remaining() or 0) <= 0 for timer in timers):
        raise InputError(
            f"trainer.max_time={trainer.get('max_time')}: nothing would be learned; give DD:HH:MM:SS, such as 00:12:00:00"
        )


def _culprit(trainer: Mapping[str, Any]) -> str:
    """The first option that Lightning refuses by itself, such as "trainer.accelerator=gpu"; else "trainer"."""
    accelerator = trainer["accelerator"]
    for name, value in {"accelerator": accelerator, **trainer}.items():
        if name != "_target_":
            try:
                Trainer(**{"accelerator": accelerator, "logger": False, name: value})
            except (ValueError, TypeError, ImportError, MisconfigurationException):
                return f"trainer.{name}={value}"
    return "trainer"
