"""The cells of the paper's table: which trainings it needs, which are finished, and how the others are run.

Each cell is one training, in a process and a folder of its own.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ctl_lightning.runtime.config import config_dir, literal
from ctl_lightning.runtime.console import console
from ctl_lightning.runtime.errors import InputError, suggestion
from ctl_lightning.runtime.files import write_text
from ctl_lightning.runtime.pace import allowed_cores
from ctl_lightning.runtime.reading import read_json
from ctl_lightning.runtime.words import quoted

WITHOUT_SEEDS = ("popularity",)
"""Methods that draw nothing at random, and so need no seeds."""

POLL_SECONDS = 0.2

EVALUATION = "evaluation"
"""Folder of the control *product visible*, within the folder of its training."""

PATIENCE = 30
"""Seconds that a training has to end after it is told to."""

BEGUN, DONE = "begun.json", "done.json"
"""Files that say which commands were started in a cell's folder, and which of them have ended well."""


@dataclass(frozen=True)
class Cell:
    """One training of the table.

    Attributes:
        protocol: name of a file in conf/protocol.
        method: name of a file in conf/experiment, or else in conf/model.
        seed: random seed of the run.
        folder: run directory.
        commands: words after `python -m` of each program that is run, one program after the other.
    """

    protocol: str
    method: str
    seed: int
    folder: Path
    commands: tuple[tuple[str, ...], ...]

    @property
    def name(self) -> str:
        """Name of the cell on the terminal."""
        return f"{self.protocol} {self.method} seed {self.seed}"

    def is_finished(self) -> bool:
        """Whether all of its commands have ended well."""
        return {*self.commands} <= {*_commands(self.folder / DONE)}

    def is_another(self) -> bool:
        """Whether the folder holds a training by another command."""
        begun = [*_commands(self.folder / BEGUN), *_commands(self.folder / DONE)]
        unknown = not begun and ((self.folder / "results.json").exists() or (self.folder / "checkpoints").exists())
        return unknown or (bool(begun) and self.commands[0] not in begun)


def _commands(path: Path) -> list[tuple[str, ...]]:
    content = read_json(path) if path.exists() else []
    if not isinstance(content, list) or not all(
        isinstance(words, list) and all(isinstance(word, str) for word in words) for words in content
    ):
        raise InputError(f"{path}: not the commands that `paper` notes; delete the folder {path.parent}")
    return [tuple(words) for words in content]


def _choices(group: str) -> list[str]:
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def cells_of(plain: Mapping[str, Any], run_dir: Path) -> list[Cell]:
    """The trainings that a table needs.

    Args:
        plain: options of the program `paper`. A method is a file of conf/experiment, or, if there is none of that name,
            of conf/model.
        run_dir: folder in which each training gets its own.

    Raises:
        InputError: no such method or protocol.
    """
    experiments = _choices("experiment")
    methods = [*experiments, *(name for name in _choices("model") if name not in experiments)]
    for group, known, chosen in (
        ("experiment", methods, plain["methods"]),
        ("protocol", _choices("protocol"), plain["protocols"]),
    ):
        for name in chosen:
            if name not in known:
                raise InputError(
                    f"there is no {group}={name}{suggestion(str(name), known)}; there are: {', '.join(known)}"
                )
    cells = []
    for protocol in plain["protocols"]:
        for seed in plain["seeds"]:
            for method in plain["methods"]:
                first = seed == plain["seeds"][0]
                if method in WITHOUT_SEEDS and not first:
                    continue
                folder = run_dir / protocol / method / f"seed{seed}"
                chosen_by = f"+experiment={method}" if method in experiments else f"model={method}"
                cache = f"paths.cache_dir={quoted(literal(str(plain['paths']['cache_dir'])))}"
                train = [
                    *("ctl_lightning.train", chosen_by, f"protocol={protocol}", f"seed={seed}", cache),
                    *("callbacks=quiet", "trainer.enable_progress_bar=false", *plain["overrides"].get(protocol, [])),
                    *(f"hydra.run.dir={quoted(literal(str(folder)))}", "ckpt_path=auto"),
                ]
                commands = [tuple(train)]
                if plain["product_visible"] and first and method not in WITHOUT_SEEDS:
                    evaluation = f"hydra.run.dir={quoted(literal(str(folder / EVALUATION)))}"
                    commands.append(("ctl_lightning.evaluate", f"ckpt_path={quoted(literal(str(folder)))}", evaluation))
                cells.append(Cell(protocol, method, seed, folder, tuple(commands)))
    return cells


def run_cells(cells: Sequence[Cell], workers: int) -> dict[Cell, str]:
    """Runs the cells, `workers` at a time, and prints how each ended. Returns failed cell -> why it failed."""
    # Unbuffered, so that what is printed last stands last in the log.
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, allowed_cores() // workers)), "PYTHONUNBUFFERED": "1"}
    environment.pop("HYDRA_FULL_ERROR", None)
    waiting, failures, done = list(cells), {}, 0
    running: dict[Cell, tuple[subprocess.Popen[bytes], int, float]] = {}
    with _ended(running):
        while waiting or running:
            while waiting and len(running) < workers:
                cell = waiting.pop(0)
                running[cell] = (_start(cell, 0, environment), 0, time.monotonic())
            time.sleep(POLL_SECONDS)
            for cell, (process, number, began) in list(running.items()):
                if process.poll() is None:
                    continue
                if process.returncode == 0 and number + 1 < len(cell.commands):
                    running[cell] = (_start(cell, number + 1, environment), number + 1, began)
                    continue
                del running[cell]
                done += 1
                said = f"[{done}/{len(cells)}] {cell.name}, {time.monotonic() - began:.0f} s: "
                if process.returncode == 0:
                    write_text(cell.folder / DONE, json.dumps(cell.commands))
                    auc = read_json(cell.folder / "results.json")["test"]["all"]["auc"]["value"]
                    console.print(f"{said}test auc {auc:.3f}")
                else:
                    failures[cell] = _why(cell.folder / "train.log", process.returncode)
                    console.print(f"{said}failed: {failures[cell]}")
    return failures


def _start(cell: Cell, number: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_text(cell.folder / BEGUN, json.dumps(cell.commands))
    with (cell.folder / "train.log").open("ab" if number else "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *cell.commands[number]], stdout=log, stderr=subprocess.STDOUT, env=environment
        )


@contextmanager
def _ended(running: Mapping[Cell, tuple[subprocess.Popen[bytes], int, float]]) -> Iterator[None]:
    """Ends all trainings when this process is interrupted or told to end; each can go on later from its last checkpoint."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        print("paper: told to end; the same command goes on with what is done", file=sys.stderr)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def _why(log: Path, code: int) -> str:
    """Why a program failed: the signal that killed it, its error of one line, or else the last line of its log."""
    if code < 0:
        return f"killed by signal {-code}{' (out of memory?)' if code == -signal.SIGKILL else ''}"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("train: ", "evaluate: "))]
    return [f"exit code {code} without a word", *lines[-1:], *told][-1]
