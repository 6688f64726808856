"""How the processes of one run work together: they share BatchNorm and values, compare options, check who started them."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.plugins import TorchSyncBatchNorm
from torch import Tensor, distributed
from torch.nn import Module

from ctl_lightning.models.components.sync_batchnorm import synchronise
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.launch import launched, launcher


class SynchronisedBatchNorms(TorchSyncBatchNorm):
    """`trainer.sync_batchnorm` on any device: torch's SyncBatchNorm on GPUs, ours elsewhere."""

    def apply(self, model: Module) -> Module:
        """Makes every BatchNorm synchronised; called before the network is given to DDP."""
        if distributed.get_backend() == "gloo":
            synchronise(model)
            return model
        return super().apply(model)


def plugins(trainer: Mapping[str, Any]) -> list[Any]:
    """The plugins that tell Lightning's trainer about the processes.

    Args:
        trainer: options of the trainer.
    """
    chosen: list[Any] = [SynchronisedBatchNorms()] if trainer["sync_batchnorm"] else []
    if SLURMEnvironment.detect() and launcher() != "torchrun":
        # Lightning's requeueing is off: it saves to its own file; `preemption` does it. A process that srun did not
        # start as one of several starts the others itself.
        chosen.append(SLURMEnvironment(auto_requeue=False) if launcher() == "srun" else LightningEnvironment())
    return chosen


class SameConfig(Callback):
    """Ends a run whose processes were given different options: they would train one network towards different goals.

    Args:
        config: resolved config, as plain values.

    Raises:
        InputError: options differ; raised in every process, with the first option that differs.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(_leaves("", config))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compares the options as soon as the processes can talk to each other."""
        if trainer.world_size == 1:
            return
        configs: list[Any] = [None] * trainer.world_size
        distributed.all_gather_object(configs, self._config)
        for rank, other in enumerate(configs):
            for name in sorted(configs[0].keys() | other.keys()):
                if configs[0].get(name) != other.get(name):
                    raise InputError(
                        f"the processes of this run differ: {name} is {configs[0].get(name)!r} in the first and {other.get(name)!r} in "
                        f"process {rank}; start all of them with the same options, and a multirun with one device a job"
                    )


def _leaves(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(prefix, value)]
    return [leaf for key, inner in value.items() for leaf in _leaves(f"{prefix}.{key}" if prefix else str(key), inner)]


def check_launched(trainer: Mapping[str, Any], multirun: bool, group: str = "trainer.") -> None:
    """Checks that the processes that were started match the devices in the options.

    Args:
        trainer: options of the trainer.
        multirun: whether this run is one of several of one command.
        group: prefix of the option names in error messages, such as "trainer.".

    Raises:
        InputError: another number of processes was started; srun was not told how many tasks a node has; a SLURM job
            whose processes were not started by srun; a multirun in which one process would start others, which would
            replay the whole sweep.
    """
    devices, nodes = trainer["devices"], trainer["num_nodes"]
    count = len(devices) if isinstance(devices, list) else devices
    if str(count).isdecimal():
        count = int(count)
    by = launcher()
    if by is not None and count != "auto":
        processes = int(launched("devices")) * int(launched("num_nodes"))
        if not isinstance(count, int) or count * nodes != processes:
            way = f"{group}devices={launched('devices')}"
            if group:
                way = f"trainer=ddp, which takes their number, or {way} {group}num_nodes={launched('num_nodes')}"
            raise InputError(
                f"{group}devices={devices} {group}num_nodes={nodes}: {by} started {processes} processes; give {way}"
            )
    if by == "srun" and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise InputError(
            f"srun started {launched('devices')} processes a node, but was not told to; give srun --ntasks-per-node={launched('devices')}, "
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


def several_processes() -> bool:
    """Whether this process is one of several of a run."""
    return distributed.is_available() and distributed.is_initialized()


def of_all(module: LightningModule, part: Tensor, sync_grads: bool = False) -> Tensor:
    """Gathers a tensor (B, ...) from each of W processes -> (W · B, ...), in the order of the ranks."""
    gathered = module.all_gather(part, sync_grads=sync_grads)
    assert isinstance(gathered, Tensor)
    return gathered.flatten(0, 1)


def in_all(module: LightningModule, fine: bool) -> bool:
    """Whether `fine` is true in all processes: if one alone stopped, the others would wait for it."""
    if not several_processes():
        return fine
    return bool(of_all(module, torch.tensor([fine], device=module.device)).all())


def mean_factor(module: LightningModule, count: Tensor) -> Tensor | float:
    """Factor on a mean of this process's `count` values (scalar), so that the mean over processes is that of all."""
    if not several_processes():
        return 1.0
    counts = of_all(module, count[None])
    return counts[module.global_rank] / counts.mean().clamp_min(1 / len(counts))
