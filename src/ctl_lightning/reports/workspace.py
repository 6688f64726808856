"""What Weights & Biases shows of our runs, as code: a saved view of a project's workspace, and a report of a sweep."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from wandb_workspaces import expr
from wandb_workspaces.reports.v2 import interface as wr
from wandb_workspaces.workspaces import RunsetSettings as RunSet
from wandb_workspaces.workspaces import Section, Workspace, WorkspaceSettings
from yaml import YAMLError

from ctl_lightning.models.checkpoint import MONITOR
from ctl_lightning.reports.sweep import Setting, sweep_markdown, varied_options
from ctl_lightning.runtime.errors import InputError

STEP = "trainer/global_step"
"""What Lightning's logger says that all it logs is drawn over."""

CONFIG_OF = {"backbone": "backbone.name", "loss": "loss.name"}
"""Group of options -> the option in a run's config that tells its choices apart; of methods and protocols, the run's name does."""

SEARCHED = ("model.learning_rate", "loss.margin", "model.dim", "model.dropout", "seed")
"""What the sweeps of conf/sweep and examples/wandb_sweep.yaml vary: the columns of the comparison."""

PICTURES = ("retrieval", "attention", "classifier", "confusion", "embedding", "curves")
"""Pictures of the test split, one panel each; those of categories and distances stand with their numbers."""


def workspace(entity: str, project: str, name: str) -> Workspace:
    """A view of all runs of a project: its sections, from the curves to the sweeps, with the runs grouped by name.

    Raises:
        InputError: a name that is too long, or has an emoji.
    """
    sections = {
        "Curves": _curves(),
        "Validation": _validation(),
        "By category": _by_category(),
        "Distances": _distances(),
        "The same scenes over epochs": _over_epochs(),
        "Test split": _test(),
        "Sweeps: mean and range over seeds": _sweeps(),
        "Speed": _speed(),
    }
    try:
        return Workspace(
            entity,
            project,
            name,
            [Section(title, panels, is_open=True) for title, panels in sections.items()],
            WorkspaceSettings(x_axis=STEP),
            RunSet(groupby=[expr.Metric("Name")], pinned_columns=[f"summary:{MONITOR}", "summary:test/auc"]),
        )
    except ValidationError as error:
        raise InputError(f"name={name}: {error.errors()[0]['msg']}") from None


def sweep_report(
    entity: str, project: str, name: str, folder: Path, settings: Sequence[Setting], metrics: Sequence[str]
) -> wr.Report:
    """A report of a sweep: its table, best validation first, why jobs have no results, and panels over its runs.

    Args:
        entity: whose project it is.
        project: project of the runs.
        name: title.
        folder: folder of the sweep, whose name is the group of the runs there, unless their options name another.
        settings: what `read_sweep` has found.
        metrics: metrics of the test split in the table, beside the validation AUC.

    Raises:
        InputError: a name that is too long, or has an emoji.
    """
    jobs = [job for setting in settings for job in setting.jobs]
    groups = sorted({_group(job.folder) or folder.resolve().name for job in jobs})
    varied = varied_options(jobs)
    given = [CONFIG_OF.get(option, option) for option in (one.lstrip("+") for one in varied)]
    told = [option for option in given if "." in option]
    failed = [f"- {job.folder.name} ({one.name}): {job.why_not}" for one in settings for job in one.jobs if job.why_not]
    panels: list[Any] = [
        _line("Validation AUC", MONITOR, **_over_seeds()),
        _line("Loss", "train/loss", **_over_seeds()),
        _bars("Test split", *(f"test/{metric}" for metric in metrics)),
        _columns(told),
        wr.ParameterImportancePlot(with_respect_to=MONITOR),
        wr.MediaBrowser(title="Retrieval on the test split", media_keys=["pictures/retrieval"], num_columns=1),
    ]
    for number, panel in enumerate(panels):
        panel.layout = wr.Layout(x=12 * (number % 2), y=8 * (number // 2), w=12, h=8)
    # Without entity and project a run set is of the report's own; with them it would be looked up over the network.
    runs = wr.Runset(
        name=" ".join(groups),
        filters=f"Metric('Group') in {groups}",  # an expression as an object loses the quotes in a name,
        groupby=["run.Name", *(f"config.{option}" for option in told)],
    )
    blocks: list[Any] = [
        wr.P("Mean over the seeds of each setting with its 95 % interval, best validation AUC first."),
        wr.MarkdownBlock(sweep_markdown(settings, [MONITOR, *metrics])),
    ]
    if failed:
        blocks += [wr.H2("Without results"), wr.MarkdownBlock("\n".join(failed))]
    try:
        return wr.Report(
            project, entity, name, blocks=[*blocks, wr.H2("Runs"), wr.PanelGrid([runs], panels=panels)], width="fluid"
        )
    except ValidationError as error:
        raise InputError(f"name={name}: {error.errors()[0]['msg']}") from None


def _group(run: Path) -> str | None:
    """The group that the options of a run name for it; None: they name none, or the run has not begun."""
    try:
        found = OmegaConf.select(OmegaConf.load(run / "config.yaml"), "logger.wandb.group")
    except (YAMLError, OmegaConfBaseException, UnicodeError, OSError):
        return None
    return None if found is None else str(found)


def specification(made: Workspace | wr.Report) -> str:
    """What is sent, as JSON."""
    return str(made._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=1)) + "\n"


def saved(made: Any) -> str:
    """Saves a new view, or a new report; WANDB_BASE_URL and the like are respected.

    Args:
        made: a Workspace or a Report, whose `save` has no annotations.

    Returns:
        Its address.

    Raises:
        InputError: nobody is logged in, the server cannot be reached, or it refuses.
    """
    try:
        # wandb would try for minutes to reach a server that is not there.
        wandb.setup(
            wandb.Settings(
                x_graphql_retry_max=1, x_graphql_retry_wait_max_seconds=1, x_graphql_timeout_seconds=15, silent=True
            )
        )
        made.save()
        return str(made.url)
    except Exception as error:  # whatever wandb, its service, or what it makes of an answer raises
        said = " ".join(str(error).split())[:300].rstrip(".")
        raise InputError(
            f"{_host()}: {said or type(error).__name__}; log in with `wandb login`, check entity and project, or give output=FILE, "
            "which needs neither login nor network"
        ) from None


def _host() -> str:
    try:
        return str(wandb.setup().settings.base_url)
    except ValidationError:
        return "WANDB_BASE_URL"


def _line(title: str, *keys: str, **how: Any) -> wr.LinePlot:
    return wr.LinePlot(title=title, x=STEP, y=list(keys), **how)


def _over_seeds() -> dict[str, Any]:
    """Runs of one name as their mean, with a band from the lowest to the highest."""
    return {"groupby": "Name", "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}


def _bars(title: str, *keys: str) -> wr.BarPlot:
    return wr.BarPlot(title=title, metrics=list(keys), **_over_seeds())


def _picture(name: str) -> wr.MediaBrowser:
    return wr.MediaBrowser(title=name.replace("_", " "), media_keys=[f"pictures/{name}"], num_columns=1)


def _columns(options: Sequence[str]) -> wr.ParallelCoordinatesPlot:
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(option), option) for option in options]
    ends = [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(key), key) for key in (MONITOR, "test/auc")]
    return wr.ParallelCoordinatesPlot([*columns, *ends], title="Settings")


