"""python -m ctl_lightning.train +experiment=hybrid: trains, ranks the test split exactly, leaves a run directory."""

import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import lightning
import torch
from filelock import Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeFloat, NonNegativeInt

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.metrics.classification import Classifier
from ctl_lightning.models.checkpoint import LAST, add_to_checkpoint
from ctl_lightning.models.registry import LOSSES, METHODS
from ctl_lightning.reports.dashboards import (
    has_page,
    log_results,
    note_split,
    upload_checkpoints,
    wandb_id,
    write_tables,
)
from ctl_lightning.reports.figures.curves import curves
from ctl_lightning.reports.results import IDENTITY, Results, print_results, write_results
from ctl_lightning.reports.run_report import Scored, draw, exhibit, measure, scored, write_pairs
from ctl_lightning.reports.watch import Watch
from ctl_lightning.runtime.config import build, check_options, check_switches, one_line, program
from ctl_lightning.runtime.console import console, quiet_lightning, stand_back_unless_first
from ctl_lightning.runtime.csv_files import read_metrics
from ctl_lightning.runtime.environment import environment, versions
from ctl_lightning.runtime.errors import InputError, InUseError
from ctl_lightning.runtime.files import write_text
from ctl_lightning.runtime.launch import is_first, is_restarted, starter
from ctl_lightning.runtime.memory import keep_freed_memory
from ctl_lightning.training.callbacks import EpochLines, RunInCheckpoint, Speed
from ctl_lightning.training.checkpointing import BestCheckpoint, WholeFiles, check_resumable
from ctl_lightning.training.compilation import compile_network, told_that_it_can_not_be_compiled
from ctl_lightning.training.distributed import SameConfig, check_started, plugins
from ctl_lightning.training.feature_cache import cache_features, uses_cache
from ctl_lightning.training.loggers import csv_logger, finish, log_config
from ctl_lightning.training.module import MONITOR, CompleteTheLook
from ctl_lightning.training.predict import ranked_split
from ctl_lightning.training.preemption import Preemption
from ctl_lightning.training.run_directory import is_finished, lock_of, noted_failure, remove_partial, unfinished_run
from ctl_lightning.training.trainer import leave_new_memory_as_it_is

log = logging.getLogger(__name__)


@program("train")
def main(config: DictConfig) -> float | None:
    """Runs one training; returns the monitored metric, for sweeps."""
    with noted_failure(lambda: Path(config.paths.run_dir), lambda error: one_line(error, "train")):
        return train(config)


def train(config: DictConfig) -> float | None:
    """Trains one model and leaves config, metrics, checkpoints, results and pictures in `paths.run_dir`.

    Returns:
        The best value of the monitored metric (`val/auc`); None for a method that learns nothing.

    Raises:
        InputError: what the user can mend.
    """
    check_switches(config, "compile", "keep_memory", "upload_checkpoints")
    quiet_lightning()
    stand_back_unless_first()
    leave_new_memory_as_it_is()
    if config.keep_memory:
        keep_freed_memory()
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    _check(plain)
    if config.ckpt_path is None and is_restarted() and (Path(config.paths.run_dir) / LAST).exists():
        config.ckpt_path = "auto"  # who has put the job back into the queue means this run
    run_dir, resumed = _resumed(config, plain)
    if resumed and is_finished(run_dir, plain) and config.ckpt_path == "auto":
        console.print(f"ckpt_path=auto: this run is finished, see {run_dir / 'results.json'}")
        return max((row[MONITOR] for row in read_metrics(run_dir / "metrics.csv") if MONITOR in row), default=None)
    here = config.ckpt_path == "auto" or (resumed and resumed.parent == (run_dir / LAST).parent.resolve())
    if not here and ((run_dir / LAST).exists() or (run_dir / "results.json").exists()):
        raise InputError(
            f"hydra.run.dir={run_dir} holds a run already; continue it with ckpt_path=auto, or choose another directory"
        )
    cached = METHODS[plain["model"]["method"]].sees and uses_cache(plain["backbone"], plain["data"]["augment"])
    config.paths.run_dir = str(run_dir)
    plain = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    run_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=run_dir):
        pass  # a directory that cannot be written to is refused before the long work
    preemption = Preemption(run_dir / LAST, config.save_minutes)
    with _alone_in(run_dir), preemption.listening(), _told_how_to_continue(preemption, run_dir):
        return _run(config, plain, run_dir, resumed, cached, preemption)


