"""Draws dots with 95 % intervals: of categories, methods, and settings of a sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctl_lightning.runtime.plotting import save_figure, short_names


def category_intervals(
    path: Path, methods: Mapping[str, Mapping[str, Mapping[str, float | None]]], left_out: int
) -> None:
    """Draws the AUC of categories with its 95 % interval, one dot per method.

    Args:
        path: PNG file to write.
        methods: name of a method -> category -> {"value", "low", "high"}.
        left_out: number of categories that are not among them.
    """
    categories = list(dict.fromkeys(category for found in methods.values() for category in found))
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(categories) * max(1, len(methods) / 2)), layout="constrained")
    axes = figure.subplots()
    for number, (name, found) in enumerate(methods.items()):
        shift = 0.5 * ((number + 0.5) / len(methods) - 0.5)
        rows = [(row + shift, found[category]) for row, category in enumerate(categories) if category in found]
        _dots(axes, rows, f"C{number}", name)
    axes.axvline(0.5, color="0.8", linewidth=1)
    axes.set_yticks(range(len(categories)), list(short_names(categories).values()), fontsize=8)
    axes.invert_yaxis()
    if left_out:
        axes.set_title(f"the {len(categories)} largest of {len(categories) + left_out} categories", fontsize=9)
    axes.set(xlabel="test AUC, 95 % interval")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def method_intervals(
    path: Path,
    auc: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    lifts: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    lines: Mapping[str, Mapping[str, float | None]],
) -> None:
    """Draws the methods from top to bottom: AUC over all, seen and unseen products | lifts; dots with 95 % intervals.

    Args:
        path: PNG file to write.
        auc: method -> group of pairs -> {"value", "low", "high"}.
        lifts: "lift" and what is measured beside it -> method -> {"value", "low", "high"}; a method can be missing.
        lines: name -> {"value", ...}: best possible AUC, drawn as a dashed line.
    """
    figure = Figure(figsize=(11, 1.6 + 0.42 * len(auc)), layout="constrained")
    figure.suptitle(path.stem, fontsize=9)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    colours = {"all": "black", "seen": "tab:blue", "unseen": "tab:orange"}
    for number, (group, colour) in enumerate(colours.items()):
        rows = [(row + 0.22 * (number - 1), found[group]) for row, found in enumerate(auc.values())]
        _dots(left, rows, colour, f"{group} products")
    for number, (name, values) in enumerate(lifts.items()):
        shift = 0.22 * (number - (len(lifts) - 1) / 2)
        rows = [(row + shift, values[method]) for row, method in enumerate(auc) if method in values]
        _dots(right, rows, ("black", "tab:green")[number], name)
    for place, (name, found) in enumerate(lines.items()):
        if found["value"] is not None:
            left.axvline(found["value"], color=f"{0.2 + 0.2 * place:.1f}", linestyle="--", linewidth=1, label=name)
    left.axvline(0.5, color="0.85", linewidth=1)
    right.axvline(0, color="0.85", linewidth=1)
    left.set_yticks(range(len(auc)), list(auc))
    left.invert_yaxis()
    left.set(title="test AUC", xlabel="mean over seeds, 95 % interval over scenes")
    right.set(title="lift: what looking at the scene gains", xlabel="AUC minus AUC of other scenes")
    if len(lifts) > 1:
        right.legend(fontsize=8, frameon=False)
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def setting_intervals(
    path: Path, panels: Mapping[str, Mapping[str, tuple[Mapping[str, float | None], Sequence[float]]]]
) -> None:
    """Draws the settings of a sweep from top to bottom, one panel per metric.

    Each setting has the mean over seeds with its interval, and a light dot per seed.

    Args:
        path: PNG file to write.
        panels: title of a panel -> name of a setting -> ({"value", "low", "high"}, values of the seeds).
    """
    names = list(next(iter(panels.values())))
    figure = Figure(figsize=(2 + 2.6 * len(panels), 1.6 + 0.36 * len(names)), layout="constrained")
    figure.suptitle(
        "mean over seeds with 95 % interval (cut at the edges), best validation first; light: each seed", fontsize=9
    )
    for axes, (title, found) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        spread = [value for _, values in found.values() for value in values]
        for place, (_, values) in enumerate(found.values()):
            axes.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.35, markersize=4)
        _dots(axes, [(place, mean) for place, (mean, _) in enumerate(found.values())], "black", "mean")
        if spread:  # the interval of two seeds is so wide that it would hide what differs
            edge = 0.6 * (max(spread) - min(spread)) + 0.005
            axes.set_xlim(min(spread) - edge, max(spread) + edge)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.3)
        axes.locator_params(axis="x", nbins=4)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    save_figure(figure, path)


def _dots(axes: Axes, rows: Sequence[tuple[float, Mapping[str, float | None]]], colour: str, label: str) -> None:
    known = [
        (place, found["value"], found["low"], found["high"]) for place, found in rows if found["value"] is not None
    ]
    places, values, low, high = np.array(known, float).reshape(-1, 4).T
    # Rounding can put an end of an interval on the wrong side of its value.
    errors = [np.maximum(values - low, 0), np.maximum(high - values, 0)]
    axes.errorbar(values, places, xerr=errors, fmt="o", markersize=4, linewidth=1, color=colour, label=label)