def _curve(name: str, x: str, y: str) -> wr.CustomChart:
    """What `wandb.plot.line` has logged, with a line for each run."""
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": f"{name}_table"}},
        chart_name="wandb/line/v0",
        chart_fields={"x": x, "y": y},
        chart_strings={"title": name},
    )


def _curves() -> list[Any]:
    return [
        _line("Loss", "train/loss"),
        _line("Distance of compatible and of other products", "train/distance_positive", "train/distance_negative"),
        _line("Active triplets", "train/active_triplets"),
        _line("Order violations", "train/order_violations"),
        wr.LinePlot(title="Learning rate", x=STEP, metric_regex="lr-.*"),  # a backbone may have its own
        _line("Epoch", "epoch"),
    ]


def _validation() -> list[Any]:
    return [
        _line("AUC", MONITOR),
        _line("AUC of seen and unseen products", "val/auc_seen", "val/auc_unseen"),
        _line("AUC, matched", "val/auc_matched"),
        _line("Lift", "val/lift", "val/lift_geometry"),
        _line("AUC of the controls", "val/auc_shuffled", "val/auc_geometry"),
        _line("Hit rate", *(f"val/hit@{k}" for k in (1, 5, 10, 50))),
        _line("Mean reciprocal rank", "val/mrr"),
        _line("Median rank", "val/median_rank"),
        _line("Accuracy, compatible or not", "val/binary_accuracy"),
    ]


def _by_category() -> list[Any]:
    tables = [wr.WeavePanelSummaryTable(table_name=f"{split}/categories") for split in ("val", "test")]
    return [*tables, _picture("categories")]


def _distances() -> list[Any]:
    histograms = [
        _line(f"{kind} pairs, {split}", f"{prefix}/distances_{key}")
        for prefix, split in (("val", "validation"), ("test", "test"))
        for kind, key in (("Compatible", "positive"), ("Other", "negative"))
    ]
    return [*histograms, _picture("distances")]


def _over_epochs() -> list[Any]:
    return [_picture("validation_retrieval"), _picture("validation_attention")]


def _test() -> list[Any]:
    return [
        _bars("AUC", "test/auc", "test/auc_seen", "test/auc_unseen", "test/auc_matched"),
        _bars("Controls and lift", "test/auc_shuffled", "test/auc_geometry", "test/lift", "test/lift_geometry"),
        _bars("Rank", *(f"test/hit@{k}" for k in (1, 5, 10, 50)), "test/mrr"),
        _bars("Median rank", "test/median_rank"),
        _bars("Accuracy, compatible or not", "test/binary_accuracy"),
        _curve("test/roc", "incompatible ones called compatible", "compatible ones found"),
        _curve("test/precision_recall", "recall", "precision"),
        *(wr.WeavePanelSummaryTable(table_name=name) for name in ("test/table", "test/confusion", "embedding")),
        *(_picture(name) for name in PICTURES),
    ]


def _sweeps() -> list[Any]:
    return [
        _line("Validation AUC", MONITOR, **_over_seeds()),
        _line("Loss", "train/loss", **_over_seeds()),
        _bars("Test AUC of unseen products", "test/auc_unseen"),
        _bars("Test lift", "test/lift"),
        _columns(SEARCHED),
        wr.ParameterImportancePlot(with_respect_to=MONITOR),
    ]


def _speed() -> list[Any]:
    return [
        _line("Images a second", "train/images_per_second"),
        _line("Share of the time that steps wait for data", "train/data_wait"),
    ]
