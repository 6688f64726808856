"""The directory of a run: one process at a time works in it, and an unfinished run is found again."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ctl_lightning.models.checkpoint import LAST, read_checkpoint
from ctl_lightning.runtime.errors import ERROR, InputError, InUseError
from ctl_lightning.runtime.files import write_text
from ctl_lightning.runtime.launch import is_first

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
"""Parts of the config in which the two halves of one run may differ."""


def remove_partial(run_dir: Path) -> None:
    """Deletes what a killed run has left half written."""
    for temporary in (run_dir / LAST.parent).glob(".*.ckpt"):
        temporary.unlink(missing_ok=True)


def is_finished(run_dir: Path, config: dict[str, Any]) -> bool:
    """Whether a run directory has the results of a run of this resolved config."""
    return (run_dir / "results.json").exists() and _has_config(run_dir / LAST, config)


def lock_of(run_dir: Path) -> FileLock:
    """Held by the process that writes into a run directory."""
    return FileLock(run_dir / ".lock")


def _is_at_work(run_dir: Path) -> bool:
    try:
        lock_of(run_dir).acquire(timeout=0).lock.release()
    except Timeout:
        return True
    return False


def unfinished_run(run_dir: Path, config: dict[str, Any], elsewhere: bool) -> Path | None:
    """The run directory that `ckpt_path=auto` continues: this one, else the newest unfinished sibling with an equal config.

    Args:
        run_dir: of this run.
        config: this run's resolved config.
        elsewhere: whether siblings are looked at; those that another process is at work in are not continued.
    """
    siblings = sorted(run_dir.parent.glob(f"*/{LAST}"), key=os.path.getmtime, reverse=True) if elsewhere else []
    for checkpoint in [run_dir / LAST, *siblings]:
        candidate = checkpoint.parents[1]
        if not checkpoint.is_file():
            continue
        if candidate == run_dir:
            return candidate
        # Processes other than the first can not tell that one's lock from a stranger's.
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
def noted_failure(run_dir: Callable[[], Path], told: Callable[[Exception], str]) -> Iterator[None]:
    """Writes into the run directory, for the table of a sweep, what ends the block; a run that begins or succeeds leaves no such note.

    Args:
        run_dir: of the run, which may continue another one than the first; one with results is left alone.
        told: what is said of an error.
    """
    (run_dir() / ERROR).unlink(missing_ok=True)
    try:
        yield
    except InUseError:
        raise
    except Exception as error:
        if run_dir().is_dir() and not (run_dir() / "results.json").exists():
            write_text(run_dir() / ERROR, told(error) + "\n")
        raise
    (run_dir() / ERROR).unlink(missing_ok=True)
