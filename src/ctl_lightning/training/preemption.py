"""How a run that may be ended at any moment saves in time, also within an epoch, and goes on later."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import distributed

from ctl_lightning.runtime.launch import is_first

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals sent before a kill: TERM by SLURM and Kubernetes, USR1 by `sbatch --signal=USR1@90`, USR2 by submitit."""

AGREE_EVERY = 20
"""Steps after which processes ask each other if one was told to end, which makes the host wait for the device."""

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Preemption(Callback):
    """Saves a checkpoint between two steps: every few minutes, and when a signal tells the run to end, as it then does.

    While nothing is trained, a signal ends the run at once: what is packed or computed is kept, and what was trained is
    saved already. USR1 and USR2 mean that the scheduler wants the job back in its queue. It is put there by the handler
    that the signal had before, such as submitit's, else with `scontrol requeue`. It is enough if one of several
    processes is told.

    Args:
        path: checkpoint file to write.
        minutes: minutes between two checkpoints within an epoch.

    Attributes:
        told: number of the signal that told the run to end; 0: none.
        requeued: whether the job is in the queue again.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.told = 0
        self.requeued = False
        self._path = path
        self._seconds = 60 * minutes
        self._saved = time.monotonic()
        self._asked = (0, False)
        self._training = False
        self._before: dict[int, _Handler] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listens for signals within this block."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._listen) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _listen(self, number: int, frame: FrameType | None) -> None:
        self.told = self.told or number
        if not self._training:
            if is_first():
                self._give_back()
            raise SystemExit(128 + self.told)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on, a step is finished before a signal ends the run."""
        self._saved = time.monotonic()
        self._training = True
        for number in self._before:
            # Lightning's own handler of TERM talks to the other processes in the middle of whatever they do.
            signal.signal(number, self._listen)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves if it is time, but not at the end of an epoch, which is validated and saved anyway.

        With log_every_n_steps=1, a run that goes on lacks the row of metrics.csv for the step after which it saved.
        """
        done, every = batch_idx + 1, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if done == trainer.num_training_batches or done % trainer.accumulate_grad_batches:
            return
        if trainer.world_size == 1 or done // trainer.accumulate_grad_batches % AGREE_EVERY == 1:
            self._asked = self._agreed(trainer)
        told, due = self._asked
        # A step's log is written, and a validation between two steps is run, after this hook: then the next step saves.
        logs = every > 1 and trainer.global_step % every == 0
        validates = bool(trainer.val_check_batch) and done % (trainer.val_check_batch or 1) == 0
        if not (told or due) or logs or validates:
            return
        trainer.save_checkpoint(self._path, weights_only=False)
        self._saved, self._asked = time.monotonic(), (told, False)
        self._end_if(told, trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends a run that was told to end while the epoch before was validated; its checkpoint has been saved."""
        if trainer.current_epoch > 0:
            self._end_if(self._agreed(trainer)[0], trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Does the same after the last epoch."""
        self._end_if(self._agreed(trainer)[0], trainer)
        self._training = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Notes that nothing is trained any more, so that a signal ends the run at once."""
        self._training = False

    def _agreed(self, trainer: Trainer) -> tuple[int, bool]:
        """The signal that told any process to end (0: none), and whether it is time to save."""
        due = time.monotonic() - self._saved > self._seconds
        if trainer.world_size > 1:
            asked = torch.tensor([self.told, due], device=trainer.strategy.root_device)
            distributed.all_reduce(asked, distributed.ReduceOp.MAX)
            self.told, due = int(asked[0]), bool(asked[1])
        return self.told, due

    def _end_if(self, told: int, trainer: Trainer) -> None:
        if not told:
            return
        if trainer.is_global_zero:
            self._give_back()
        # srun ends the whole step when the first process leaves, and with it the one that puts the job back.
        trainer.strategy.barrier()
        raise SystemExit(128 + told)

    def _give_back(self) -> None:
        """Puts this process's job back into the queue if the signal asks for that."""
        before = self._before.get(self.told)
        if self.told == signal.SIGTERM:
            return
        if callable(before):
            with suppress(SystemExit):  # submitit's handler ends the process
                before(self.told, None)
            self.requeued = True
        else:
            self.requeued = _requeue()


def _requeue() -> bool:
    """Puts this process's SLURM job, if there is one, back into the queue. Returns whether it is there."""
    job, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job is None or not shutil.which("scontrol"):
        return False
    return subprocess.run(["scontrol", "requeue", job], check=False).returncode == 0
