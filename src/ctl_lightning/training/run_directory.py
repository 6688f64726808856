"""Which directory does a run work in, is it new, continued or finished, and with which command does the run go on?"""

import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.models.checkpoint import LAST, MONITOR, read_checkpoint
from ctl_lightning.runtime.config import Config, literal, resolved
from ctl_lightning.runtime.console import console
from ctl_lightning.runtime.csv_files import MetricsRow, read_metrics
from ctl_lightning.runtime.errors import ERROR, InputError, InUseError
from ctl_lightning.runtime.files import write_text
from ctl_lightning.runtime.launch import is_first, is_restarted, launcher
from ctl_lightning.runtime.locks import alone
from ctl_lightning.runtime.place import LOCK
from ctl_lightning.runtime.program import one_line
from ctl_lightning.training.checkpointing import check_resumable, continued
from ctl_lightning.training.module import CompleteTheLook
from ctl_lightning.training.preemption import Preemption

log = logging.getLogger(__name__)

METRICS = "metrics.csv"

MAY_DIFFER = (
    "ckpt_path",
    "paths",
    "logger",
    "callbacks",
    "keep_memory",
    "save_minutes",
    "watch_epochs",
    "upload_checkpoints",
)
"""Parts of the config in which a run and its continuation may differ."""


@dataclass
class RunDirectory:
    """The directory where one run keeps its files; one process works in it at a time.

    Attributes:
        path: path of the directory.
        options: options of the run, resolved for this directory.
        resumed: checkpoint that the run goes on with; None for a new run.
        finished: whether the results of the run are there.
        preemption: callback that saves the run in time.
        checkpoint: contents of `resumed`, once `begin` has read it.
        history: rows of metrics.csv from before the checkpoint, once `begin` has read them.
    """

    path: Path
    options: Config
    resumed: Path | None
    finished: bool
    preemption: Preemption
    checkpoint: Config = field(default_factory=dict)
    history: list[MetricsRow] = field(default_factory=list)

    @classmethod
    @contextmanager
    def enter(cls, config: DictConfig, options: Config) -> "Iterator[RunDirectory]":
        """The directory of the run that a config describes; no other process works in it during the block.

        Args:
            config: composed config.
            options: the same config, resolved and checked.

        Raises:
            InputError: the directory holds a run already; it cannot be written to.
            InUseError: another process works in the directory.
            SystemExit: the run was told to end, or interrupted; how to continue it has been printed.
        """
        with noted_failure(Path(options["paths"]["run_dir"])):
            run = cls._found(config, options)
        with noted_failure(run.path), ExitStack() as held:
            if not run.finished:
                run.path.mkdir(parents=True, exist_ok=True)
                with TemporaryFile(dir=run.path):
                    pass  # a directory that cannot be written to is refused before the long work
                if is_first():
                    busy = f"{run.path}: another process is at work there; wait for it, or choose another hydra.run.dir"
                    held.enter_context(alone(run.path / LOCK, busy))
                held.enter_context(run.preemption.listening())
                held.enter_context(_says_how_to_continue(run))
            yield run

    @classmethod
    def _found(cls, config: DictConfig, options: Config) -> "RunDirectory":
        path, wish = Path(options["paths"]["run_dir"]), options["ckpt_path"]
        if wish is None and is_restarted() and (path / LAST).exists():
            wish = "auto"  # a job that was put back into the queue goes on with this run
        resumed = None
        if wish == "auto":
            found = unfinished_run(path, options, elsewhere=not is_multirun())  # a multirun's directories stay the same
            if found is None:
                log.info("ckpt_path=auto: no unfinished run of this config beside %s; starting a new one", path)
            else:
                path, resumed = found, Path(os.path.realpath(found / LAST))
        elif wish is not None:
            resumed = continued(Path(wish).expanduser())
        finished = wish == "auto" and resumed is not None and is_finished(path, options)
        here = wish == "auto" or (resumed is not None and resumed.parent == Path(os.path.realpath(path / LAST)).parent)
        if not here and ((path / LAST).exists() or (path / "results.json").exists()):
            raise InputError(
                f"hydra.run.dir={path} holds a run already; continue it with ckpt_path=auto, or choose another directory"
            )
        final = resolved(config, ckpt_path=wish, paths={"run_dir": str(path)})
        return cls(path, final, resumed, finished, Preemption(path / LAST, final["save_minutes"]))

    @property
    def last(self) -> Path:
        """The last checkpoint."""
        return self.path / LAST

    def best_value(self) -> float | None:
        """The best value of the monitored metric so far, None without one. Prints a line if the run is finished."""
        if self.finished:
            console.print(f"ckpt_path=auto: this run is finished, see {self.path / 'results.json'}")
        return max((row[MONITOR] for row in read_metrics(self.path / METRICS) if MONITOR in row), default=None)

    def begin(self, module: CompleteTheLook, data: TripletDataModule) -> None:
        """Loads the checkpoint that is continued, if there is one, and writes down what is known before training.

        Raises:
            InputError: the checkpoint does not fit, or nothing would be left to do.
        """
        if self.resumed is not None:
            self.checkpoint = self._continued(self.resumed, module)
            module.load_state_dict(
                self.checkpoint["state_dict"]
            )  # features are those of the weights that the run goes on with
            rows = read_metrics(self.resumed.parents[1] / METRICS)
            self.history = [row for row in rows if row.get("step", 0) < self.checkpoint["global_step"]]
        if is_first():
            remove_partial(self.path)
            write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(literal(self.options))))
            data.write_protocol_files(self.path)

    def _continued(self, resumed: Path, module: CompleteTheLook) -> Config:
        checkpoint = check_resumable(resumed, module, self.options["data"])
        epochs = self.options["trainer"]["max_epochs"]
        if 0 <= (epochs or -1) <= checkpoint["epoch"]:
            raise InputError(
                f"trainer.max_epochs={epochs}: {resumed} has finished epoch {checkpoint['epoch']}, counted from 0; give more epochs"
            )
        batch = checkpoint["TripletDataModule"].get("batch", 0)
        done = f"is at batch {batch} of" if batch else "has finished"
        console.print(f"continuing {resumed}, which {done} epoch {checkpoint['epoch'] + 1} of {epochs}")
        return checkpoint