def _run(
    config: DictConfig,
    plain: dict[str, Any],
    run_dir: Path,
    resumed: Path | None,
    cached: bool,
    preemption: Preemption,
) -> float | None:
    first = is_first()
    console.print(_short_form(plain, run_dir), markup=False)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    data: TripletDataModule = build(config.data, "data")
    data.prepare_data()
    data.read_table()
    module: CompleteTheLook = build(config.model, "model", categories=data.categories)
    if module.learns and plain["backbone"]["frozen"] and plain["backbone"]["weights"] is None:
        log.warning("backbone.frozen=true with backbone.weights=null: the features will be those of a random network")
    module.load_backbone_weights()  # before the images are packed: if there are none, nobody has waited
    data.setup()
    console.print(data.summary(), markup=False)

    checkpoint: dict[str, Any] = {}
    seconds, feature_seconds, history = 0.0, 0.0, []
    if resumed is not None:
        checkpoint = _continued(resumed, module, plain)
        module.load_state_dict(checkpoint["state_dict"])  # features are those of the weights that the run goes on with
        seconds = checkpoint.get("train_seconds", 0.0)
        rows = read_metrics(resumed.parents[1] / "metrics.csv")
        history = [row for row in rows if row["step"] < checkpoint["global_step"]]
    if first:
        remove_partial(run_dir)
        write_text(run_dir / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
        data.write_protocol_files(run_dir)
    try:
        loggers = _loggers(config, plain, run_dir, history, checkpoint.get("global_step"))
        note_split(loggers, plain["protocol"], [run_dir / "split.json", run_dir / "triplets.jsonl"])
        best = BestCheckpoint(run_dir / LAST.parent, MONITOR, resumed)
        run = RunInCheckpoint(plain, seconds)
        every = config.watch_epochs if config.watch_epochs is not None else int(has_page(loggers))
        watch = Watch(run_dir / "pictures" / "epochs", every)
        same = SameConfig(plain | {"ckpt_path": str(resumed), "global_step": checkpoint.get("global_step")})
        trainer = _trainer(config, plain, run_dir, loggers, [same, Speed(), preemption, watch, best, run])
        if module.learns:
            data.check_processes(trainer.world_size, checkpoint.get("TripletDataModule"))
        if cached:
            began = time.monotonic()
            path = cache_features(module, data, trainer.strategy.root_device)
            feature_seconds = time.monotonic() - began
            console.print(f"trains on the features in {path}, ready after {feature_seconds:.0f} s", markup=False)
        elif module.learns and uses_cache(plain["backbone"], "none"):
            console.print(
                "the backbone is frozen, but random pictures keep it at work; data.augment=none, or data.augment=crop with "
                "backbone.cache_views=4, computes features once, and an epoch takes seconds",
                markup=False,
            )
        if config.compile and module.sees:
            console.print("compiling the network: the first steps take a minute")
            compile_network(module)
        with _interrupted_as_python_does(trainer), told_that_it_can_not_be_compiled():
            if module.learns:
                trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=True)
            train_seconds = run.seconds() if module.learns else 0.0
            trainer.test(
                module, datamodule=data, ckpt_path=best.best_model_path or None, weights_only=True, verbose=False
            )
        validation_ranking = ranked_split(trainer, module, data, "validation")
        if not module.learns:
            trainer.save_checkpoint(run_dir / LAST, weights_only=False)
        monitored = float(best.best_model_score) if best.best_model_score is not None else None
        if not first:
            return monitored  # the rest is for one process
        # Lightning has left the module on the CPU, for which the network need not be compiled once more.
        with torch.compiler.set_stance("force_eager" if config.compile else "default"):
            test = Scored(data.evaluation("test"), module.ranking, module.scores)
            validation = scored(data.evaluation("validation"), validation_ranking)
            results, classifier = measure(data, validation, test, {key: plain[key] for key in IDENTITY})
            add_to_checkpoint(Path(best.best_model_path or run_dir / LAST), classifier=classifier.plain())
            results |= {"feature_seconds": feature_seconds} if cached else {}
            results |= {"train_seconds": train_seconds, "versions": versions(), "environment": environment()}
            write_pairs(run_dir / "pairs.csv", test)
            pictures = _pictures(run_dir, data, module, test, classifier, results)
            shown = exhibit(test, classifier, results, pictures)
            write_tables(run_dir / "tables", shown.tables)
        log_results(loggers, results, shown, trainer.global_step)
        if config.upload_checkpoints:
            upload_checkpoints(loggers, Path(best.best_model_path or run_dir / LAST), run_dir / LAST)
        write_results(run_dir / "results.json", results)  # last: a run that has it is finished
    finally:
        finish(failed=sys.exc_info()[0] is not None)
    print_results(results, console)
    if monitored is not None:
        console.print(f"best validation auc {monitored:.3f}: {Path(best.best_model_path).name}", markup=False)
    console.print(f"trained for {train_seconds:.0f} s; everything is in {run_dir}", markup=False)
    named = ("results.json", "pairs.csv", "metrics.csv", "config.yaml", "split.json", "triplets.jsonl", "tables")
    checkpoints = sorted((run_dir / "checkpoints").glob("*.ckpt"))
    for path in [*(run_dir / name for name in named), *checkpoints, *pictures.values()]:
        console.print(f"  {path}", markup=False)
    return monitored


