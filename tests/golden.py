"""The golden run: python tests/golden.py COMMIT trains every experiment with that commit's code and with the code that is here.

Equal weights, bit for bit, equal results.json, pairs.csv and metrics.csv, and the same files, in one process and in two, show that a change of the code
changed nothing that is learned or measured. What a commit gave is kept in --keep DIR, so that the next comparison takes half the time.
Where a change is meant to alter some numbers, say which in LAST_DIGITS, RENAMED or REMEASURED, or compare with a later commit.
"""

import argparse
import contextlib
import csv
import hashlib
import importlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]

COMMON = (
    *("data.source.scenes=150", "data.source.variants=1", "data.batch_size=16", "trainer=cpu", "trainer.max_epochs=1"),
    *("trainer.log_every_n_steps=5", "trainer.enable_progress_bar=false", "callbacks=quiet"),
)
HEADS = ("model.dim=16", "model.hidden=16", "model.dropout=0.1")
POOLED = ("model.dim=16",)

RUNS: dict[str, tuple[str, ...]] = {
    "hybrid": ("+experiment=hybrid", *HEADS),
    "global": ("+experiment=global", *HEADS),
    "local": ("+experiment=local", *HEADS),
    "hybrid_uniform": ("+experiment=hybrid_uniform", *HEADS),
    "siamese": ("+experiment=siamese", *POOLED),
    "ibr": ("+experiment=ibr", *POOLED),
    "bpr_dae": ("+experiment=bpr_dae", *POOLED),
    "imagenet": ("+experiment=imagenet",),
    "popularity": ("+experiment=popularity",),
    "info_nce": ("+experiment=hybrid", "loss=info_nce", *HEADS),
    "in_batch_triplet": ("+experiment=global", "loss=in_batch_triplet", "loss.mining=semi_hard", *HEADS),
    "logistic": ("+experiment=local", "loss=logistic", *HEADS),
    "plain": ("+experiment=hybrid", "model.squared=false", "data.negatives=pairs", *HEADS),
    "recipe": ("+experiment=recipe", "model.dim=16", "model.hidden=16", "data.batch_size=16", "data.same_category=8"),
    "geometry": (
        "+experiment=geometry",
        "model.dim=16",
        "model.hidden=16",
        "data.batch_size=16",
        "data.same_category=8",
    ),
    "cached": ("+experiment=hybrid", "backbone.frozen=true", "data.augment=none", *HEADS),
}
"""Every experiment, and what no experiment chooses."""

UNLIKE = ("train_seconds", "feature_seconds", "versions", "environment")
"""Parts of results.json that differ from run to run."""

CLOCKED = ("train/images_per_second", "train/data_wait")
"""Columns of metrics.csv that differ from run to run."""

LAST_DIGITS = ("classifier.roc_auc", "classifier.average_precision")
"""Numbers that may differ by 1e-12, since torchmetrics adds in another order than scikit-learn and numpy did."""

REMEASURED = ("auc_shuffled", "lift", "auc_geometry", "lift_geometry", "hubs", "look_alikes", "group")
"""Metrics that are exact or new since there is `lift_geometry`: they are not compared with a commit that has none."""

RENAMED = {"shift": "loss.shift", "temperature.logarithm": "loss.temperature.logarithm"}
"""Weights that have another name since version 0.1."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def train_all(folder: Path, names: list[str]) -> None:
    """Trains the runs with the `ctl_lightning` that Python finds, in one process and in two. Leaves FOLDER/NAME/{1,2}."""
    for package in ("torchvision", "lightning", "torchmetrics", "matplotlib", "sklearn.linear_model"):
        importlib.import_module(package)
    fork = multiprocessing.get_context("fork")
    for name in names:
        for count in (1, 2):
            run = folder / name / str(count)
            words = [*COMMON, *RUNS[name], f"hydra.run.dir={run}", f"paths.cache_dir={folder / 'cache'}"]
            port = free_port()
            log = folder / f"{name}_{count}.log"
            processes = [fork.Process(target=_one, args=(words, rank, count, port, log)) for rank in range(count)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            if any(process.exitcode for process in processes):
                raise SystemExit(f"{name} in {count} processes failed:\n{log.read_text()[-3000:]}")


def _one(words: list[str], rank: int, count: int, port: int, log: Path) -> None:
    if count > 1:
        os.environ |= {
            **{name: str(rank) for name in ("RANK", "LOCAL_RANK")},
            **{name: str(count) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")},
            **{"GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            "TORCHELASTIC_RUN_ID": f"golden{port}",
        }
        words = [*words, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    from lightning_utilities.core.rank_zero import rank_zero_only

    rank_zero_only.rank = rank  # type: ignore[attr-defined]  # it was found out on import, before
    sys.argv = ["train", *words]
    with log.open("a") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        os.dup2(said.fileno(), 2)
        importlib.import_module("ctl_lightning.train").main()


def made(code: Path, folder: Path, names: list[str]) -> Path:
    """What the code in a folder gives; trained in a process of its own, unless it is there already."""
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"PYTHONPATH": str(code / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, str(Path(__file__).resolve()), "--train", str(folder), "--runs", *names]
        if subprocess.run(command, env=environment, cwd=folder, check=False).returncode:
            raise SystemExit(f"the code in {code} does not train; what it said is in {folder}")
        (folder / "done").touch()
    return folder


@contextlib.contextmanager
def code_of(commit: str) -> Iterator[Path]:
    """A folder with src/ and conf/ of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "code.tar"
        words = ["git", "-C", str(REPOSITORY), "archive", "-o", str(archive), commit, "src", "conf"]
        subprocess.run(words, check=True)
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        yield Path(folder)


