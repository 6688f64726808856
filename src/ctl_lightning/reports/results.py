"""Prints and writes results.json, which `run_report.py` has measured: each metric with its interval, and what was compared."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ctl_lightning.data.evaluation_set import EvaluationSet
from ctl_lightning.metrics.intervals import NOTHING, Interval, as_text
from ctl_lightning.metrics.pair_metrics import PairScores, summarise
from ctl_lightning.runtime.files import write_text

Results = dict[str, Any]
"""The content of results.json."""

IDENTITY = ("protocol", "method", "seed")
"""Options of the config that are repeated in results.json."""

GROUPS = ("all", "seen", "unseen")
"""The groups of pairs that every metric has a value for."""

FEW = 40
"""Test pairs under which an interval is too narrow: of 20 scenes, those of 95 % hold the truth in 92 (docs/evaluation.md)."""

ResultRow = tuple[str, str, float | None, float | None, float | None]
"""(group of pairs, metric, value, low, high)."""


def test_results(task: EvaluationSet, scores: PairScores) -> Results:
    """{"test": the metrics, "pairs": number of pairs in each column of the metrics}."""
    counts = {"all": len(task.pairs), "seen": int(task.seen.sum()), "unseen": int((~task.seen).sum())}
    return {"test": summarise(task, scores), "pairs": counts}


def write_results(path: Path, results: Results) -> None:
    """Writes what was measured to results.json."""
    write_text(path, json.dumps(results, indent=2, allow_nan=False) + "\n")


def flat_table(results: Results) -> list[ResultRow]:
    """All test metrics as rows, one per group and metric, and the hub figures, which have no interval."""
    test = results["test"]
    groups = {name: test[name] for name in GROUPS}
    # A category may be called as a group is.
    taken = (*GROUPS, "hubs")
    groups |= {f"category {name}" if name in taken else name: found for name, found in test["by_category"].items()}
    rows: list[ResultRow] = [
        (group, metric, found["value"], found["low"], found["high"])
        for group, metrics in groups.items()
        for metric, found in metrics.items()
    ]
    return rows + [("hubs", name, value, None, None) for name, value in results.get("hubs", {}).items()]


def print_results(results: Results, console: Console) -> None:
    """Prints the table of metrics and the table of categories."""
    test, pairs = results["test"], results["pairs"]
    measured = results["protocol"] if "data" not in results else f"all pairs of {results['data']['root']}"
    table = Table(title=f"{results['method']} on {measured}, test, 95 % intervals over scenes")
    table.add_column("metric")
    for group in GROUPS:
        table.add_column(f"{group} ({pairs[group]:,} pairs)", justify="right")
    for metric in test["all"]:
        table.add_row(metric, *(as_text(test[group][metric]) for group in GROUPS))
    console.print(table)
    _print_cautions(results, console)
    categories = Table(title="by category")
    shown = ("auc", "lift", "lift_geometry", "hit@10")
    for name in ("category", *shown):
        categories.add_column(name, justify="left" if name == "category" else "right")
    for category, metrics in test["by_category"].items():
        categories.add_row(category, *(as_text(metrics[name]) for name in shown))
    console.print(categories)
    share, skewness = (_plain(results["hubs"][name]) for name in ("share", "skewness"))
    console.print(
        f"hubs: {share} of a category's scenes have its most frequent product among their four nearest (skewness of the ten nearest "
        f"{skewness}); {results['hubs']['coverage']:.3f} of the catalogue is ever among the four"
    )
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
    _print_controls(results, console)
    if "against" in results:
        other = results["against"]
        table = Table(title=f"{results['method']} minus {other['method']} (seed {other['seed']}), the same pairs")
        table.add_column("metric")
        for group in GROUPS:
            table.add_column(f"{group}, p", justify="right")
        for metric in other["difference"]["all"]:
            table.add_row(metric, *(_difference(other["difference"][group][metric]) for group in GROUPS))
        console.print(table)


def _print_cautions(results: Results, console: Console) -> None:
    pairs = results["pairs"]
    if whole := results.get("pairs_without_box"):
        console.print(
            f"in {whole:,} of the {pairs['all']:,} pairs the product is visible: they have no box, so their scenes are used whole"
        )
    if pairs["all"] < FEW:
        console.print(
            f"only {pairs['all']:,} test pairs: intervals of so few are too narrow (docs/evaluation.md, Intervals)"
        )


def _print_controls(results: Results, console: Console) -> None:
    for control, found in results.get("controls", {}).items():
        console.print(
            f"control {control}: auc {as_text(found['all']['auc'])}, seen {as_text(found['seen']['auc'])}, "
            f"unseen {as_text(found['unseen']['auc'])}, lift {as_text(found['all']['lift'])}; look-alikes of what is worn "
            f"{as_text(found.get('look_alikes', NOTHING))}, where it is cut away "
            f"{as_text(results.get('look_alikes', NOTHING))}"
        )


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _difference(found: Interval) -> str:
    if found["value"] is None:
        return "-"
    return f"{found['value']:+.3f} [{found['low']:.3f}, {found['high']:.3f}] {found['p']:.3f}"
