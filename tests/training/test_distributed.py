"""Several processes are one run: the same batches, the same weights, the same numbers, one run directory."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import TINY, Compose
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer
from numpy.typing import NDArray
from omegaconf import DictConfig
from ranks import in_processes
from torch import nn

from ctl_lightning.data.samplers import DealtBatches, EpochSampler, Share
from ctl_lightning.evaluate import evaluate
from ctl_lightning.models.checkpoint import read_checkpoint
from ctl_lightning.models.components.sync_batchnorm import synchronise
from ctl_lightning.reports.run_report import RunReport
from ctl_lightning.runtime.csv_files import read_metrics
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.launch import is_first, is_restarted, launched, launcher, run_id
from ctl_lightning.train import train
from ctl_lightning.training.distributed import SameConfig, check_launched

DDP = ("trainer=ddp", "trainer.accelerator=cpu")
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
SLURM = (
    "SLURM_NTASKS_PER_NODE",
    "SLURM_NTASKS",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_NUM_NODES",
    "SLURM_PROCID",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
)
Launch = Callable[..., None]


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Sets the variables of a launcher, and no others."""
    for name in (*LAUNCHER, *SLURM, "SLURM_RESTART_COUNT", "SUBMITIT_EXECUTOR", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)

    def set_variables(**variables: object) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return set_variables


def train_quietly(config: DictConfig) -> float | None:
    RunReport.draw = lambda *_: {}  # type: ignore[method-assign]
    return train(config)


