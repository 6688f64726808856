"""python -m ctl_lightning.train +experiment=hybrid: trains, ranks the test split exactly, leaves a run directory."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ctl_lightning.runtime.config import resolved
from ctl_lightning.runtime.program import program

if TYPE_CHECKING:
    from lightning import Trainer

    from ctl_lightning.data.datamodule import TripletDataModule
    from ctl_lightning.metrics.ranking import Ranked
    from ctl_lightning.training.module import CompleteTheLook
    from ctl_lightning.training.run_directory import RunDirectory


@program("train")
def main(config: DictConfig) -> float | None:
    """Runs one training; returns the monitored metric, for sweeps."""
    return train(config)


def train(config: DictConfig) -> float | None:
    """Trains one model and leaves config, metrics, checkpoints, results and pictures in `paths.run_dir`.

    Returns:
        The best value of the monitored metric (`val/auc`); None for a method that learns nothing.

    Raises:
        InputError: what the user can mend.
    """
    # Imported here, as in every program: what is wrong with the options is told before torch is there.
    from ctl_lightning.reports.dashboards import has_page
    from ctl_lightning.reports.watch import Watch
    from ctl_lightning.runtime.console import quiet_lightning, silence_other_ranks
    from ctl_lightning.runtime.launch import is_first
    from ctl_lightning.runtime.memory import keep_freed_memory
    from ctl_lightning.training.compilation import compile_errors
    from ctl_lightning.training.loggers import open_loggers
    from ctl_lightning.training.options import check
    from ctl_lightning.training.picture_options import with_preprocessing
    from ctl_lightning.training.predict import ranked_split
    from ctl_lightning.training.run_directory import RunDirectory, noted_failure
    from ctl_lightning.training.setup import make_data_and_module, make_ready
    from ctl_lightning.training.trainer import (
        best_of,
        errors_of_lightning,
        make_trainer,
        skip_deterministic_fill,
    )

    quiet_lightning()
    silence_other_ranks()
    skip_deterministic_fill()
    with noted_failure(Path(config.paths.run_dir)):
        check(config)  # first, as it reads no file
        options = resolved(config := with_preprocessing(config))
        if options["keep_memory"]:
            keep_freed_memory()
    with RunDirectory.enter(config, options) as run:
        if run.finished:
            return run.best_value()
        data, module = make_data_and_module(run)
        run.begin(module, data)
        with open_loggers(run) as loggers:
            every = run.options["watch_epochs"]
            watch = Watch(run.path / "pictures" / "epochs", int(has_page(loggers)) if every is None else every)
            trainer = make_trainer(run, loggers, [watch])
            feature_seconds = make_ready(run, data, module, trainer)
            with errors_of_lightning(trainer), compile_errors():
                if module.learns:
                    trainer.fit(module, datamodule=data, ckpt_path=run.resumed, weights_only=True)
                best = best_of(trainer)
                trainer.test(
                    module, datamodule=data, ckpt_path=best.best_model_path or None, weights_only=True, verbose=False
                )
            validation = ranked_split(trainer, module, data, "validation")
            if not module.learns:
                trainer.save_checkpoint(run.last, weights_only=False)
            if is_first():  # the rest is for one process
                report(run, data, module, trainer, validation, feature_seconds)
        return None if best.best_model_score is None else float(best.best_model_score)


def report(
    run: "RunDirectory",
    data: "TripletDataModule",
    module: "CompleteTheLook",
    trainer: "Trainer",
    validation: "Ranked",
    feature_seconds: float | None,
) -> None:
    """Writes and prints what the run is worth, then draws and shows it: a run that has results.json is finished.

    Args:
        run: where to.
        data: set up.
        module: tested.
        trainer: that trained it.
        validation: the ranking of the validation split.
        feature_seconds: until features were there; None: there are none.
    """
    import torch

    from ctl_lightning.models.checkpoint import add_to_checkpoint
    from ctl_lightning.reports.run_report import RunReport, ScoredSplit, score_split
    from ctl_lightning.runtime.console import console
    from ctl_lightning.runtime.environment import environment, versions
    from ctl_lightning.runtime.errors import only_warned
    from ctl_lightning.training.loggers import upload_checkpoints
    from ctl_lightning.training.trainer import best_of, seconds_of

    options, best = run.options, best_of(trainer)
    kept = Path(best.best_model_path or run.last)
    # Lightning has left the module on the CPU, for which the network need not be compiled once more.
    with torch.compiler.set_stance("force_eager" if options["compile"] else "default"):
        told = RunReport.of(
            data,
            module.network,
            score_split(data.evaluation("validation"), validation),
            ScoredSplit(data.evaluation("test"), module.ranking, module.scores),
            options,
        )
        # Other data may have any id of what is one photo.
        counts = data.twins.of_every_id(data.train_counts) if data.twins else dict(data.train_counts)
        add_to_checkpoint(kept, classifier=told.classifier.plain(), train_counts=counts)
        seconds = seconds_of(trainer) if module.learns else 0.0
        told.results |= {"feature_seconds": feature_seconds} if feature_seconds is not None else {}
        told.results |= {"init_from": module.origin} if module.origin is not None else {}
        told.results |= {"train_seconds": seconds, "versions": versions(), "environment": environment()}
        told.write(run.path)
        told.illustrate(run.path)
        told.show(trainer.loggers, trainer.global_step)
    if options["upload_checkpoints"]:
        with only_warned("upload_checkpoints=true: they are in the run directory alone"):
            upload_checkpoints(trainer.loggers, kept, run.last)
    if best.best_model_score is not None:
        console.print(f"best validation auc {float(best.best_model_score):.3f}: {kept.name}")
    console.print(f"trained for {seconds:.0f} s; everything is in {run.path}")
    named = ("results.json", "pairs.csv", "metrics.csv", "config.yaml", "split.json", "triplets.jsonl", "tables")
    checkpoints = sorted(run.last.parent.glob("*.ckpt"))
    for path in [*(run.path / name for name in named), *checkpoints, *told.pictures.values()]:
        console.print(f"  {path}")


if __name__ == "__main__":
    main()