def _is_multirun() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _check(plain: dict[str, Any]) -> None:
    """Refuses what no `_target_` looks at."""
    if not isinstance(plain["seed"], int) or not 0 <= plain["seed"] < 2**31:
        raise InputError(f"seed={plain['seed']!r}: must be a whole number from 0 to 2147483647")
    check_started(plain["trainer"], _is_multirun())
    hints = {"save_minutes": NonNegativeFloat | NonNegativeInt, "watch_epochs": NonNegativeInt | None}
    check_options({name: plain[name] for name in hints}, hints)
    if plain["trainer"]["max_epochs"] == 0:
        raise InputError("trainer.max_epochs=0: nothing would be learned; give 1 at least")
    loss, negatives = plain["model"]["loss"]["name"], plain["data"]["negatives"]
    if LOSSES[loss].in_batch != (negatives == "in_batch"):
        wanted = "in_batch" if LOSSES[loss].in_batch else "uniform or pairs"
        raise InputError(f"loss={loss}: its negatives are data.negatives={wanted}, not {negatives}")


def _short_form(plain: dict[str, Any], run_dir: Path) -> str:
    """The resolved config, a line a group; the whole of it is in config.yaml."""
    lines = [f"run directory: {run_dir}"]
    lines.append(f"      run: seed={plain['seed']} compile={plain['compile']} keep_memory={plain['keep_memory']}")
    for group in ("model", "loss", "backbone", "data", "trainer"):
        values = " ".join(
            f"{key}={value}" for key, value in plain[group].items() if not isinstance(value, dict) and key != "_target_"
        )
        lines.append(f"{group:>9}: {values}")
    return "\n".join(lines)


def _resumed(config: DictConfig, plain: dict[str, Any]) -> tuple[Path, Path | None]:
    """The directory that the run is kept in, and the checkpoint that it continues.

    ckpt_path=auto goes on in the directory of the run that was stopped, which may be another than the one made for this run.
    """
    run_dir = Path(config.paths.run_dir)
    if config.ckpt_path is None:
        return run_dir, None
    if config.ckpt_path != "auto":
        return run_dir, Path(config.ckpt_path).expanduser().resolve()
    run = unfinished_run(run_dir, plain, elsewhere=not _is_multirun())  # a multirun's directories stay the same
    if run is None:
        log.warning("ckpt_path=auto: no unfinished run of this config beside %s; starting a new one", run_dir)
        return run_dir, None
    return run, (run / LAST).resolve()


