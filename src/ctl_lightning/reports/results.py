"""The table that a run is judged by: metrics with intervals, and on synthetic looks the oracle and the attention."""

import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctl_lightning.data.evaluation_set import EvaluationSet, Integers
from ctl_lightning.data.pairs import Box
from ctl_lightning.data.sources.synthetic import Knowledge, Truth
from ctl_lightning.data.triplets import region_centre
from ctl_lightning.metrics.intervals import Floats, Interval, as_text, interval
from ctl_lightning.metrics.retrieval import PairScores, score_pairs, summarise
from ctl_lightning.runtime.files import write_text

Results = dict[str, Any]
"""The content of results.json."""

IDENTITY = ("protocol", "method", "seed")
"""What a config says of itself in results.json."""

Row = tuple[str, str, float | None, float | None, float | None]
"""(group of pairs, metric, value, low, high)."""


def test_results(task: EvaluationSet, scores: PairScores) -> Results:
    """{"test": the metrics, "pairs": how many pairs each column of them has}."""
    counts = {"all": len(task.pairs), "seen": int(task.seen.sum()), "unseen": int((~task.seen).sum())}
    return {"test": summarise(task, scores), "pairs": counts}


def truth_results(task: EvaluationSet, truth: Truth) -> Results:
    """{"oracle": {"auc": ...}, "ceilings": {"global": ..., "local": ...}}: the best AUC that there can be on these pairs."""
    knowledge: tuple[Knowledge, ...] = ("oracle", "global", "local")
    auc = {
        known: interval(score_pairs(task, truth_distances(task, truth, known)).auc, task.scene) for known in knowledge
    }
    return {"oracle": {"auc": auc["oracle"]}, "ceilings": {known: auc[known] for known in knowledge[1:]}}


def truth_distances(task: EvaluationSet, truth: Truth, knowledge: Knowledge) -> Any:
    """The generator's own distance as a function of query indices (n,) and product indices (m,) -> (n, m)."""
    pair_of_query = {query: pair for query, pair in zip(task.query.tolist(), task.pairs, strict=True)}
    rows: dict[int, Floats] = {}

    def distances(queries: Integers, products: Integers) -> Floats:
        names = [task.products[product] for product in products]
        for query in set(queries.tolist()) - rows.keys():  # a query is only ever asked for its own category's products
            rows[query] = truth.distance(pair_of_query[query], names, knowledge)
        return np.stack([rows[query] for query in queries.tolist()])

    return distances


def attention_results(
    task: EvaluationSet,
    attention: Floats,
    boxes: Sequence[Box],
    places: Sequence[Box],
    stored_size: int,
    image_size: int,
    margin: float,
) -> Results:
    """How well the attention finds the garment that decides.

    Args:
        task: the pairs.
        attention: a_i of every query, (Q, R).
        boxes: of the deciding garment of each pair.
        places: of each pair's scene crop in its stored square.
        stored_size: see `region_centre`.
        image_size: see `region_centre`.
        margin: see `region_centre`.

    Returns:
        {"attention": {"pointing": share of pairs whose heaviest region has its centre in the deciding garment,
        "pointing_uniform": the same for a region drawn at random, as uniform attention and chance would,
        "energy": mean weight of all regions whose centre lies in it, "energy_uniform": the same for equal weights}}
    """
    grid = math.isqrt(attention.shape[1])
    inside = np.zeros((len(task.pairs), grid * grid))
    for row, (pair, (left, top, right, bottom)) in enumerate(zip(task.pairs, boxes, strict=True)):
        for region in range(grid * grid):
            x, y = region_centre(region, grid, stored_size, image_size, pair.box, margin, places[row])
            inside[row, region] = left <= x <= right and top <= y <= bottom
    weights = attention[task.query]
    heaviest = weights == weights.max(1, keepdims=True)
    chance = inside.mean(1)
    return {
        "attention": {
            "pointing": interval((heaviest * inside).sum(1) / heaviest.sum(1), task.scene),
            "pointing_uniform": interval(chance, task.scene),
            "energy": interval((weights * inside).sum(1), task.scene),
            "energy_uniform": interval(chance, task.scene),
        }
    }


