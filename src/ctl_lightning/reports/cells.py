"""The cells of the paper's table: which trainings it needs, which are finished, and how the others are run.

Each cell is one training, in a process and a folder of its own.
"""

import json
import os
import re
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

VARIANT = re.compile(r"[^\W_][\w-]*")
"""Names that a variant may have."""

OF_THE_TABLE = frozenset(
    {
        "experiment",
        "model",
        "protocol",
        "seed",
        "data.folds",
        "data.fold",
        "paths.cache_dir",
        "hydra.run.dir",
        "ckpt_path",
    }
)
"""Options of a training that the table sets."""

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
        method: name of a file in conf/experiment, or else in conf/model; or of a variant.
        seed: random seed of the run.
        folder: run directory.
        commands: words after `python -m` of each program that is run, one program after the other.
        fold: number of the fold that is the test split; None: there is one split.
    """

    protocol: str
    method: str
    seed: int
    folder: Path
    commands: tuple[tuple[str, ...], ...]
    fold: int | None = None

    @property
    def name(self) -> str:
        """Name of the cell on the terminal."""
        fold = "" if self.fold is None else f" fold {self.fold}"
        return f"{self.protocol} {self.method} seed {self.seed}{fold}"

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
        plain: options of the program `paper`. A method is a variant, a file of conf/experiment, or, if there is none of
            that name, of conf/model.
        run_dir: folder in which each training gets its own.

    Raises:
        InputError: no such method or protocol; a variant that cannot be one.
    """
    words_of = _words_of_methods(plain)
    _check_known("protocol", _choices("protocol"), plain["protocols"])
    folds = plain["folds"]
    cells = []
    for protocol in plain["protocols"]:
        for seed in plain["seeds"]:
            for method in plain["methods"]:
                words = words_of[method]
                first, seedless = seed == plain["seeds"][0], words[0].partition("=")[2] in WITHOUT_SEEDS
                if seedless and not first:
                    continue
                seed_folder = run_dir / protocol / method / f"seed{seed}"
                visible = plain["product_visible"] and first and not seedless and folds is None
                for fold, folder in enumerate(fold_folders(seed_folder, folds)):
                    number = None if folds is None else fold
                    commands = _commands_of(plain, protocol, seed, words, folder, number)
                    cells.append(Cell(protocol, method, seed, folder, commands if visible else commands[:1], number))
    return cells


def fold_folders(seed_folder: Path, folds: int | None) -> list[Path]:
    """The run directories of one seed: one for each fold, or the folder itself if there is one split."""
    return [seed_folder] if folds is None else [seed_folder / f"fold{fold}" for fold in range(folds)]


def _words_of_methods(plain: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Name of each method that there is -> the words that choose it for `train`.

    Raises:
        InputError: no such method; a variant with a name that is taken or no folder's, or with words of the table's own.
    """
    experiments = _choices("experiment")
    words: dict[str, tuple[str, ...]] = {name: (f"+experiment={name}",) for name in experiments}
    words |= {name: (f"model={name}",) for name in _choices("model") if name not in experiments}
    made: dict[str, tuple[str, ...]] = {}
    for name, given in (plain["variants"] or {}).items():
        if name in words:
            raise InputError(f"variants.{name}: there is a method of that name; give the variant another")
        if not VARIANT.fullmatch(name):
            raise InputError(f"variants.{name}: a folder gets that name; give one of letters, digits, _ and - alone")
        if name not in plain["methods"]:
            raise InputError(f"variants.{name} is no row of the table; put its name into methods, too")
        _check_known("experiment", [*words], given[:1])
        for word in given[1:]:
            if word.lstrip("+").partition("=")[0] in OF_THE_TABLE:
                raise InputError(
                    f"variants.{name}: {word!r} is not a variant's to say; seeds, protocols, folds and folders are the table's"
                )
        made[name] = (*words[given[0]], *given[1:])
    words |= made
    for chosen in (plain["methods"], plain["compared"]):
        _check_known("experiment", [*words], chosen)
    return words


def _check_known(group: str, known: Sequence[str], chosen: Sequence[str]) -> None:
    for name in chosen:
        if name not in known:
            raise InputError(f"there is no {group}={name}{suggestion(str(name), known)}; there are: {', '.join(known)}")


def _commands_of(
    plain: Mapping[str, Any], protocol: str, seed: int, words: Sequence[str], folder: Path, fold: int | None
) -> tuple[tuple[str, ...], ...]:
    """The training of a cell, and the control *product visible* after it."""
    cache = f"paths.cache_dir={quoted(literal(str(plain['paths']['cache_dir'])))}"
    train = [
        *("ctl_lightning.train", words[0], f"protocol={protocol}", f"seed={seed}", cache),
        *("callbacks=quiet", "trainer.enable_progress_bar=false", *plain["overrides"].get(protocol, []), *words[1:]),
        *([] if fold is None else [f"data.folds={plain['folds']}", f"data.fold={fold}"]),
        *(f"hydra.run.dir={quoted(literal(str(folder)))}", "ckpt_path=auto"),
    ]
    evaluation = f"hydra.run.dir={quoted(literal(str(folder / EVALUATION)))}"
    return tuple(train), ("ctl_lightning.evaluate", f"ckpt_path={quoted(literal(str(folder)))}", evaluation)


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