@given(
    items=st.integers(1, 60),
    batch=st.integers(1, 7),
    processes=st.integers(1, 4),
    done=st.integers(0, 3),
    group=st.sampled_from([1, 3]),
)
def test_the_processes_parts_of_a_step_are_the_batch_of_one(
    items: int, batch: int, processes: int, done: int, group: int
) -> None:
    categories = [str(item % 3) for item in range(items)]
    alone = list(EpochSampler(categories, 1, lambda: (2, done), batch * processes, group))
    parts = [
        list(EpochSampler(categories, 1, lambda: (2, done), batch, group, Share(rank, processes)))
        for rank in range(processes)
    ]
    together = [
        item
        for step in range(len(parts[0]) // batch)
        for part in parts
        for item in part[step * batch : (step + 1) * batch]
    ]
    assert together == alone
    assert len({item for item in together}) == len(together)


@given(items=st.integers(1, 60), batch=st.integers(1, 7), processes=st.integers(1, 4))
def test_whole_batches_are_dealt_each_to_someone_and_equally_many(items: int, batch: int, processes: int) -> None:
    alone = [tuple(range(items)[start : start + batch]) for start in range(0, items, batch)]
    parts = [list(DealtBatches(items, batch, Share(rank, processes))) for rank in range(processes)]
    dealt = [[tuple(part[start : start + batch]) for start in range(0, len(part), batch)] for part in parts]
    assert len({len(batches) for batches in dealt}) == 1
    turns = [one for turn in zip(*dealt, strict=True) for one in turn]
    assert turns[: len(alone)] == alone
    assert set(turns[len(alone) :]) <= {alone[0]}


def _normalised_in_half(part: NDArray[np.float32]) -> tuple[str, NDArray[np.float32]]:
    torch.distributed.init_process_group("gloo")
    network = nn.Sequential(nn.BatchNorm1d(4))
    synchronise(network)
    found = network(torch.from_numpy(part).bfloat16())
    return str(found.dtype), found.detach().float().numpy()


def test_synchronised_batch_norm_sums_half_precision_in_full() -> None:
    whole = (100 + torch.randn(512, 4, generator=torch.Generator().manual_seed(0))).bfloat16().float()
    expected = nn.BatchNorm1d(4)(whole).detach()
    (kind, first), (_, second) = in_processes(
        2, _normalised_in_half, each=[(whole[:256].numpy(),), (whole[256:].numpy(),)]
    )
    assert kind == "torch.bfloat16"
    torch.testing.assert_close(torch.from_numpy(np.concatenate([first, second])), expected, rtol=0, atol=0.02)


def _normalised(part: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).double()
    synchronise(network)
    pixels = torch.from_numpy(part).requires_grad_()
    output = network(pixels)
    output.square().sum().backward()
    norm: Any = network[1]
    found: Any = (
        output.detach(),
        pixels.grad,
        norm.running_mean,
        norm.running_var,
        norm.weight.grad,
        norm.num_batches_tracked,
    )
    return [value.numpy() for value in found]


def test_synchronised_batch_norm_is_that_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).double()
    whole = torch.randn(7, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    expected = network(whole)
    expected.square().sum().backward()
    parts = in_processes(2, _normalised, each=[(whole.detach()[:4].numpy(),), (whole.detach()[4:].numpy(),)])
    output, gradient, *states = ([torch.from_numpy(value) for value in values] for values in zip(*parts, strict=True))
    torch.testing.assert_close(torch.cat(output), expected.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat(gradient), whole.grad, rtol=0, atol=1e-11)
    mean, variance, weight, batches = states
    norm: Any = network[1]
    for part in range(2):
        torch.testing.assert_close(mean[part], norm.running_mean, rtol=0, atol=1e-13)
        torch.testing.assert_close(variance[part], norm.running_var, rtol=0, atol=1e-13)
        assert int(batches[part]) == 1
    torch.testing.assert_close(sum(weight), norm.weight.grad, rtol=0, atol=1e-11)


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (2, ()),
        pytest.param(
            *(3, ("loss=info_nce", "data.same_category=8", "data.eval_batch_size=7", "data.augment=crop")),
            marks=pytest.mark.long,
        ),
        pytest.param(
            2,
            ("+experiment=recipe", "data.same_category=8", "model.members=2", "model.dropout=0.0"),
            marks=pytest.mark.long,
        ),
    ],
)
def test_processes_train_and_measure_what_one_does_with_the_whole_batch(
    compose: Compose, tmp_path: Path, processes: int, options: tuple[str, ...]
) -> None:
    # In double precision: in single, sums in another order drift apart.
    options = (*TINY, "trainer.precision=64-true", "trainer.max_epochs=2", *options)
    alone = train(compose(*options, "data.batch_size=24", run="alone"))
    config = compose(
        *options, *DDP, f"trainer.devices={processes}", f"data.batch_size={24 // processes}", run="together"
    )
    assert in_processes(processes, train_quietly, config) == [alone] * processes
    one, several = tmp_path / "alone", tmp_path / "together"
    expected, found = (read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"] for run in (one, several))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9, msg=name)
    rows = [read_metrics(run / "metrics.csv") for run in (one, several)]
    for row in (row for half in rows for row in half):
        assert ("train/data_wait" in row) == ("train/loss" in row) == ("train/order_violations" in row)
        row.pop("train/data_wait", None)
        row.pop("train/images_per_second", None)
    assert rows[1] == [pytest.approx(row, abs=2e-7) for row in rows[0]]  # some are logged in single precision
    assert [path.name for path in tmp_path.iterdir() if path.name != "alone"] == ["together"]
    assert (several / "pairs.csv").read_text().count("\n") == (one / "pairs.csv").read_text().count("\n")


@pytest.mark.usefixtures("without_pictures")
def test_the_same_checkpoint_gives_exactly_the_same_numbers_on_1_2_and_3_processes(
    compose: Compose, tmp_path: Path
) -> None:
    import hydra

    from ctl_lightning.runtime.config import config_dir

    train(compose(*TINY, "data.eval_batch_size=4"))
    pairs = []
    for processes in (1, 2, 3):
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = hydra.compose(
                "evaluate",
                [
                    *(f"ckpt_path={tmp_path / 'run'}", f"paths.run_dir={tmp_path / str(processes)}"),
                    *("accelerator=cpu", f"devices={processes}"),
                ],
            )
        assert in_processes(processes, evaluate, config) == [None] * processes
        pairs.append((tmp_path / str(processes) / "pairs.csv").read_text())
    queries = len({tuple(line.split(",")[:5]) for line in pairs[0].splitlines()[1:]})
    assert all(math.ceil(queries / 4) % processes for processes in (2, 3))  # the last turn has too few batches
    assert pairs[0] == pairs[1] == pairs[2]
    first, *others = (json.loads((tmp_path / str(n) / "results.json").read_text()) for n in (1, 2, 3))
    for other in others:
        assert other["test"] == first["test"]
        assert other["controls"] == first["controls"]


@pytest.mark.parametrize(
    "experiment",
    [
        *("siamese", "popularity"),
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("local", "global", "ibr", "bpr_dae", "imagenet", "hybrid_uniform")
        ),
    ],
)
def test_every_method_runs_in_two_processes(compose: Compose, tmp_path: Path, experiment: str) -> None:
    config = compose(*TINY, *DDP, f"+experiment={experiment}", "trainer.devices=2", "data.batch_size=8")
    first, second = in_processes(2, train_quietly, config)
    assert first == second
    assert (first is None) == (experiment in ("imagenet", "popularity"))
    assert 0 < json.loads((tmp_path / "run/results.json").read_text())["test"]["all"]["auc"]["value"] < 1


def test_processes_with_other_options_end_before_they_train(compose: Compose, tmp_path: Path) -> None:
    rates = [compose(*TINY, *DDP, "trainer.devices=2", f"model.learning_rate={rate}") for rate in (0.001, 0.003)]
    for found in in_processes(2, train_quietly, each=[(config,) for config in rates]):
        assert isinstance(found, InputError)
        assert "model.learning_rate is 0.001 in the first and 0.003 in process 1" in str(found)
    assert not (tmp_path / "run" / "results.json").exists()