def versions() -> dict[str, str]:
    """What computed the numbers."""
    packages = ("torch", "torchvision", "lightning", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def environment() -> dict[str, Any]:
    """Where the numbers were computed: versions, commit of the code, devices, the command, the SLURM job."""
    found: dict[str, Any] = {"versions": versions(), "command": shlex.join(sys.argv), "host": platform.node()}
    package = Path(__file__).resolve().parents[1]
    commands = {
        "git_repository": ("rev-parse", "--show-toplevel"),
        "git_commit": ("rev-parse", "HEAD"),
        "git_changes": ("status", "--porcelain", "."),
    }
    for name, words in commands.items():
        try:
            said = subprocess.run(
                ["git", "-C", str(package), *words], capture_output=True, text=True, check=True, timeout=10
            )
        except (OSError, subprocess.SubprocessError):  # no git, or not a repository
            break
        found[name] = bool(said.stdout.strip()) if name == "git_changes" else said.stdout.strip()
        if (
            Path(found["git_repository"]) / "src" / package.name != package
        ):  # an installation within another's repository
            del found[name]
            break
    found["devices"] = [torch.cuda.get_device_name(one) for one in range(torch.cuda.device_count())] or ["cpu"]
    if "SLURM_JOB_ID" in os.environ:
        found["slurm_job"] = os.environ["SLURM_JOB_ID"]
    return found


def write_results(path: Path, results: Results) -> None:
    """Writes results.json."""
    write_text(path, json.dumps(results, indent=2, allow_nan=False) + "\n")


def flat_table(results: Results) -> list[Row]:
    """All test metrics as rows."""
    test = results["test"]
    groups = {name: test[name] for name in ("all", "seen", "unseen")} | test["by_category"]
    return [
        (group, metric, found["value"], found["low"], found["high"])
        for group, metrics in groups.items()
        for metric, found in metrics.items()
    ]


def print_results(results: Results, console: Console) -> None:
    """Prints the table of metrics and the table of categories."""
    test, pairs = results["test"], results["pairs"]
    groups = ("all", "seen", "unseen")
    table = Table(title=f"{results['method']} on {results['protocol']}, test, 95 % intervals over scenes")
    table.add_column("metric")
    for group in groups:
        table.add_column(f"{group} ({pairs[group]:,} pairs)", justify="right")
    for metric in test["all"]:
        table.add_row(metric, *(as_text(test[group][metric]) for group in groups))
    console.print(table)
    categories = Table(title="by category")
    for name in ("category", "auc", "lift", "hit@10"):
        categories.add_column(name, justify="left" if name == "category" else "right")
    for category, metrics in test["by_category"].items():
        categories.add_row(escape(category), *(as_text(metrics[name]) for name in ("auc", "lift", "hit@10")))
    console.print(categories)
    if "oracle" in results:
        ceilings = ", ".join(f"{name} alone {as_text(found)}" for name, found in results["ceilings"].items())
        console.print(f"best possible auc (oracle): {as_text(results['oracle']['auc'])}; ceilings: {ceilings}")
    if "attention" in results:
        found = results["attention"]
        console.print(
            f"heaviest region in the deciding garment: {as_text(found['pointing'])} (uniform attention and chance: "
            f"{as_text(found['pointing_uniform'])}); attention's energy in it: {as_text(found['energy'])}"
        )
    found = results["classifier"]
    console.print(
        f"as a classifier (threshold {found['threshold']:.3f} from validation): accuracy {as_text(found['accuracy'])}, precision "
        f"{as_text(found['precision'])}, recall {as_text(found['recall'])}, F1 {as_text(found['f1'])}, calibration error "
        f"{found['expected_calibration_error']:.3f}"
    )
    for system, found in results["reranking"].items():
        console.print(
            f"re-ranking {found['candidates']:.0f} candidates in {system} order: nDCG {found['given']['value']:.3f} -> "
            f"{found['reranked']['value']:.3f}, gain {as_text(found['gain'])}"
        )
    for control, found in results.get("controls", {}).items():
        console.print(
            f"control {control}: auc {as_text(found['all']['auc'])}, seen {as_text(found['seen']['auc'])}, "
            f"unseen {as_text(found['unseen']['auc'])}"
        )
    if "against" in results:
        other = results["against"]
        table = Table(title=f"{results['method']} minus {other['method']} (seed {other['seed']}), the same pairs")
        table.add_column("metric")
        for group in groups:
            table.add_column(f"{group}, p", justify="right")
        for metric in other["difference"]["all"]:
            table.add_row(metric, *(_difference(other["difference"][group][metric]) for group in groups))
        console.print(table)


def _difference(found: Interval) -> str:
    if found["value"] is None:
        return "-"
    return f"{found['value']:+.3f} [{found['low']:.3f}, {found['high']:.3f}] {found['p']:.3f}"
