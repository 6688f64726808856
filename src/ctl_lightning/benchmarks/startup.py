"""How soon the programs answer: whole processes, beside one that only imports Hydra."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial

from ctl_lightning.benchmarks.timing import Row, in_turn, ratio

HYDRA = "import hydra"

PROGRAM = ("-m", "ctl_lightning.train")
COMMANDS: dict[str, tuple[str, ...]] = {
    HYDRA: ("-c", "import hydra"),
    "train --help": (*PROGRAM, "--help"),
    "train --cfg job": (*PROGRAM, "--cfg", "job"),
    "an unknown option": (*PROGRAM, "model.dimm=64"),
    "an unknown experiment": (*PROGRAM, "+experiment=hybird"),
    "a missing value": (
        "-m",
        "ctl_lightning.evaluate",
    ),
    "a value of the wrong type": (*PROGRAM, "data.batch_size=abc"),
    "import ctl_lightning": ("-c", "import ctl_lightning"),
}
"""Name -> words for Python. The wrong type needs the classes, and so torch."""


def startup_rows(rounds: int) -> list[Row]:
    """Seconds of each command from its start to its end, in turn.

    Args:
        rounds: number of times that each is measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        measure = {name: partial(_seconds, words, folder) for name, words in COMMANDS.items()}
        return [Row("startup", name, values, "s") for name, values in in_turn(measure, rounds).items()]


def _seconds(words: Sequence[str], folder: str) -> float:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("CTL_FULL_ERROR", "HYDRA_FULL_ERROR")
    }
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, check=False)
    return time.perf_counter() - began


def startup_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Each command's time over that of `import hydra`, round by round: what there is to load anyway."""
    return {
        f"{name.replace(' ', '_')}_over_import_hydra": ratio(rows, name, HYDRA, "startup")
        for name in COMMANDS
        if name != HYDRA
    }
