"""python -m ctl_lightning.evaluate ckpt_path=...: everything that a checkpoint is worth on its protocol's test split."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig

from ctl_lightning.runtime.config import Config, check_options, check_switches, resolved
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.program import program

if TYPE_CHECKING:
    from lightning import Trainer

    from ctl_lightning.data.datamodule import TripletDataModule
    from ctl_lightning.data.other_pairs import OtherPairs
    from ctl_lightning.data.splits import Split
    from ctl_lightning.metrics.classification import Classifier
    from ctl_lightning.reports.run_report import RunReport, ScoredSplit
    from ctl_lightning.serving.trained import Trained
    from ctl_lightning.training.module import CompleteTheLook

log = logging.getLogger(__name__)


@program("evaluate")
def main(config: DictConfig) -> None:
    """Measures one checkpoint."""
    evaluate(config)


def evaluate(config: DictConfig) -> None:
    """Ranks the test split of a checkpoint's protocol, or all pairs of other data; leaves results, pairs and pictures in `paths.run_dir`.

    Raises:
        InputError: what the user can mend.
    """
    from ctl_lightning.metrics.pair_metrics import summarise
    from ctl_lightning.reports.other_pairs import print_other_pairs
    from ctl_lightning.reports.results import IDENTITY
    from ctl_lightning.reports.run_report import RunReport
    from ctl_lightning.runtime.console import console, quiet_lightning, silence_other_ranks
    from ctl_lightning.runtime.environment import versions

    options = resolved(config)
    check(options)
    quiet_lightning()
    first, run_dir = silence_other_ranks(), Path(options["paths"]["run_dir"])
    trained = read_trained("ckpt_path", options)
    # Where other data lie may depend on it.
    if options["data"]["source"] is not None and options["paths"]["cache_dir"] is None:
        options = resolved(config, paths={"cache_dir": trained.config["data"]["cache_dir"]})
    ours, other = open_checkpoint("ckpt_path", trained, options), None
    if options["against"] is not None:
        other = open_checkpoint("against", read_trained("against", options), options, ours)
    console.print(f"{ours.trained.path}: {ours.trained.method}, protocol {ours.trained.protocol}")
    console.print(ours.data.summary())

    test = ours.score("test")
    validation = ours.chosen_on()
    visible = score_visible(ours) if options["product_visible"] else None
    theirs = other.score("test") if other is not None else None
    if not first:
        return  # the rest is for one process
    told = RunReport.of(ours.data, ours.module.network, validation, test, ours.trained.config)
    told.results["ckpt_path"] = str(ours.trained.path)
    if visible is not None:
        told.results["controls"] = {"product_visible": control_results(visible)}
    shown = {}
    if other is not None and theirs is not None:
        told.results["against"] = {key: other.trained.config[key] for key in IDENTITY} | {
            "ckpt_path": str(other.trained.path),
            "test": summarise(theirs.task, theirs.scores),
            **difference(test, theirs, other),
        }
        name = other.trained.method
        shown[name if name != ours.trained.method else f"{name} (against)"] = told.results["against"]
    if ours.others is not None:
        tell_of_others(told, ours, ours.others, options)
    told.results["versions"] = versions()
    told.write(run_dir)
    if ours.others is not None:
        print_other_pairs(told.results, console)
    pictures = told.draw(run_dir, shown)
    console.print(f"everything is in {run_dir}")
    for path in (run_dir / "results.json", run_dir / "pairs.csv", *pictures.values()):
        console.print(f"  {path}")


def check(options: Config) -> None:
    """Raises InputError: options that no class looks at, or a place where a training lies."""
    from ctl_lightning.data.datamodule import TripletDataModule
    from ctl_lightning.data.sources.registry import source_hints
    from ctl_lightning.training.distributed import check_launched

    check_switches(options, "product_visible")
    check_options({"cache_dir": options["paths"]["cache_dir"]}, {"cache_dir": str | None}, "paths.")
    optional = {name: hint | None for name, hint in TripletDataModule.option_hints({}).items()}
    check_options(options["data"], optional, "data.")
    if (source := options["data"]["source"]) is not None:
        check_options(source, source_hints(source), "data.source.")
        if options["data"]["root"] is None:
            raise InputError("data.root has no value; give the folder of these data with data.root=DIR")
    elif options["categories"] is not None:
        raise InputError("categories=FILE names the categories of other data; give data=NAME, too, such as data=folder")
    if source is not None and options["data"]["split_file"] is not None:
        raise InputError("data.split_file: with data=NAME all pairs are measured, and nothing is split; leave it out")
    check_options({"devices": options["devices"]}, {"devices": int})
    check_launched({"devices": options["devices"], "num_nodes": 1}, False, group="")
    run_dir = Path(options["paths"]["run_dir"])
    if (run_dir / "checkpoints").exists():
        raise InputError(
            f"hydra.run.dir={run_dir}: a training lies there, whose results would be overwritten; choose another"
        )


class Opened(NamedTuple):
    """A checkpoint with its network, the data to be measured, who runs it, and what of other data it was trained on."""

    trained: "Trained"
    module: "CompleteTheLook"
    data: "TripletDataModule"
    trainer: "Trainer"
    trained_on: dict[str, Any] | None = None

    @property
    def others(self) -> "OtherPairs | None":
        """The data, if they are not the checkpoint's own."""
        from ctl_lightning.data.other_pairs import OtherPairs

        return self.data if isinstance(self.data, OtherPairs) else None

    def score(self, split: "Split") -> "ScoredSplit":
        """Ranks a split."""
        from ctl_lightning.reports.other_pairs import meaningful
        from ctl_lightning.reports.run_report import score_split
        from ctl_lightning.training.predict import ranked_split

        scored = score_split(self.data.evaluation(split), ranked_split(self.trainer, self.module, self.data, split))
        return meaningful(scored) if self.others else scored

    def chosen_on(self) -> "ScoredSplit | Classifier":
        """The ranked validation split, on which a classifier is chosen; for other data the one that the checkpoint chose on its own."""
        if self.others is None:
            return self.score("validation")
        assert self.trained.classifier is not None  # without one, other data are refused
        return self.trained.classifier


