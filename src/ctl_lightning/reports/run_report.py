"""Everything that results.json says of a trained network, and the pictures beside it: for `train` and for `evaluate`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ctl_lightning.data.crop import scene_crop
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.evaluation_set import EvaluationSet
from ctl_lightning.data.images import placed
from ctl_lightning.data.pairs import Box
from ctl_lightning.data.sources.drawing import SCENE_SIZE
from ctl_lightning.data.sources.synthetic import SyntheticLooks
from ctl_lightning.metrics.classification import (
    Classifier,
    Judged,
    classifier_results,
    fit_classifier,
    samples,
)
from ctl_lightning.metrics.ground_truth import attention_results, truth_results
from ctl_lightning.metrics.intervals import Floats
from ctl_lightning.metrics.ranking import Ranked, Ranking
from ctl_lightning.metrics.reranking import reranking_results
from ctl_lightning.metrics.retrieval import PairScores, metric_values, score_pairs
from ctl_lightning.models.components.network import Network
from ctl_lightning.reports.dashboards import Curve, Exhibit, Table
from ctl_lightning.reports.examples import (
    attention_rows,
    classifier_curves,
    embedded_products,
    hard_negatives,
    retrieval_rows,
)
from ctl_lightning.reports.figures.curves import classifier_sheet, confusion, distance_histograms, projection
from ctl_lightning.reports.figures.grids import attention_overlays, retrieval_grid
from ctl_lightning.reports.figures.intervals import category_intervals
from ctl_lightning.reports.results import Results, flat_table, test_results
from ctl_lightning.runtime.csv_files import csv_text
from ctl_lightning.runtime.files import write_text


@dataclass(frozen=True)
class Scored:
    """A split, ranked.

    Attributes:
        task: what was asked.
        ranking: the distances.
        scores: of every pair.
    """

    task: EvaluationSet
    ranking: Ranked
    scores: PairScores

    @property
    def judged(self) -> Judged:
        """The pairs and their seeded negatives as samples for a classifier."""
        return samples(self.scores, self.task.scene)

    @cached_property
    def confusion(self) -> Floats:
        """See `hard_negatives`: for the picture and for the table."""
        return hard_negatives(self.task, self.ranking.distances)


def scored(task: EvaluationSet, ranking: Ranked) -> Scored:
    """Scores every pair of a ranked split."""
    return Scored(task, ranking, score_pairs(task, ranking.distances))


def measure(
    data: TripletDataModule, validation: Scored, test: Scored, identity: Mapping[str, object]
) -> tuple[Results, Classifier]:
    """What the test split says, with a classifier that was chosen on the validation split.

    Args:
        data: set up.
        validation: ranked; chooses threshold and probability.
        test: ranked.
        identity: "protocol", "method", "seed".
    """
    classifier = fit_classifier(validation.judged)
    results: Results = {**identity} | test_results(test.task, test.scores)
    results["classifier"] = classifier_results(classifier, test.judged, len(validation.task.pairs))
    results["reranking"] = reranking_results(test.task, test.ranking.distances)
    if isinstance(data.source, SyntheticLooks):
        truth = data.source.truth(data.root)
        results |= truth_results(test.task, truth)
        attention = test.ranking.attention()
        if attention.shape[1]:
            boxes = [truth.deciding_box(pair) for pair in test.task.pairs]
            results |= attention_results(
                test.task,
                attention,
                boxes,
                _places(data, test.task),
                data.stored_size,
                data.image_size,
                data.margin,
            )
    return results, classifier


def draw(
    folder: Path,
    data: TripletDataModule,
    network: Network,
    test: Scored,
    classifier: Classifier,
    categories: Mapping[str, Results],
) -> dict[str, Path]:
    """Draws what there is to look at.

    Args:
        folder: of the PNGs.
        data: set up.
        network: for its attention.
        test: ranked.
        classifier: of `measure`.
        categories: name of a method -> its results; whose AUC is to be shown by category.

    Returns:
        Name -> path.
    """
    pictures = {name: folder / f"{name}.png" for name in ("retrieval", "classifier", "categories")}
    retrieval_grid(pictures["retrieval"], retrieval_rows(data, test.task, test.ranking.distances, test.scores))
    classifier_sheet(pictures["classifier"], classifier_curves(classifier, test.judged))
    category_intervals(
        pictures["categories"],
        {
            name: {category: found["auc"] for category, found in results["test"]["by_category"].items()}
            for name, results in categories.items()
        },
    )
    pictures["distances"] = folder / "distances.png"
    distance_histograms(pictures["distances"], test.scores.positive, test.scores.negative)
    if isinstance(test.ranking, Ranking):
        pictures |= {name: folder / f"{name}.png" for name in ("confusion", "embedding")}
        confusion(pictures["confusion"], test.task.categories, test.confusion)
        projection(pictures["embedding"], *embedded_products(test.task, test.ranking))
    if test.ranking.attention().shape[1]:
        pictures["attention"] = folder / "attention.png"
        attention_overlays(pictures["attention"], attention_rows(data, test.task, network))
    return pictures


def exhibit(test: Scored, classifier: Classifier, results: Results, pictures: Mapping[str, Path]) -> Exhibit:
    """What a logger with a page is shown at the end: the pictures, and the numbers behind them."""
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
    curves = classifier_curves(classifier, test.judged)
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
            "test/roc": Curve("incompatible ones called compatible", "compatible ones found", _thinned(curves.roc)),
            "test/precision_recall": Curve("recall", "precision", _thinned(curves.precision_recall)),
        },
        embedding,
    )


def _thinned(points: Floats) -> Floats:
    """At most 200 of the points (2, n) of a curve, the ends among them."""
    count = points.shape[1]
    return points[:, np.unique(np.linspace(0, count - 1, min(count, 200)).round().astype(int))]


def write_pairs(path: Path, test: Scored) -> None:
    """Writes pairs.csv: a row a test pair, with what it is and how it was ranked: for tests of one's own, and for `paper`."""
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
