"""Draws curves and maps: training, classifier, distances, confusion, the style space."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ctl_lightning.runtime.plotting import save_figure, short_names


class ClassifierCurves(NamedTuple):
    """Points of the curves on a classifier's sheet.

    Attributes:
        roc: false and true positive rates, (2, n).
        precision_recall: recall and precision, (2, n).
        chosen: false positive rate, true positive rate and precision at the threshold.
        reliability: mean probability, share of compatible samples and number of samples of each bin that has samples,
            (3, bins).
    """

    roc: NDArray[np.float64]
    precision_recall: NDArray[np.float64]
    chosen: tuple[float, float, float]
    reliability: NDArray[np.float64]


def curves(path: Path, rows: Sequence[Mapping[str, float]], lines: Mapping[str, float]) -> None:
    """Draws the training loss and the validation metrics over the steps.

    Args:
        path: PNG file to write.
        rows: rows of metrics.csv.
        lines: name -> height of a dashed line among the metrics, such as the oracle's AUC.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    loss = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    left.plot(*np.array(loss).reshape(-1, 2).T, color="0.75", linewidth=1)
    if len(loss) >= 20:
        width = max(5, len(loss) // 40)
        smooth = np.convolve([value for _, value in loss], np.ones(width) / width, mode="valid")
        left.plot([step for step, _ in loss][width - 1 :], smooth, color="tab:blue")
    left.set(title="training loss", xlabel="step", ylim=(0, None))
    for name in ("val/auc", "val/auc_seen", "val/auc_unseen", "val/auc_shuffled", "val/binary_accuracy"):
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:
            right.plot(*np.array(points).T, marker=".", label=name.removeprefix("val/"))
    for place, (name, height) in enumerate(lines.items()):
        right.axhline(height, color=f"{0.2 + 0.2 * place:.1f}", linestyle="--", linewidth=1, label=name)
    right.axhline(0.5, color="0.9", linewidth=1)
    right.set(title="validation", xlabel="step")
    if right.get_legend_handles_labels()[0]:
        right.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)  # beside the curves
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def classifier_sheet(path: Path, curves: ClassifierCurves) -> None:
    """Draws ROC | precision and recall, with the threshold that validation chose | reliability: what was said, what was true."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    roc, trade, reliability = figure.subplots(1, 3)
    false_rate, true_rate, precision = curves.chosen
    roc.plot(*curves.roc)
    roc.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    roc.plot(false_rate, true_rate, "o", color="black", label="the threshold")
    roc.set(title="ROC", xlabel="incompatible ones called compatible", ylabel="compatible ones found")
    trade.plot(*curves.precision_recall)
    trade.axhline(0.5, color="0.8", linewidth=1)
    trade.plot(true_rate, precision, "o", color="black", label="the threshold")
    trade.set(title="precision and recall", xlabel="recall", ylabel="precision", ylim=(0, 1.05))
    said, true, count = curves.reliability
    reliability.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    reliability.plot(said, true, color="tab:blue", linewidth=1)
    reliability.scatter(said, true, s=8 + 240 * count / count.sum(), color="tab:blue", label="area: how many samples")
    reliability.set(
        title="reliability",
        xlabel="probability that was said",
        ylabel="share that was compatible",
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
    )
    for axes in (roc, trade, reliability):
        axes.legend(fontsize=8, frameon=False, loc="lower right")
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def distance_histograms(path: Path, positive: NDArray[np.float64], negative: NDArray[np.float64]) -> None:
    """Draws the distances of the pairs' true products and seeded negatives, (N,) each; what overlaps cannot be told apart."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    edges = np.histogram_bin_edges(np.concatenate([positive, negative]), 50).tolist()
    axes.hist(positive, edges, alpha=0.6, color="tab:green", label=f"true product, mean {positive.mean():.3f}")
    axes.hist(negative, edges, alpha=0.6, color="tab:red", label=f"negative, mean {negative.mean():.3f}")
    axes.set(title="distances of the test pairs", xlabel="distance", ylabel="pairs")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def confusion(path: Path, categories: Sequence[str], shares: NDArray[np.float64], left_out: int) -> None:
    """Draws (C, C) shares. Rows: category looked for; columns: category of the nearest products, true ones left out.

    Args:
        path: PNG file to write.
        categories: C names.
        shares: their shares, (C, C).
        left_out: number of categories that are not among them.
    """
    names = list(short_names(categories).values())
    size = 2.5 + 0.38 * len(names)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(shares >= 0.005):
        value = shares[row, column]
        colour = "white" if value > 0.5 else "black"
        number = axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
        number.set_in_layout(False)  # it lies inside the axes; measuring hundreds of them takes long
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    title = "categories among the nearest wrong products"
    if left_out:
        title += f"\nthe {len(names)} largest of {len(names) + left_out} categories"
    axes.set(title=title, xlabel="category of the product", ylabel="looked for")
    save_figure(figure, path)


def projection(path: Path, labels: Sequence[str], vectors: NDArray[np.float64]) -> None:
    """Draws embedded products, (n, D), in the two directions in which they vary most (principal components).

    Each of the twenty categories with the most products has a colour.
    """
    centred = vectors - vectors.mean(0)
    _, strength, directions = np.linalg.svd(centred, full_matrices=False)
    places = centred @ directions[:2].T
    shares = strength**2 / max(float((strength**2).sum()), 1e-12)
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab20"]
    largest = {category for category, _ in Counter(labels).most_common(colours.N)}
    other = np.array([label not in largest for label in labels])
    handles = axes.plot(*places[other].T, "o", markersize=2, color="0.8") if other.any() else []
    names = short_names(sorted(largest))
    for number, category in enumerate(names):
        own = np.array([label == category for label in labels])
        handles += axes.plot(*places[own].T, "o", markersize=3, color=colours(number))
    said = [*([f"{len({*labels} - largest)} more categories"] if other.any() else []), *names.values()]
    titles = [f"component {place + 1}: {100 * share:.0f} % of the variance" for place, share in enumerate(shares[:2])]
    axes.set(
        title=f"{len(labels)} products in the style space", **dict(zip(("xlabel", "ylabel"), titles, strict=False))
    )
    # Named here, as matplotlib leaves labels that begin with "_" out.
    figure.legend(handles, said, fontsize=7, frameon=False, loc="outside right upper", markerscale=2)
    save_figure(figure, path)
