"""Measures a trained network for `train` and `evaluate`: the numbers of results.json and pairs.csv, and the pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import Logger

from ctl_lightning.data.crop import scene_crop
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.evaluation_set import EvaluationSet
from ctl_lightning.data.images import placed
from ctl_lightning.data.pairs import NO_BOX, Box, PairTable
from ctl_lightning.data.sources.drawing import SCENE_SIZE
from ctl_lightning.metrics.classification import Classifier, Samples, classifier_results, fit_classifier, samples_of
from ctl_lightning.metrics.ground_truth import attention_results, truth_results
from ctl_lightning.metrics.hubs import hub_results
from ctl_lightning.metrics.intervals import Floats
from ctl_lightning.metrics.look_alikes import look_alikes
from ctl_lightning.metrics.pair_metrics import PairScores, metric_values, score_pairs
from ctl_lightning.metrics.ranking import Ranked, Ranking
from ctl_lightning.metrics.reranking import reranking_results
from ctl_lightning.models.components.network import Network
from ctl_lightning.reports.dashboards import Curve, Exhibit, Table, log_results, write_tables
from ctl_lightning.reports.examples import (
    ATTENDED,
    LARGEST,
    attention_rows,
    classifier_curves,
    embedded_products,
    hard_negatives,
    largest,
    retrieval_rows,
)
from ctl_lightning.reports.figures.curves import classifier_sheet, confusion, curves, distance_histograms, projection
from ctl_lightning.reports.figures.grids import attention_overlays, retrieval_grid
from ctl_lightning.reports.figures.intervals import category_intervals
from ctl_lightning.reports.results import IDENTITY, Results, flat_table, print_results, test_results, write_results
from ctl_lightning.runtime.console import console
from ctl_lightning.runtime.csv_files import csv_text, read_metrics
from ctl_lightning.runtime.errors import only_warned
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
    def largest_confusion(self) -> tuple[list[str], Floats]:
        """The n largest categories, and their shares (n, n) of `hard_negatives`; kept for both the picture and the table."""
        chosen = largest(self.task, LARGEST)
        shares = hard_negatives(self.task, self.ranking.distances)
        return [self.task.categories[one] for one in chosen], shares[np.ix_(chosen, chosen)]


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
        validation: ScoredSplit | Classifier,
        test: ScoredSplit,
        config: Mapping[str, object],
    ) -> "RunReport":
        """Measures a trained network.

        Args:
            data: data module, set up.
            network: trained network that ranked the splits.
            validation: ranked validation split, on which the classifier's threshold and probability are chosen; or the classifier, if
                that was chosen before.
            test: ranked test split.
            config: config of the run, with "protocol", "method" and "seed".
        """
        classifier = fit_classifier(validation.judged) if isinstance(validation, ScoredSplit) else validation
        results: Results = {key: config[key] for key in IDENTITY} | test_results(test.task, test.scores)
        chosen_on = len(validation.task.pairs) if isinstance(validation, ScoredSplit) else None
        results["classifier"] = classifier_results(classifier, test.judged, chosen_on)
        results["hubs"] = hub_results(test.task, test.ranking.distances)
        if isinstance(test.ranking, Ranking):
            results["look_alikes"] = look_alikes(test.task, test.ranking)
        results["reranking"] = reranking_results(test.task, test.ranking.distances)
        results |= _of_truth(data, test)
        if data.twins:
            results["twins"] = data.twins.counts()
        if whole := sum(pair.box == NO_BOX for pair in test.task.pairs):
            results["pairs_without_box"] = whole
        return cls(data, network, test, classifier, results)

    def write(self, folder: Path) -> None:
        """Writes and prints the numbers: pairs.csv, then results.json. A run that has results.json is finished."""
        write_pairs(folder / "pairs.csv", self.test, self.data.table)
        write_results(folder / "results.json", self.results)
        print_results(self.results, console)

    def illustrate(self, folder: Path) -> None:
        """Writes tables and pictures into a run directory; what of them fails is a warning."""
        self.pictures = self.draw(folder)
        with only_warned(f"{folder / 'tables'}: not written"):
            write_tables(folder / "tables", self._exhibit().tables)

    def draw(self, folder: Path, others: Mapping[str, Results] | None = None) -> dict[str, Path]:
        """Draws the pictures of the run; one that cannot be drawn is a warning.

        Args:
            folder: run directory; the pictures go into its folder pictures/.
            others: name of another method -> its results, of which the AUC by category is shown beside this one's.

        Returns:
            Name -> PNG file.
        """
        pictures = {}
        for name, drawing in self._drawings(folder, others or {}).items():
            path = folder / "pictures" / f"{name}.png"
            with only_warned(f"{path}: not drawn"):
                drawing(path)
                pictures[name] = path
        return pictures

    def _drawings(self, folder: Path, others: Mapping[str, Results]) -> dict[str, Callable[[Path], None]]:
        """Name of a picture -> what draws it to a file."""
        test, task, classifier = self.test, self.test.task, self.classifier
        drawings: dict[str, Callable[[Path], None]] = {
            "retrieval": lambda path: retrieval_grid(
                path, retrieval_rows(self.data, task, test.ranking.distances, test.scores)
            ),
            "classifier": lambda path: classifier_sheet(path, classifier_curves(classifier, test.judged)),
            "categories": lambda path: self._draw_categories(path, others),
            "distances": lambda path: distance_histograms(path, test.scores.positive, test.scores.negative),
        }
        ranking = test.ranking
        if isinstance(ranking, Ranking):
            drawings["confusion"] = self._draw_confusion
            drawings["embedding"] = lambda path: projection(path, *embedded_products(task, ranking))
        if ranking.attention().shape[1]:
            left_out_of_attention = max(0, len(task.categories) - ATTENDED)
            drawings["attention"] = lambda path: attention_overlays(
                path, attention_rows(self.data, task, self.network), left_out_of_attention
            )
        metrics = folder / "metrics.csv"
        if self.network.losses and metrics.is_file():
            drawings["curves"] = lambda path: curves(path, read_metrics(metrics), self._ceilings())
        return drawings

    def _draw_confusion(self, path: Path) -> None:
        names, shares = self.test.largest_confusion
        confusion(path, names, shares, len(self.test.task.categories) - len(names))

    def _draw_categories(self, path: Path, others: Mapping[str, Results]) -> None:
        task = self.test.task
        measured = self.results["test"]["by_category"]
        names = [name for one in largest(task, LARGEST) if (name := task.categories[one]) in measured]
        auc = {
            method: {name: found[name]["auc"] for name in names if name in found}
            for method, results in ({self.results["method"]: self.results} | dict(others)).items()
            for found in [results["test"]["by_category"]]
        }
        category_intervals(path, auc, len(measured) - len(names))

    def _ceilings(self) -> dict[str, float]:
        """Name -> best possible AUC, where it is known."""
        if "oracle" not in self.results:
            return {}
        found = {"oracle": self.results["oracle"]["auc"]} | self.results["ceilings"]
        return {f"{name} (test)": auc["value"] for name, auc in found.items()}

    def show(self, loggers: Sequence[Logger], step: int) -> None:
        """Hands final metrics, tables and pictures to the loggers that can show them; one that fails is a warning."""
        with only_warned("loggers: the results are not shown there"):
            log_results(loggers, self.results, self._exhibit(), step)

    def _exhibit(self) -> Exhibit:
        return exhibit(self.test, self.classifier, self.results, self.pictures)


def _of_truth(data: TripletDataModule, test: ScoredSplit) -> Results:
    """Results on data of which it is known what decides (the synthetic looks); empty on other data."""
    truth = data.truth
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
    columns = ["auc", "auc_matched", "lift", "lift_geometry", "hit@10"]
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
        names, shares = test.largest_confusion
        rows = [
            [category, *(None if np.isnan(share) else float(share) for share in row)]
            for category, row in zip(names, shares, strict=True)
        ]
        tables["test/confusion"] = Table(["looked for", *names], rows)
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


def write_pairs(path: Path, test: ScoredSplit, table: PairTable) -> None:
    """Writes pairs.csv: one row per test pair, what it is and how it was ranked; for your own tests, and for `paper`.

    Args:
        path: file to write.
        test: ranked test split.
        table: table of all pairs; it knows which scenes are one photo. Their group is what is resampled.
    """
    values = metric_values(test.scores) | {"distance": test.scores.positive, "distance_negative": test.scores.negative}
    rows: list[list[object]] = [["scene", "bbox", "product", "category", "seen", "group", *values]]
    for number, pair in enumerate(test.task.pairs):
        box = ",".join(map(str, pair.box))
        row = [pair.scene, box, pair.product, pair.category, int(test.task.seen[number]), table.group(pair.scene)]
        rows.append([*row, *(repr(float(value[number])) for value in values.values())])
    write_text(path, csv_text(rows))


def _places(data: TripletDataModule, task: EvaluationSet) -> list[Box]:
    """Where in its stored square each pair's scene crop lies; for synthetic scenes, which are all of one size."""
    crops = [scene_crop(pair.box, data.margin) for pair in task.pairs]
    width, height = SCENE_SIZE
    return [placed((crop[2] - crop[0]) * width / ((crop[3] - crop[1]) * height), data.aspect) for crop in crops]
