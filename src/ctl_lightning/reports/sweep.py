"""What a sweep has found: its jobs, the settings that they belong to, and the means over the seeds of each setting."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.table import Table
from scipy.stats import t
from yaml import YAMLError

from ctl_lightning.metrics.intervals import NOTHING, Interval
from ctl_lightning.models.checkpoint import LAST, MONITOR, read_checkpoint
from ctl_lightning.reports.figures.intervals import setting_intervals
from ctl_lightning.runtime.console import console
from ctl_lightning.runtime.csv_files import csv_text, read_metrics
from ctl_lightning.runtime.errors import ERROR, InputError
from ctl_lightning.runtime.reading import read_json

NO_SETTING = ("seed", "ckpt_path")
"""Options that do not make two jobs different settings."""


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        folder: run directory of the job.
        options: name -> value of the overrides that it was given.
        validation: best validation AUC; None: it has none.
        test: metric -> value on the test split; None: the job is not finished.
        why_not: why the job has no results; None: it has results.
    """

    folder: Path
    options: dict[str, str]
    validation: float | None
    test: dict[str, float | None] | None
    why_not: str | None

    @property
    def seed(self) -> str:
        """Random seed of the run; the default where none was given."""
        return self.options.get("seed", "0")

    def value(self, metric: str) -> float | None:
        """A metric of the test split; for `MONITOR`, the best validation AUC."""
        return self.validation if metric == MONITOR else (self.test or {}).get(metric)


@dataclass(frozen=True)
class Setting:
    """Jobs that differ in their seeds alone.

    Attributes:
        name: the options in which this setting differs from others.
        jobs: one job per seed.
    """

    name: str
    jobs: tuple[Job, ...]

    @property
    def finished(self) -> list[Job]:
        """The jobs that have results."""
        return [job for job in self.jobs if job.test is not None]

    def values(self, metric: str) -> list[float]:
        """A metric of each finished seed that has it."""
        return [value for job in self.finished if (value := job.value(metric)) is not None]

    def over_seeds(self, metric: str) -> Interval:
        """A metric's mean over the finished seeds."""
        return mean_over_seeds(self.values(metric))


def mean_over_seeds(values: Sequence[float]) -> Interval:
    """The mean with its 95 % Student interval; without an interval for a single value."""
    if not values:
        return dict(NOTHING)
    mean = float(np.mean(values))
    if len(values) == 1:
        return {"value": mean, "low": None, "high": None}
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return {"value": mean, "low": mean - half, "high": mean + half}


def read_sweep(folder: Path) -> list[Setting]:
    """The settings of a sweep, best validation AUC first.

    Raises:
        InputError: no such folder; no job in it.
    """
    found = sorted(folder.glob("*/.hydra/overrides.yaml"), key=lambda path: _number(path.parents[1].name))
    if not found:
        raise InputError(f"folder={folder}: no jobs of a multirun are there; give its hydra.sweep.dir")
    jobs = [_read_job(path.parents[1], path) for path in found]
    varied = varied_options(jobs)
    grouped: dict[tuple[str | None, ...], list[Job]] = {}
    for job in jobs:
        grouped.setdefault(tuple(job.options.get(one) for one in varied), []).append(job)
    names = Counter(_name(varied, values, _short) for values in grouped)
    settings = [
        Setting(_name(varied, values, _short if names[_name(varied, values, _short)] == 1 else str), tuple(own))
        for values, own in grouped.items()
    ]
    return sorted(settings, key=lambda setting: -(setting.over_seeds(MONITOR)["value"] or -math.inf))


def varied_options(jobs: Sequence[Job]) -> list[str]:
    """Names of the options in which jobs are different settings, as they were given, such as "loss.margin"."""
    given = sorted({name for job in jobs for name in job.options} - {*NO_SETTING})
    return [name for name in given if len({job.options.get(name) for job in jobs}) > 1]


def _name(options: Sequence[str], values: Sequence[str | None], written: Callable[[str], str]) -> str:
    """Name of a setting, such as "data.margin=0.1"; `written` turns a value into text."""
    pairs = zip(options, values, strict=True)
    words = [f"{one.removeprefix('+')}={written(value)}" for one, value in pairs if value is not None]
    return " ".join(words) or "(all)"


def _short(value: str) -> str:
    """A value as text; a number with a point, as samplers draw it, with four digits."""
    try:
        return f"{float(value):.4g}" if "." in value else value
    except ValueError:
        return value


def _number(name: str) -> tuple[int, str]:
    digits = name.partition("_")[0]
    return (int(digits) if digits.isdecimal() else 10**9, name)


