"""Figures from arrays: curves, retrieval grids, attention overlays. No logger, no model, no data module."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from ctl_lightning.data.pairs import Box
from ctl_lightning.runtime.files import replacing

Pixels = NDArray[np.uint8]

HIT, KNOWN, MISS = "tab:green", "tab:blue", "0.8"


class Shown(NamedTuple):
    """A product in a retrieval grid: its picture, whether it is the true one, whether the same scene names it too."""

    image: Pixels
    hit: bool
    masked: bool


class Retrieval(NamedTuple):
    """One row of a retrieval grid.

    Attributes:
        category: its name.
        scene: the scene crop, (S, S, 3).
        aspect: width / height of the scene crop before it was made square.
        truth: the true product.
        rank: of the true product.
        candidates: how many products were ranked.
        nearest: the nearest products, best first.
    """

    category: str
    scene: Pixels
    aspect: float
    truth: Pixels
    rank: float
    candidates: int
    nearest: Sequence[Shown]


class Overlay(NamedTuple):
    """One row of an attention picture: a scene crop, its aspect, and category -> weights (grid, grid)."""

    scene: Pixels
    aspect: float
    maps: Mapping[str, NDArray[np.float64]]


class Cut(NamedTuple):
    """One pair of a crop sheet.

    Attributes:
        category: its name.
        scene: the whole scene, (H, W, 3).
        box: of the product in the scene, normalised.
        crop: what is left of the scene, normalised.
        stored: the scene crop as the network sees it, (S, S, 3).
        product: likewise, (S, S, 3).
    """

    category: str
    scene: Pixels
    box: Box
    crop: Box
    stored: Pixels
    product: Pixels


class Completed(NamedTuple):
    """One category of a look.

    Attributes:
        category: its name.
        attention: the scene and what the attention looks at, (H, W, 3); None: the method has none.
        products: caption and photo of each, the best first; without a photo, why.
    """

    category: str
    attention: Pixels | None
    products: Sequence[tuple[str, Pixels | str]]


class ClassifierCurves(NamedTuple):
    """What the sheet of a classifier shows.

    Attributes:
        roc: false and true positive rates, (2, n).
        precision_recall: recall and precision, (2, n).
        chosen: false positive rate, true positive rate and precision at the threshold.
        reliability: of each bin that has samples: mean probability, share of true ones, number of samples, (3, bins).
    """

    roc: NDArray[np.float64]
    precision_recall: NDArray[np.float64]
    chosen: tuple[float, float, float]
    reliability: NDArray[np.float64]


def crop_sheet(path: Path, rows: Sequence[Cut]) -> None:
    """Whole scene with the product's box (blue) and the scene crop (green) | the stored crop | the stored product; two a row."""
    lines = (len(rows) + 1) // 2
    figure = Figure(figsize=(9.5, 2.0 * lines), layout="constrained")
    grid = figure.subplots(lines, 6, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    figure.suptitle(
        "blue: the product's box; green: the scene crop, in which nothing of the product is left", fontsize=8
    )
    for number, row in enumerate(rows):
        whole, stored, product = grid[number // 2, 3 * (number % 2) : 3 * (number % 2) + 3]
        whole.set_axis_on()
        _show(whole, row.scene)
        height, width = row.scene.shape[:2]
        for colour, (left, top, right, bottom) in ((HIT, row.crop), (KNOWN, row.box)):
            corner = (left * width, top * height)
            size = ((right - left) * width, (bottom - top) * height)
            whole.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=2))
        whole.set_title(_short(row.category), fontsize=7)
        for axes, picture, title in ((stored, row.stored, "scene crop"), (product, row.product, "product")):
            axes.set_axis_on()
            _show(axes, picture)
            axes.set_title(title, fontsize=7)
    _save(figure, path)