def test_one_process_has_nothing_to_compare() -> None:
    SameConfig({"a": 1}).setup(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), None, "fit")  # type: ignore[arg-type]


def test_who_started_a_process_is_in_its_environment(launch: Launch) -> None:
    assert (launcher(), is_first(), launched("devices"), launched("num_nodes")) == (None, True, "auto", 1)
    assert len(run_id()) == len("2026-01-01_00-00-00_123abc")
    launch(LOCAL_RANK=1, WORLD_SIZE=2)  # Lightning's child
    assert (launcher(), is_first()) == (None, False)
    launch(
        SLURM_NTASKS=4, SLURM_STEP_NUM_TASKS=4, SLURM_STEP_NUM_NODES=2, SLURM_PROCID=0, SLURM_JOB_ID=7, SLURM_STEP_ID=1
    )
    assert (launcher(), is_first(), launched("devices"), launched("num_nodes")) == ("srun", True, 2, 2)
    assert run_id() == "slurm7-1"
    launch(TORCHELASTIC_RUN_ID="abc", RANK=3, WORLD_SIZE=4, LOCAL_WORLD_SIZE=4)  # torchrun inside of a SLURM job
    assert (launcher(), is_first(), launched("devices"), launched("num_nodes")) == ("torchrun", False, 4, 1)
    assert run_id() == "torchrun-abc"
    launch(TORCHELASTIC_RUN_ID="none")
    assert run_id().startswith("torchrun-")
    assert run_id() == run_id() != "torchrun-none"
    assert not is_restarted()
    launch(SLURM_RESTART_COUNT=1)
    assert is_restarted()


@pytest.mark.parametrize(
    ("variables", "options", "multirun", "message"),
    [
        ({}, {"devices": 2}, True, "several processes of one multirun would each run all of its jobs"),
        ({}, {"devices": "2"}, True, "several processes of one multirun"),
        ({}, {"devices": [0, 1]}, True, "several processes of one multirun"),
        ({}, {"num_nodes": 2}, True, "hydra/launcher=slurm hydra.launcher.tasks_per_node=N trainer=ddp trainer.devices=N"),
        ({"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}, {"devices": 1}, False, "torchrun started 2 processes; give trainer=ddp"),
        ({"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2}, {"devices": 2}, False, "trainer.devices=2 trainer.num_nodes=2"),
        ({"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}, {"devices": 2}, True, "several processes of one multirun"),
        ({"SLURM_NTASKS": 2}, {}, False, "write srun before the command"),
        ({"SLURM_STEP_NUM_TASKS": 2}, {"devices": 2}, False, "give srun --ntasks-per-node=2, which Lightning asks for"),
    ],
)  # fmt: skip
def test_what_was_started_otherwise_than_the_options_say_is_an_error_with_the_way_out(
    launch: Launch, variables: dict[str, Any], options: dict[str, Any], multirun: bool, message: str
) -> None:
    launch(**variables)
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        check_launched({"devices": 1, "num_nodes": 1} | options, multirun)


def test_what_was_started_as_the_options_say_is_none(launch: Launch) -> None:
    check_launched({"devices": 1, "num_nodes": 1}, True)
    check_launched({"devices": 2, "num_nodes": 1}, False)
    launch(SUBMITIT_EXECUTOR="slurm", SLURM_NTASKS=2, SLURM_STEP_NUM_TASKS=2, SLURM_JOB_ID=1, SLURM_NTASKS_PER_NODE=2)
    check_launched({"devices": 2, "num_nodes": 1}, True)
    check_launched({"devices": "auto", "num_nodes": 1}, True)


WANDB = ("logger=wandb", "logger.wandb.offline=true", "watch_epochs=0")


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["torchrun", "lightning"])
def test_one_run_directory_and_one_logger_run_whoever_starts_the_processes(
    tmp_path: Path, cache: Path, launcher: str
) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if launcher == "torchrun" else []
    devices = [] if launcher == "torchrun" else ["trainer.devices=2"]
    found = subprocess.run(
        [
            sys.executable,
            *torchrun,
            "-m",
            "ctl_lightning.train",
            *TINY,
            *DDP,
            *devices,
            *WANDB,
            f"paths.cache_dir={cache}",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"WANDB_DATA_DIR": str(tmp_path / "staging")},
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("everything is in ") == 1
    (run,) = (tmp_path / "runs/synthetic/hybrid").iterdir()
    assert run.name.startswith("seed0_torchrun-" if launcher == "torchrun" else "seed0_20")
    assert len(list(run.glob("wandb/offline-run-*"))) == 1
    assert json.loads((run / "results.json").read_text())["environment"]["command"].count("trainer=ddp") == 1
    assert sorted(path.name for path in run.glob("*.log")) == ["train.log"]
