"""How torch's threads wait for each other at the end of each piece of work: chosen by what else the machine does.

libgomp's threads spin while they wait, which is fastest on an idle machine. Beside other work they take the cores from each other, and
a training step takes many times as long; waiting passively then ends that, and costs a little where nothing else runs
(docs/performance.md has the measurements). It must be chosen before torch is loaded.
"""

import os
import sys
from pathlib import Path

from ctl_lightning.runtime.launch import is_first

WAIT_POLICY = "OMP_WAIT_POLICY"
"""Read by libgomp when it is loaded: ACTIVE or PASSIVE."""

CHOSEN = "CTL_WAIT_POLICY_CHOSEN"
"""Set beside it where not the user but a program has chosen, for the programs that this one starts, such as `paper`'s trainings."""

SPARE = 0.5
"""Cores that other work may take before our threads are in its way."""


def settle_pace() -> None:
    """Lets threads wait passively if other work needs the cores; says so in one line. What the user has set stays."""
    if "GOMP_SPINCOUNT" in os.environ or "torch" in sys.modules:
        return  # the user has chosen, or torch is loaded, as in the second job of a multirun
    if os.environ.pop(CHOSEN, None) is not None:
        os.environ.pop(WAIT_POLICY, None)  # chosen by the program that started this one, maybe hours ago
    if WAIT_POLICY in os.environ:
        return
    cores = allowed_cores()
    load = max(0.0, other_load() - ((os.cpu_count() or cores) - cores))  # it has the cores first that are not ours
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(wanted) if wanted.isdecimal() else cores
    if threads > 1 and threads + load > cores + SPARE:
        os.environ |= {WAIT_POLICY: "PASSIVE", CHOSEN: "1"}
        if is_first():
            print(
                f"other programs take {load:.1f} of the {cores} cores, so this one leaves a core to them whenever it waits; if they are about to end, "
                f"{WAIT_POLICY}=ACTIVE before the command is faster"
            )


def allowed_cores() -> int:
    """How many cores this process may use, where the system tells; else how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def other_load() -> float:
    """How many cores other work takes: now, and on average over the last minute, whichever is less; 0 where the system does not tell.

    What ended a moment ago does not count, nor does what is over in a moment.
    """
    try:
        average = os.getloadavg()[0]
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) - 1  # not this process
    except (OSError, ValueError, IndexError):
        return 0.0
    return min(average, float(running))
