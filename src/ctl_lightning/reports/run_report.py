"""Measures a trained network for `train` and `evaluate`: the numbers of results.json and pairs.csv, and the pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import Logger

from ctl_lightning.data.crop import scene_crop
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.evaluation_set import EvaluationSet
from ctl_lightning.data.images import placed
from ctl_lightning.data.pairs import NO_BOX, Box
from ctl_lightning.data.sources.drawing import SCENE_SIZE
from ctl_lightning.metrics.classification import Classifier, Samples, classifier_results, fit_classifier, samples_of
from ctl_lightning.metrics.ground_truth import attention_results, truth_results
from ctl_lightning.metrics.intervals import Floats
from ctl_lightning.metrics.pair_metrics import PairScores, metric_values, score_pairs
from ctl_lightning.metrics.ranking import Ranked, Ranking
from ctl_lightning.metrics.reranking import reranking_results
from ctl_lightning.models.components.network import Network
from ctl_lightning.reports.dashboards import Curve, Exhibit, Table, log_results, write_tables
from ctl_lightning.reports.examples import (
    attention_rows,
    classifier_curves,
    embedded_products,
    hard_negatives,
    retrieval_rows,
)
from ctl_lightning.reports.figures.curves import classifier_sheet, confusion, curves, distance_histograms, projection
from ctl_lightning.reports.figures.grids import attention_overlays, retrieval_grid
from ctl_lightning.reports.figures.intervals import category_intervals
from ctl_lightning.reports.results import IDENTITY, Results, flat_table, print_results, test_results, write_results
from ctl_lightning.runtime.console import console
from ctl_lightning.runtime.csv_files import csv_text, read_metrics
from ctl_lightning.runtime.files import write_text


@dataclass(frozen=True)
class ScoredSplit:
    """A ranked split.

    Attributes:
        task: pairs and catalogue of the split.
        ranking: distances between the scene crops and the products of the split.
        scores: scores of every pair.
    """

    task: EvaluationSet
    ranking: Ranked
    scores: PairScores

    @property
    def judged(self) -> Samples:
        """The pairs and their seeded negatives as samples for a classifier."""
        return samples_of(self.scores, self.task.scene)

    @cached_property
    def confusion(self) -> Floats:
        """Shares (C, C) of `hard_negatives`, kept for both the picture and the table."""
        return hard_negatives(self.task, self.ranking.distances)


def score_split(task: EvaluationSet, ranking: Ranked) -> ScoredSplit:
    """Scores every pair of a ranked split."""
    return ScoredSplit(task, ranking, score_pairs(task, ranking.distances))


@dataclass
class RunReport:
    """All that is measured and drawn of a trained network.

    Attributes:
        data: data module, set up.
        network: trained network, whose attention is drawn.
        test: ranked test split.
        classifier: classifier that was chosen on the validation split.
        results: content of results.json.
        pictures: name -> PNG file, once the pictures are drawn.
    """

    data: TripletDataModule
    network: Network
    test: ScoredSplit
    classifier: Classifier
    results: Results
    pictures: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        data: TripletDataModule,
        network: Network,
        validation: ScoredSplit,
        test: ScoredSplit,
        config: Mapping[str, object],
    ) -> "RunReport":
        """Measures a trained network.

        Args:
            data: data module, set up.
            network: trained network that ranked the splits.
            validation: ranked validation split; the classifier's threshold and probability are chosen on it.
            test: ranked test split.
            config: config of the run, with "protocol", "method" and "seed".
        """
        classifier = fit_classifier(validation.judged)
        results: Results = {key: config[key] for key in IDENTITY} | test_results(test.task, test.scores)
        results["classifier"] = classifier_results(classifier, test.judged, len(validation.task.pairs))
        results["reranking"] = reranking_results(test.task, test.ranking.distances)
        results |= _of_truth(data, test)
        if whole := sum(pair.box == NO_BOX for pair in test.task.pairs):
            results["pairs_without_box"] = whole
        return cls(data, network, test, classifier, results)

    def write(self, folder: Path) -> None:
        """Writes pairs.csv, tables and pictures into a run directory."""
        write_pairs(folder / "pairs.csv", self.test)
        self.pictures = self.draw(folder)
        write_tables(folder / "tables", self._exhibit().tables)

    def draw(self, folder: Path, others: Mapping[str, Results] | None = None) -> dict[str, Path]:
        """Draws the pictures of the run.

        Args:
            folder: run directory; the pictures go into its folder pictures/.
            others: name of another method -> its results, of which the AUC by category is shown beside this one's.

        Returns:
            Name -> PNG file.
        """
        where, task = folder / "pictures", self.test.task
        pictures = {name: where / f"{name}.png" for name in ("retrieval", "classifier", "categories")}
        rows = retrieval_rows(self.data, task, self.test.ranking.distances, self.test.scores)
        retrieval_grid(pictures["retrieval"], rows)
        classifier_sheet(pictures["classifier"], classifier_curves(self.classifier, self.test.judged))
        shown = {self.results["method"]: self.results} | dict(others or {})
        auc = {
            name: {category: found["auc"] for category, found in results["test"]["by_category"].items()}
            for name, results in shown.items()
        }
        category_intervals(pictures["categories"], auc)
        pictures["distances"] = where / "distances.png"
        distance_histograms(pictures["distances"], self.test.scores.positive, self.test.scores.negative)
        if isinstance(self.test.ranking, Ranking):
            pictures |= {name: where / f"{name}.png" for name in ("confusion", "embedding")}
            confusion(pictures["confusion"], task.categories, self.test.confusion)
            projection(pictures["embedding"], *embedded_products(task, self.test.ranking))
        if self.test.ranking.attention().shape[1]:
            pictures["attention"] = where / "attention.png"
            attention_overlays(pictures["attention"], attention_rows(self.data, task, self.network))
        metrics = read_metrics(folder / "metrics.csv")
        if self.network.losses and metrics:
            pictures["curves"] = where / "curves.png"
            curves(pictures["curves"], metrics, self._ceilings())
        return pictures

    def _ceilings(self) -> dict[str, float]:
        """Name -> best possible AUC, where it is known."""
        if "oracle" not in self.results:
            return {}
        found = {"oracle": self.results["oracle"]["auc"]} | self.results["ceilings"]
        return {f"{name} (test)": auc["value"] for name, auc in found.items()}

    def show(self, loggers: Sequence[Logger], step: int) -> None:
        """Hands final metrics, tables and pictures to the loggers that can show them."""
        log_results(loggers, self.results, self._exhibit(), step)

    def _exhibit(self) -> Exhibit:
        return exhibit(self.test, self.classifier, self.results, self.pictures)

    def finish(self, folder: Path) -> None:
        """Writes results.json, and prints it. A run that has it is finished, so it comes last."""
        write_results(folder / "results.json", self.results)
        print_results(self.results, console)


def _of_truth(data: TripletDataModule, test: ScoredSplit) -> Results:
    """Results on data of which it is known what decides (the synthetic looks); empty on other data."""
    truth = data.source.truth(data.root)
    if truth is None:
        return {}
    results, attention = truth_results(test.task, truth), test.ranking.attention()
    if attention.shape[1]:
        boxes = [truth.deciding_box(pair) for pair in test.task.pairs]
        places = _places(data, test.task)
        sizes = data.stored_size, data.image_size, data.margin
        results |= attention_results(test.task, attention, boxes, places, *sizes)
    return results


def exhibit(test: ScoredSplit, classifier: Classifier, results: Results, pictures: Mapping[str, Path]) -> Exhibit:
    """What is shown at the end in a logger with a page: the pictures, and the numbers behind them."""
    by_category = results["test"]["by_category"]
    columns = ["auc", "auc_matched", "lift", "hit@10"]
    categories = [
        [
            category,
            int((test.task.category == number).sum()),
            *(by_category[category][name]["value"] for name in columns),
        ]
        for number, category in enumerate(test.task.categories)
        if category in by_category
    ]
    tables = {
        "test/table": Table(["pairs", "metric", "value", "low", "high"], flat_table(results)),
        "test/categories": Table(["category", "pairs", *columns], categories),
    }
    found = classifier_curves(classifier, test.judged)
    embedding = None
    if isinstance(test.ranking, Ranking):
        rows = [
            [category, *(None if np.isnan(share) else float(share) for share in row)]
            for category, row in zip(test.task.categories, test.confusion, strict=True)
        ]
        tables["test/confusion"] = Table(["looked for", *test.task.categories], rows)
        embedding = embedded_products(test.task, test.ranking)
    return Exhibit(
        pictures,
        tables,
        {"test/distances_positive": test.scores.positive, "test/distances_negative": test.scores.negative},
        {
            "test/roc": Curve("incompatible ones called compatible", "compatible ones found", _thinned(found.roc)),
            "test/precision_recall": Curve("recall", "precision", _thinned(found.precision_recall)),
        },
        embedding,
    )


def _thinned(points: Floats) -> Floats:
    """At most 200 of the points (2, n) of a curve, both ends included."""
    count = points.shape[1]
    return points[:, np.unique(np.linspace(0, count - 1, min(count, 200)).round().astype(int))]


def write_pairs(path: Path, test: ScoredSplit) -> None:
    """Writes pairs.csv: one row per test pair, what it is and how it was ranked; for your own tests, and for `paper`."""
    values = metric_values(test.scores) | {"distance": test.scores.positive, "distance_negative": test.scores.negative}
    rows: list[list[object]] = [["scene", "bbox", "product", "category", "seen", *values]]
    for number, pair in enumerate(test.task.pairs):
        box = ",".join(map(str, pair.box))
        row = [pair.scene, box, pair.product, pair.category, int(test.task.seen[number])]
        rows.append([*row, *(repr(float(value[number])) for value in values.values())])
    write_text(path, csv_text(rows))


def _places(data: TripletDataModule, task: EvaluationSet) -> list[Box]:
    """Where in its stored square each pair's scene crop lies; for synthetic scenes, which are all of one size."""
    crops = [scene_crop(pair.box, data.margin) for pair in task.pairs]
    width, height = SCENE_SIZE
    return [placed((crop[2] - crop[0]) * width / ((crop[3] - crop[1]) * height), data.aspect) for crop in crops]
