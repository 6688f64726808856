"""Shows pictures, tables, histograms and curves in loggers that have a page: Weights & Biases, TensorBoard and MLflow."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray
from PIL import Image

from ctl_lightning.reports.results import Results, flat_table
from ctl_lightning.runtime.csv_files import csv_text
from ctl_lightning.runtime.errors import only_warned
from ctl_lightning.runtime.files import write_text
from ctl_lightning.runtime.launch import is_first

LONGEST_SIDE = 1600
"""Longest side of a shown picture, in pixels, so that a page of many runs stays light."""

LARGE = 200_000
"""A PNG of more bytes than this is full of photos, which take a sixth of the bytes as JPEG."""


@dataclass(frozen=True)
class Table:
    """A table: the names of its columns, and its rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Curve:
    """A curve: its points, (2, n), and the names of its x and y axes."""

    x: str
    y: str
    points: NDArray[np.float64]


@dataclass(frozen=True)
class Exhibit:
    """What is shown at one step.

    Attributes:
        pictures: name -> PNG file.
        tables: name -> table.
        histograms: name -> values.
        curves: name -> curve, of (2, n) points.
        embedding: n labels, and the vector of each, (n, D).
    """

    pictures: Mapping[str, Path] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    histograms: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    embedding: tuple[Sequence[str], NDArray[np.float64]] | None = None


def has_page(loggers: Iterable[Logger]) -> bool:
    """Whether any of the loggers can show an exhibit."""
    return any(isinstance(logger, (WandbLogger, TensorBoardLogger, MLFlowLogger)) for logger in loggers)


def show(loggers: Iterable[Logger], exhibit: Exhibit, step: int) -> None:
    """Hands an exhibit to the loggers that can show it, in the first of several processes."""
    if not is_first():
        return
    for logger in loggers:
        with only_warned(f"logger={_name(logger)}: not everything is shown there"):
            if isinstance(logger, WandbLogger):
                _show_in_wandb(logger, exhibit, step)
            elif isinstance(logger, TensorBoardLogger):
                _show_in_tensorboard(logger, exhibit, step)
            elif isinstance(logger, MLFlowLogger):
                _show_in_mlflow(logger, exhibit, step)


def _name(logger: Logger) -> str:
    return type(logger).__name__.removesuffix("Logger").lower()


def write_tables(folder: Path, tables: Mapping[str, Table]) -> None:
    """Writes tables as CSV for readers without such a page: NAME.csv, with "/" in a name as "_"."""
    for name, table in tables.items():
        write_text(folder / f"{name.replace('/', '_')}.csv", csv_text([table.columns, *table.rows]))


def _bounded(path: Path) -> Image.Image:
    image = Image.open(path).convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return image


def _show_in_wandb(logger: WandbLogger, exhibit: Exhibit, step: int) -> None:
    import wandb

    shown: dict[str, Any] = {
        f"pictures/{name}": wandb.Image(_bounded(path), file_type="jpg" if path.stat().st_size > LARGE else "png")
        for name, path in exhibit.pictures.items()
    }
    shown |= {name: wandb.Histogram(list(values)) for name, values in exhibit.histograms.items()}
    for name, table in exhibit.tables.items():
        shown[name] = wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
    for name, curve in exhibit.curves.items():
        points = wandb.Table(columns=[curve.x, curve.y], data=curve.points.T.tolist())
        shown[name] = wandb.plot.line(points, curve.x, curve.y, title=name)
    if exhibit.embedding is not None:
        labels, vectors = exhibit.embedding
        columns: list[str | int] = ["category", *(f"D{place}" for place in range(vectors.shape[1]))]
        rows = [[label, *vector] for label, vector in zip(labels, vectors.tolist(), strict=True)]
        shown["embedding"] = wandb.Table(columns=columns, data=rows)
    logger.experiment.log(shown | {"trainer/global_step": step})


def _show_in_tensorboard(logger: TensorBoardLogger, exhibit: Exhibit, step: int) -> None:
    writer = logger.experiment
    for name, path in exhibit.pictures.items():
        writer.add_image(f"pictures/{name}", np.asarray(_bounded(path)), step, dataformats="HWC")
    for name, values in exhibit.histograms.items():
        writer.add_histogram(name, values, step)
    for name, table in exhibit.tables.items():
        lines = [table.columns, ["---"] * len(table.columns), *table.rows]
        cells = ([_in_markdown(cell) for cell in line] for line in lines)
        writer.add_text(name, "\n".join(f"| {' | '.join(line)} |" for line in cells), step)
    if exhibit.embedding is not None:
        labels, vectors = exhibit.embedding
        writer.add_embedding(vectors, list(labels), global_step=step, tag="products")


def _show_in_mlflow(logger: MLFlowLogger, exhibit: Exhibit, step: int) -> None:
    """Pictures and tables; MLflow has neither histograms nor a projector, and metrics.csv and results.json have their numbers."""
    for name, path in exhibit.pictures.items():
        logger.experiment.log_image(logger.run_id, _bounded(path), key=f"pictures/{name}", step=step)
    for name, table in exhibit.tables.items():
        text = csv_text([table.columns, *table.rows])
        logger.experiment.log_text(logger.run_id, text, f"tables/{name.replace('/', '_')}.csv")


def _in_markdown(cell: object) -> str:
    if cell is None:
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell).replace("|", "/")


def log_results(loggers: Sequence[Logger], results: Results, shown: Exhibit, step: int) -> None:
    """Hands final metrics, tables and pictures to the loggers that can show them."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            with only_warned("logger=wandb: its summary is not written"):
                logger.experiment.summary.update({f"test/{row[0]}/{row[1]}": row[2] for row in flat_table(results)})
        if isinstance(logger, MLFlowLogger):
            with only_warned("logger=mlflow: results.json is not there"):
                logger.experiment.log_dict(logger.run_id, results, "results.json")
    show(loggers, shown, step)