def curves(path: Path, rows: Sequence[Mapping[str, float]], lines: Mapping[str, float]) -> None:
    """The training loss and the validation metrics over the steps.

    Args:
        path: of the PNG.
        rows: of metrics.csv.
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
    _save(figure, path)


def retrieval_grid(path: Path, rows: Sequence[Retrieval]) -> None:
    """Scene crop | true product | nearest products; green: the true one, blue: another product of the scene, grey: a miss."""
    columns = 2 + max(len(row.nearest) for row in rows)
    figure = Figure(figsize=(1.15 * columns, 1.45 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for number, row in enumerate(rows):
        _show(grid[number, 0], _with_aspect(row.scene, row.aspect))
        grid[number, 0].set_title(_short(row.category), fontsize=7)
        _show(grid[number, 1], row.truth, HIT)
        grid[number, 1].set_title(f"true: rank {row.rank:g} / {row.candidates}", fontsize=7)
        for place, axes in enumerate(grid[number, 2:]):
            if place < len(row.nearest):
                product = row.nearest[place]
                _show(axes, product.image, HIT if product.hit else KNOWN if product.masked else MISS)
                axes.set_title(f"{place + 1}", fontsize=7)
            else:
                axes.set_visible(False)
    _save(figure, path)


def attention_overlays(path: Path, rows: Sequence[Overlay]) -> None:
    """Each scene crop, and what its attention looks at for each category; the number is the heaviest region over the mean."""
    columns = 1 + max(len(row.maps) for row in rows)
    figure = Figure(figsize=(1.5 * columns, 1.85 * len(rows)), layout="constrained")
    figure.suptitle("× n: the heaviest region has n times the mean weight", fontsize=8)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for number, row in enumerate(rows):
        scene = _with_aspect(row.scene, row.aspect)
        _show(grid[number, 0], scene)
        grid[number, 0].set_title("scene crop", fontsize=7)
        grey = np.repeat(96 + scene.mean(2, keepdims=True) * 0.6, 3, axis=2).astype(
            np.uint8
        )  # light: the map darkens it
        heaviest = max(weights.max() for weights in row.maps.values())
        for axes, (category, weights) in zip(grid[number, 1:], row.maps.items(), strict=False):
            _show(axes, grey)
            size = (scene.shape[1], scene.shape[0])
            smooth = np.asarray(Image.fromarray(weights.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
            axes.imshow(smooth, cmap="inferno", alpha=0.5, vmin=0, vmax=heaviest)
            axes.set_title(f"{_short(category)}\n× {weights.max() / weights.mean():.1f}", fontsize=7)
        for axes in grid[number, 1 + len(row.maps) :]:
            axes.set_visible(False)
    _save(figure, path)


def attended(scene: Pixels, seen: Box, weights: NDArray[np.float64]) -> Pixels:
    """A scene in grey with the weights of its regions in colour; darker where the network does not look at all.

    Args:
        scene: (H, W, 3).
        seen: the part of it that the regions cover, normalised; it can reach beyond the scene.
        weights: of the regions, (grid, grid), rows from top to bottom; the heaviest is the brightest.

    Returns:
        (H, W, 3)
    """
    height, width = scene.shape[:2]
    grey = 96 + scene.mean(2, keepdims=True) * 0.6  # light: the map darkens it
    left, top, right, bottom = (
        round(edge * side) for edge, side in zip(seen, (width, height, width, height), strict=True)
    )
    size = (max(1, right - left), max(1, bottom - top))
    smooth = np.asarray(Image.fromarray(weights.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
    heat = colormaps["inferno"](np.clip(smooth / weights.max(), 0, 1))[..., :3] * 255
    picture = np.broadcast_to(grey * 0.45, scene.shape).copy()
    rows, columns = slice(max(0, top), min(height, bottom)), slice(max(0, left), min(width, right))
    inside = heat[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    picture[rows, columns] = 0.5 * grey[rows, columns] + 0.5 * inside
    return picture.round().astype(np.uint8)


def boxed(scene: Pixels, box: Box, kept: Box) -> Pixels:
    """A scene, (H, W, 3), with a box drawn in it, and pale but for the part that is kept."""
    height, width = scene.shape[:2]
    (left, top, right, bottom), inside = (
        [round(edge * side) for edge, side in zip(part, (width, height, width, height), strict=True)]
        for part in (box, kept)
    )
    picture = (255 - (255 - scene.astype(float)) * 0.3).astype(np.uint8)
    rows, columns = slice(inside[1], inside[3]), slice(inside[0], inside[2])
    picture[rows, columns] = scene[rows, columns]
    line = max(2, round(max(height, width) / 150))
    for rows, columns in (
        (slice(top, top + line), slice(left, right)),
        (slice(max(0, bottom - line), bottom), slice(left, right)),
        (slice(top, bottom), slice(left, left + line)),
        (slice(top, bottom), slice(max(0, right - line), right)),
    ):
        picture[rows, columns] = (31, 119, 180)  # tab:blue
    return picture


def look_sheet(path: Path, scene: Pixels, rows: Sequence[Completed]) -> None:
    """The scene | a row a category: what the attention looks at, and the best products with their captions."""
    columns = max((len(row.products) for row in rows), default=0)
    figure = Figure(figsize=(2.6 + 1.5 * (columns + 1), 0.3 + 1.95 * max(len(rows), 2)), layout="constrained")
    grid = figure.add_gridspec(max(len(rows), 2), columns + 2, width_ratios=[1.8, *[1] * (columns + 1)])
    figure.suptitle(
        "rank · distance (smaller goes better) · probability; dark or pale: what is not looked at", fontsize=8
    )
    whole = figure.add_subplot(grid[:2, 0])
    _show(whole, scene)
    whole.set_title("the scene", fontsize=8)
    for number, row in enumerate(rows):
        axes = figure.add_subplot(grid[number, 1])
        _show(axes, scene if row.attention is None else row.attention)
        axes.set_title(_short(row.category), fontsize=8, parse_math=False)
        for place, (caption, photo) in enumerate(row.products):
            axes = figure.add_subplot(grid[number, 2 + place])
            axes.set_title(caption, fontsize=7, parse_math=False)
            if isinstance(photo, str):
                axes.text(
                    0.5,
                    0.5,
                    fill(photo, 20),
                    ha="center",
                    va="center",
                    fontsize=6,
                    transform=axes.transAxes,
                    parse_math=False,
                )
                axes.set(xticks=[], yticks=[])
            else:
                _show(axes, photo, MISS)
    _save(figure, path)


def classifier_sheet(path: Path, curves: ClassifierCurves) -> None:
    """ROC | precision and recall, with the threshold that validation chose | reliability: what was said, and what was true."""
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
    _save(figure, path)


def distance_histograms(path: Path, positive: NDArray[np.float64], negative: NDArray[np.float64]) -> None:
    """How far the true products of the pairs are, and their seeded negatives; (N,) each. What overlaps can not be told apart."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    edges = np.histogram_bin_edges(np.concatenate([positive, negative]), 50).tolist()
    axes.hist(positive, edges, alpha=0.6, color="tab:green", label=f"true product, mean {positive.mean():.3f}")
    axes.hist(negative, edges, alpha=0.6, color="tab:red", label=f"negative, mean {negative.mean():.3f}")
    axes.set(title="distances of the test pairs", xlabel="distance", ylabel="pairs")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def confusion(path: Path, categories: Sequence[str], shares: NDArray[np.float64]) -> None:
    """Rows: category that is looked for; columns: that of the nearest products, true ones left out; (C, C) shares."""
    names = [_short(category) for category in categories]
    size = 2.5 + 0.45 * len(names)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(shares >= 0.005):
        value = shares[row, column]
        axes.text(
            column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if value > 0.5 else "black"
        )
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set(title="categories among the nearest wrong products", xlabel="category of the product", ylabel="looked for")
    _save(figure, path)


