"""Keeps two programs out of one run directory: a default place is its own, and a chosen one is for one program at a time."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ctl_lightning.runtime.errors import InUseError
from ctl_lightning.runtime.launch import is_first
from ctl_lightning.runtime.locks import alone

LOCK = ".lock"
"""File of a run directory that is locked while a program works there."""

_held = ExitStack()


class OwnPlace(Callback):
    """Refuses, before anything is written, a run directory in which another program works; and locks it until the end.

    Args:
        held: whether the lock is held; `train` holds it itself, as it may go on in another directory than Hydra's.
    """

    def __init__(self, held: bool = True) -> None:
        self._hold = held

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Takes the lock. Raises SystemExit, as Hydra turns every other exception of a callback into a warning."""
        try:
            folder = Path(config.hydra.run.dir)
        except OmegaConfBaseException:
            return  # Hydra asks for it too, and its error is told
        if not is_first():
            return
        busy = f"{folder}: another process is at work there; wait for it, or choose another hydra.run.dir"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with ExitStack() as locked:
                locked.enter_context(alone(folder / LOCK, busy))
                if self._hold:
                    _held.enter_context(locked.pop_all())
        except InUseError as error:
            print(f"{config.hydra.job.name}: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        except OSError:
            return  # the program cannot write there either, and says so