def _read_job(folder: Path, overrides: Path) -> Job:
    try:
        words = [str(word) for word in OmegaConf.to_container(OmegaConf.load(overrides), resolve=False) or []]
    except (YAMLError, OmegaConfBaseException, UnicodeError, OSError, RecursionError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        return Job(folder, {}, None, None, f".hydra/{overrides.name} is not readable ({said[:100]})")
    options = dict(word.split("=", 1) for word in words if "=" in word)
    try:
        aucs = [row[MONITOR] for row in read_metrics(folder / "metrics.csv") if MONITOR in row]
    except InputError as error:
        return Job(folder, options, None, None, str(error))
    validation = max(aucs, default=None)
    try:
        content = read_json(folder / "results.json")
        test = {name: metric["value"] for name, metric in content["test"]["all"].items()}
        if not all(value is None or isinstance(value, (int, float)) for value in test.values()):
            raise ValueError("a value is no number")
        return Job(folder, options, validation, test, None)
    except FileNotFoundError:
        return Job(folder, options, validation, None, _why(folder))
    except (InputError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Job(folder, options, validation, None, f"results.json is not readable ({error})")


def _why(folder: Path) -> str:
    """Why a job has no results."""
    if (folder / ERROR).exists():
        return " ".join((folder / ERROR).read_text(encoding="utf-8", errors="replace").split())
    try:
        checkpoint = read_checkpoint(folder / LAST)
    except InputError:
        return "not finished: no epoch is done"
    return (
        f"not finished: stopped, or at work, after step {checkpoint['global_step']} (epoch {checkpoint['epoch'] + 1})"
    )


def print_sweep(settings: Iterable[Setting], metrics: Sequence[str]) -> None:
    """Prints one row per setting, and below them why jobs have no results."""
    table = Table(title="mean over seeds with 95 % interval, best validation AUC first", title_justify="left")
    table.add_column("setting", overflow="fold")
    table.add_column("seeds", justify="right")
    for metric in metrics:
        table.add_column("validation auc" if metric == MONITOR else metric, justify="right")
    for setting in settings:
        cells = [_cell(setting.over_seeds(metric)) for metric in metrics]
        table.add_row(setting.name, f"{len(setting.finished)}/{len(setting.jobs)}", *cells)
    console.print(table)
    for setting in settings:
        for job in setting.jobs:
            if job.why_not:
                console.print(f"{job.folder.name} ({setting.name}): {job.why_not}")


def _cell(found: Interval) -> str:
    """A mean with its interval, such as "0.610 ± 0.020"; for one seed the value alone."""
    if found["value"] is None:
        return ""
    if found["high"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} ± {found['high'] - found['value']:.3f}"


def sweep_markdown(settings: Iterable[Setting], metrics: Sequence[str]) -> str:
    """The printed table in Markdown."""
    heads = ["setting", "seeds", *("validation auc" if metric == MONITOR else metric for metric in metrics)]
    rows = [
        [
            setting.name.replace("|", "\\|"),
            f"{len(setting.finished)}/{len(setting.jobs)}",
            *(_cell(setting.over_seeds(metric)) for metric in metrics),
        ]
        for setting in settings
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


def sweep_csv(settings: Iterable[Setting], metrics: Sequence[str]) -> str:
    """One row per job, which ends with the means of the job's setting."""
    ends = [f"{metric}_{part}" for metric in metrics for part in ("mean", "low", "high")]
    rows: list[list[object]] = [["setting", "seed", "folder", "why_not", *metrics, *ends]]
    for setting in settings:
        means: list[Any] = [setting.over_seeds(metric)[part] for metric in metrics for part in ("value", "low", "high")]
        for job in setting.jobs:
            values = [job.value(metric) for metric in metrics]
            rows.append([setting.name, job.seed, job.folder.name, job.why_not or "", *values, *means])
    return csv_text(rows)


def draw_sweep(path: Path, settings: Sequence[Setting], metrics: Sequence[str]) -> None:
    """Draws one panel per metric, with one line per setting.

    Args:
        path: PNG file to write.
        settings: settings, at least one of which has finished jobs; the others are left out.
        metrics: metrics of the test split to draw beside the validation AUC.
    """
    rows = {setting.name: setting for setting in settings if setting.finished}
    shown = {"validation AUC": MONITOR} | {f"test {metric}": metric for metric in metrics}
    setting_intervals(
        path,
        {
            title: {name: (one.over_seeds(metric), one.values(metric)) for name, one in rows.items()}
            for title, metric in shown.items()
        },
    )
