"""python -m ctl_lightning.evaluate ckpt_path=...: everything that a checkpoint is worth on its protocol's test split."""

import logging
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.metrics.retrieval import compare, summarise
from ctl_lightning.reports.results import IDENTITY, Results, print_results, write_results
from ctl_lightning.reports.run_report import Scored, draw, measure, scored, write_pairs
from ctl_lightning.runtime.config import check_options, check_switches, program
from ctl_lightning.runtime.console import console, quiet_lightning, stand_back_unless_first
from ctl_lightning.runtime.environment import versions
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.trained import Trained
from ctl_lightning.training.callbacks import ProgressBar
from ctl_lightning.training.distributed import check_started, plugins
from ctl_lightning.training.feature_cache import cache_features, uses_cache
from ctl_lightning.training.module import CompleteTheLook, restored
from ctl_lightning.training.predict import ranked_split

log = logging.getLogger(__name__)


class Opened(NamedTuple):
    """A checkpoint with its network, its data, and who runs it."""

    trained: Trained
    module: CompleteTheLook
    data: TripletDataModule
    trainer: Trainer

    def scored(self, split: Any) -> Scored:
        """Ranks a split."""
        return scored(self.data.evaluation(split), ranked_split(self.trainer, self.module, self.data, split))


@program("evaluate")
def main(config: DictConfig) -> None:
    """Measures one checkpoint."""
    evaluate(config)


def evaluate(config: DictConfig) -> None:
    """Ranks the test split of a checkpoint's protocol; leaves results, pairs and pictures in `paths.run_dir`.

    Raises:
        InputError: what the user can mend.
    """
    check_switches(config, "product_visible")
    quiet_lightning()
    check_options({"cache_dir": config.paths.cache_dir}, {"cache_dir": str | None}, "paths.")
    check_options(dict(config.data), _optional(TripletDataModule.__init__), "data.")
    check_options({"devices": config.devices}, {"devices": int})
    first = stand_back_unless_first()
    check_started({"devices": config.devices, "num_nodes": 1}, False, group="")
    run_dir = Path(config.paths.run_dir)
    if (run_dir / "checkpoints").exists():
        raise InputError(
            f"hydra.run.dir={run_dir}: a training lies there, whose results would be overwritten; choose another"
        )
    ours = _open("ckpt_path", config)
    other = _open("against", config) if config.against is not None else None
    if other is not None:
        _check_comparable(ours, other)
    console.print(f"{ours.trained.path}: {ours.trained.method}, protocol {ours.trained.protocol}", markup=False)
    console.print(ours.data.summary(), markup=False)

    test, validation = ours.scored("test"), ours.scored("validation")
    visible = None
    if config.product_visible and ours.module.sees:
        with ours.data.whole_scenes():
            visible = ours.scored("test")
    theirs = other.scored("test") if other is not None else None
    if not first:
        return  # the rest is for one process
    identity = {key: ours.trained.config[key] for key in IDENTITY}
    results, classifier = measure(ours.data, validation, test, identity)
    results["ckpt_path"] = str(ours.trained.path)
    shown: dict[str, Results] = {ours.trained.method: results}
    if visible is not None:
        results["controls"] = {"product_visible": summarise(visible.task, visible.scores)}
    if other is not None and theirs is not None:
        results["against"] = {key: other.trained.config[key] for key in IDENTITY} | {
            "ckpt_path": str(other.trained.path),
            "test": summarise(theirs.task, theirs.scores),
            "difference": compare(test.task, test.scores, theirs.scores),
        }
        name = other.trained.method
        shown[name if name not in shown else f"{name} (against)"] = results["against"]
    results["versions"] = versions()
    write_pairs(run_dir / "pairs.csv", test)
    write_results(run_dir / "results.json", results)
    pictures = draw(run_dir / "pictures", ours.data, ours.module.network, test, classifier, shown)
    print_results(results, console)
    console.print(f"everything is in {run_dir}", markup=False)
    for path in (run_dir / "results.json", run_dir / "pairs.csv", *pictures.values()):
        console.print(f"  {path}", markup=False)


def _open(option: str, config: DictConfig) -> Opened:
    path = Path(str(config[option])).expanduser()
    try:
        trained = Trained(path)
        changed: dict[str, Any] = OmegaConf.to_container(config.data)  # type: ignore[assignment]
        changed["cache_dir"] = config.paths.cache_dir
        module = restored(trained.checkpoint, trained.path)
        data = trained.data(changed)
        data.prepare_data()
        data.read_table()
        trained.check_categories(data)
        data.setup()
        warning = trained.check_pairs(data)
    except InputError as error:
        raise InputError(str(error).replace("ckpt_path=", f"{option}=", 1)) from None
    if warning:
        log.warning("%s=%s: %s", option, path, warning)
    precision = config.precision or trained.precision
    try:
        trainer = Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            use_distributed_sampler=False,
            plugins=plugins({"sync_batchnorm": False}),
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[ProgressBar()],
        )
    except (ValueError, TypeError, MisconfigurationException) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"accelerator={config.accelerator} devices={config.devices} precision={precision}: {reason}"
        ) from None
    if module.sees and uses_cache(module.hparams["backbone"], data.augment):
        features = cache_features(module, data, trainer.strategy.root_device, only_if_there=True)
        log.info("features: %s", features or "none cached; the backbone runs")
    return Opened(trained, module, data, trainer)


def _optional(constructor: Any) -> dict[str, Any]:
    """The annotations of a constructor's options, each of which may be None."""
    return {name: hint | None for name, hint in get_type_hints(constructor).items() if name != "return"}


def _check_comparable(ours: Opened, other: Opened) -> None:
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
