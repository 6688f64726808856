"""A real SLURM of two virtual nodes: a sweep of which one job is preempted, and processes that srun starts."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from factories import TINY

from ctl_lightning.models.checkpoint import read_checkpoint

CLUSTER = Path(__file__).parent / "cluster.sh"
WHERE_IT_RUNS = os.geteuid() == 0 and all(shutil.which(name) for name in ("slurmctld", "slurmd", "munged"))

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not WHERE_IT_RUNS, reason="needs root and `apt-get install slurm-wlm munge`"),
]

TRAIN = (sys.executable, "-m", "ctl_lightning.train")
JOB = ("+experiment=hybrid", *TINY, "data.batch_size=8", "model.dropout=0.3")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("slurm")
    before = os.environ.get("SLURM_CONF")
    try:
        started = subprocess.run(["bash", CLUSTER, "start", folder], capture_output=True, text=True, check=False)
        assert started.returncode == 0, started.stderr
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        yield
    finally:
        subprocess.run(["bash", CLUSTER, "stop", folder], check=False)
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before


def slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, slurm("squeue")
        time.sleep(0.2)


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | environment, timeout=300
    )


def same_weights(first: Path, second: Path, tolerance: float = 0.0) -> None:
    one, two = (read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"] for run in (first, second))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=tolerance, msg=name)


@pytest.mark.usefixtures("cluster")
def test_of_four_jobs_of_a_sweep_one_is_preempted_and_all_finish(tmp_path: Path, cache: Path) -> None:
    options = (*JOB, "trainer.max_epochs=8", f"paths.cache_dir={cache}")
    whole = run(*TRAIN, *options, "seed=0", "hydra.run.dir=whole", cwd=tmp_path)  # renders what all of them look at
    assert whole.returncode == 0, whole.stderr
    launcher = [
        *("hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1"),
        *("hydra.launcher.mem_gb=2", "hydra.launcher.timeout_min=10"),
        'hydra.launcher.setup=["export OMP_NUM_THREADS=1"]',
    ]
    log = (tmp_path / "sweep.log").open("w")
    sweep = subprocess.Popen(
        [*TRAIN, "-m", *options, *launcher, "seed=0,1,2,3", "hydra.sweep.dir=sweep"],
        cwd=tmp_path,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    last = tmp_path / "sweep" / "0_hybrid_seed0" / "checkpoints" / "last.ckpt"
    wait_for(last.exists)
    (job,) = [word for word in slurm("squeue", "-h", "-o", "%i").split() if word.endswith("_0")]
    print(slurm("squeue"))
    assert run("scontrol", "requeue", job, cwd=tmp_path).returncode == 0
    wait_for(lambda: f"{job} PENDING" in slurm("squeue", "-h", "-o", "%i %T"))
    print(slurm("squeue"))
    step = read_checkpoint(last)["global_step"]
    assert not (tmp_path / "sweep/0_hybrid_seed0/results.json").exists()
    slurm("scontrol", "update", f"jobid={job}", "starttime=now")  # else it would wait two minutes
    code = sweep.wait(300)
    output = "\n".join(path.read_text() for path in sorted((tmp_path / "sweep/.submitit").glob("*_0/*log.*")))
    print(f"preempted after step {step}\n{output}")
    assert code == 0, (tmp_path / "sweep.log").read_text()
    assert "told to end by SIGTERM; it goes on when SLURM starts it again" in output
    assert "continuing " in output
    for seed in range(4):
        found = json.loads((tmp_path / f"sweep/{seed}_hybrid_seed{seed}/results.json").read_text())
        assert found["seed"] == seed
    same_weights(tmp_path / "whole", tmp_path / "sweep/0_hybrid_seed0")
    table = run(sys.executable, "-m", "ctl_lightning.sweep_table", "folder=sweep", cwd=tmp_path)
    print(table.stdout)
    assert table.returncode == 0, table.stderr
    assert "4/4" in table.stdout


@pytest.mark.usefixtures("cluster")
def test_two_processes_on_two_nodes_are_the_run_of_one(tmp_path: Path, cache: Path) -> None:
    options = (*JOB, "trainer.precision=64-true", "model.dropout=0", f"paths.cache_dir={cache}", "trainer.max_epochs=2")
    whole = run(*TRAIN, *options, "data.batch_size=16", "hydra.run.dir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    started = run(
        *("srun", "-N2", "--ntasks-per-node=1", "--kill-on-bad-exit=1", *TRAIN, *options),
        *("trainer=ddp", "trainer.accelerator=cpu", "paths.output_dir=runs"),
        cwd=tmp_path,
        MASTER_ADDR="127.0.0.1",  # the names of the virtual nodes are nobody's
    )
    print(started.stdout, started.stderr)
    assert started.returncode == 0
    (together,) = (tmp_path / "runs/synthetic/hybrid").iterdir()
    assert together.name.startswith("seed0_slurm")
    same_weights(tmp_path / "whole", together, 1e-9)
    assert (together / "pairs.csv").read_text().count("\n") == (tmp_path / "whole/pairs.csv").read_text().count("\n")
    wrong = run("srun", "-n2", *TRAIN, *options, "trainer=ddp", "trainer.accelerator=cpu", cwd=tmp_path)
    assert wrong.returncode != 0
    assert "give srun --ntasks-per-node=" in wrong.stderr
    assert "Traceback" not in wrong.stderr