def is_multirun() -> bool:
    """Whether this run is one of several of one command."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def _says_how_to_continue(run: RunDirectory) -> Iterator[None]:
    """Prints, when the run is interrupted or told to end, the command that continues it."""
    preemption = run.preemption
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as end:
        if isinstance(end, SystemExit) and not preemption.told:
            raise
        if is_first():
            why = f"told to end by {signal.Signals(preemption.told).name}" if preemption.told else "interrupted"
            later = f"continue with: {_command(run.path)}"
            if launcher() is not None:
                later = f"start it again as before, with hydra.run.dir={run.path} ckpt_path=auto"
            if preemption.requeued or "SUBMITIT_EXECUTOR" in os.environ:
                later = "it goes on when SLURM starts it again"
            print(f"train: {why}; {later}", file=sys.stderr)
        raise SystemExit(128 + preemption.told if preemption.told else 130) from None


def _command(run_dir: Path) -> str:
    """The command that continues this run."""
    multirun = is_multirun()
    place = f"hydra.sweep.dir={HydraConfig.get().sweep.dir}" if multirun else f"hydra.run.dir={run_dir}"
    dropped = ("ckpt_path=", "hydra.run.dir=", "hydra.sweep.dir=", "-m", "--multirun")
    again = [word for word in sys.argv[1:] if not word.startswith(dropped)]
    # -m first, because argparse wants the overrides side by side.
    return shlex.join(
        ["python", "-m", "ctl_lightning.train", *(["-m"] if multirun else []), *again, place, "ckpt_path=auto"]
    )


def remove_partial(run_dir: Path) -> None:
    """Deletes the half-written checkpoints of a killed run."""
    for temporary in (run_dir / LAST.parent).glob(".*.ckpt"):
        temporary.unlink(missing_ok=True)


def is_finished(run_dir: Path, config: dict[str, Any]) -> bool:
    """Whether a run directory has the results of a run of this resolved config."""
    return (run_dir / "results.json").exists() and _has_config(run_dir / LAST, config)


def _is_at_work(run_dir: Path) -> bool:
    try:
        with alone(run_dir / LOCK, ""):
            return False
    except InUseError:
        return True


def unfinished_run(run_dir: Path, config: dict[str, Any], elsewhere: bool) -> Path | None:
    """The run directory that `ckpt_path=auto` continues: this one, else the newest unfinished sibling with an equal config.

    Args:
        run_dir: directory of this run.
        config: resolved config of this run.
        elsewhere: whether to look at siblings too; one that another process is at work in is not continued.
    """
    siblings = sorted(run_dir.parent.glob(f"*/{LAST}"), key=os.path.getmtime, reverse=True) if elsewhere else []
    for checkpoint in [run_dir / LAST, *siblings]:
        candidate = checkpoint.parents[1]
        if not checkpoint.is_file():
            continue
        if candidate == run_dir:
            return candidate
        # Processes other than the first cannot tell that one's lock from a stranger's.
        taken = is_first() and _is_at_work(candidate)
        if not (candidate / "results.json").exists() and not taken and _has_config(checkpoint, config):
            return candidate
    return None


def _has_config(path: Path, config: dict[str, Any]) -> bool:
    try:
        saved = read_checkpoint(path).get("config", {})
    except InputError:
        return False
    return all(saved.get(key) == config.get(key) for key in saved.keys() | config.keys() if key not in MAY_DIFFER)


@contextmanager
def noted_failure(run_dir: Path) -> Iterator[None]:
    """Writes the error that ends the block into the run directory, for the table of a sweep.

    A run that begins or succeeds leaves no such note.
    """
    (run_dir / ERROR).unlink(missing_ok=True)
    try:
        yield
    except InUseError:
        raise
    except Exception as error:
        if run_dir.is_dir() and not (run_dir / "results.json").exists():
            write_text(run_dir / ERROR, one_line(error, "train") + "\n")
        raise
