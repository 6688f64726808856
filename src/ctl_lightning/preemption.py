"""A run that may be ended at any moment: it saves within an epoch, in time, when it is told to end, and goes on later."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import distributed

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What schedulers say before they kill: SLURM and Kubernetes TERM, `sbatch --signal=USR1@90` USR1, submitit USR2."""

AGREE_EVERY = 20
"""Several processes ask each other so many steps apart whether one was told to end: it makes the host wait for the device."""

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Preemption(Callback):
    """Saves a checkpoint between two steps: every so many minutes, and when a signal tells the run to end, which it then does.

    After the signal of a scheduler that wants the job back in its queue (USR1 or USR2) the job is put there: by who has a handler
    for it, such as submitit, else with `scontrol requeue`. Of several processes one is enough to be told.

    Args:
        path: of the checkpoint.
        minutes: between two checkpoints within an epoch.

    Attributes:
        told: the signal; 0: none.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.told = 0
        self._path = path
        self._seconds = 60 * minutes
        self._saved = time.monotonic()
        self._before: dict[int, _Handler] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens."""
        self._saved = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            # Lightning's own handler of TERM talks to the other processes in the middle of whatever they do.
            self._before = {number: signal.signal(number, self._listen) for number in SIGNALS}

    def _listen(self, number: int, frame: FrameType | None) -> None:
        self.told = self.told or number

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves, if it is time; the end of an epoch, which is validated and saved anyway, is none."""
        done, every = batch_idx + 1, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if done == trainer.num_training_batches or done % trainer.accumulate_grad_batches:
            return
        steps = done // trainer.accumulate_grad_batches
        if trainer.world_size > 1 and steps % AGREE_EVERY != 1:
            return
        if every > 1 and trainer.global_step % every == 0:
            return  # what this step logs is written after this hook, and would be lost
        told, due = self._agreed(trainer)
        if told or due:
            trainer.save_checkpoint(self._path, weights_only=False)
            self._saved = time.monotonic()
        self._end_if(told)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends what was told to while the epoch before was validated; its checkpoint has been saved."""
        if trainer.current_epoch > 0:
            self._end_if(self._agreed(trainer)[0])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same after the last epoch."""
        self._end_if(self._agreed(trainer)[0])
        self._stop_listening()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves no handler behind."""
        self._stop_listening()

    def _agreed(self, trainer: Trainer) -> tuple[int, bool]:
        """The signal that any process was told to end by, and whether it is time to save."""
        due = time.monotonic() - self._saved > self._seconds
        if trainer.world_size > 1:
            asked = torch.tensor([self.told, due], device=trainer.strategy.root_device)
            distributed.all_reduce(asked, distributed.ReduceOp.MAX)
            self.told, due = int(asked[0]), bool(asked[1])
        return self.told, due

    def _end_if(self, told: int) -> None:
        if not told:
            return
        if told != signal.SIGTERM:
            before = self._before.get(told)
            if callable(before):
                before(told, None)
            else:
                _requeue()
        raise SystemExit(128 + told)

    def _stop_listening(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def _requeue() -> None:
    """Puts this process's SLURM job back into the queue, if it is in one and is the first of its processes."""
    job, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job is not None and os.environ.get("SLURM_PROCID", "0") == "0" and shutil.which("scontrol"):
        subprocess.run(["scontrol", "requeue", job], check=False)
