"""Who started this process, as one of several of a run or alone: read from the environment, before anything else is known."""

import os
from datetime import datetime
from pathlib import Path
from typing import Literal

Launcher = Literal["torchrun", "srun"]


def launcher() -> Launcher | None:
    """Who started this process as one of several; None: nobody, or Lightning."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    # Not SLURM_NTASKS, which a batch script has too, although it is one process.
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return "srun"
    return None


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    if launcher() == "torchrun":
        return os.environ["RANK"] == "0"
    if launcher() == "srun":
        return os.environ["SLURM_PROCID"] == "0"
    return os.environ.get("LOCAL_RANK", "0") == os.environ.get("NODE_RANK", "0") == "0"


def run_id() -> str:
    """A word for run directories that is the same in all processes of a run, and again when its job is requeued.

    That of the launcher; the time, where one process starts alone.
    """
    if launcher() == "srun":
        return f"slurm{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_STEP_ID', '0')}"
    if launcher() == "torchrun":
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


def launched(what: Literal["devices", "num_nodes"]) -> int | str:
    """So many processes a node, on so many nodes, were started; where no launcher did: all devices of one node."""
    by = launcher()
    if by is None:
        return "auto" if what == "devices" else 1
    if by == "torchrun":
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    else:
        world = int(os.environ["SLURM_STEP_NUM_TASKS"])
        local = world // int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    return local if what == "devices" else world // local