@contextmanager
def named(option: str) -> Iterator[None]:
    """Errors that begin with ckpt_path= begin with the option that the checkpoint was given with."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace("ckpt_path=", f"{option}=", 1)) from None


def read_trained(option: str, options: Config) -> "Trained":
    """The checkpoint that an option names. Raises InputError."""
    from ctl_lightning.serving.trained import Trained

    with named(option):
        return Trained(Path(str(options[option])).expanduser())


def open_checkpoint(option: str, trained: "Trained", options: Config, like: Opened | None = None) -> Opened:
    """A checkpoint with the data to be measured set up; if `like` is given, they must be comparable with its data. Raises InputError.

    What of other data it was trained on is looked for here, before anything is ranked: their groups of pairs depend on it, and should it
    fail, nothing is lost.
    """
    from ctl_lightning.training.feature_cache import cache_features, uses_cache
    from ctl_lightning.training.module import restored
    from ctl_lightning.training.seen_scenes import seen_in_training
    from ctl_lightning.training.trainer import make_evaluator

    with named(option):
        module = restored(trained.checkpoint, trained.path)
        data: TripletDataModule
        trained_on = None
        if options["data"]["source"] is None:
            data = open_own(option, trained, options)
        else:
            data = others = open_others(trained, options, like)
            trained_on, other_products = seen_in_training(trained.path, trained.data({}), others)
            others.forget(other_products)
    precision = options["precision"] or trained.precision
    trainer = make_evaluator(options["accelerator"], options["devices"], precision)
    if module.sees and uses_cache(module.hparams["backbone"], data.augment):
        features = cache_features(module, data, trainer.strategy.root_device, only_if_there=True)
        log.info("features: %s", features or "none cached; the backbone runs")
    opened = Opened(trained, module, data, trainer, trained_on)
    if like is not None and like.others is None:
        check_comparable(like, opened)
    return opened


def open_own(option: str, trained: "Trained", options: Config) -> "TripletDataModule":
    """The data that a checkpoint was trained on, set up. Raises InputError."""
    unused = {"boxes": False}  # of training alone
    data = trained.data(options["data"] | {"cache_dir": options["paths"]["cache_dir"]} | unused)
    data.prepare_data()
    data.read_table()
    trained.check_categories(data)
    data.setup()
    if warning := trained.check_pairs(data):
        log.warning("%s=%s: %s", option, options[option], warning)
    return data


def open_others(trained: "Trained", options: Config, like: Opened | None) -> "OtherPairs":
    """All pairs of `data=NAME`, set up; negatives are drawn as for `like`. Raises InputError."""
    from ctl_lightning.data.category_names import read_category_map

    given = read_category_map(Path(options["categories"]).expanduser()) if options["categories"] is not None else {}
    changed = options["data"] | {"cache_dir": options["paths"]["cache_dir"]}
    if like is not None:
        changed["salt"] = like.data.salt
    data = trained.other_pairs(changed, given, strict=like is None)
    data.prepare_data()
    try:
        data.setup()
    except InputError as error:
        if like is None:
            raise
        raise InputError(f"against={options['against']}: {error}") from None
    return data


def score_visible(ours: Opened) -> "ScoredSplit | None":
    """Ranks the test split with its scenes whole, the product in them; None: the method is shown nothing that could be whole."""
    from ctl_lightning.data.scene_inputs import CONTROLS

    if ours.data.scene in CONTROLS:
        log.info(
            "product_visible: left out, as of a scene it is shown %s alone, which cannot be left whole",
            ours.data.scene,
        )
        return None
    if not ours.module.sees:
        return None
    with ours.data.whole_scenes():
        return ours.score("test")


def control_results(visible: "ScoredSplit") -> dict[str, Any]:
    """The metrics of the control, and how often it finds look-alikes."""
    from ctl_lightning.metrics.look_alikes import look_alikes
    from ctl_lightning.metrics.pair_metrics import summarise
    from ctl_lightning.metrics.ranking import Ranking

    found: dict[str, Any] = summarise(visible.task, visible.scores)
    if isinstance(visible.ranking, Ranking):
        found["look_alikes"] = look_alikes(visible.task, visible.ranking)
    return found


def difference(test: "ScoredSplit", theirs: "ScoredSplit", other: Opened) -> dict[str, Any]:
    """{"difference": ...}, pair by pair; of other pairs also "compared", on which. Raises InputError: no pair in common."""
    from ctl_lightning.metrics.pair_metrics import compare
    from ctl_lightning.reports.other_pairs import difference_on_others

    if other.others is None:
        return {"difference": compare(test.task, test.scores, theirs.scores)}
    found, compared = difference_on_others(test, theirs)
    return {"difference": found, "compared": compared}


def tell_of_others(told: "RunReport", ours: Opened, data: "OtherPairs", options: Config) -> None:
    """Adds to a report which pairs were measured, what of them the checkpoint was trained on, and what is left out."""
    from ctl_lightning.reports.other_pairs import leave_out

    told.results["data"] = {"source": options["data"]["source"]["name"]} | data.identity()
    told.results["trained_on"] = ours.trained_on
    told.results["left_out"] = leave_out(told, data)


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
