"""python -m ctl_lightning.evaluate ckpt_path=...: everything that a checkpoint is worth on its protocol's test split."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from omegaconf import DictConfig

from ctl_lightning.runtime.config import Config, check_options, check_switches, resolved
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.program import program

if TYPE_CHECKING:
    from lightning import Trainer

    from ctl_lightning.data.datamodule import TripletDataModule
    from ctl_lightning.data.splits import Split
    from ctl_lightning.reports.run_report import ScoredSplit
    from ctl_lightning.serving.trained import Trained
    from ctl_lightning.training.module import CompleteTheLook

log = logging.getLogger(__name__)


@program("evaluate")
def main(config: DictConfig) -> None:
    """Measures one checkpoint."""
    evaluate(config)


def evaluate(config: DictConfig) -> None:
    """Ranks the test split of a checkpoint's protocol; leaves results, pairs and pictures in `paths.run_dir`.

    Raises:
        InputError: what the user can mend.
    """
    from ctl_lightning.data.scene_inputs import CONTROLS
    from ctl_lightning.metrics.look_alikes import look_alikes
    from ctl_lightning.metrics.pair_metrics import compare, summarise
    from ctl_lightning.metrics.ranking import Ranking
    from ctl_lightning.reports.results import IDENTITY
    from ctl_lightning.reports.run_report import RunReport
    from ctl_lightning.runtime.console import console, quiet_lightning, silence_other_ranks
    from ctl_lightning.runtime.environment import versions

    options = resolved(config)
    check(options)
    quiet_lightning()
    first, run_dir = silence_other_ranks(), Path(options["paths"]["run_dir"])
    ours = open_checkpoint("ckpt_path", options)
    other = open_checkpoint("against", options) if options["against"] is not None else None
    if other is not None:
        check_comparable(ours, other)
    console.print(f"{ours.trained.path}: {ours.trained.method}, protocol {ours.trained.protocol}")
    console.print(ours.data.summary())

    test, validation = ours.score("test"), ours.score("validation")
    visible = None
    if options["product_visible"] and ours.data.scene in CONTROLS:
        log.info(
            "product_visible: left out, as of a scene it is shown %s alone, which cannot be left whole",
            ours.data.scene,
        )
    elif options["product_visible"] and ours.module.sees:
        with ours.data.whole_scenes():
            visible = ours.score("test")
    theirs = other.score("test") if other is not None else None
    if not first:
        return  # the rest is for one process
    told = RunReport.of(ours.data, ours.module.network, validation, test, ours.trained.config)
    told.results["ckpt_path"] = str(ours.trained.path)
    if visible is not None:
        told.results["controls"] = {"product_visible": summarise(visible.task, visible.scores)}
        if isinstance(visible.ranking, Ranking):
            told.results["controls"]["product_visible"]["look_alikes"] = look_alikes(visible.task, visible.ranking)
    shown = {}
    if other is not None and theirs is not None:
        told.results["against"] = {key: other.trained.config[key] for key in IDENTITY} | {
            "ckpt_path": str(other.trained.path),
            "test": summarise(theirs.task, theirs.scores),
            "difference": compare(test.task, test.scores, theirs.scores),
        }
        name = other.trained.method
        shown[name if name != ours.trained.method else f"{name} (against)"] = told.results["against"]
    told.results["versions"] = versions()
    told.write(run_dir)
    pictures = told.draw(run_dir, shown)
    console.print(f"everything is in {run_dir}")
    for path in (run_dir / "results.json", run_dir / "pairs.csv", *pictures.values()):
        console.print(f"  {path}")


def check(options: Config) -> None:
    """Raises InputError: options that no class looks at, or a place where a training lies."""
    from ctl_lightning.data.datamodule import TripletDataModule
    from ctl_lightning.training.distributed import check_launched

    check_switches(options, "product_visible")
    check_options({"cache_dir": options["paths"]["cache_dir"]}, {"cache_dir": str | None}, "paths.")
    optional = {name: hint | None for name, hint in TripletDataModule.option_hints({}).items()}
    check_options(options["data"], optional, "data.")
    check_options({"devices": options["devices"]}, {"devices": int})
    check_launched({"devices": options["devices"], "num_nodes": 1}, False, group="")
    run_dir = Path(options["paths"]["run_dir"])
    if (run_dir / "checkpoints").exists():
        raise InputError(
            f"hydra.run.dir={run_dir}: a training lies there, whose results would be overwritten; choose another"
        )


class Opened(NamedTuple):
    """A checkpoint with its network, its data, and who runs it."""

    trained: "Trained"
    module: "CompleteTheLook"
    data: "TripletDataModule"
    trainer: "Trainer"

    def score(self, split: "Split") -> "ScoredSplit":
        """Ranks a split."""
        from ctl_lightning.reports.run_report import score_split
        from ctl_lightning.training.predict import ranked_split

        return score_split(self.data.evaluation(split), ranked_split(self.trainer, self.module, self.data, split))


def open_checkpoint(option: str, options: Config) -> Opened:
    """The checkpoint that an option names, with its data set up. Raises InputError."""
    from ctl_lightning.serving.trained import Trained
    from ctl_lightning.training.feature_cache import cache_features, uses_cache
    from ctl_lightning.training.module import restored
    from ctl_lightning.training.trainer import make_evaluator

    path = Path(str(options[option])).expanduser()
    try:
        trained = Trained(path)
        module = restored(trained.checkpoint, trained.path)
        unused = {"boxes": False}  # of training alone
        data = trained.data(options["data"] | {"cache_dir": options["paths"]["cache_dir"]} | unused)
        data.prepare_data()
        data.read_table()
        trained.check_categories(data)
        data.setup()
        warning = trained.check_pairs(data)
    except InputError as error:
        raise InputError(str(error).replace("ckpt_path=", f"{option}=", 1)) from None
    if warning:
        log.warning("%s=%s: %s", option, path, warning)
    precision = options["precision"] or trained.precision
    trainer = make_evaluator(options["accelerator"], options["devices"], precision)
    if module.sees and uses_cache(module.hparams["backbone"], data.augment):
        features = cache_features(module, data, trainer.strategy.root_device, only_if_there=True)
        log.info("features: %s", features or "none cached; the backbone runs")
    return Opened(trained, module, data, trainer)


def check_comparable(ours: Opened, other: Opened) -> None:
    """Raises InputError if two checkpoints have no pairs in common that can be compared one by one."""
    first, second = ours.data.evaluation("test"), other.data.evaluation("test")
    same = (
        first.pairs == second.pairs
        and first.products == second.products
        and (first.negative == second.negative).all()
        and (first.train_count == second.train_count).all()
    )
    if not same:
        raise InputError(
            f"against={other.trained.path}: its protocol is {other.trained.protocol} ({len(second.pairs):,} test pairs, {len(second.products):,} "
            f"products), that of ckpt_path is {ours.trained.protocol} ({len(first.pairs):,}, {len(first.products):,}), and the pairs are "
            "not the same; give a checkpoint of the same data and split"
        )


if __name__ == "__main__":
    main()