def _named(names: list[str]) -> str:
    """A hash of what is trained: other runs, or other options of theirs, are kept elsewhere."""
    return hashlib.sha256(repr([COMMON, *((name, RUNS[name]) for name in names)]).encode()).hexdigest()[:12]


def weights(path: Path) -> dict[str, Any]:
    """Name of today -> tensor, of a checkpoint."""
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return {RENAMED.get(name, name): value for name, value in state.items()}


def differences(reference: Path, found: Path) -> list[str]:
    """What differs between two run directories of the same run."""
    import torch

    told = []
    for pattern in ("last.ckpt", "best*.ckpt"):
        paths = [sorted((folder / "checkpoints").glob(pattern)) for folder in (reference, found)]
        if [path.name for path in paths[0]] != [path.name for path in paths[1]]:
            told.append(f"checkpoints {[path.name for path in paths[1]]}, before {[path.name for path in paths[0]]}")
            continue
        for old, new in zip(*paths, strict=True):
            before, after = weights(old), weights(new)
            if before.keys() != after.keys():
                told.append(f"{old.name}: weights {sorted(before.keys() ^ after.keys())}")
            told += [
                f"{old.name}: {name}"
                for name in before.keys() & after.keys()
                if before[name].dtype != after[name].dtype or not torch.equal(before[name], after[name])
            ]
    results = [json.loads((folder / "results.json").read_text()) for folder in (reference, found)]
    older = "lift_geometry" not in results[0]["test"]["all"]
    was, now = (
        {name: value for name, value in _leaves("", result) if not (older and {*REMEASURED} & {*name.split(".")})}
        for result in results
    )
    for name in sorted(was.keys() | now.keys()):
        old_value, new_value = was.get(name), now.get(name)
        near = False
        if name in LAST_DIGITS and isinstance(old_value, float) and isinstance(new_value, float):
            near = abs(old_value - new_value) <= 1e-12
        if old_value != new_value and not near:
            told.append(f"results.json: {name} is {new_value!r}, before {old_value!r}")
    if _pairs(reference / "pairs.csv", older) != _pairs(found / "pairs.csv", older):
        told.append("pairs.csv")
    files = [
        {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        for folder in (reference, found)
    ]
    told += [f"{name} is there in one of them alone" for name in sorted(files[0] ^ files[1])]
    logged = [folder / "metrics.csv" for folder in (reference, found)]
    if all(path.exists() for path in logged) and _logged(logged[0], older) != _logged(logged[1], older):
        told.append("metrics.csv")
    return told


def _pairs(path: Path, older: bool) -> list[list[str]]:
    """The rows of pairs.csv, its head first; beside an older one without what is measured otherwise since."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    compared = [place for place, name in enumerate(rows[0]) if not (older and name in REMEASURED)]
    return [[row[place] for place in compared] for row in rows]


def _logged(path: Path, older: bool) -> list[dict[str, str]]:
    """The rows of metrics.csv without what is measured with a clock; beside an older one without `REMEASURED`."""
    with path.open(newline="") as file:
        return [
            {
                name: value
                for name, value in row.items()
                if name not in CLOCKED and not (older and name.rpartition("/")[2] in REMEASURED) and value
            }
            for row in csv.DictReader(file)
        ]


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if prefix or key not in UNLIKE:
                yield from _leaves(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, value


def main() -> None:
    """Compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", default="HEAD", help="whose numbers are the reference")
    parser.add_argument("--keep", type=Path, help="folder in which what a commit gave is kept")
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train_all(given.train, given.runs)
        return
    commit = subprocess.run(
        ["git", "-C", str(REPOSITORY), "rev-parse", "--verify", f"{given.commit}^{{commit}}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as scratch, code_of(commit) as old:
        keep = (given.keep or Path(scratch)).resolve()
        reference = made(old, keep / f"{commit[:12]}-{_named(given.runs)}", given.runs)
        found = made(REPOSITORY, Path(scratch) / "here", given.runs)
        failed = 0
        for name in given.runs:
            for count in ("1", "2"):
                told = differences(reference / name / count, found / name / count)
                failed += bool(told)
                print(f"{name:>16}, {count} process{'es' if count == '2' else ''}: {'; '.join(told[:6]) or 'equal'}")
    print(f"{2 * len(given.runs) - failed} of {2 * len(given.runs)} runs are equal to those of {commit[:12]}")
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
