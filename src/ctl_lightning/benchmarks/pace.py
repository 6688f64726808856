"""What waiting threads cost: a training step with active and with passive waiting, on an idle machine and beside other work."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from ctl_lightning.benchmarks.timing import Row, in_turn, ratio
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.pace import WAIT_POLICY, allowed_cores

STEPS = """
import sys, time, torch
from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.preprocessing import IMAGENET
from ctl_lightning.models.components.losses import HingeLoss
from ctl_lightning.models.hybrid import Hybrid
torch.manual_seed(0)
backbone = {"library": "small", "name": "small", "pooled_layer": "pooled", "region_layer": "regions", "grid": 7}
backbone |= {"preprocessing": IMAGENET.plain(), "frozen": False, "checkpointing": False}
network = Hybrid(Backbone(backbone), 8, dim=128, hidden=256, dropout=0.0, attention="category", squared=True)
loss, optimiser = HingeLoss(0.2), torch.optim.Adam(network.parameters(), fused=True)
scene, near, far = (torch.randint(0, 256, (64, 3, 56, 56), dtype=torch.uint8) for _ in range(3))
category = torch.arange(64) % 8
def step():
    optimiser.zero_grad()
    style, (positive, negative), _ = network(scene, (near, far), category)
    loss(network.distance(style, positive), network.distance(style, negative)).backward()
    optimiser.step()
for _ in range(3):
    step()
done, began = 0, time.perf_counter()
while time.perf_counter() - began < float(sys.argv[1]) or not done:
    step()
    done += 1
print((time.perf_counter() - began) / done)
"""
"""Prints the seconds of a step of the small network, batches of 64 triplets of 56 pixels."""


def pace_rows(seconds: float, rounds: int) -> list[Row]:
    """Milliseconds of a step for each way of waiting, load and number of threads, in turn.

    Args:
        seconds: length of each measurement, in seconds.
        rounds: number of times that each is measured.
    """
    cores = allowed_cores()
    threads = sorted({1, cores})
    cases = [(load, count, wait) for load in ("idle", "busy") for count in threads for wait in ("ACTIVE", "PASSIVE")]
    measure = {_name(*case): partial(_step, seconds, *case) for case in cases}
    return [Row("pace", name, values, "ms a step") for name, values in in_turn(measure, rounds).items()]


def pace_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Passive over active waiting with a thread for each core: below 1, passive waiting is the faster."""
    cores = allowed_cores()
    return {
        f"passive_over_active_{load}": ratio(rows, _name(load, cores, "PASSIVE"), _name(load, cores, "ACTIVE"), "pace")
        for load in ("idle", "busy")
    }


def _name(load: str, threads: int, wait: str) -> str:
    return f"{load}, {threads} thread{'s' if threads > 1 else ''}, {wait.lower()} waiting"


def _step(seconds: float, load: str, threads: int, wait: str) -> float:
    """Milliseconds of a step in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    for name in (WAIT_POLICY, "GOMP_SPINCOUNT"):
        environment.pop(name, None)
    # libgomp's own default spins, but less than with ACTIVE: it is what a user has who has set nothing.
    if wait == "PASSIVE":
        environment[WAIT_POLICY] = wait
    with _busy(allowed_cores() if load == "busy" else 0):
        found = subprocess.run(
            [sys.executable, "-c", STEPS, str(seconds)], env=environment, capture_output=True, text=True, check=False
        )
    if found.returncode:
        raise InputError(f"what=pace: a step failed ({' '.join(found.stderr.split())[-200:]})")
    return 1000 * float(found.stdout)


@contextmanager
def _busy(loops: int) -> Iterator[None]:
    """Keeps so many cores busy."""
    loop = f"import os\nwhile os.getppid() == {os.getpid()}: pass"  # ends with this process, however that ends
    processes = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
