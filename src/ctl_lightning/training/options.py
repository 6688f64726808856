"""Which options of a training contradict each other? Checks, before any work, what no single class sees."""

from pathlib import Path

from omegaconf import DictConfig
from pydantic import NonNegativeFloat, NonNegativeInt

from ctl_lightning.models.registry import LOSSES, METHODS
from ctl_lightning.runtime.config import Config, check_options, check_switches, resolved
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.training.distributed import check_launched
from ctl_lightning.training.feature_cache import check_scene_inputs, uses_cache
from ctl_lightning.training.logger_options import check_loggers
from ctl_lightning.training.run_directory import is_multirun
from ctl_lightning.training.trainer_options import check_trainer


def check(config: DictConfig) -> Config:
    """Resolves and checks the options of a training.

    Raises:
        InputError: options that contradict each other, or one out of its range.
    """
    options = resolved(config)
    check_switches(options, "compile", "keep_memory", "upload_checkpoints")
    if not isinstance(options["seed"], int) or not 0 <= options["seed"] < 2**31:
        raise InputError(f"seed={options['seed']!r}: must be a whole number from 0 to 2147483647")
    check_launched(options["trainer"], is_multirun())
    hints = {
        "init_from": str | None,
        "save_minutes": NonNegativeFloat | NonNegativeInt,
        "watch_epochs": NonNegativeInt | None,
    }
    check_options({name: options[name] for name in hints}, hints)
    check_trainer(options)
    check_loggers(options)
    loss, negatives = options["model"]["loss"]["name"], options["data"]["negatives"]
    if LOSSES[loss].in_batch != (negatives == "in_batch"):
        wanted = "in_batch" if LOSSES[loss].in_batch else "uniform or pairs"
        raise InputError(f"loss={loss}: its negatives are data.negatives={wanted}, not {negatives}")
    if METHODS[options["model"]["method"]].sees:
        uses_cache(options["backbone"], options["data"]["augment"])
    elif options["init_from"] is not None:
        raise InputError(f"init_from: method={options['model']['method']} has no weights to start with; leave it out")
    method = options["model"]["method"]
    check_scene_inputs(METHODS[method], method, loss, options["backbone"], options["data"])
    return options


def short_form(options: Config, run_dir: Path) -> str:
    """Most of the resolved options, one line per group; config.yaml has all of them."""
    lines = [f"run directory: {run_dir}"]
    lines.append(f"      run: seed={options['seed']} compile={options['compile']} keep_memory={options['keep_memory']}")
    for group in ("model", "loss", "backbone", "data", "trainer"):
        values = " ".join(
            f"{key}={value}"
            for key, value in options[group].items()
            if not isinstance(value, dict) and key != "_target_"
        )
        lines.append(f"{group:>9}: {values}")
    return "\n".join(lines)
