"""The AUC of a pair with other scenes in its scene's place, against slow loops, by hand, and where the cue is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from factories import table_distances, task

from ctl_lightning.data.evaluation_set import EvaluationSet
from ctl_lightning.data.pairs import NO_BOX, Pair
from ctl_lightning.metrics import other_scenes
from ctl_lightning.metrics.intervals import Floats
from ctl_lightning.metrics.other_scenes import most_alike
from ctl_lightning.metrics.pair_metrics import score_pairs, summarise


def boxed(given: EvaluationSet, seed: int = 5, unboxed: int = 0) -> EvaluationSet:
    """The same pairs with boxes on a coarse grid, so that several are equal, and some without a box."""
    random = np.random.default_rng(seed)
    corners = random.integers(0, 4, (len(given.pairs), 2)) / 8
    boxes = np.concatenate([corners, corners + random.integers(1, 4, (len(given.pairs), 2)) / 8], 1)
    boxes[random.permutation(len(boxes))[:unboxed]] = NO_BOX
    return with_boxes(given, boxes)


def with_boxes(given: EvaluationSet, boxes: Floats) -> EvaluationSet:
    pairs = zip(given.pairs, boxes.tolist(), strict=True)
    return replace(given, pairs=tuple(pair._replace(box=tuple(box)) for pair, box in pairs))


def sharing(given: EvaluationSet) -> EvaluationSet:
    """The same pairs, where those of one scene and category share a query: their box holds several products."""
    keys = [(f"s{scene}", int(category)) for scene, category in zip(given.scene, given.category, strict=True)]
    queries = list(dict.fromkeys(keys))
    return replace(given, queries=tuple(queries), query=np.array([queries.index(key) for key in keys]))


def auc_with(given: EvaluationSet, table: Floats, pair: int, query: int) -> float:
    """The AUC of a pair's product in a query's row of distances, product by product."""
    own, farther = table[query, given.positive[pair]], []
    for product in range(len(given.products)):
        if given.product_category[product] != given.category[pair] or product == given.positive[pair]:
            continue
        if product not in given.masked[pair]:
            farther.append(float(table[query, product] > own) + 0.5 * float(table[query, product] == own))
    return float(np.mean(farther))


def others_of(given: EvaluationSet, pair: int) -> list[int]:
    return [
        other
        for other in range(len(given.pairs))
        if given.category[other] == given.category[pair] and given.scene[other] != given.scene[pair]
    ]


def alike_of(given: EvaluationSet, pair: int) -> list[int]:
    """The pairs whose boxes are most like that of a pair, written down as it is defined."""

    def features(one: int) -> Floats:
        left, top, right, bottom = given.pairs[one].box
        width, height = right - left, bottom - top
        return np.array([left, top, right, bottom, width, height, width * height])

    of_category = [
        n for n in range(len(given.pairs)) if given.category[n] == given.category[pair] and given.pairs[n].box != NO_BOX
    ]
    if pair not in of_category:
        return []
    spread = np.std([features(n) for n in of_category], axis=0)
    apart = {
        n: float(np.linalg.norm((features(n) - features(pair)) / np.where(spread > 0, spread, 1)).round(9))
        for n in of_category
        if given.scene[n] != given.scene[pair]
    }
    return sorted(apart, key=lambda n: (apart[n], n))[: min(10, len(of_category) // 4)]


@pytest.mark.parametrize("block", [256, 7])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_both_are_a_slow_loops(monkeypatch: pytest.MonkeyPatch, block: int, ties: bool, shared: bool) -> None:
    monkeypatch.setattr(other_scenes, "BLOCK", block)
    given = boxed(task(pairs=90), unboxed=8)
    given = sharing(given) if shared else given
    assert sum(len(masked) > 0 for masked in given.masked) > 50
    table = np.random.default_rng(1).normal(size=(90, 40))
    table = np.round(table) if ties else table
    scores = score_pairs(given, table_distances(table))
    for pair in range(90):
        expected = np.mean([auc_with(given, table, pair, int(given.query[n])) for n in others_of(given, pair)])
        assert scores.auc_shuffled[pair] == pytest.approx(expected, abs=1e-12)
        alike = alike_of(given, pair)
        assert np.isnan(scores.auc_geometry[pair]) == (not alike)
        if alike:
            expected = np.mean([auc_with(given, table, pair, int(given.query[n])) for n in alike])
            assert scores.auc_geometry[pair] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(scores.auc_geometry).sum() == 8


def test_three_pairs_by_hand() -> None:
    # Two scenes, four products of one category; the first scene names the products 0 and 1, the second product 2.
    given = replace(
        task(pairs=3, products=4),
        product_category=np.zeros(4, int),
        pairs=tuple(Pair(scene, (0, 0, 1, 1), f"p{n}", "c0") for n, scene in enumerate(("a", "a", "b"))),
        positive=np.array([0, 1, 2]),
        negative=np.array([3, 3, 3]),
        category=np.zeros(3, int),
        scene=np.array([0, 0, 1]),
        masked=(np.array([1]), np.array([0]), np.array([], int)),
    )
    table = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.5, 0.1, 0.2, 0.5]])
    scores = score_pairs(given, table_distances(table))
    np.testing.assert_allclose(scores.auc, [1, 0, 2 / 3])
    # Product 0 of the second scene's row: ties with 3, farther than 2; product 1: nearest; product 2 in both rows of the first.
    np.testing.assert_allclose(scores.auc_shuffled, [0.25, 1, (1 / 3 + 2 / 3) / 2])
    assert np.isnan(scores.auc_geometry).all()  # a quarter of three pairs is none


def test_no_pair_is_given_its_own_scene_and_none_another_category() -> None:
    given = boxed(task())

    def distances(queries: Any, products: Any) -> Floats:
        assert (given.category[queries][:, None] == given.product_category[products]).all()
        return np.where(given.scene[queries][:, None] == 3, 1.0, 0.0) * products

    rows = np.flatnonzero(given.scene == 3)
    assert len(rows)
    scores = score_pairs(given, distances)
    # All other scenes' rows tie everywhere: exactly one half, so no row of scene 3 was used for scene 3.
    np.testing.assert_array_equal(scores.auc_shuffled[rows], 0.5)
    np.testing.assert_array_equal(scores.auc_geometry[rows], 0.5)


@pytest.mark.parametrize("pairs", [1, 12])
def test_pairs_of_a_single_scene_have_neither(pairs: int) -> None:
    given = replace(boxed(task(pairs=pairs)), scene=np.zeros(pairs, int))
    scores = score_pairs(given, table_distances(np.random.default_rng(7).normal(size=(pairs, 40))))
    assert np.isnan(scores.auc_shuffled).all()
    assert np.isnan(scores.auc_geometry).all()
    assert not np.isnan(scores.auc).any()
    assert summarise(given, scores)["all"]["lift_geometry"] == {"value": None, "low": None, "high": None}


def test_the_most_alike_boxes_are_of_other_scenes_the_nearest_first_and_the_earlier_of_equals() -> None:
    boxes = np.array([[0.1, 0.1, 0.2, 0.2], [0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 0.9, 0.9], [0.1, 0.1, 0.3, 0.2]] * 2)
    found = most_alike(boxes, np.array([0, 0, 1, 2, 3, 4, 5, 6]))
    assert found.shape == (8, 2)  # a quarter of eight pairs
    assert found[0].tolist() == [4, 5]  # not its own scene's equal box
    assert found[2].tolist() == [6, 3]
    found = most_alike(np.concatenate([boxes, np.zeros((3, 4))]), np.arange(11))
    assert (found[8:] == -1).all()
    assert found.max() < 8
    assert found[1].tolist() == [0, 4]
    assert most_alike(boxes[:3], np.arange(3)).shape == (3, 0)
    assert most_alike(np.zeros((50, 4)), np.arange(50)).shape == (50, 0)
    few = most_alike(boxes, np.array([0, 0, 0, 0, 0, 0, 0, 1]))
    assert few[0].tolist() == [7, -1]  # fewer other scenes than a quarter


def looks(cue: str, seed: int = 0, pairs: int = 600, products: int = 150) -> tuple[EvaluationSet, Floats]:
    """Pairs of two categories whose product has a style near that of their box, of the rest of their scene, or of neither.

    Boxes lie about one of ten places, as bodies have parts: where any box is as likely as another, the ten most alike
    are too far away to tell nothing.
    """
    random = np.random.default_rng(seed)
    given = task(seed, pairs, products, scenes=400)
    corners, sides = random.random((10, 2)) / 2, 0.1 + 0.3 * random.random((10, 2))
    boxes = np.concatenate([corners, corners + sides], 1)[random.integers(10, size=pairs)]
    boxes += random.normal(0, 0.003, (pairs, 4))
    place = {"box": boxes[:, 0] + boxes[:, 3], "scene": random.random(pairs) * 1.4, "popularity": np.zeros(pairs)}[cue]
    style = random.random(products) * 1.4
    positive = np.empty(pairs, int)
    for pair in range(pairs):
        candidates = np.flatnonzero(given.product_category == given.category[pair])
        closeness = np.exp(-4 * np.abs(style[candidates] - place[pair]))
        positive[pair] = random.choice(candidates, p=closeness / closeness.sum())
    nothing = (np.array([], int),) * pairs
    return replace(with_boxes(given, boxes), positive=positive, masked=nothing), np.abs(place[:, None] - style)


def test_what_the_box_alone_tells_is_a_lift_but_no_lift_over_alike_boxes() -> None:
    given, table = looks("box")
    found: Any = summarise(given, score_pairs(given, table_distances(table)))["all"]
    assert found["lift"]["low"] > 0.1
    assert found["lift_geometry"]["low"] < 0 < found["lift_geometry"]["high"]
    assert abs(found["lift_geometry"]["value"]) < 0.02


def test_what_the_rest_of_the_scene_tells_is_a_lift_over_alike_boxes_too() -> None:
    given, table = looks("scene")
    found: Any = summarise(given, score_pairs(given, table_distances(table)))["all"]
    assert found["lift_geometry"]["low"] > 0.1
    assert found["lift_geometry"]["value"] == pytest.approx(found["lift"]["value"], abs=0.02)


def test_what_the_scene_does_not_change_has_no_lift_at_all() -> None:
    given, table = looks("popularity")
    scores = score_pairs(given, table_distances(table))
    assert scores.auc.mean() > 0.6
    found = summarise(given, scores)["all"]
    assert found["lift"] == found["lift_geometry"] == {"value": 0.0, "low": 0.0, "high": 0.0}