def _continued(resumed: Path, module: CompleteTheLook, plain: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint that a run goes on with. Raises InputError if it does not fit, or nothing would be left to do."""
    checkpoint = check_resumable(resumed, module, plain["data"])
    epochs = plain["trainer"]["max_epochs"]
    if 0 <= (epochs or -1) <= checkpoint["epoch"]:
        raise InputError(
            f"trainer.max_epochs={epochs}: {resumed} has finished epoch {checkpoint['epoch']}, counted from 0; give more epochs"
        )
    batch = checkpoint["TripletDataModule"].get("batch", 0)
    done = f"is at batch {batch} of" if batch else "has finished"
    console.print(f"continuing {resumed}, which {done} epoch {checkpoint['epoch'] + 1} of {epochs}", markup=False)
    return checkpoint


def _loggers(
    config: DictConfig, plain: dict[str, Any], run_dir: Path, history: list[dict[str, float]], step: int | None
) -> list[Logger]:
    chosen: list[Logger] = []
    for name, node in config.logger.items():
        given: dict[str, Any] = {}
        if str(node.get("_target_", "")).endswith(".TensorBoardLogger") and step is not None:
            given = {"purge_step": step}  # what was logged after the checkpoint comes again
        if str(node.get("_target_", "")).endswith(".WandbLogger") and is_first():
            sweep = Path(HydraConfig.get().sweep.dir).name if _is_multirun() else None
            given = {"id": node.get("id") or wandb_id(run_dir), "resume": "allow"}
            given["group"] = node.get("group") or sweep or plain["protocol"]
        chosen.append(build(node, f"logger.{name}", **given))
    if config.upload_checkpoints and not any(isinstance(logger, WandbLogger) for logger in chosen):
        raise InputError("upload_checkpoints=true: there is no logger to upload to; give logger=wandb")
    log_config(chosen, plain)
    return [csv_logger(run_dir, history), *chosen]


def _trainer(
    config: DictConfig, plain: dict[str, Any], run_dir: Path, loggers: list[Logger], callbacks: list[Callback]
) -> Trainer:
    # A callback of its own: one that monitors a metric saves `last` only when the metric has improved.
    last = ModelCheckpoint(run_dir / LAST.parent, LAST.stem, save_on_train_epoch_end=True, enable_version_counter=False)
    chosen: list[Callback] = [build(node, f"callbacks.{name}") for name, node in config.callbacks.items()]
    trainer: Trainer = build(
        config.trainer,
        "trainer",
        logger=loggers,
        callbacks=[*chosen, EpochLines(), *callbacks, last],
        default_root_dir=str(run_dir),
        plugins=[WholeFiles(), *plugins(plain["trainer"])],
    )
    if trainer.fast_dev_run or (trainer.limit_val_batches, trainer.limit_test_batches) != (1, 1):  # type: ignore[attr-defined]
        raise InputError(
            "trainer: validation and test splits are ranked whole; give neither limit_val_batches, limit_test_batches nor fast_dev_run"
        )
    return trainer


@contextmanager
def _alone_in(run_dir: Path) -> Iterator[None]:
    """Keeps other runs out of the directory. Raises InputError if one is in it."""
    if not is_first():
        yield
        return
    try:
        held = lock_of(run_dir).acquire(timeout=0)
    except Timeout:
        raise InUseError(
            f"{run_dir}: another process is at work there; wait for it, or choose another hydra.run.dir"
        ) from None
    with held:
        yield


@contextmanager
def _interrupted_as_python_does(trainer: Trainer) -> Iterator[None]:
    """Lightning makes another exception of Ctrl-C."""
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise


@contextmanager
def _told_how_to_continue(preemption: Preemption, run_dir: Path) -> Iterator[None]:
    """Says, when the run is interrupted or told to end, with which command it goes on."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as end:
        if isinstance(end, SystemExit) and not preemption.told:
            raise
        if is_first():
            why = f"told to end by {signal.Signals(preemption.told).name}" if preemption.told else "interrupted"
            later = f"continue with: {_command(run_dir)}"
            if starter() is not None:
                later = f"start it again as before, with hydra.run.dir={run_dir} ckpt_path=auto"
            if preemption.requeued or "SUBMITIT_EXECUTOR" in os.environ:
                later = "it goes on when SLURM starts it again"
            print(f"train: {why}; {later}", file=sys.stderr)
        raise SystemExit(128 + preemption.told if preemption.told else 130) from None


def _command(run_dir: Path) -> str:
    """What continues this run."""
    multirun = _is_multirun()
    place = f"hydra.sweep.dir={HydraConfig.get().sweep.dir}" if multirun else f"hydra.run.dir={run_dir}"
    dropped = ("ckpt_path=", "hydra.run.dir=", "hydra.sweep.dir=", "-m", "--multirun")
    again = [word for word in sys.argv[1:] if not word.startswith(dropped)]
    # -m first, because argparse wants the overrides side by side.
    return shlex.join(
        ["python", "-m", "ctl_lightning.train", *(["-m"] if multirun else []), *again, place, "ckpt_path=auto"]
    )


def _pictures(
    run_dir: Path,
    data: TripletDataModule,
    module: CompleteTheLook,
    test: Scored,
    classifier: Classifier,
    results: Results,
) -> dict[str, Path]:
    pictures = draw(run_dir / "pictures", data, module.network, test, classifier, {results["method"]: results})
    if module.learns:
        found = {"oracle": results["oracle"]["auc"]} | results["ceilings"] if "oracle" in results else {}
        lines = {f"{name} (test)": auc["value"] for name, auc in found.items()}
        pictures["curves"] = run_dir / "pictures" / "curves.png"
        curves(pictures["curves"], read_metrics(run_dir / "metrics.csv"), lines)
    return pictures


if __name__ == "__main__":
    main()