def projection(path: Path, labels: Sequence[str], vectors: NDArray[np.float64]) -> None:
    """The two directions in which embedded products vary most (principal components), a colour a category; vectors (n, D)."""
    centred = vectors - vectors.mean(0)
    _, strength, directions = np.linalg.svd(centred, full_matrices=False)
    places = centred @ directions[:2].T
    shares = strength**2 / max(float((strength**2).sum()), 1e-12)
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab20"]
    for number, category in enumerate(sorted(set(labels))):
        own = np.array([label == category for label in labels])
        axes.plot(*places[own].T, "o", markersize=3, color=colours(number % 20), label=_short(category))
    titles = [f"component {place + 1}: {100 * share:.0f} % of the variance" for place, share in enumerate(shares[:2])]
    axes.set(
        title=f"{len(labels)} products in the style space", **dict(zip(("xlabel", "ylabel"), titles, strict=False))
    )
    figure.legend(fontsize=7, frameon=False, loc="outside right upper", markerscale=2)
    _save(figure, path)


def category_intervals(path: Path, methods: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> None:
    """The AUC of every category with its 95 % interval, a dot a method.

    Args:
        path: of the PNG.
        methods: name -> category -> {"value", "low", "high"}.
    """
    categories = list(dict.fromkeys(category for found in methods.values() for category in found))
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(categories) * max(1, len(methods) / 2)), layout="constrained")
    axes = figure.subplots()
    for number, (name, found) in enumerate(methods.items()):
        shift = 0.5 * ((number + 0.5) / len(methods) - 0.5)
        rows = [(row + shift, found[category]) for row, category in enumerate(categories) if category in found]
        _dots(axes, rows, f"C{number}", name)
    axes.axvline(0.5, color="0.8", linewidth=1)
    axes.set_yticks(
        range(len(categories)), [_short(category).replace("\n", " ") for category in categories], fontsize=8
    )
    axes.invert_yaxis()
    axes.set(xlabel="test AUC, 95 % interval")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def method_intervals(
    path: Path,
    auc: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    lift: Mapping[str, Mapping[str, float | None]],
    lines: Mapping[str, Mapping[str, float | None]],
) -> None:
    """Methods from top to bottom: AUC over all, seen and unseen products | lift; dots with 95 % intervals.

    Args:
        path: of the PNG.
        auc: method -> group of pairs -> {"value", "low", "high"}.
        lift: method -> {"value", "low", "high"}.
        lines: name -> {"value", ...}: what is the best possible AUC, as a dashed line.
    """
    figure = Figure(figsize=(11, 1.6 + 0.42 * len(auc)), layout="constrained")
    figure.suptitle(path.stem, fontsize=9)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    colours = {"all": "black", "seen": "tab:blue", "unseen": "tab:orange"}
    for number, (group, colour) in enumerate(colours.items()):
        rows = [(row + 0.22 * (number - 1), found[group]) for row, found in enumerate(auc.values())]
        _dots(left, rows, colour, f"{group} products")
    _dots(right, list(enumerate(lift.values())), "black", "lift")
    for place, (name, found) in enumerate(lines.items()):
        if found["value"] is not None:
            left.axvline(found["value"], color=f"{0.2 + 0.2 * place:.1f}", linestyle="--", linewidth=1, label=name)
    left.axvline(0.5, color="0.85", linewidth=1)
    right.axvline(0, color="0.85", linewidth=1)
    left.set_yticks(range(len(auc)), list(auc))
    left.invert_yaxis()
    left.set(title="test AUC", xlabel="mean over seeds, 95 % interval over scenes")
    right.set(title="lift: what looking at the scene gains", xlabel="AUC minus AUC of shuffled scenes")
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def setting_intervals(
    path: Path, panels: Mapping[str, Mapping[str, tuple[Mapping[str, float | None], Sequence[float]]]]
) -> None:
    """Settings of a sweep from top to bottom, a panel a metric: the mean over seeds with its interval, and a light dot a seed.

    Args:
        path: of the PNG.
        panels: title -> setting -> ({"value", "low", "high"}, the seeds' values).
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
        if spread:  # two seeds have an interval that would hide what differs
            edge = 0.6 * (max(spread) - min(spread)) + 0.005
            axes.set_xlim(min(spread) - edge, max(spread) + edge)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.3)
        axes.locator_params(axis="x", nbins=4)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    _save(figure, path)


def _dots(axes: Axes, rows: Sequence[tuple[float, Mapping[str, float | None]]], colour: str, label: str) -> None:
    known = [
        (place, found["value"], found["low"], found["high"]) for place, found in rows if found["value"] is not None
    ]
    places, values, low, high = np.array(known, float).reshape(-1, 4).T
    errors = [np.maximum(values - low, 0), np.maximum(high - values, 0)]  # a rounding can put an end inside
    axes.errorbar(values, places, xerr=errors, fmt="o", markersize=4, linewidth=1, color=colour, label=label)


def _short(category: str) -> str:
    """The last part of a category path; with the first one if there are but two."""
    parts = category.split("|")
    return "\n".join(parts) if len(parts) == 2 and len(category) < 26 else fill(parts[-1], 18)


def _with_aspect(image: Pixels, aspect: float) -> Pixels:
    height, width = image.shape[:2]
    scale = 1 / max(aspect, 1)
    size = (max(1, round(width * aspect * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _show(axes: Axes, image: NDArray[np.generic], border: str | None = None) -> None:
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=border is not None, color=border or "none", linewidth=2.5 if border in (HIT, KNOWN) else 1)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
