"""Which launcher started this process (torchrun, SLURM, none), which of several it is, and whether after a requeue."""

import os
import secrets
from datetime import datetime
from pathlib import Path
from typing import Literal

Launcher = Literal["torchrun", "srun"]


def launcher() -> Launcher | None:
    """What started this process as one of several; None: it was started alone, or by Lightning."""
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
    """A name for run directories that is the same in all processes of a run, and again when its job is requeued.

    It holds the launcher's id of the run, such as slurm123-0; where one process starts alone, it is the time and a random
    number, as many may start in one second, on one machine or several.
    """
    if launcher() == "srun":
        return f"slurm{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_STEP_ID', '0')}"
    if launcher() == "torchrun":
        given = os.environ["TORCHELASTIC_RUN_ID"]
        return f"torchrun-{given if given != 'none' else _parent()}"
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(3)}"


def _parent() -> str:
    """Id of the parent process, which all of torchrun's share; with its start time, because ids are reused."""
    parent = os.getppid()
    try:
        start = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:  # another system than Linux
        return str(parent)
    return f"{parent}-{start}"


def is_restarted() -> bool:
    """Whether the launcher has started this run before: a requeued SLURM job, or a restart by torchrun."""
    return any(int(os.environ.get(name, "0")) > 0 for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def launched(what: Literal["devices", "num_nodes"]) -> int | str:
    """Number of started processes per node ("devices") or of nodes ("num_nodes"); no launcher: all devices of one node."""
    by = launcher()
    if by is None:
        return "auto" if what == "devices" else 1
    if by == "torchrun":
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    else:
        world = int(os.environ["SLURM_STEP_NUM_TASKS"])
        local = world // int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    return local if what == "devices" else world // local
