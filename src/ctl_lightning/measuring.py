"""Everything that results.json says of a trained network, and the pictures beside it: for `train` and for `evaluate`."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ctl_lightning.classifier import (
    Classifier,
    Judged,
    classifier_results,
    fit_classifier,
    samples,
)
from ctl_lightning.data.crop import scene_crop
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.evaluation import EvaluationSet
from ctl_lightning.data.files import write_text
from ctl_lightning.data.images import placed
from ctl_lightning.data.pairs import Box
from ctl_lightning.data.synthetic import SCENE_SIZE, SyntheticLooks
from ctl_lightning.looks import attention_rows, classifier_curves, retrieval_rows
from ctl_lightning.metrics import PairScores, metric_values, score_pairs
from ctl_lightning.module import CompleteTheLook
from ctl_lightning.pictures import attention_overlays, category_intervals, classifier_sheet, retrieval_grid
from ctl_lightning.ranking import Ranked
from ctl_lightning.reranking import reranking_results
from ctl_lightning.results import Results, attention_results, test_results, truth_results


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
    module: CompleteTheLook,
    test: Scored,
    classifier: Classifier,
    categories: Mapping[str, Results],
) -> dict[str, Path]:
    """Draws what there is to look at.

    Args:
        folder: of the PNGs.
        data: set up.
        module: the network, for its attention.
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
    if test.ranking.attention().shape[1]:
        pictures["attention"] = folder / "attention.png"
        attention_overlays(pictures["attention"], attention_rows(data, test.task, module))
    return pictures


def write_pairs(path: Path, test: Scored) -> None:
    """Writes pairs.csv: a row a test pair, with what it is and how it was ranked: for tests of one's own, and for `paper`."""
    values = metric_values(test.scores) | {"distance": test.scores.positive, "distance_negative": test.scores.negative}
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(["scene", "bbox", "product", "category", "seen", *values])
    for number, pair in enumerate(test.task.pairs):
        box = ",".join(map(str, pair.box))
        row = [pair.scene, box, pair.product, pair.category, int(test.task.seen[number])]
        table.writerow([*row, *(repr(float(value[number])) for value in values.values())])
    write_text(path, lines.getvalue())


def _places(data: TripletDataModule, task: EvaluationSet) -> list[Box]:
    """Where in its stored square each pair's scene crop lies; for synthetic scenes, which are all of one size."""
    crops = [scene_crop(pair.box, data.margin) for pair in task.pairs]
    width, height = SCENE_SIZE
    return [placed((crop[2] - crop[0]) * width / ((crop[3] - crop[1]) * height), data.aspect) for crop in crops]
