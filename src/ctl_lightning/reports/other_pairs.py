"""What is measured of pairs that a checkpoint was not trained on, and what is left out because it has no meaning there."""

from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console

from ctl_lightning.data.evaluation_set import EvaluationSet, alike
from ctl_lightning.data.other_pairs import OtherPairs
from ctl_lightning.metrics.intervals import Interval, as_text
from ctl_lightning.metrics.pair_metrics import compare, score_pairs
from ctl_lightning.reports.results import Results
from ctl_lightning.reports.run_report import RunReport, ScoredSplit
from ctl_lightning.runtime.errors import InputError

NONE_TRAINED_ON = "no product of these data was in training"
"""Why what goes by training pairs is left out."""


def meaningful(test: ScoredSplit) -> ScoredSplit:
    """Ranked pairs without `auc_matched` if no product of the catalogue was in training: it would be `auc`, by another name."""
    if test.task.train_count.any():
        return test
    return replace(test, scores=replace(test.scores, auc_matched=np.full(len(test.task.pairs), np.nan)))


def leave_out(told: RunReport, data: OtherPairs) -> dict[str, str]:
    """Takes out of a report what has no meaning for other pairs.

    Returns:
        Name of what is left out, as in results.json -> why; what is empty is told there, too.
    """
    task, scores = told.test.task, told.test.scores
    left_out = {}
    if not task.train_count.any():
        left_out["seen"] = f"{NONE_TRAINED_ON}: every pair is unseen"
        left_out["auc_matched"] = f"{NONE_TRAINED_ON}: it would be auc"
        left_out["reranking.popularity"] = f"{NONE_TRAINED_ON}: popularity gives them no order"
        del told.results["reranking"]["popularity"]
    elif not task.seen.any():
        left_out["seen"] = "no pair has a product that was in training: every pair is unseen"
    elif task.seen.all():
        left_out["unseen"] = "the product of every pair was in training"
    if np.isnan(scores.auc_shuffled).all():
        left_out["lift"] = "no category has pairs of two scenes"
    if np.isnan(scores.auc_geometry).all():
        left_out["lift_geometry"] = "no category has four pairs with boxes, of several scenes"
    if data.truth is None and data.source.truth(data.root) is not None:
        left_out["oracle"] = "what decides is known by the names of the source's own categories alone"
    return left_out


def difference_on_others(
    first: ScoredSplit, second: ScoredSplit
) -> tuple[dict[str, dict[str, Interval]], dict[str, Any]]:
    """How much better one checkpoint ranks other pairs than a second one, on the pairs that both rank alike.

    Those are the pairs that both are asked with the same negative and against the same products; they are scored anew among
    themselves, as lifts depend on which other pairs there are. Seen and unseen are the first one's.

    Returns:
        The result of `compare`; and {"pairs": number of such pairs, "left_out": ...} for results.json.

    Raises:
        InputError: there is no such pair.
    """
    ours, theirs = alike(first.task, second.task)
    if not ours:
        raise InputError(
            "against: no pair can be ranked by both checkpoints against the same products; measure each by itself, or give a map for both "
            "with categories=FILE"
        )
    task, other = first.task.only(ours), second.task.only(theirs)
    one, two = score_pairs(task, first.ranking.distances), score_pairs(other, second.ranking.distances)
    told: dict[str, Any] = {"pairs": len(ours)}
    counts = _train_counts(task)
    why = None
    if counts != _train_counts(other):
        why = "the two were trained on other pairs, so negatives as popular as the product are others"
    elif not any(counts.values()):
        why = f"{NONE_TRAINED_ON}: it would be auc"
    if why is not None:
        one = replace(one, auc_matched=np.full(len(ours), np.nan))
        told["left_out"] = {"auc_matched": why}
    return compare(task, one, two), told


def _train_counts(task: EvaluationSet) -> dict[str, int]:
    """Product -> number of training pairs, of the products that the pairs are ranked against."""
    ranked = np.flatnonzero(np.isin(task.product_category, task.category))
    return {task.products[product]: int(task.train_count[product]) for product in ranked}


def print_other_pairs(results: Results, console: Console) -> None:
    """Prints what is told of other pairs beside the numbers: categories, what was trained on, what is left out."""
    data, before = results["data"], results["trained_on"]
    for theirs, ours in data["categories"].items():
        if theirs != ours:
            console.print(f"category {theirs!r} is {ours!r} of the checkpoint", markup=False)
    for name, lost in data["unmatched"].items():
        console.print(
            f"category {name!r} is left out, as the checkpoint does not know it: {lost['pairs']:,} pairs, {lost['products']:,} products; categories=FILE can name it",
            markup=False,
        )
    for kind in ("scenes", "products"):
        found = before[kind]
        console.print(
            f"trained on before: of {found['of']:,} {kind} {_number(found['same_id'])} by their id, {_number(found['same_photo'])} more by "
            "their photo"
        )
        if found["other_photo"]:
            console.print(
                f"{found['other_photo']:,} {kind} have the id of one that it was trained on, and another photo: they count as other {kind}"
            )
        if found["not_compared"]:
            console.print(
                f"{found['not_compared']:,} {kind} are taken for what it was trained on by their id alone, as the photos of both are not on "
                "this machine: they may be other things"
            )
    if before["pairs"]:
        console.print(
            f"{before['pairs']:,} of the {data['pairs']:,} pairs are of scenes that it was trained on: their numbers are too good"
        )
    found = results["classifier"]
    console.print(f"its probabilities on these pairs: Brier {as_text(found['brier'])}, ROC AUC {found['roc_auc']:.3f}")
    for name, why in results["left_out"].items():
        console.print(f"left out: {name}: {why}")
    if "against" in results:
        console.print(
            f"the difference is of {results['against']['compared']['pairs']:,} pairs that both rank against the same products"
        )
        for name, why in results["against"]["compared"].get("left_out", {}).items():
            console.print(f"left out of the difference: {name}: {why}")


def _number(count: int | None) -> str:
    return "an unknown number" if count is None else f"{count:,}"
