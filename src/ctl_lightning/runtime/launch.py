"""Who started this process, as one of several of a run or alone: read from the environment, before anything else is known."""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch

from ctl_lightning.runtime.errors import InputError

Starter = Literal["torchrun", "srun"]


def starter() -> Starter | None:
    """Who started this process as one of several; None: nobody, or Lightning."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    # Not SLURM_NTASKS, which a batch script has too, although it is one process.
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return "srun"
    return None


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    if starter() == "torchrun":
        return os.environ["RANK"] == "0"
    if starter() == "srun":
        return os.environ["SLURM_PROCID"] == "0"
    return os.environ.get("LOCAL_RANK", "0") == os.environ.get("NODE_RANK", "0") == "0"


def run_id() -> str:
    """A word for run directories that is the same in all processes of a run, and again when its job is requeued.

    That of the launcher; the time, where one process starts alone.
    """
    if starter() == "srun":
        return f"slurm{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_STEP_ID', '0')}"
    if starter() == "torchrun":
        given = os.environ["TORCHELASTIC_RUN_ID"]
        return f"torchrun-{given if given != 'none' else _parent()}"
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _parent() -> str:
    """The process that started this one, which torchrun's are all children of; with its start, because numbers come again."""
    parent = os.getppid()
    try:
        start = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:  # another system than Linux
        return str(parent)
    return f"{parent}-{start}"


def is_restarted() -> bool:
    """Whether the launcher has started this run before: a requeued SLURM job, a restart of torchrun's."""
    return any(int(os.environ.get(name, "0")) > 0 for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def started(what: Literal["devices", "num_nodes"]) -> int | str:
    """So many processes a node, on so many nodes, were started; where no launcher did: all devices of one node."""
    by = starter()
    if by is None:
        return "auto" if what == "devices" else 1
    if by == "torchrun":
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    else:
        world = int(os.environ["SLURM_STEP_NUM_TASKS"])
        local = world // int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    return local if what == "devices" else world // local


def check_started(trainer: Mapping[str, Any], multirun: bool, group: str = "trainer.") -> None:
    """Compares what the options say of devices with what was started.

    Args:
        trainer: the options of the trainer.
        multirun: whether this run is one of several of one command.
        group: that the options are in, for messages.

    Raises:
        InputError: another number of processes; a SLURM job whose processes were not started by srun; a multirun in which one
            process would start others: they would replay the whole sweep.
    """
    devices, nodes = trainer["devices"], trainer["num_nodes"]
    count = len(devices) if isinstance(devices, list) else devices
    if str(count).isdecimal():
        count = int(count)
    by = starter()
    if by is not None and count != "auto":
        processes = int(started("devices")) * int(started("num_nodes"))
        if not isinstance(count, int) or count * nodes != processes:
            way = f"{group}devices={started('devices')}"
            if group:
                way = f"trainer=ddp, which takes their number, or {way} {group}num_nodes={started('num_nodes')}"
            raise InputError(
                f"{group}devices={devices} {group}num_nodes={nodes}: {by} started {processes} processes; give {way}"
            )
    if by == "srun" and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise InputError(
            f"srun started {started('devices')} processes a node, but was not told to; give srun --ntasks-per-node={started('devices')}, "
            "which Lightning asks for"
        )
    if by is None and int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_NUM_TASKS" not in os.environ:
        raise InputError(
            f"this SLURM job has {os.environ['SLURM_NTASKS']} tasks, but the program was started once; write srun before the command, or "
            "ask for --ntasks=1"
        )
    # What srun starts in a job of the slurm launcher runs one function: no sweep to replay.
    if multirun and not (os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and by == "srun"):
        available = torch.cuda.device_count() if count in ("auto", -1) else count
        if by is not None or nodes > 1 or (isinstance(available, int) and available > 1):
            raise InputError(
                f"trainer.devices={devices}: several processes of one multirun would each run all of its jobs; give each job one device "
                "(trainer.devices=1), or let SLURM start the processes: hydra/launcher=slurm hydra.launcher.tasks_per_node=N "
                "trainer=ddp trainer.devices=N"
            )
